"""Taggers: a network, the classes it tells apart and the features it reads; as artifacts too."""

from __future__ import annotations

import dataclasses
import json
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
from hepfm.core.errors import HepfmError
from hepfm.core.nn.empty import without_weights
from hepfm.core.resolve import resolve
from hepfm.finetune import backbone_tagger, boosted_tagger
from hepfm.finetune.backbone_inputs import BackboneReader
from hepfm.finetune.backbone_tagger import BackboneTagger, BackboneTaggerConfig
from hepfm.finetune.deep_sets import DeepSets, DeepSetsConfig
from hepfm.finetune.inputs import FEATURE_SETS, FeatureSet
from hepfm.finetune.judging import KIND, MEND, Judge
from hepfm.finetune.particle_net import ParticleNet, ParticleNetConfig
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.tagging_metrics import Scored
from hepfm.ingest.corpus import Corpus, Split

# name of an architecture -> (its settings, its network)
NETWORKS: dict[str, tuple[type[Any], Callable[[Any], nn.Module]]] = {
    "particle-transformer": (ParticleTransformerConfig, ParticleTransformer),
    "particle-net": (ParticleNetConfig, ParticleNet),
    "deep-sets": (DeepSetsConfig, DeepSets),
    backbone_tagger.ARCHITECTURE: (BackboneTaggerConfig, BackboneTagger),
}
Features = FeatureSet | BackboneReader
BATCH_JETS = 256  # judged at a time
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
    features: Features

    def check(self, corpus: Corpus) -> None:
        self.features.check(corpus)

    def judge(self, split: Split, limit: int = 0) -> Scored:
        reader = about_axis_of(split.corpus, self.features)
        return Judge.judge(dataclasses.replace(self, features=reader), split, limit)

    def scores(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """Probabilities (n, classes) float32 of jet records.

        Raises:
            HepfmError: values that are not finite, or jets without constituents.
        """
        return self._run(records, where, lambda inputs: self.network(inputs).float().softmax(1), len(self.classes))

    def embedding(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """What is before the head (n, width) float32 of jet records."""
        return self._run(records, where, self.network.embedding, self.network.embedding_width)

    def _run(
        self, records: pa.RecordBatch, where: object, network: Callable[[Any], torch.Tensor], width: int
    ) -> np.ndarray:
        return outputs(self.network, self.features, records, where, network, width)


@torch.no_grad()
def outputs(
    network: nn.Module,
    features: Features,
    records: pa.RecordBatch,
    where: object,
    function: Callable[[Any], torch.Tensor],
    width: int,
) -> np.ndarray:
    """What a function of inputs gives (n, width) float32 for records, in batches of jets of similar length."""
    device = next(network.parameters()).device
    found = np.empty((len(records), width), dtype=np.float32)
    order = np.argsort(features.lengths(records), kind="stable")  # less padding in attention
    for start in range(0, len(records), BATCH_JETS):
        jets = order[start : start + BATCH_JETS]
        inputs = features.read(records.take(pa.array(jets)), where)
        found[jets] = function(inputs.to(device)).float().cpu().numpy()
    return found


def about_axis_of(corpus: Corpus, features: Features) -> Features:
    """The features for records of a corpus, whose deta and dphi refer to its axis."""
    if isinstance(features, BackboneReader) and corpus.manifest.kind != "tokens":
        return dataclasses.replace(features, axis=corpus.manifest.axis)
    return features


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
    told = {"classes": list(tagger.classes), "labels": tagger.labels}
    return save_network(path, KIND, tagger, told, provenance=provenance, metrics=metrics, card=card)


def save_network(
    path: Path,
    kind: str,
    made: Any,
    told: dict[str, Any],
    *,
    provenance: dict[str, Any],
    metrics: dict[str, Any],
    card: str,
) -> Artifact:
    """Write a network with what it reads as an artifact of a kind.

    Args:
        path: folder of the artifact.
        kind: of the artifact.
        made: with ``network``, ``architecture`` and ``features``, as a :class:`Tagger` has them.
        told: what the contract says beside the features.
        provenance, metrics, card: see :func:`save_tagger`.
    """
    features = made.features
    known = features.reference(made.network)
    return write_artifact(
        path,
        kind=kind,
        architecture={"network": made.architecture, **asdict(made.network.config)},
        contract={**features.contract(), **told},
        provenance=provenance,
        weights=made.network.state_dict(),
        metrics=metrics,
        reference={**known, "logits": _logits(made.network, features.replayed(known))},
        card=card,
        inner={"tokenizer": features.path} if isinstance(features, BackboneReader) else None,
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
    network, architecture, features = load_network(artifact)
    try:
        classes, labels = tuple(artifact.contract["classes"]), dict(artifact.contract["labels"])
    except (KeyError, ValueError, TypeError) as error:
        raise HepfmError(f"says not which classes it tells apart: {error!r}", artifact.path, MEND) from error
    return Tagger(network, architecture, classes, labels, features)


def load_network(artifact: Artifact) -> tuple[Any, str, Features]:
    """The network (in eval mode) of an artifact that :func:`save_network` wrote, its reference replayed; the name of
    its architecture, and what it reads.

    Raises:
        HepfmError: a tensor that does not fit, or outputs that differ from those it was saved with.
    """
    try:
        sizes = dict(artifact.architecture)
        architecture = sizes.pop("network")
        config_type, build = NETWORKS[architecture]
        config = from_dict(config_type, sizes, artifact.path)
        with without_weights():
            expected = build(config).state_dict()
        network = build(config)
        features: Features
        if isinstance(config, BackboneTaggerConfig):
            features = BackboneReader.of(artifact, config.backbone, config.before)
        else:
            features = FEATURE_SETS[artifact.contract["feature_set"]]
    except (KeyError, ValueError, TypeError) as error:
        raise HepfmError(f"its architecture cannot be built: {error!r}", artifact.path, MEND) from error
    if _differs(features, artifact):
        raise HepfmError("its features are not those of this hepfm", artifact.path, "update hepfm")
    check_weights(artifact.weights(), expected, artifact.path)
    network.load_state_dict(artifact.weights())
    network.eval()
    if artifact.replayed:
        _replay(network, features, artifact)
    return network, architecture, features


def _differs(features: Features, artifact: Artifact) -> bool:
    return any(
        artifact.contract.get(name) != value for name, value in json.loads(json.dumps(features.contract())).items()
    )


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


@torch.no_grad()
def _logits(network: nn.Module, inputs: Any) -> np.ndarray:
    was_training = network.training
    logits = network.eval().cpu()(inputs)
    network.train(was_training)
    return logits.float().numpy()


def _replay(network: nn.Module, features: Features, artifact: Artifact) -> None:
    reference = artifact.reference()
    try:
        found = _logits(network, features.replayed(reference))
        difference = float(np.abs(found - reference["logits"]).max())
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise HepfmError(f"its reference cannot be replayed: {error}", artifact.path, MEND) from error
    if not difference <= REFERENCE_TOLERANCE * max(1.0, float(np.abs(reference["logits"]).max())):
        raise HepfmError(
            f"does not give its reference outputs: logits differ by {difference:.2g}",
            artifact.path,
            "report it with your versions of torch and hepfm",
        )
