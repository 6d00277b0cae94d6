"""Reading records in training order, over one or several splits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.columns import project, relabel
from hepfm.ingest.corpus import Split
from hepfm.ingest.gather import Joined, Scratch, gather
from hepfm.ingest.order import Order, Span, Window
from hepfm.ingest.shards import concatenate

# A window of at most this size is joined in memory and taken from there; from a larger one (showers) each batch gathers
# its own records, so that memory stays bounded.
JOINED_BYTES = 96 << 20
# Records are taken in stretches of about this size, which are then cut into batches: large enough that the work for a
# batch does not count, small enough to stay in the processor's cache.
STRETCH_BYTES = 1 << 20
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Taken:
    """Records in reading order.

    Attributes:
        batch: the records. Its arrays may be slices: take values with ``flatten()`` or the helpers of
            :mod:`hepfm.core.records`, not with ``values``.
        origins: the stretches of windows that they come from, in order.
    """

    batch: pa.RecordBatch
    origins: tuple[tuple[Window, Span], ...]

    @cached_property
    def keys(self) -> np.ndarray:
        """(n, 2) int64: epoch, and number of the record in the splits one after another: what draws are keyed by."""
        parts = [window.records[span.start : span.stop] for window, span in self.origins]
        epochs = [np.full(len(part), span.epoch) for part, (_, span) in zip(parts, self.origins, strict=True)]
        columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in (epochs, parts)]
        return np.stack(columns, axis=1)


class _Recent(Generic[ValueT]):
    """The few most recently used values by their numbers (epoch, window, ...)."""

    def __init__(self, size: int) -> None:
        self._size, self._values = size, OrderedDict[tuple[int, ...], ValueT]()

    def get(self, key: tuple[int, ...]) -> ValueT | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: tuple[int, ...], value: ValueT) -> ValueT:
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
        self._is_joined = self._window_bytes() <= JOINED_BYTES
        self._stretch_records = self._records_in(STRETCH_BYTES)
        self._scratch = Scratch()
        self._joined = _Recent[Joined](1)  # one, because all use the same scratch
        self._stretches = _Recent[Future[pa.RecordBatch]](3)
        self._thread = ThreadPoolExecutor(1, "reader")
        self._lengths = _Recent[np.ndarray](4)
        self._windows = _Recent[Window](4)
        self._lock, self._finding = Lock(), Lock()

    def take(self, start: int, stop: int) -> Taken:
        """The records at positions ``[start, stop)``."""
        with self._lock:
            spans = [(self._window(span), span) for span in self.order.spans(start, stop)]
            parts = [part for window, span in spans for part in self._parts(window, span)]
        return Taken(concatenate(parts or [self._block(0).slice(0, 0)]), tuple(spans))

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Points (n,) int64 of each record at positions ``[start, stop)``; reads offsets only."""
        with self._lock:
            parts = [
                self._window_lengths(self._window(span))[span.start : span.stop]
                for span in self.order.spans(start, stop)
            ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _parts(self, window: Window, span: Span) -> Iterator[pa.RecordBatch]:
        """The records of a span, in order."""
        if not self._is_joined:
            yield self._gathered(*self.order.rows(window.records[span.start : span.stop]))
            return
        start = span.start
        while start < span.stop:
            number, first = divmod(start, self._stretch_records)
            stretch = self._stretch(window, number)
            yield (part := stretch.slice(first, span.stop - start))
            start += len(part)

    def _stretch(self, window: Window, number: int) -> pa.RecordBatch:
        """Stretch ``number`` of a window; the one that follows is begun at once in the other thread."""
        stretch = self._ordered(window.epoch, window.number, number)
        if (number + 1) * self._stretch_records < len(window.index):
            self._ordered(window.epoch, window.number, number + 1)
        else:
            self._ordered(*self.order.after(window.epoch, window.number), 0)
        return stretch.result()

    def _ordered(self, epoch: int, window: int, number: int) -> Future[pa.RecordBatch]:
        key = (epoch, window, number)
        return self._stretches.get(key) or self._stretches.put(key, self._thread.submit(self._take, *key))

    def _take(self, epoch: int, window: int, number: int) -> pa.RecordBatch:
        """Runs in the other thread alone, so that nobody else writes to the scratch memory."""
        found = self._find(epoch, window)
        joined = self._joined.get((epoch, window))
        if joined is None:
            joined = self._joined.put((epoch, window), Joined(list(map(self._block, found.blocks)), self._scratch))
        start = number * self._stretch_records
        return joined.take(found.index[start : start + self._stretch_records])

    def _window(self, span: Span) -> Window:
        return self._find(span.epoch, span.window)

    def _find(self, epoch: int, number: int) -> Window:
        with self._finding:
            return self._windows.get((epoch, number)) or self._windows.put(
                (epoch, number), self.order.window(epoch, number)
            )

    def _window_bytes(self) -> float:
        """Size of the largest window that can occur, judged by the size of the first block."""
        sizes = self.order.block_records + np.concatenate([split.block_points for split in self.splits])
        largest = np.sort(sizes)[-self.order.width :].sum()
        return self._block(0).nbytes * float(largest / sizes[0])

    def _records_in(self, size: int) -> int:
        """Records of about that many bytes, judged by the first block."""
        block = self._block(0)
        return max(1, size * len(block) // max(1, block.nbytes))

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
