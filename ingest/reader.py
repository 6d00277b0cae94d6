"""Reading records in training order, over one or several splits."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.threads import at_once, in_background, renewed_in_forks, threads
from hepfm.ingest.columns import conform, project, relabel
from hepfm.ingest.corpus import Split
from hepfm.ingest.gather import Joined, Scratch, gather_from
from hepfm.ingest.order import Order, Window
from hepfm.ingest.shards import concatenate

# A window of at most this size is joined in memory and taken from there; from a larger one (showers) each batch gathers
# its own records, so that memory stays bounded.
JOINED_BYTES = 96 << 20
# Records are taken in stretches of at most about this size, one a thread at a time, which are then cut into batches:
# large enough that the work for a batch does not count, small enough that a few of them are no burden.
STRETCH_BYTES = 4 << 20
# Blocks that stay opened, for the next epoch: a few kB each beside the mapped data, and a tenth of the work of reading.
OPEN_BLOCKS = 2_048
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Taken:
    """Records in reading order.

    Attributes:
        batch: the records. Its arrays may be slices: take values with ``flatten()`` or the helpers of
            :mod:`hepfm.core.records`, not with ``values``.
        origins: the windows that they come from, each with the range of its positions, in order.
    """

    batch: pa.RecordBatch
    origins: tuple[tuple[Window, int, int], ...]

    @cached_property
    def keys(self) -> np.ndarray:
        """(n, 2) int64: epoch, and number of the record in the splits one after another: what draws are keyed by."""
        keys = np.empty((len(self.batch), 2), dtype=np.int64)
        at = 0
        for window, start, stop in self.origins:
            keys[at : at + stop - start, 0] = window.epoch
            keys[at : at + stop - start, 1] = window.records[start:stop]
            at += stop - start
        return keys


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
    """Records of one or several splits in one reading order. Safe to use from several threads and in forked processes.

    A record's number counts through the splits one after another; positions count records from the beginning of
    training, over all epochs (see :class:`hepfm.ingest.order.Order`).

    Args:
        splits: what to read; several are mixed as one set, label names united.
        seed: of the order.
        columns: what to read of each record: columns, or quantities by dotted name (``constituents.pt``); None for all.
        window: blocks that are shuffled together.
        weights: mean number of times that a record comes in an epoch: one number a split, or one a record.
        schema: in place of ``columns``: what is read of each record, in these types; a column that a split lacks is
            null there.

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
        schema: pa.Schema | None = None,
    ) -> None:
        if not splits:
            raise HepfmError("there is nothing to read", "reader", "name a split that holds records")
        self.splits, self.columns = tuple(splits), None if columns is None else tuple(columns)
        self._wanted = schema
        self.labels = tuple(dict.fromkeys(name for split in splits for name in split.corpus.manifest.labels))
        self._block_split = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
        self._first_block = np.cumsum([0, *(len(split) for split in splits)])
        self._opened = _Recent[pa.RecordBatch](OPEN_BLOCKS)
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
        self._threads = threads()
        self.begin_anew()
        renewed_in_forks(self)

    def begin_anew(self) -> None:
        """Forget what was kept for the next records: another thread may be changing it while a process is forked."""
        self._scratch = Scratch()
        self._joined = _Recent[Joined](1)  # one, because all use the same scratch
        self._stretches = _Recent[pa.RecordBatch](2 * self._threads)
        self._lengths = _Recent[np.ndarray](4)
        self._places: deque[tuple[Window, int]] = deque(maxlen=4)  # windows used last, with their first positions
        self._ahead: tuple[tuple[int, int], Future[Window]] | None = None  # the window that most likely comes next
        self._lock = Lock()

    def take(self, start: int, stop: int) -> Taken:
        """The records at positions ``[start, stop)``."""
        with self._lock:
            origins = tuple(self._ranges(start, stop))
            parts = [part for origin in origins for part in self._parts(*origin)]
        return Taken(concatenate(parts or [self._block(0).slice(0, 0)]), origins)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Points (n,) int64 of each record at positions ``[start, stop)``; reads offsets only."""
        with self._lock:
            parts = [self._window_lengths(window)[first:last] for window, first, last in self._ranges(start, stop)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """All records by their number, block by block."""
        return (self._block(number) for number in range(len(self.order.block_records)))

    def at(self, records: np.ndarray) -> pa.RecordBatch:
        """The records of these numbers (n,), counted through the splits, in this order; at least one."""
        with self._lock:
            return gather_from(self._block, *self.order.rows(records))

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[Window, int, int]]:
        """The windows that positions ``[start, stop)`` lie in, each with the range of its own positions."""
        while start < stop:
            window, begin = self._at(start)
            last = min(stop - begin, len(window.index))
            yield window, start - begin, last
            start = begin + last

    def _at(self, position: int) -> tuple[Window, int]:
        """The window that holds a position, and the position with which it begins."""
        for window, begin in self._places:
            if begin <= position < begin + len(window.index):
                return window, begin
        (span,) = self.order.spans(position, position + 1)
        self._places.appendleft((self._window(span.epoch, span.window), position - span.start))
        return self._places[0]

    def _window(self, epoch: int, number: int) -> Window:
        ready = self._ahead is not None and self._ahead[0] == (epoch, number)
        return self._ahead[1].result() if self._ahead and ready else self.order.window(epoch, number)

    def _look_ahead(self, window: Window) -> None:
        """Let a helper thread draw the order of the next window, while this one's records are being used."""
        following = self.order.following(window.epoch, window.number)
        if self._threads > 1 and (self._ahead is None or self._ahead[0] != following):
            self._ahead = following, in_background(partial(self.order.window, *following))

    def _parts(self, window: Window, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """The records at positions ``[start, stop)`` of a window, in order."""
        if not self._is_joined:
            yield gather_from(self._block, *self.order.rows(window.records[start:stop]))
            return
        stretches = self._stretches_in(window)
        size = -(-len(window.index) // stretches)
        while start < stop:
            number, first = divmod(start, size)
            part = self._stretch(window, number, size).slice(first, stop - start)
            yield part
            start += len(part)

    def _stretch(self, window: Window, number: int, size: int) -> pa.RecordBatch:
        """Stretch ``number`` of a window, where stretches have ``size`` records; those beside it are taken with it."""
        key = (window.epoch, window.number)
        stretch = self._stretches.get((*key, number))
        if stretch is not None:
            return stretch
        joined = self._joined.get(key)
        if joined is None:
            joined = self._joined.put(key, Joined(list(map(self._block, window.blocks.tolist())), self._scratch))
        first = number - number % self._threads
        starts = range(first * size, min((first + self._threads) * size, len(window.index)), size)
        taken = at_once([partial(joined.take, window.index[at : at + size]) for at in starts])
        for beside, batch in enumerate(taken, first):
            self._stretches.put((*key, beside), batch)
        self._look_ahead(window)
        return taken[number - first]

    def _stretches_in(self, window: Window) -> int:
        """How many stretches a window is taken in: all threads get the same number of about the same size."""
        rounds = -(-len(window.index) // (self._threads * self._stretch_records))
        return rounds * self._threads

    def _window_bytes(self) -> float:
        """Size of the largest window that can occur, judged by the size of the first block."""
        sizes = self.order.block_records + np.concatenate([split.block_points for split in self.splits])
        largest = np.sort(sizes)[-self.order.width :].sum()
        return self._block(0).nbytes * float(largest / sizes[0])

    def _records_in(self, size: int) -> int:
        """Records of about that many bytes, judged by the first block."""
        block = self._block(0)
        return max(1, size * len(block) // max(1, block.nbytes))

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
        opened = self._opened.get((block,))
        if opened is not None:
            return opened
        number = self._block_split[block]
        split = self.splits[number]
        batch = split.read(block - int(self._first_block[number]))
        if self._wanted is None:
            batch = project(batch, self.columns, split.corpus.path)
        else:
            batch = conform(batch, self._wanted)
        return self._opened.put((block,), relabel(batch, self.labels))

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
        values = np.asarray(weights)
        return values[self._block_split] if len(values) == len(self.splits) else values
