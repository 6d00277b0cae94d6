"""Reading records in training order, over one or several splits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.columns import project, relabel
from hepfm.ingest.corpus import Split
from hepfm.ingest.gather import gather
from hepfm.ingest.order import Order, Span, Window
from hepfm.ingest.shards import concatenate

# A window of at most this size is shuffled whole once and then cut into batches; from a larger one (showers) each batch
# gathers its own records, so that memory stays bounded.
SHUFFLED_BYTES = 96 << 20
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Taken:
    """Records in reading order.

    Attributes:
        batch: the records. Its arrays may be slices: take values with ``flatten()`` or the helpers of
            :mod:`hepfm.core.records`, not with ``values``.
        keys: (n, 2) int64: epoch, and number of the record in the splits one after another. Random draws for a
            record are keyed by these.
    """

    batch: pa.RecordBatch
    keys: np.ndarray


class _Recent(Generic[ValueT]):
    """The few most recently used values by (epoch, window)."""

    def __init__(self, size: int) -> None:
        self._size, self._values = size, OrderedDict[tuple[int, int], ValueT]()

    def get(self, key: tuple[int, int]) -> ValueT | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: tuple[int, int], value: ValueT) -> ValueT:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return value


class Reader:
    """Records of one or several splits in one reading order. Safe to use from several threads.

    A record's number counts through the splits one after another; positions count records from the beginning of
    training, over all epochs (see :class:`hepfm.ingest.order.Order`).

    Args:
        splits: what to read; several are mixed as one set, label names united.
        seed: of the order.
        columns: what to read of each record: columns, or quantities by dotted name (``constituents.pt``); None for all.
        window: blocks that are shuffled together.
        weights: mean number of times that a record comes in an epoch: one number a split, or one a record.

    Attributes:
        records: records of an epoch without weights.
        labels: label names in the order of the label column's indices.

    Raises:
        HepfmError: no split, a column that is not there, or splits whose records differ in what they hold.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        seed: int,
        columns: Sequence[str] | None = None,
        window: int = 16,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        if not splits:
            raise HepfmError("there is nothing to read", "reader", "name a split that holds records")
        self.splits, self.columns = tuple(splits), None if columns is None else tuple(columns)
        self.labels = tuple(dict.fromkeys(name for split in splits for name in split.corpus.manifest.labels))
        self._block_split = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
        self._first_block = np.cumsum([0, *(len(split) for split in splits)])
        self.order = Order(
            np.concatenate([split.block_records for split in splits]),
            seed,
            window,
            self._weights(weights),
            "/".join(f"{split.corpus.digest}:{split.name}" for split in splits),
        )
        self.records = self.order.records
        self.schema = self._schema()
        self._whole = self._window_bytes() <= SHUFFLED_BYTES
        self._batches = _Recent[pa.RecordBatch](2)
        self._lengths = _Recent[np.ndarray](4)
        self._windows = _Recent[Window](4)
        self._lock = Lock()

    def take(self, start: int, stop: int) -> Taken:
        """The records at positions ``[start, stop)``."""
        with self._lock:
            parts = [self._part(span) for span in self.order.spans(start, stop)]
        if not parts:
            return Taken(self._block(0).slice(0, 0), np.zeros((0, 2), dtype=np.int64))
        if len(parts) == 1:
            return parts[0]
        return Taken(concatenate([part.batch for part in parts]), np.concatenate([part.keys for part in parts]))

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Points (n,) int64 of each record at positions ``[start, stop)``; reads offsets only."""
        with self._lock:
            parts = [
                self._window_lengths(self._window(span))[span.start : span.stop]
                for span in self.order.spans(start, stop)
            ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _part(self, span: Span) -> Taken:
        window = self._window(span)
        record = window.records[span.start : span.stop]
        keys = np.empty((len(record), 2), dtype=np.int64)
        keys[:, 0], keys[:, 1] = span.epoch, record
        if self._whole:
            return Taken(self._shuffled(window).slice(span.start, len(record)), keys)
        return Taken(self._gathered(*self.order.rows(record)), keys)

    def _window(self, span: Span) -> Window:
        key = (span.epoch, span.window)
        return self._windows.get(key) or self._windows.put(key, self.order.window(*key))

    def _window_bytes(self) -> float:
        """Size of the largest window that can occur, judged by the size of the first block."""
        sizes = self.order.block_records + np.concatenate([split.block_points for split in self.splits])
        largest = np.sort(sizes)[-self.order.width :].sum()
        return self._block(0).nbytes * float(largest / sizes[0])

    def _shuffled(self, window: Window) -> pa.RecordBatch:
        """All records of a window in order."""
        key = (window.epoch, window.number)
        batch = self._batches.get(key)
        if batch is None:
            blocks = [self._block(block) for block in window.blocks.tolist()]
            batch = self._batches.put(key, gather(concatenate(blocks), window.index))
        return batch

    def _gathered(self, block: np.ndarray, row: np.ndarray) -> pa.RecordBatch:
        """The records at (block, row), taken block by block and then put in order."""
        order = np.argsort(block, kind="stable")
        used, first = np.unique(block[order], return_index=True)
        rows = np.split(row[order], first[1:])
        parts = [gather(self._block(b), r) for b, r in zip(used.tolist(), rows, strict=True)]
        return gather(concatenate(parts), np.argsort(order))

    def _window_lengths(self, window: Window) -> np.ndarray:
        key = (window.epoch, window.number)
        lengths = self._lengths.get(key)
        if lengths is None:
            blocks = [self._points(block) for block in window.blocks.tolist()]
            lengths = self._lengths.put(key, np.concatenate(blocks)[window.index])
        return lengths

    def _points(self, block: int) -> np.ndarray:
        split = self.splits[self._block_split[block]]
        batch = split.read(block - int(self._first_block[self._block_split[block]]))
        column = batch.column(split.corpus.manifest.points_column)
        return column.value_lengths().to_numpy().astype(np.int64)

    def _block(self, block: int) -> pa.RecordBatch:
        number = self._block_split[block]
        split = self.splits[number]
        batch = project(split.read(block - int(self._first_block[number])), self.columns, split.corpus.path)
        return relabel(batch, self.labels)

    def _schema(self) -> pa.Schema:
        first = self._block(0).schema
        for number, split in enumerate(self.splits):
            schema = self._block(int(self._first_block[number])).schema
            if not schema.equals(first):
                differing = sorted({str(field) for field in schema} ^ {str(field) for field in first})
                raise HepfmError(
                    f"its records differ from those of {self.splits[0].corpus.path}: {'; '.join(differing)}",
                    split.corpus.path,
                    "read columns that both have",
                )
        return first

    def _weights(self, weights: Sequence[float] | np.ndarray | None) -> np.ndarray | None:
        if weights is None:
            return None
        values = np.asarray(weights, dtype=np.float64)
        return values[self._block_split] if len(values) == len(self.splits) else values
