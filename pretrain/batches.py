"""Token corpora as batches for the engine: packed inputs and targets, and whatever else an objective asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.reader import Reader, Taken
from hepfm.pretrain.conditions import ConditionValues

COLUMN = "tokens"
LABEL = "label"

# Gives the features (C, F) float32 of records by their keys (n, 2), codes (C,) and offsets (n + 1,).
FeatureSource = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TokenBatch:
    """Sequences of token ids, packed.

    Attributes:
        inputs: (T,) int64, what is read.
        targets: (T,) int64, what comes next.
        layout: which token belongs to which sequence.
        keys: (n, 2) int64, epoch and record of each sequence, what draws are keyed by; stays on the CPU.
        labels: (n,) int64, class of each, -1 where unknown; if asked for.
        features: (C, F) float32, columns of the tokenizer's contract of the constituents that are kept; if asked for.
        conditions: what the backbone is told of each record, if it is told anything.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    layout: Layout
    keys: np.ndarray | None = None
    labels: torch.Tensor | None = None
    features: torch.Tensor | None = None
    conditions: ConditionValues | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        names = [name for name in ("inputs", "targets", "labels", "features") if getattr(self, name) is not None]
        parts = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        told = self.conditions and self.conditions.to(device)
        return replace(self, **parts, layout=self.layout.to(device), conditions=told)


class ConditionSource(Protocol):
    """Gives what the backbone is told of records."""

    def values(self, taken: Taken) -> ConditionValues: ...


def terms(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Terms of the loss (n,) of jets with so many constituents: one each and one for the stop.

    A jet with more than ``max_length`` constituents keeps its leading ``max_length`` and has no stop, because it
    does not stop there.
    """
    return np.where(lengths > max_length, max_length, lengths + 1)


def pack(codes: np.ndarray, offsets: np.ndarray, vocabulary_codes: int, max_length: int) -> TokenBatch:
    """Inputs [start, c1, ..., cn] and targets [c1, ..., cn, stop] of jets with codes c1..cn.

    Args:
        codes: (N,) codes of all jets, one after another.
        offsets: (n + 1,) jet i owns ``codes[offsets[i]:offsets[i + 1]]``.
        vocabulary_codes: number of codes; start and stop come after them.
        max_length: constituents that are kept of a jet, see :func:`terms`.
    """
    start, stop = vocabulary_codes, vocabulary_codes + 1
    lengths = np.diff(offsets)
    kept = terms(lengths, max_length)
    layout = Layout.of(kept)
    position = layout.positions.numpy()
    source = np.repeat(offsets[:-1], kept) + position  # index of the code that is this token's target
    padded = np.append(codes.astype(np.int64), stop)
    targets = np.where(position < np.repeat(lengths, kept), padded[np.minimum(source, len(codes))], stop)
    inputs = np.where(position == 0, start, padded[np.maximum(source - 1, 0)])
    return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), layout)


@dataclass(frozen=True)
class IdRange:
    """Where the ids of a corpus's tokenizer lie in the backbone's vocabulary: ``first`` to ``first + codes - 1``."""

    first: int
    codes: int


class TokenBatches:
    """Batches of token corpora, in reading order (the engine's ``Batches``).

    Args:
        reader: of token records.
        codes: codes of the backbone's vocabulary.
        max_length: constituents that are kept of a jet, see :func:`terms`.
        features: what gives the constituents' continuous features, if they are wanted.
        ranges: the ids of each of the reader's splits, if they differ.
        conditions: gives what the backbone is told.
    """

    def __init__(
        self,
        reader: Reader,
        codes: int,
        max_length: int,
        features: FeatureSource | None = None,
        ranges: Sequence[IdRange] = (),
        conditions: ConditionSource | None = None,
    ) -> None:
        self.reader, self.codes, self.max_length = reader, codes, max_length
        self.features, self.conditions = features, conditions
        self.ranges = tuple(ranges) or (IdRange(0, codes),) * len(reader.splits)
        self._ends = np.cumsum([split.records for split in reader.splits])

    def batch(self, start: int, stop: int) -> TokenBatch:
        """Records [start, stop) of the reading order.

        Raises:
            HepfmError: a token that the tokenizer does not have; names the record.
        """
        taken = self.reader.take(start, stop)
        column = taken.batch.column(COLUMN)
        codes, offsets = column.flatten().to_numpy(), offsets_of(column)
        ids = self._in_vocabulary(taken, codes, offsets)
        batch = replace(pack(ids, offsets, self.codes, self.max_length), keys=taken.keys)
        if LABEL in taken.batch.schema.names:
            batch = replace(batch, labels=torch.from_numpy(values_of(taken.batch.column(LABEL)).astype(np.int64)))
        if self.features is not None:
            kept = Layout.of(np.diff(offsets)).positions < self.max_length
            batch = replace(batch, features=torch.from_numpy(self.features(taken.keys, codes, offsets))[kept])
        if self.conditions is not None:
            batch = replace(batch, conditions=self.conditions.values(taken))
        return batch

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Constituents (n,) that records [start, stop) have."""
        return self.reader.lengths(start, stop)

    def tokens(self, start: int, stop: int) -> int:
        """Terms of the loss in records [start, stop)."""
        return int(terms(self.reader.lengths(start, stop), self.max_length).sum())

    def _in_vocabulary(self, taken: Taken, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The ids of the backbone's vocabulary that stand for a tokenizer's codes (N,)."""
        if len(set(self.ranges)) == 1:
            limit, first = self.ranges[0].codes, self.ranges[0].first
            if len(codes) and int(codes.max()) >= limit:
                raise self._no_such_token(taken, offsets, int(codes.argmax()), codes, limit)
            return codes + first if first else codes
        split = np.searchsorted(self._ends, taken.keys[:, 1], side="right")
        lengths = np.diff(offsets)
        limits = np.repeat(np.array([known.codes for known in self.ranges])[split], lengths)
        if (codes >= limits).any():
            at = int((codes >= limits).argmax())
            raise self._no_such_token(taken, offsets, at, codes, int(limits[at]))
        return codes.astype(np.int64) + np.repeat(np.array([known.first for known in self.ranges])[split], lengths)

    def _no_such_token(self, taken: Taken, offsets: np.ndarray, at: int, codes: np.ndarray, limit: int) -> HepfmError:
        record = int(np.searchsorted(offsets, at, side="right")) - 1
        return HepfmError(
            f"record {int(taken.keys[record, 1])} has token {int(codes[at])}, its tokenizer {limit} codes",
            ", ".join(str(split.corpus.path) for split in self.reader.splits),
            "make the token corpus again",
        )


def index_in(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """(len(names) + 1,) int64: place of each name among the wanted ones, -1 if it is none; the last is for index -1."""
    places = {name: place for place, name in enumerate(wanted)}
    return np.array([*(places.get(name, -1) for name in names), -1], dtype=np.int64)
