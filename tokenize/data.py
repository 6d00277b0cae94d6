"""Batches of packed features in reading order, for fitting a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hepfm.core.nn.ragged import Layout
from hepfm.core.records import POINTS_COLUMN, lengths_of
from hepfm.ingest.corpus import Split
from hepfm.ingest.reader import Reader
from hepfm.tokenize.contract import FeatureContract


@dataclass(frozen=True)
class PackedPoints:
    """Points of several records, one after another, without padding.

    Attributes:
        features: (T, F) float32, in the contract's order and scale.
        layout: which point belongs to which record.
        conditions: (n, C) float32, what a decoder is told of each record; None where that is nothing.
    """

    features: Tensor
    layout: Layout
    conditions: Tensor | None = None

    def to(self, device: torch.device | str) -> PackedPoints:
        conditions = None if self.conditions is None else self.conditions.to(device, non_blocking=True)
        return PackedPoints(self.features.to(device, non_blocking=True), self.layout.to(device), conditions)


class PointBatches:
    """The records of a split as the engine's batches; a token is a point."""

    def __init__(self, split: Split, contract: FeatureContract, seed: int) -> None:
        self.contract = contract
        self.column = POINTS_COLUMN[contract.kind]
        self.reader = Reader([split], seed, columns=contract.needed)

    def batch(self, start: int, stop: int) -> PackedPoints:
        """Points of the records at positions [start, stop)."""
        batch = self.reader.take(start, stop).batch
        features = torch.from_numpy(self.contract.encode(batch))
        layout = Layout.of(lengths_of(batch.column(self.column)))
        if not self.contract.conditions:
            return PackedPoints(features, layout)
        conditions = self.contract.encode_conditions(self.contract.conditions_of(batch), len(batch))
        return PackedPoints(features, layout, torch.from_numpy(conditions))

    def tokens(self, start: int, stop: int) -> int:
        """Points in the records at positions [start, stop)."""
        return int(self.reader.lengths(start, stop).sum())
