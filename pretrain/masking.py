"""Masks of constituents, and packed views of jets without what is masked: NumPy alone, ahead of the network.

Masks are a function of (seed, epoch, record), so that neither resuming nor the number of processes changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.nn.ragged import Layout

BatchT = TypeVar("BatchT", bound=Any)


def masked_counts(lengths: np.ndarray, fraction: float) -> np.ndarray:
    """How many constituents (n,) are masked of jets with so many: a function of the length alone.

    ``fraction`` of them to the nearest integer (a half upwards), but at least one, and at least one stays visible. Jets
    of no or one constituent have none masked: nothing would be left to predict it from.
    """
    nearest = np.floor(fraction * lengths + 0.5).astype(np.int64)
    return np.where(lengths < 2, 0, np.clip(nearest, 1, np.maximum(lengths - 1, 1)))


def draw_masks(lengths: np.ndarray, keys: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which constituents (C,) bool are masked: :func:`masked_counts` of each jet, all choices equally likely.

    Args:
        lengths: (n,) constituents of each jet.
        keys: (n, 2) epoch and record of each jet.
        fraction: share that is masked.
        seed: another seed, other masks.
    """
    record, position = _places(lengths)
    draws = hashed_uniform(key_of("mask", seed), keys[record, 0], keys[record, 1], position)
    order = np.lexsort((draws, record))
    masked = np.empty(len(record), dtype=bool)
    masked[order] = position < masked_counts(lengths, fraction)[record]  # position is also the rank within the jet
    return masked


def side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Index (T,) into [all of first, all of second] that puts what is first of each record before what is second.

    Args:
        first, second: (n,) how many items each record has of either; they lie record after record.
    """
    record, position = _places(first + second)
    beyond = position - first[record]
    of_first = (np.cumsum(first) - first)[record] + position
    of_second = first.sum() + (np.cumsum(second) - second)[record] + beyond
    return np.where(beyond < 0, of_first, of_second)


@dataclass(frozen=True)
class View:
    """Some constituents of each jet, behind the registers, as an encoder reads them.

    Attributes:
        seen: (V,) int64, which constituents, jet after jet.
        index: (T,) int64 into [registers, seen constituents].
        layout: which of the T tokens belongs to which jet.
    """

    seen: torch.Tensor
    index: torch.Tensor
    layout: Layout

    @classmethod
    def of(cls, lengths: np.ndarray, registers: int, hidden: np.ndarray | None = None) -> View:
        """All constituents of jets with so many, or those that are not ``hidden`` (C,)."""
        record, _ = _places(lengths)
        seen = np.arange(len(record)) if hidden is None else np.flatnonzero(~hidden)
        counts = np.bincount(record[seen], minlength=len(lengths))
        index = side_by_side(np.full(len(lengths), registers), counts)
        own = registers * len(lengths)  # every jet has the same registers
        index = np.where(index < own, index % max(registers, 1), index - own + registers)
        return cls(torch.from_numpy(seen), torch.from_numpy(index), Layout.of(counts + registers))

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        return moved(self, device)


@dataclass(frozen=True)
class Gaps:
    """Masked constituents, and how a decoder reads them behind what the encoder gave.

    Attributes:
        which: (M,) int64, which constituents, jet after jet.
        rank: (M,) int64, place of each among the masked ones of its jet, in the order of the jet (falling pt).
        index: (T,) int64 into [encoded tokens, masked constituents].
        queries: (M,) int64, which of the T tokens the masked ones are.
        layout: which of the T tokens belongs to which jet.
    """

    which: torch.Tensor
    rank: torch.Tensor
    index: torch.Tensor
    queries: torch.Tensor
    layout: Layout

    @classmethod
    def of(cls, lengths: np.ndarray, registers: int, hidden: np.ndarray) -> Gaps:
        """Those that are ``hidden`` (C,) of jets with so many constituents."""
        record, _ = _places(lengths)
        which = np.flatnonzero(hidden)
        counts = np.bincount(record[which], minlength=len(lengths))
        encoded = lengths - counts + registers
        index = side_by_side(encoded, counts)
        return cls(
            torch.from_numpy(which),
            torch.from_numpy(_places(counts)[1]),
            torch.from_numpy(index),
            torch.from_numpy(np.flatnonzero(index >= encoded.sum())),
            Layout.of(encoded + counts),
        )

    def to(self, device: torch.device | str) -> Gaps:
        """The same on another device."""
        return moved(self, device)


def moved(batch: BatchT, device: torch.device | str) -> BatchT:
    """A dataclass with all its tensors, layouts and views on another device."""
    parts: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            parts[field.name] = value.to(device, non_blocking=True)
        elif hasattr(value, "to"):
            parts[field.name] = value.to(device)
    return replace(batch, **parts)


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Record (T,) of each item of records with so many, and its position there."""
    record = np.repeat(np.arange(len(lengths)), lengths)
    return record, np.arange(len(record)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
