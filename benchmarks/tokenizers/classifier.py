"""One and the same classifier, trained on jets as they are and as a tokenizer gives them back.

What a tokenizer loses of a class shows in how well classes are told apart by its jets. The classifier is gradient-
boosted trees on mass, substructure and the hardest constituents: it trains in seconds, and the same in every run.
Each jet is judged by trees that have not seen it: two halves, each judged by the other's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from hepfm.benchmarks.tokenizers.quantities import decoded_jets, original_jets
from hepfm.benchmarks.tokenizers.sample import Reconstruction
from hepfm.core import observables
from hepfm.core.draws import generator, key_of
from hepfm.core.observables import Constituents
from hepfm.core.progress import progress
from hepfm.core.statistics import REPLICAS, Estimate

MINIMUM_OF_CLASS = 40
TREES, LEAVES, LEARNING_RATE = 60, 15, 0.1
HARDEST = 5
WAYS = {
    "original": ("original", "original"),
    "decoded": ("decoded", "decoded"),
    "original on decoded": ("original", "decoded"),
}


@dataclass(frozen=True)
class Score:
    """How well classes are told apart: share of jets given their class, and area under the ROC curve.

    With more than two classes the area is the mean over classes of that class against all others.
    """

    accuracy: Estimate
    auc: Estimate


@dataclass(frozen=True)
class Classification:
    """Scores by what the classifier was trained and tested on.

    Attributes:
        classes: that it tells apart.
        jets: judged.
        scores: ``original`` and ``decoded`` (trained and tested on such jets), ``original on decoded``.
        lost: accuracy on original less that on decoded jets, errors taken over the same jets.
        lost_auc: likewise of the area.
    """

    classes: tuple[str, ...]
    jets: int
    scores: dict[str, Score]
    lost: Estimate
    lost_auc: Estimate


def classify(sample: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS) -> Classification | None:
    """Train and judge; None if these are no jets with pt, deta and dphi of at least two classes of MINIMUM_OF_CLASS."""
    counts = np.bincount(sample.label[sample.label >= 0], minlength=len(sample.labels))
    chosen = np.flatnonzero(counts >= MINIMUM_OF_CLASS)
    if sample.kind != "jets" or len(chosen) < 2 or not {"pt", "deta", "dphi"} <= set(sample.original):
        return None
    jets = np.flatnonzero(np.isin(sample.label, chosen))
    truth = np.searchsorted(chosen, sample.label[jets])
    inputs = {
        "original": inputs_of(original_jets(sample))[jets],
        "decoded": inputs_of(decoded_jets(sample))[jets],
    }
    found = _judged(inputs, truth, seed)
    draws = generator("classifier replicas", seed)
    samples = [draws.integers(0, len(truth), len(truth)) for _ in range(replicas)]
    figures = {
        way: (_figures(shares, truth), np.array([_figures(shares[again], truth[again]) for again in samples]))
        for way, shares in found.items()
    }
    (value, drawn), (other, others) = figures["original"], figures["decoded"]
    lost = [Estimate(float(value[i] - other[i]), float((drawn - others)[:, i].std(ddof=1))) for i in (0, 1)]
    scores = {
        way: Score(*(Estimate(float(here[i]), float(there[:, i].std(ddof=1))) for i in (0, 1)))
        for way, (here, there) in figures.items()
    }
    return Classification(tuple(sample.labels[i] for i in chosen), len(jets), scores, *lost)


def inputs_of(jets: Constituents) -> np.ndarray:
    """What the classifier sees of each jet (n, k); NaN where undefined."""
    taus = observables.nsubjettiness(jets, (1, 2, 3, 4))
    pairs, triples = observables.energy_correlators(jets)
    pt, mass = observables.jet_pt(jets), observables.jet_mass(jets)
    ratios = [observables.tau_ratio(taus, upper, upper - 1) for upper in (2, 3, 4)]
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [pt, mass, mass / pt, taus[1], *ratios, pairs, triples / pairs**3, observables.softdrop_mass(jets)]
    columns.append(observables.multiplicity(jets).astype(np.float64))
    found = np.column_stack([*columns, _hardest(jets)])
    return np.where(np.isfinite(found), found, np.nan)


def _hardest(jets: Constituents) -> np.ndarray:
    """Shares of the jet's pt of its hardest constituents (n, HARDEST), NaN where there are fewer."""
    lengths = observables.multiplicity(jets)
    jet = np.repeat(np.arange(len(jets)), lengths)
    order = np.lexsort((-np.asarray(jets.pt, dtype=np.float64), jet))
    rank = np.arange(len(order)) - jets.offsets[jet]
    total = np.bincount(jet, weights=jets.pt, minlength=len(jets))
    found = np.full((len(jets), HARDEST), np.nan)
    kept = rank < HARDEST
    found[jet[kept], rank[kept]] = jets.pt[order[kept]] / total[jet[kept]]
    return found


def _judged(inputs: dict[str, np.ndarray], truth: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Probabilities (n, classes) that each way gives each jet, by trees trained on the other half."""
    halves = _halves(truth, seed)
    found = {way: np.zeros((len(truth), truth.max() + 1)) for way in WAYS}
    with progress("train classifiers", 4, "trainings") as task:
        for half in (0, 1):
            train, test = halves != half, halves == half
            for trained in ("original", "decoded"):
                trees = HistGradientBoostingClassifier(
                    max_iter=TREES,
                    max_leaf_nodes=LEAVES,
                    learning_rate=LEARNING_RATE,
                    early_stopping=False,
                    random_state=key_of("classifier", seed) % (1 << 31),
                )
                trees.fit(inputs[trained][train], truth[train])
                for way, (of, on) in WAYS.items():
                    if of == trained:
                        found[way][test] = trees.predict_proba(inputs[on][test])
                task.advance()
    return found


def _halves(truth: np.ndarray, seed: int) -> np.ndarray:
    """0 or 1 for each jet, half of every class either way."""
    shuffled = generator("classifier halves", seed).permutation(len(truth))
    order = shuffled[np.argsort(truth[shuffled], kind="stable")]
    halves = np.empty(len(truth), dtype=np.int64)
    halves[order] = np.arange(len(truth)) % 2
    return halves


def _figures(shares: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Accuracy and area under the ROC curve."""
    accuracy = float((shares.argmax(axis=1) == truth).mean())
    classes = range(shares.shape[1]) if shares.shape[1] > 2 else [1]
    areas = [roc_auc_score(truth == index, shares[:, index]) for index in classes]
    return accuracy, float(np.mean(areas))
