"""Taggers: a network, the classes it tells apart and the features it reads; as artifacts too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from hepfm.core.artifacts import Artifact, read_artifact, write_artifact
from hepfm.core.config import from_dict
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import lengths_of
from hepfm.core.resolve import resolve
from hepfm.finetune import boosted_tagger
from hepfm.finetune.deep_sets import DeepSets, DeepSetsConfig
from hepfm.finetune.inputs import FEATURE_SETS, POINTS, FeatureSet, JetInputs
from hepfm.finetune.judging import KIND, MEND, Judge
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.ingest.corpus import Corpus

# name of an architecture -> (its settings, its network)
NETWORKS: dict[str, tuple[type[Any], Callable[[Any], nn.Module]]] = {
    "particle-transformer": (ParticleTransformerConfig, ParticleTransformer),
    "deep-sets": (DeepSetsConfig, DeepSets),
}
BATCH_JETS = 256  # judged at a time
REFERENCE_LENGTHS = (1, 12, 40)
REFERENCE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Tagger(Judge):
    """A network that tells classes of jets apart.

    Attributes:
        network: jets to logits, in eval mode.
        architecture: its name in :data:`NETWORKS`.
        classes: of its outputs, in order.
        labels: the corpus labels that each class takes (label -> class).
        features: that it reads.
    """

    network: Any
    architecture: str
    classes: tuple[str, ...]
    labels: dict[str, str]
    features: FeatureSet

    def check(self, corpus: Corpus) -> None:
        self.features.check(corpus)

    def scores(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """Probabilities (n, classes) float32 of jet records.

        Raises:
            HepfmError: values that are not finite, or jets without constituents.
        """
        return self._run(records, where, lambda inputs: self.network(inputs).float().softmax(1), len(self.classes))

    def embedding(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """What is before the head (n, width) float32 of jet records."""
        return self._run(records, where, self.network.embedding, self.network.embedding_width)

    @torch.no_grad()
    def _run(
        self, records: pa.RecordBatch, where: object, network: Callable[[JetInputs], torch.Tensor], width: int
    ) -> np.ndarray:
        device = next(self.network.parameters()).device
        found = np.empty((len(records), width), dtype=np.float32)
        # Jets of similar length share a batch: less padding in attention.
        order = np.argsort(lengths_of(records.column(POINTS)), kind="stable")
        for start in range(0, len(records), BATCH_JETS):
            jets = order[start : start + BATCH_JETS]
            inputs = self.features.read(records.take(pa.array(jets)), where)
            found[jets] = network(inputs.to(device)).float().cpu().numpy()
        return found


def save_tagger(
    path: Path, tagger: Tagger, *, provenance: dict[str, Any], metrics: dict[str, Any], card: str
) -> Artifact:
    """Write a tagger as an artifact.

    Args:
        path: folder of the artifact.
        tagger: what to write.
        provenance: what it was trained on and how.
        metrics: measured results.
        card: text of README.md.
    """
    return write_artifact(
        path,
        kind=KIND,
        architecture={"network": tagger.architecture, **asdict(tagger.network.config)},
        contract={**tagger.features.contract(), "classes": list(tagger.classes), "labels": tagger.labels},
        provenance=provenance,
        weights=tagger.network.state_dict(),
        metrics=metrics,
        reference=_reference(tagger),
        card=card,
    )


def load_tagger(name: str | Path) -> tuple[Judge, Artifact]:
    """Load a tagger, a network (on the CPU) or trees, and replay its reference outputs.

    Args:
        name: whatever :func:`hepfm.core.resolve.resolve` takes: a run, an artifact folder, a hub id, a URL.

    Raises:
        HepfmError: no tagger, a tensor that does not fit, or outputs that differ from those it was saved with.
    """
    artifact = read_artifact(resolve(name), KIND)
    if artifact.architecture.get("network") == boosted_tagger.ARCHITECTURE:
        return boosted_tagger.load_trees(artifact), artifact
    return _load_network(artifact), artifact


def _load_network(artifact: Artifact) -> Tagger:
    try:
        sizes = dict(artifact.architecture)
        architecture = sizes.pop("network")
        config_type, build = NETWORKS[architecture]
        with torch.device("meta"):
            expected = build(from_dict(config_type, sizes, artifact.path)).state_dict()
        network = build(from_dict(config_type, sizes, artifact.path))
        features = FEATURE_SETS[artifact.contract["feature_set"]]
        classes, labels = tuple(artifact.contract["classes"]), dict(artifact.contract["labels"])
    except (KeyError, ValueError, TypeError) as error:
        raise HepfmError(f"its architecture cannot be built: {error!r}", artifact.path, MEND) from error
    if _differs(features, artifact):
        raise HepfmError("its features are not those of this hepfm", artifact.path, "update hepfm")
    check_weights(artifact.weights(), expected, artifact.path)
    network.load_state_dict(artifact.weights())
    tagger = Tagger(network.eval(), architecture, classes, labels, features)
    if artifact.replayed:
        _replay(tagger, artifact)
    return tagger


def _differs(features: FeatureSet, artifact: Artifact) -> bool:
    return any(artifact.contract.get(name) != value for name, value in features.contract().items())


def check_weights(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor], where: object) -> None:
    """Refuse weights that are not a network's.

    Raises:
        HepfmError: a tensor is missing, unknown, or of another shape; names the first.
    """
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise HepfmError(f"has no tensor '{name}'", where, MEND)
        if name not in own:
            raise HepfmError(f"has a tensor '{name}' that its architecture lacks", where, MEND)
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
            raise HepfmError(f"tensor '{name}' has shape {shapes}", where, MEND)


def _reference(tagger: Tagger) -> dict[str, np.ndarray]:
    """Random jets and their logits."""
    draws = generator("tagger reference", tagger.architecture, len(tagger.features.features))
    lengths = np.array(REFERENCE_LENGTHS)
    features = draws.normal(size=(lengths.sum(), len(tagger.features.features))).astype(np.float32)
    px, py, pz = draws.normal(0, 20, (3, lengths.sum()))
    energy = np.sqrt(px**2 + py**2 + pz**2 + 0.14**2)
    vectors = np.stack([px, py, pz, energy], axis=1).astype(np.float32)
    logits = _logits(tagger.network, features, vectors, lengths)
    return {"features": features, "vectors": vectors, "lengths": lengths, "logits": logits}


@torch.no_grad()
def _logits(network: nn.Module, features: np.ndarray, vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    inputs = JetInputs(torch.from_numpy(features), torch.from_numpy(vectors), Layout.of(lengths))
    was_training = network.training
    logits = network.eval().cpu()(inputs)
    network.train(was_training)
    return logits.float().numpy()


def _replay(tagger: Tagger, artifact: Artifact) -> None:
    reference = artifact.reference()
    try:
        found = _logits(tagger.network, *(reference[name] for name in ("features", "vectors", "lengths")))
        difference = float(np.abs(found - reference["logits"]).max())
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise HepfmError(f"its reference cannot be replayed: {error}", artifact.path, MEND) from error
    if not difference <= REFERENCE_TOLERANCE * max(1.0, float(np.abs(reference["logits"]).max())):
        raise HepfmError(
            f"does not give its reference outputs: logits differ by {difference:.2g}",
            artifact.path,
            "report it with your versions of torch and hepfm",
        )
