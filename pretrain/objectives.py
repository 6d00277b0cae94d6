"""Objectives by name: what a backbone is pretrained on. A new one is one new file and one line in OBJECTIVES."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from hepfm.core.engine.batches import Losses
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.data import TokenBatch, TokenBatches
from hepfm.pretrain.features import Statistics
from hepfm.pretrain.masking import moved
from hepfm.pretrain.probe import ProbeName, Probes

ObjectiveName = Literal["next-token", "next-streams", "masked", "masked-v1", "joint"]

InputName = Literal["default", "tokens", "features"]

OBJECTIVES: dict[ObjectiveName, str] = {
    "next-token": "hepfm.pretrain.next_token:NextToken",
    "next-streams": "hepfm.pretrain.next_streams:NextStreams",
    "masked": "hepfm.pretrain.masked:MaskedParticles",
    "masked-v1": "hepfm.pretrain.masked_v1:MaskedParticlesV1",
    "joint": "hepfm.pretrain.joint:Joint",
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a backbone is pretrained on."""

    objective: ObjectiveName = "next-token"
    """next-token (of points with several ids: next-streams); masked (MPM v2: encoder without the masked constituents,
    decoder); masked-v1; joint (both)."""
    input: InputName = "default"
    """What is read of a constituent: its token id, or its continuous features, transformed as by the tokenizer (from
    --source, else decoded). Default: features, for next-token tokens."""
    target: Literal["tokens", "regression"] = "tokens"
    """What is predicted of masked constituents: their token (a VQ code, or a centroid where the tokenizer is kmeans)
    by cross entropy, or their features by an L1 loss."""
    mask_fraction: float | None = None
    """Share of a jet's constituents that is masked, 0.2 to 0.5 work well. Default 0.4, for masked-v1 0.3."""
    registers: int = 8
    """Learned tokens that a masked encoder reads beside the constituents (masked and joint)."""
    masked_weight: float = 1.0
    """Weight of a masked constituent beside a next token of weight 1 (joint)."""
    delays: tuple[int, ...] = ()
    """Steps by which each id list of a point lags behind, and last its number, if it has one (next-streams), such as
    0 1 2 3. Default: those of the token corpus, 0 where it has none."""
    probe: tuple[ProbeName, ...] = ()
    """Classifiers of the jets' labels on frozen features, trained along as a quality meter: linear, class-attention."""
    probe_every: int = 5
    """Steps between updates of the probes; each costs a forward pass."""
    probe_learning_rate: float = 3e-3
    """Learning rate of the probes' own Adam."""

    def resolved(self) -> ObjectiveConfig:
        """With this objective's defaults in place.

        Raises:
            HepfmError: settings that this objective does not take.
        """
        kind = objective_class(self.objective)
        reads = kind.reads[0] if self.input == "default" else self.input
        if reads not in kind.reads:
            raise HepfmError(f"{self.objective} does not read {reads}", "--input", f"it reads {', '.join(kind.reads)}")
        if self.target not in kind.targets:
            told = ", ".join(kind.targets)
            raise HepfmError(f"{self.objective} does not predict by {self.target}", "--target", f"it knows {told}")
        fraction = kind.mask_fraction if self.mask_fraction is None else self.mask_fraction
        if self.mask_fraction is not None and not kind.mask_fraction:
            raise HepfmError(
                f"{self.objective} masks nothing", "--mask-fraction", "leave it out, or take --objective masked"
            )
        if kind.mask_fraction and not 0 < fraction < 1:
            raise HepfmError(f"must lie between 0 and 1, is {fraction}", "--mask-fraction")
        if self.delays and self.objective != "next-streams":
            raise HepfmError(
                "are of points with several ids, which these corpora do not have", "--delays", "leave it out"
            )
        if self.registers < 0:
            raise HepfmError(f"must not be negative, is {self.registers}", "--registers")
        if not self.masked_weight > 0:
            raise HepfmError(f"must be positive, is {self.masked_weight}", "--masked-weight")
        if self.probe_every < 1:
            raise HepfmError(f"must be at least 1, is {self.probe_every}", "--probe-every")
        if not self.probe_learning_rate > 0:
            raise HepfmError(f"must be positive, is {self.probe_learning_rate}", "--probe-learning-rate")
        return replace(self, input=reads, mask_fraction=fraction)

    def of_streams(self, several: bool) -> ObjectiveConfig:
        """The same for corpora whose points have several ids, or one: the next token of several is next-streams.

        Raises:
            HepfmError: the objective does not take such points.
        """
        if several and self.objective == "next-token":
            return replace(self, objective="next-streams")
        if several != (self.objective == "next-streams"):
            has = "several ids" if several else "one id"
            mend = "take next-streams, or apply a tokenizer with one id a point" if several else "take next-token"
            raise HepfmError(f"{self.objective} does not read points of {has}", "--objective", mend)
        return self

    @property
    def wants_features(self) -> bool:
        """Whether batches need continuous features (of resolved settings)."""
        return self.input == "features" or self.target == "regression"


@dataclass(frozen=True)
class Setting:
    """What an objective is made for.

    Attributes:
        config: resolved settings.
        max_length: constituents that are kept of a jet.
        seed: of the masks.
        statistics: of the continuous features, where these are used.
    """

    config: ObjectiveConfig
    max_length: int
    seed: int = 0
    statistics: Statistics | None = None


class Objective(nn.Module, ABC):
    """A backbone, and what is needed beside it to train it.

    Attributes:
        reads: what it can read of a constituent, the default first.
        targets: what it can predict of masked ones.
        mask_fraction: default share that is masked; 0 masks nothing.
        backbone: what is pretrained.
    """

    reads: ClassVar[tuple[InputName, ...]]
    targets: ClassVar[tuple[str, ...]] = ("tokens",)
    mask_fraction: ClassVar[float] = 0.0
    backbone: Backbone

    @classmethod
    def backbone_config(cls, preset: BackboneConfig, config: ObjectiveConfig, columns: int) -> BackboneConfig:
        """The backbone of a preset for resolved settings; ``columns`` of features a constituent has."""
        return preset

    @staticmethod
    @abstractmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """Terms of the loss (n,) of jets with so many constituents."""

    @abstractmethod
    def prepare(self, batch: TokenBatch) -> Any:
        """What ``forward`` takes, on the CPU; called from a second thread."""

    @abstractmethod
    def whole(self, batch: TokenBatch) -> Any:
        """What :meth:`represent` takes: the same jets, nothing masked."""

    @abstractmethod
    def represent(self, whole: Any) -> tuple[Tensor, Layout]:
        """The backbone's features (T, width) of whole jets, and which belong to which jet."""

    @abstractmethod
    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Forward and backward FLOPs (n,) of jets with so many constituents, by :func:`network_flops`."""


def network_flops(transformer: TransformerConfig, products: int, tokens: np.ndarray) -> np.ndarray:
    """Forward and backward FLOPs (n,) of sequences: 6 N tokens + 12 blocks width tokens^2.

    Args:
        transformer: the blocks.
        products: N, parameters in matrix products that each token passes.
        tokens: (n,) tokens of each sequence.
    """
    return 6.0 * products * tokens + 12.0 * transformer.blocks * transformer.width * np.square(
        tokens.astype(np.float64)
    )


def objective_class(name: ObjectiveName) -> type[Objective]:
    """The objective called ``name`` in OBJECTIVES."""
    module, member = OBJECTIVES[name].split(":")
    return cast(type[Objective], getattr(importlib.import_module(module), member))


def set_transformer(preset: BackboneConfig, config: ObjectiveConfig, columns: int, **changes: Any) -> BackboneConfig:
    """A preset for an objective that reads constituents as a set: without positions, ``changes`` in its transformer."""
    return replace(
        preset,
        transformer=replace(preset.transformer, positions="none", **changes),
        objective=config.objective,
        features=columns if config.input == "features" else 0,
        registers=config.registers,
    )


@dataclass(frozen=True)
class ProbedBatch:
    """A batch of an objective, and what probes need of it.

    Attributes:
        batch: what the objective takes.
        whole: the same jets as :meth:`Objective.represent` takes them.
        labels: (n,) int64, -1 where unknown.
        update: number of the update that it belongs to.
    """

    batch: Any
    whole: Any
    labels: Tensor
    update: int

    def to(self, device: torch.device | str) -> ProbedBatch:
        """The same on another device."""
        return moved(self, device)


class ObjectiveBatches:
    """Batches of token records as an objective takes them (the engine's ``Batches``).

    Args:
        batches: of token records.
        objective: prepares them.
        setting: what it is made for.
        classes: names of the labels that probes tell apart; none without probes.
        batch_records: records of an update.
    """

    def __init__(
        self,
        batches: TokenBatches,
        objective: Objective,
        setting: Setting,
        classes: Sequence[str] = (),
        batch_records: int = 1,
    ) -> None:
        self.batches, self.objective, self.setting = batches, objective, setting
        self.classes, self.batch_records = classes, batch_records
        named = [classes.index(name) if name in classes else -1 for name in batches.reader.labels]
        self._class_of = torch.tensor([*named, -1])  # -1, an unknown label, finds the last

    def batch(self, start: int, stop: int) -> Any:
        """Records [start, stop) of the reading order."""
        tokens = self.batches.batch(start, stop)
        prepared = self.objective.prepare(tokens)
        if not self.classes or tokens.labels is None:
            return prepared
        labels = self._class_of[tokens.labels]
        return ProbedBatch(prepared, self.objective.whole(tokens), labels, start // self.batch_records)

    def tokens(self, start: int, stop: int) -> int:
        """Terms of the loss in records [start, stop); 1 where there is none: a loss of 0 can be divided by it."""
        return max(1, int(self.objective.terms(self.batches.lengths(start, stop), self.setting).sum()))


def constituents_of(batch: TokenBatch, stop: int) -> tuple[Tensor, np.ndarray]:
    """Codes (C,) int64 of the constituents of packed sequences, and how many (n,) each has."""
    kept = batch.targets != stop
    offsets = batch.layout.offsets.numpy()
    before = np.concatenate([[0], np.cumsum(kept.numpy())])
    return batch.targets[kept], np.diff(before[offsets])


class Probed(nn.Module):
    """An objective with probes trained along.

    In training they learn from every ``every``-th update; in evaluation they judge all jets.
    """

    def __init__(self, objective: Objective, probes: Probes, every: int) -> None:
        super().__init__()
        self.objective, self.probes, self.every = objective, probes, every

    def forward(self, batch: ProbedBatch) -> Losses:
        losses: Losses = self.objective(batch.batch)
        if self.training and (batch.update + 1) % self.every:
            return Losses(losses.total, {**losses.figures, **self.probes.nothing(losses.total.device)})
        backbone = self.objective.backbone
        was_training = backbone.training
        backbone.eval()
        with torch.no_grad():
            features, layout = self.objective.represent(batch.whole)
        backbone.train(was_training)
        return Losses(losses.total, {**losses.figures, **self.probes(features, layout, batch.labels, batch.update)})
