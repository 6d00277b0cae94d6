"""Boosted trees as a tagger and as an artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact, write_artifact
from hepfm.core.config import from_dict
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.finetune.boosted_trees import FEATURES, BoostedTreesConfig, Trees, substructure
from hepfm.finetune.judging import KIND, MEND, Judge
from hepfm.finetune.labelled import LabelledBatches
from hepfm.ingest.corpus import Corpus

ARCHITECTURE = "boosted-trees"
NEEDS = tuple(f"constituents.{name}" for name in ("pt", "deta", "dphi"))
BATCH_JETS = 4_096
REFERENCE_JETS = 32


@dataclass(frozen=True)
class Substructure:
    """Substructure of jets, as batches of labelled records take it."""

    @property
    def columns(self) -> list[str]:
        """Columns of records that are read."""
        return list(NEEDS)

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus without constituents.

        Raises:
            HepfmError: it holds no jets, or lacks quantities; names them.
        """
        if corpus.manifest.kind != "jets":
            raise HepfmError(f"holds {corpus.manifest.kind}, not jets", corpus.path, "name a corpus of jets")
        missing = [name for name in NEEDS if name not in corpus.manifest.provides]
        if missing:
            raise HepfmError(f"has no {', '.join(missing)}, which substructure needs", corpus.path)

    def read(self, batch: pa.RecordBatch, where: object, first: int = 0) -> Any:
        """Values (n, k) of jet records."""
        return substructure(batch, where)

    def contract(self) -> dict[str, Any]:
        """What an artifact says of them."""
        return {"features": list(FEATURES), "units": {"pt": "GeV", "mass": "GeV", "softdrop_mass": "GeV"}}


@dataclass(frozen=True)
class TreesTagger(Judge):
    """Trees that tell classes of jets apart."""

    trees: Trees
    classes: tuple[str, ...]
    labels: dict[str, str]

    def check(self, corpus: Corpus) -> None:
        Substructure().check(corpus)

    def scores(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """Probabilities (n, classes) of jet records."""
        return self.trees.probabilities(substructure(records, where))


def fit_trees(config: BoostedTreesConfig, batches: LabelledBatches, seed: int) -> Trees:
    """Grow trees on every jet of an epoch."""
    return Trees.fit(config, *_first(batches, batches.reader.order.epoch_records(0)), seed)


def measure_trees(trees: Trees, batches: LabelledBatches, jets: int) -> dict[str, float]:
    """The accuracy on the first ``jets`` jets of a validation split, with its binomial error, and their number."""
    jets = min(jets, batches.reader.order.epoch_records(0))
    inputs, targets = _first(batches, jets)
    right = float(np.mean(trees.probabilities(inputs).argmax(axis=1) == targets))
    error = (right * (1 - right) / jets) ** 0.5
    return {"validation_accuracy": right, "validation_accuracy_uncertainty": error, "validation_jets": jets}


def _first(batches: LabelledBatches, jets: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (jets, features) and classes (jets,) of the first jets of an epoch."""
    inputs, targets = [], []
    for start in range(0, jets, BATCH_JETS):
        batch = batches.batch(start, min(start + BATCH_JETS, jets))
        inputs.append(batch.inputs)
        targets.append(batch.targets.numpy())
    return np.concatenate(inputs), np.concatenate(targets)


def save_trees(
    path: Path, tagger: TreesTagger, *, provenance: dict[str, Any], metrics: dict[str, Any], card: str
) -> Artifact:
    """Write trees as an artifact."""
    inputs = generator("boosted trees reference").normal(0.3, 1.0, (REFERENCE_JETS, len(FEATURES)))
    inputs[::5, ::3] = np.nan
    return write_artifact(
        path,
        kind=KIND,
        architecture={"network": ARCHITECTURE, **asdict(tagger.trees.config)},
        contract={**Substructure().contract(), "classes": list(tagger.classes), "labels": tagger.labels},
        provenance=provenance,
        weights=tagger.trees.weights(),
        metrics=metrics,
        reference={"inputs": inputs, "probabilities": tagger.trees.probabilities(inputs)},
        card=card,
    )


def load_trees(artifact: Artifact) -> TreesTagger:
    """The trees of an artifact, their reference replayed.

    Raises:
        HepfmError: arrays that are no trees, or outputs that differ from those they were saved with.
    """
    sizes = {name: value for name, value in artifact.architecture.items() if name != "network"}
    trees = Trees.from_weights(from_dict(BoostedTreesConfig, sizes, artifact.path), artifact.weights(), artifact.path)
    if any(artifact.contract.get(name) != value for name, value in Substructure().contract().items()):
        raise HepfmError("its features are not those of this hepfm", artifact.path, "update hepfm")
    reference = artifact.reference()
    try:
        found = trees.probabilities(reference["inputs"]) if artifact.replayed else reference["probabilities"]
        same = np.array_equal(found, reference["probabilities"])
        tagger = TreesTagger(trees, tuple(artifact.contract["classes"]), dict(artifact.contract["labels"]))
    except (KeyError, ValueError, IndexError) as error:
        raise HepfmError(f"its reference cannot be replayed: {error!r}", artifact.path, MEND) from error
    if not same:
        raise HepfmError("does not give its reference outputs", artifact.path, "report it with your version of hepfm")
    return tagger
