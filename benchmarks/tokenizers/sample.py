"""Records as they are, and as a tokenizer gives them back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.records import POINTS_COLUMN, Kind, offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.apply import statistics_of
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.features import FeatureSpec
from hepfm.tokenize.registry import Tokenizer
from hepfm.tokenize.tokens import Stream

EVERYTHING = "all"
# Blocks are encoded whole up to this many records: memory stays flat.
BATCH_RECORDS = 1024
Points = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reconstruction:
    """n records, their tokens, and what the tokens decode to.

    Attributes:
        kind: of the records.
        features: of a point, those that the tokenizer takes.
        streams: its id lists.
        continuous: whether a number stays one beside the ids of each point.
        labels: names of the classes that occur, in the corpus's order.
        label: (n,) index of each record in ``labels``, -1 without one.
        offsets: (n + 1,) points of each record.
        original: (T,) each, by feature; NaN where null.
        decoded: (T,) each, likewise.
        ids: (T, Q).
        untruncated: offsets (n + 1,) and points of the records with those points, too, that the tokenizer leaves out;
            None if it leaves none out.
    """

    kind: Kind
    features: tuple[FeatureSpec, ...]
    streams: tuple[Stream, ...]
    continuous: bool
    labels: tuple[str, ...]
    label: np.ndarray
    offsets: np.ndarray
    original: Points
    decoded: Points
    ids: np.ndarray
    untruncated: tuple[np.ndarray, Points] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def left_out(self) -> int:
        """Points without a token."""
        return 0 if self.untruncated is None else int(self.untruncated[0][-1] - self.offsets[-1])

    @property
    def record(self) -> np.ndarray:
        """(T,) the record of each point."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def classes(self) -> list[tuple[str, np.ndarray]]:
        """All records together, then each class: name, and numbers of its records."""
        everything = [(EVERYTHING, np.arange(len(self)))]
        if len(self.labels) < 2:
            return everything
        return everything + [(name, np.flatnonzero(self.label == i)) for i, name in enumerate(self.labels)]


def reconstruct(
    tokenizer: Tokenizer | FeatureTokenizer, corpus: Corpus, split: str = "test", limit: int | None = None
) -> Reconstruction:
    """Encode and decode the first records of a split.

    Raises:
        HepfmError: the corpus is not what the tokenizer takes, has no such split, or no points in it.
    """
    tokenizer.contract.check(corpus.manifest, statistics_of(corpus), corpus.path)
    if split not in corpus.splits():
        raise HepfmError(f"has no split '{split}'", corpus.path, f"it has: {', '.join(corpus.splits())}")
    chosen = corpus.split(split)
    records = chosen.records if limit is None else min(limit, chosen.records)
    parts: list[_Part] = []
    with progress("encode and decode", records, tokenizer.contract.kind) as task:
        for batch in _batches(iter(chosen), records):
            parts.append(_part(tokenizer, batch, corpus.manifest.axis))
            task.advance(len(batch))
    if not sum(len(part.ids) for part in parts):
        raise HepfmError(f"its split '{split}' has no points", corpus.path)
    labels, index = _occurring(corpus.manifest.labels, np.concatenate([part.label for part in parts]))
    whole = None
    if any((part.lengths != part.all_lengths).any() for part in parts):
        whole = _offsets([part.all_lengths for part in parts]), _joined([part.everything for part in parts])
    return Reconstruction(
        kind=tokenizer.contract.kind,
        features=tokenizer.contract.features,
        streams=tokenizer.streams,
        continuous=bool(tokenizer.continuous),
        labels=labels,
        label=index,
        offsets=_offsets([part.lengths for part in parts]),
        original=_joined([part.original for part in parts]),
        decoded=_joined([part.decoded for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        untruncated=whole,
    )


class _Part(NamedTuple):
    """A batch of records: ``everything`` are their points before the tokenizer leaves any out."""

    label: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    original: Points
    decoded: Points
    all_lengths: np.ndarray
    everything: Points


def _part(tokenizer: Tokenizer | FeatureTokenizer, batch: pa.RecordBatch, axis: str) -> _Part:
    contract, column = tokenizer.contract, POINTS_COLUMN[tokenizer.contract.kind]
    kept = contract.prepared(batch, axis)
    offsets = offsets_of(kept.column(column))
    tokens = tokenizer.encode(kept)
    original = contract.values_of(kept)
    return _Part(
        label=values_of(batch.column("label")) if "label" in batch.schema.names else np.full(len(batch), -1),
        lengths=np.diff(offsets),
        ids=tokens.ids.reshape(len(tokens.ids), -1),
        original=original,
        decoded=tokenizer.decode(tokens.ids, offsets, tokens.continuous, contract.conditions_of(kept)),
        all_lengths=np.diff(offsets_of(batch.column(column))),
        everything=original if kept is batch else contract.values_of(batch),
    )


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def _batches(blocks: Iterator[pa.RecordBatch], records: int) -> Iterator[pa.RecordBatch]:
    for block in blocks:
        block = block.slice(0, records)
        for start in range(0, len(block), BATCH_RECORDS):
            yield block.slice(start, BATCH_RECORDS)
        records -= len(block)
        if records <= 0:
            return


def _joined(parts: list[Points]) -> Points:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _occurring(labels: tuple[str, ...], label: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The labels that occur, and each record's index among them."""
    there = [index for index in range(len(labels)) if (label == index).any()]
    place = np.full(len(labels) + 1, -1)
    place[there] = np.arange(len(there))
    return tuple(labels[index] for index in there), place[label]
