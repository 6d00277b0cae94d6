"""Ragged batches: sequences of different lengths stored one after another, without padding.

A batch of n sequences is one packed tensor (T, ...) of its T real tokens and a :class:`Layout` that says which
token belongs to which sequence. The layout is built once a batch, on the CPU, from the lengths alone. It also holds
the *buckets*: groups of sequences of similar length, for attention kernels that only take rectangular input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

# Cost model of one bucket of R sequences padded to L, in multiply-adds per channel: R L (L + SLOT) + CALL. SLOT stands
# for moving a slot in and out, CALL for starting the kernels.
SLOT_COST = 64
CALL_COST = 50_000
MAX_BUCKETS = 8
MAX_BOUNDARIES = 128


@dataclass(frozen=True)
class Bucket:
    """Sequences that are padded to one length, as consecutive slots of the padded tensor.

    Attributes:
        rows: number of sequences.
        length: slots of each.
        real: (rows, 1, 1, length) bool, True where a slot holds a token; None where all do.
    """

    rows: int
    length: int
    real: torch.Tensor | None

    @property
    def slots(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Layout:
    """Where the tokens of n sequences lie in a packed tensor (T, ...) and in its padded form (S, ...).

    Attributes:
        offsets: (n + 1,) int32; sequence i owns tokens ``offsets[i]:offsets[i + 1]``.
        positions: (T,) int64, position of each token in its sequence.
        slots: (S,) int64, token in each slot, bucket after bucket; a slot of padding names a token of its own
            sequence, so that padding is always finite and never mixes sequences.
        places: (T,) int64, slot of each token.
        buckets: the rectangles that the slots form; sequences without tokens are in none.
        longest: length of the longest sequence.
    """

    offsets: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor
    buckets: tuple[Bucket, ...]
    longest: int

    @classmethod
    def of(cls, lengths: np.ndarray) -> Layout:
        """The layout of sequences of these lengths (n,), on the CPU."""
        lengths = np.asarray(lengths, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        slots, places, buckets = _padded(lengths, offsets)
        return cls(
            offsets=torch.from_numpy(offsets.astype(np.int32)),
            positions=torch.from_numpy(positions),
            slots=torch.from_numpy(slots),
            places=torch.from_numpy(places),
            buckets=buckets,
            longest=int(lengths.max(initial=0)),
        )

    @property
    def tokens(self) -> int:
        """T, the number of real tokens."""
        return len(self.positions)

    @property
    def sequences(self) -> int:
        """n, the number of sequences."""
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        if torch.device(device) == self.offsets.device:
            return self
        return replace(
            self,
            offsets=self.offsets.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            slots=self.slots.to(device, non_blocking=True),
            places=self.places.to(device, non_blocking=True),
            buckets=tuple(
                replace(bucket, real=None if bucket.real is None else bucket.real.to(device, non_blocking=True))
                for bucket in self.buckets
            ),
        )


def _padded(lengths: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[Bucket, ...]]:
    """Slots, places and buckets (see :class:`Layout`)."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    slots, buckets = [], []
    places = np.empty(offsets[-1], dtype=np.int64)
    done = 0
    for begin, end in _cuts(lengths[order]):
        rows = order[begin:end]
        length = int(lengths[rows[-1]])
        within = np.arange(length)
        real = within < lengths[rows, None]
        tokens = offsets[rows, None] + np.where(real, within, 0)
        places[tokens[real]] = done + np.flatnonzero(real)
        slots.append(tokens.ravel())
        mask = None if real.all() else torch.from_numpy(real[:, None, None, :])
        buckets.append(Bucket(len(rows), length, mask))
        done += tokens.size
    return np.concatenate([np.empty(0, dtype=np.int64), *slots]), places, tuple(buckets)


def _cuts(ascending: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of sequences (sorted by length) that make the cheapest set of at most MAX_BUCKETS buckets.

    Dynamic programming over the distinct lengths: ``cost[j]`` is the least cost of the sequences up to boundary j.
    """
    if len(ascending) == 0:
        return []
    boundaries = np.append(np.flatnonzero(np.diff(ascending)) + 1, len(ascending))  # ends of runs of equal length
    if len(boundaries) > MAX_BOUNDARIES:
        boundaries = boundaries[np.linspace(0, len(boundaries) - 1, MAX_BOUNDARIES).astype(np.int64)]
    ends = np.append(0, boundaries)
    length = np.append(0, ascending[boundaries - 1]).astype(np.float64)
    rows = ends[None, :] - ends[:, None]  # rows[i, j]: sequences of a bucket from boundary i to j
    single = np.where(rows > 0, rows * length * (length + SLOT_COST) + CALL_COST, np.inf)
    cost, choices, best = single[0], [np.zeros(len(ends), dtype=np.int64)], single[0, -1]
    kept = 1
    for count in range(2, MAX_BUCKETS + 1):
        total = cost[:, None] + single
        choices.append(total.argmin(axis=0))
        cost = total.min(axis=0)
        if cost[-1] < best:
            best, kept = cost[-1], count
    cuts, end = [], len(ends) - 1
    for choice in reversed(choices[:kept]):
        begin = int(choice[end])
        cuts.append((int(ends[begin]), int(ends[end])))
        end = begin
    return cuts[::-1]
