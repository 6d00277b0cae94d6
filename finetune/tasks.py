"""What a network can be trained for: to tell classes apart, or to estimate a quantity; and how it goes on learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import TrainingConfig
from hepfm.finetune.backbone_inputs import BackboneReader
from hepfm.finetune.backbone_tagger import BackboneTagger
from hepfm.finetune.cards import regressor_card, tagger_card
from hepfm.finetune.labelled import Classes, LabelledBatches, LabelledCorpora, LabelledJets
from hepfm.finetune.protocols import ProtocolConfig, blocks_of, follow
from hepfm.finetune.regression import MeasuredBatches, MeasuredCorpora, Regressor, save_regressor
from hepfm.finetune.tagger import Features, Tagger, save_tagger

HEAD_MEMBERS = ("head", "head_layers", "head_dropout")
PRETRAINED = r"^network\.(?!head)"  # finds what is no head among the names of an objective's parameters


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        network: inputs to outputs.
        architecture: its name in :data:`hepfm.finetune.tagger.NETWORKS`.
        features: that it reads.
    """

    network: Any
    architecture: str
    features: Features

    @property
    def reads(self) -> str:
        """What it reads, in words."""
        if isinstance(self.features, BackboneReader):
            return self.features.name
        return f"the feature set `{self.features.name}` ({len(self.features.features)} numbers of a particle)"


class Task(ABC):
    """What a network is trained for, and the corpora that tell it."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Outputs of the network."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What it is, for a message."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a run to be continued."""

    @abstractmethod
    def batches(self, split: str, features: Features, training: TrainingConfig, jets: int = 0) -> Any:
        """The batches of a split; None where no corpus has it."""

    @abstractmethod
    def objective(self, network: nn.Module, frozen_until: float) -> nn.Module:
        """The loss of a network's outputs."""

    @abstractmethod
    def save(self, path: Path, start: Start, provenance: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Write the trained network as an artifact."""


@dataclass(frozen=True)
class Tagging(Task):
    """To tell classes apart."""

    data: LabelledCorpora
    classes: Classes

    @property
    def outputs(self) -> int:
        return len(self.classes.names)

    @property
    def words(self) -> str:
        return f"{self.outputs} classes"

    def identity(self) -> dict[str, Any]:
        return {"objective": "classification", "labels": dict(self.classes.labels)}

    def batches(
        self, split: str, features: Features, training: TrainingConfig, jets: int = 0
    ) -> LabelledBatches | None:
        return self.data.batches(split, self.classes, features, training.seed, jets, training.batch_records)

    def objective(self, network: nn.Module, frozen_until: float) -> nn.Module:
        return Classification(network, frozen_until)

    def save(self, path: Path, start: Start, provenance: dict[str, Any], metrics: dict[str, Any]) -> None:
        names, labels = self.classes.names, dict(self.classes.labels)
        tagger = Tagger(start.network, start.architecture, names, labels, start.features)
        text = tagger_card(start.architecture, names, start.reads, provenance, metrics)
        save_tagger(path, tagger, provenance=provenance, metrics=metrics, card=text)


@dataclass(frozen=True)
class Regression(Task):
    """To estimate a quantity."""

    measured: MeasuredCorpora

    @property
    def outputs(self) -> int:
        return 1

    @property
    def words(self) -> str:
        target, left_out = self.measured.target, self.measured.left_out
        told = f", unknown in {left_out:,} training records, which are left out" if left_out else ""
        return f"{target.name} [{target.unit}], {target.low:g} to {target.high:g}{told}"

    def identity(self) -> dict[str, Any]:
        return {"objective": "regression", "target": vars(self.measured.target)}

    def batches(
        self, split: str, features: Features, training: TrainingConfig, jets: int = 0
    ) -> MeasuredBatches | None:
        return self.measured.batches(split, features, training.seed, jets, training.batch_records)

    def objective(self, network: nn.Module, frozen_until: float) -> nn.Module:
        return Estimation(network, frozen_until)

    def save(self, path: Path, start: Start, provenance: dict[str, Any], metrics: dict[str, Any]) -> None:
        made = Regressor(start.network, start.architecture, start.features, self.measured.target)
        text = regressor_card(start.architecture, made.target, start.reads, provenance, metrics)
        save_regressor(path, made, provenance=provenance, metrics=metrics, card=text)


class Classification(nn.Module):
    """The cross entropy of jets' classes [nats], summed over jets.

    Args:
        network: jets to logits.
        frozen_until: first update in which anything but the head trains.
    """

    def __init__(self, network: nn.Module, frozen_until: float = 0) -> None:
        super().__init__()
        self.network, self.frozen_until = network, frozen_until

    def forward(self, batch: LabelledJets) -> Losses:
        logits = outputs_of(self.network, batch, self.frozen_until).float()
        total = F.cross_entropy(logits, batch.targets, reduction="sum")
        return Losses(total, {"accuracy": (logits.argmax(1) == batch.targets).sum()})


class Estimation(nn.Module):
    """Huber's loss (beta 1) of the standardised target, summed over records.

    Args:
        network: records to one number.
        frozen_until: first update in which anything but the head trains.
    """

    def __init__(self, network: nn.Module, frozen_until: float = 0) -> None:
        super().__init__()
        self.network, self.frozen_until = network, frozen_until

    def forward(self, batch: LabelledJets) -> Losses:
        found = outputs_of(self.network, batch, self.frozen_until).float()[:, 0]
        total = F.smooth_l1_loss(found, batch.targets, reduction="sum")
        return Losses(total, {"absolute_error": (found - batch.targets).abs().sum()})


def outputs_of(network: Any, batch: LabelledJets, frozen_until: float) -> torch.Tensor:
    """Outputs (n, k); before update ``frozen_until`` all but the head gets no gradient and uses no dropout."""
    if batch.update >= frozen_until:
        return cast(torch.Tensor, network(batch.inputs))
    if isinstance(network, BackboneTagger):
        return cast(torch.Tensor, network(batch.inputs, frozen=True))
    network.eval()  # neither dropout nor batch statistics in what does not learn
    with torch.no_grad():
        embedding = network.embedding(batch.inputs)
    return cast(torch.Tensor, network.classify(embedding))


def is_head(name: str) -> bool:
    """Does a parameter belong to the head?"""
    return name.split(".")[0] in HEAD_MEMBERS


def followed(network: nn.Module, asked: ProtocolConfig, training: TrainingConfig) -> ProtocolConfig:
    """The protocol, resolved, which the network now follows.

    Raises:
        HepfmError: the network cannot; says why.
    """
    counted = asked.name in ("last-blocks", "low-rank")
    protocol = asked.resolved(training, len(blocks_of(network)) if counted else 0)
    follow(network, protocol, training.seed, HEAD_MEMBERS)
    return protocol
