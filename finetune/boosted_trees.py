"""Gradient-boosted trees on substructure: the baseline that no network should lose to.

scikit-learn's histogram trees grow on masses, N-subjettiness, energy correlators and the hardest constituents. An
artifact keeps them as plain arrays, which are walked here: nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from hepfm.core import observables
from hepfm.core.draws import key_of
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents

HARDEST = 5
TAUS = (1, 2, 3, 4)
FEATURES = (
    "pt",
    "mass",
    "mass_over_pt",
    "tau1",
    "tau21",
    "tau32",
    "tau43",
    "e2",
    "d2",
    "softdrop_mass",
    "multiplicity",
    *(f"pt_share_{number}" for number in range(1, HARDEST + 1)),
)


@dataclass(frozen=True)
class BoostedTreesConfig:
    """How trees grow.

    Attributes:
        classes: numbers of outputs.
        rounds: of boosting; each adds one tree a class (one in all for two classes).
        leaves: of a tree, at most.
        learning_rate: share of a tree that is added.
    """

    classes: int = 10
    rounds: int = 200
    leaves: int = 31
    learning_rate: float = 0.1


def substructure(records: pa.RecordBatch, where: object) -> np.ndarray:
    """What the trees see of each jet (n, k) float64, named by :data:`FEATURES`; NaN where undefined.

    Raises:
        HepfmError: constituents without pt, deta or dphi, or values that are not finite.
    """
    jets = Constituents.from_batch(records).check(where)
    taus = observables.nsubjettiness(jets, TAUS)
    pairs, triples = observables.energy_correlators(jets)
    pt, mass = observables.jet_pt(jets), observables.jet_mass(jets)
    ratios = [observables.tau_ratio(taus, upper, upper - 1) for upper in TAUS[1:]]
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [pt, mass, mass / pt, taus[1], *ratios, pairs, triples / pairs**3, observables.softdrop_mass(jets)]
    columns.append(observables.multiplicity(jets).astype(np.float64))
    found = np.column_stack([*columns, _hardest(jets)])
    return np.where(np.isfinite(found), found, np.nan)


def _hardest(jets: Constituents) -> np.ndarray:
    """Shares of the jet's pt of its hardest constituents (n, HARDEST); they come first, as in every corpus."""
    lengths = observables.multiplicity(jets)
    pt = np.asarray(jets.pt, dtype=np.float64)
    jet = np.repeat(np.arange(len(jets)), lengths)
    rank = np.arange(len(pt)) - jets.offsets[jet]
    total = np.bincount(jet, weights=pt, minlength=len(jets))
    found = np.full((len(jets), HARDEST), np.nan)
    kept = rank < HARDEST
    found[jet[kept], rank[kept]] = pt[kept] / total[jet[kept]]
    return found


@dataclass(frozen=True)
class Trees:
    """Grown trees as arrays.

    Attributes:
        config: how they grew.
        starts: (trees + 1,) nodes ``starts[t]:starts[t + 1]`` are those of tree t; tree t adds to output t % outputs.
        feature: (nodes,) what a node looks at.
        threshold: (nodes,) values up to it go left.
        missing_left: (nodes,) whether undefined values go left.
        left, right: (nodes,) number of the next node in the same tree.
        leaf: (nodes,) whether it is one.
        value: (nodes,) what a leaf adds.
        baseline: (outputs,).
    """

    config: BoostedTreesConfig
    starts: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    value: np.ndarray
    baseline: np.ndarray

    @classmethod
    def fit(cls, config: BoostedTreesConfig, inputs: np.ndarray, targets: np.ndarray, seed: int) -> Trees:
        """Grow trees on jets (n, k) of classes (n,), all of which come."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # a second, which no other tagger needs

        model = HistGradientBoostingClassifier(
            max_iter=config.rounds,
            max_leaf_nodes=config.leaves,
            learning_rate=config.learning_rate,
            early_stopping=False,
            random_state=key_of("boosted trees", seed) % (1 << 31),
        )
        model.fit(inputs, targets)
        if len(model.classes_) != config.classes:
            raise HepfmError(f"{len(model.classes_)} of {config.classes} classes come", "training jets")
        trees = [tree.nodes for round_of in model._predictors for tree in round_of]
        nodes = np.concatenate(trees)
        return cls(
            config,
            starts=np.cumsum([0, *map(len, trees)]),
            feature=nodes["feature_idx"].astype(np.int64),
            threshold=nodes["num_threshold"].astype(np.float64),
            missing_left=nodes["missing_go_to_left"].astype(bool),
            left=nodes["left"].astype(np.int64),
            right=nodes["right"].astype(np.int64),
            leaf=nodes["is_leaf"].astype(bool),
            value=nodes["value"].astype(np.float64),
            baseline=np.asarray(model._baseline_prediction, dtype=np.float64).ravel(),
        )

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes) of jets (n, k)."""
        raw = np.tile(self.baseline, (len(inputs), 1))
        rows = np.arange(len(inputs))
        for tree, start in enumerate(self.starts[:-1].tolist()):
            node = np.full(len(inputs), start)
            walking = rows
            while len(walking):
                here = node[walking]
                inner = ~self.leaf[here]
                walking, here = walking[inner], here[inner]
                seen = inputs[walking, self.feature[here]]
                goes_left = np.where(np.isnan(seen), self.missing_left[here], seen <= self.threshold[here])
                node[walking] = start + np.where(goes_left, self.left[here], self.right[here])
            raw[:, tree % raw.shape[1]] += self.value[node]
        if raw.shape[1] == 1:
            share = 1 / (1 + np.exp(-raw[:, 0]))
            return np.column_stack([1 - share, share])
        raw -= raw.max(axis=1, keepdims=True)
        shares = np.exp(raw)
        return shares / shares.sum(axis=1, keepdims=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """All arrays, as an artifact keeps them."""
        names = ("starts", "feature", "threshold", "missing_left", "left", "right", "leaf", "value", "baseline")
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}

    @classmethod
    def from_weights(cls, config: BoostedTreesConfig, weights: dict[str, torch.Tensor], where: object) -> Trees:
        """The trees that :meth:`weights` gave.

        Raises:
            HepfmError: arrays that are not those of trees.
        """
        try:
            trees = cls(config, **{name: value.numpy() for name, value in weights.items()})
            nodes = len(trees.feature)
            sizes = np.repeat(np.diff(trees.starts), np.diff(trees.starts))
            inner = ~trees.leaf
            # Children stand after their parent, so every walk ends.
            place = np.arange(nodes) - np.repeat(trees.starts[:-1], np.diff(trees.starts))
            sound = trees.starts[0] == 0 and trees.starts[-1] == nodes and len(trees.baseline)
            for child in (trees.left, trees.right):
                sound = sound and bool(((child > place) & (child < sizes))[inner].all())
            sound = sound and bool(((trees.feature >= 0) & (trees.feature < len(FEATURES)))[inner].all())
        except (TypeError, ValueError, IndexError) as error:
            raise HepfmError(f"its arrays are not those of trees: {error}", where, "get the artifact again") from error
        if not sound:
            raise HepfmError("its arrays are not those of trees", where, "get the artifact again")
        return trees
