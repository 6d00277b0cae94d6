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
# for moving a slot in and out, CALL for starting the kernels (some 50 microseconds on a CPU, at 64 channels).
SLOT_COST = 64
CALL_COST = 10_000
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
        in_place: whether the slots are the packed tokens themselves, in order: then nothing is moved. It can be where
            lengths ascend (see :func:`tokens_by_length`); there are as many buckets as different lengths then.
    """

    offsets: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor
    buckets: tuple[Bucket, ...]
    longest: int
    in_place: bool

    @classmethod
    def of(cls, lengths: np.ndarray) -> Layout:
        """The layout of sequences of these lengths (n,), on the CPU."""
        lengths = np.asarray(lengths, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        slots, places, buckets, in_place = _padded(lengths, offsets)
        return cls(
            offsets=torch.from_numpy(offsets.astype(np.int32)),
            positions=torch.from_numpy(positions),
            slots=torch.from_numpy(slots),
            places=torch.from_numpy(places),
            buckets=buckets,
            longest=int(lengths.max(initial=0)),
            in_place=in_place,
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


def tokens_by_length(lengths: np.ndarray) -> np.ndarray:
    """Order (T,) of packed tokens that puts their sequences in order of length, each as it was."""
    order = np.argsort(lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    ascending = np.asarray(lengths)[order]
    return np.repeat(starts - np.cumsum(ascending) + ascending, ascending) + np.arange(ascending.sum())


def _padded(lengths: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[Bucket, ...], bool]:
    """Slots, places, buckets, and whether nothing is moved (see :class:`Layout`)."""
    sorted_already = bool((np.diff(lengths) >= 0).all())
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    slots, buckets = [], []
    places = np.empty(offsets[-1], dtype=np.int64)
    done = 0
    cuts, in_place = _cuts(lengths[order], sorted_already)
    for begin, end in cuts:
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
    return np.concatenate([np.empty(0, dtype=np.int64), *slots]), places, tuple(buckets), in_place


def _cuts(ascending: np.ndarray, sorted_already: bool) -> tuple[list[tuple[int, int]], bool]:
    """Ranges of sequences (sorted by length) that make the cheapest set of buckets, and whether nothing is moved.

    There are at most MAX_BUCKETS, or where the tokens are in this order and it is cheaper, one for each length.
    Dynamic programming over the distinct lengths: ``cost[j]`` is the least cost of the sequences up to boundary j.
    """
    if len(ascending) == 0:
        return [], sorted_already
    boundaries = np.append(np.flatnonzero(np.diff(ascending)) + 1, len(ascending))  # ends of runs of equal length
    runs = list(zip([0, *boundaries[:-1].tolist()], boundaries.tolist(), strict=True))
    unmoved = float(np.square(ascending, dtype=np.float64).sum()) + CALL_COST * len(runs)
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
    if sorted_already and unmoved < best:
        return runs, True
    cuts, end = [], len(ends) - 1
    for choice in reversed(choices[:kept]):
        begin = int(choice[end])
        cuts.append((int(ends[begin]), int(ends[end])))
        end = begin
    return cuts[::-1], False
