"""Tables in Parquet files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ragged import FETCH_AGAIN, Column, Table, first_line, joined, lists_of, not_numbers
from hepfm.ingest.formats.windows import check_range

# Entries decoded at once. A page of a column is the least that is decoded, whatever the row group.
BATCH_ENTRIES = 2_048
BUFFER_BYTES = 1 << 18


class ParquetTable(Table):
    """A Parquet file, decoded front to back in batches, however large its row groups are.

    The public files of some data sets are one row group of 100,000 entries, and nothing tells where in it an entry
    lies. So a decoder is kept where it stands: a range further on costs the entries in between, one further back those
    from the start of its row group. Memory is a batch of 2,048 entries and, for each column, a page (about 1 MB) and a
    read buffer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(
                path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        except (pa.ArrowException, OSError) as error:
            raise HepfmError(f"truncated or damaged ({first_line(error)})", path, "fetch it again") from error
        self.entries = self._file.metadata.num_rows
        self.names = frozenset(self._file.schema_arrow.names)
        self._decoder: _Decoder | None = None

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        check_range(self.path, start, stop, self.entries)
        if start == stop:
            return {name: _column([pa.array([], self._type(name))], name, self.path) for name in names}
        decoder = self._decoder
        if decoder is None or decoder.names != list(names):
            decoder = _Decoder(self._file, list(names))
        self._decoder = None  # one that fails is not used again
        try:
            batches = decoder.rows(start, stop)
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise self._damaged(start, stop, error) from error
        self._decoder = decoder
        return {name: _column([batch.column(name) for batch in batches], name, self.path) for name in names}

    def whole(self, names: Sequence[str]) -> dict[str, Column]:
        try:
            table = self._file.read(columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(0, self.entries, error) from error
        return {name: _column(table.column(name).chunks, name, self.path) for name in names}

    def close(self) -> None:
        self._decoder = None
        self._file.close()

    def _type(self, name: str) -> pa.DataType:
        return self._file.schema_arrow.field(name).type

    def _damaged(self, start: int, stop: int, error: Exception) -> HepfmError:
        return HepfmError(f"entries {start} to {stop} cannot be decoded ({first_line(error)})", self.path, FETCH_AGAIN)


class _Decoder:
    """Decodes some columns of a Parquet file in order, and holds the batch it gave last."""

    def __init__(self, file: pq.ParquetFile, names: list[str]) -> None:
        self.names = names
        self._file = file
        metadata = file.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = list(accumulate(rows, initial=0))[:-1]
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._held = pa.RecordBatch.from_pydict({})
        self._first = self._next = 0

    def rows(self, start: int, stop: int) -> list[pa.RecordBatch]:
        """Rows [start, stop), not empty, as one or more batches."""
        self._seek(start)
        parts = []
        while True:
            low, high = max(start, self._first), min(stop, self._next)
            if low < high:
                parts.append(self._held.slice(low - self._first, high - low))
            if self._next >= stop:
                return parts
            self._advance()

    def _seek(self, start: int) -> None:
        group = bisect_right(self._starts, start) - 1
        if self._batches is None or start < self._first or self._starts[group] > self._next:
            self._first = self._next = self._starts[group]
            self._batches = self._file.iter_batches(
                BATCH_ENTRIES, row_groups=list(range(group, len(self._starts))), columns=self.names
            )

    def _advance(self) -> None:
        assert self._batches is not None
        self._held = next(self._batches)
        self._first, self._next = self._next, self._next + len(self._held)


def _column(arrays: Sequence[pa.Array], name: str, path: Path) -> Column:
    """Arrow chunks of a column, as NumPy arrays."""
    parts: list[Column] = []
    for array in arrays:
        nested = isinstance(array, pa.ListArray | pa.LargeListArray)
        values = array.flatten() if nested else array
        kind = values.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise not_numbers(name, path, str(array.type))
        if array.null_count or values.null_count:
            raise HepfmError(f"column '{name}' has null values", path, "every entry must have one")
        flat = values.to_numpy(zero_copy_only=False)
        parts.append(lists_of(_lengths(array), flat) if nested else flat)
    return joined(parts)


def _lengths(array: pa.Array) -> np.ndarray:
    return array.value_lengths().to_numpy(zero_copy_only=False)
