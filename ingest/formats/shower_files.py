"""HDF5 files of showers: opened once, checked, read in windows so that no chunk is decoded twice in a pass.

HDF5 decodes a chunk whole, and a chunk may hold the same few voxels of thousands of showers. So the rows of a chunk are
read at once (a window), stripe by stripe across the chunks, and kept as points. The points of the windows used last
(:data:`WINDOW_BYTES`, over all files of a process) lie in nameless temporary files that are mapped, so that they are
the page cache's. Memory beyond it: one stripe (:data:`STRIPE_BYTES`, or one column of chunks if that is larger) with
its points, and the points of the showers that are asked for.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.hdf5_rows import open_hdf5
from hepfm.ingest.formats.windows import OpenFiles

OPEN_FILES = 16
STRIPE_BYTES = 8 << 20
WINDOW_BYTES = 2 << 30
ALIGNED_BYTES = 64
# A window has at least this many rows, so that files in chunks of single showers are not read row by row.
LEAST_ROWS = 128
CHUNK_BYTES = 1 << 20
_AGAIN = "the file is damaged: fetch it again"


@dataclass(frozen=True)
class Ragged:
    """Points of showers ``start`` and following: offsets (n + 1,) int64 and columns (N,) by name."""

    start: int
    offsets: np.ndarray
    columns: dict[str, np.ndarray]


# Points of some rows, in their order: the row of each, counted from 0, and columns by name.
Stripe = tuple[np.ndarray, dict[str, np.ndarray]]
Decode = Callable[["ShowerFile", int, int], Iterable[Stripe]]


class ShowerFile:
    """An open HDF5 file of showers.

    Raises:
        HepfmError: no such file, truncated, or no HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path, "showers come as HDF5 files")

    def close(self) -> None:
        _WINDOWS.forget(id(self))
        self._file.close()

    def has(self, name: str) -> bool:
        """Is there a data set of this name?"""
        with self._decoding(f"'{name}' cannot be looked up"):
            return isinstance(self._file.get(name), h5py.Dataset)

    def attribute(self, name: str) -> float | None:
        """A number that the file has as an attribute, or as a data set of one value."""
        with self._decoding(f"'{name}' cannot be read"):
            found = self._file.attrs.get(name)
            if found is None and self.has(name) and self._file[name].size == 1:
                found = self._file[name][()]
        array = np.asarray(found)
        return float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iuf" else None

    def names(self) -> list[str]:
        """Paths of all data sets."""
        found: list[str] = []
        with self._decoding("its contents cannot be listed"):
            self._file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return sorted(found)

    def array(self, name: str, kinds: str = "f") -> h5py.Dataset:
        """A data set of the file, of a NumPy kind in ``kinds`` (``O``: lists of varying length).

        Raises:
            HepfmError: there is none, its type is another one, or its values lie in another file.
        """
        if not self.has(name):
            raise HepfmError(f"has no array '{name}'", self.path, f"it has {', '.join(self.names()) or 'none'}")
        found = self._file[name]
        if found.dtype.kind not in kinds or found.dtype.itemsize > 8:
            raise HepfmError(f"'{name}' holds {found.dtype}, not numbers of the expected kind", self.path)
        if found.file.filename != self._file.filename or found.is_virtual or found.external:
            raise HepfmError(f"the values of '{name}' lie in another file", self.path, "copy them into one file")
        return found

    def read(self, dataset: h5py.Dataset, *index: slice) -> np.ndarray:
        """Values of a data set, in this machine's byte order; float16 as float32.

        Raises:
            HepfmError: they cannot be decoded.
        """
        with self._decoding(f"'{dataset.name}' cannot be decoded from entry {index[0].start} to {index[0].stop}"):
            values = dataset[index]
        if values.dtype == np.float16:
            return values.astype(np.float32)
        return values if values.dtype.hasobject else values.astype(values.dtype.newbyteorder("="), copy=False)

    def column(self, name: str, start: int, stop: int, kinds: str = "f") -> np.ndarray:
        """Values (stop - start,) of an array with one value a shower: shape (n,) or (n, 1)."""
        dataset = self.array(name, kinds)
        if dataset.shape[1:] not in ((), (1,)):
            raise HepfmError(f"'{name}' has shape {dataset.shape}, not one value a shower", self.path)
        return self.read(dataset, slice(start, stop)).reshape(-1)

    def stripes(self, dataset: h5py.Dataset, start: int, stop: int, axis: int) -> Iterator[tuple[int, np.ndarray]]:
        """Rows [start, stop) in slices along ``axis``, each with the index at which it begins; no chunk is cut."""
        length = dataset.shape[axis]
        row_bytes = max(int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize // max(length, 1), 1)
        unit = dataset.chunks[axis] if dataset.chunks else 1
        fitting = STRIPE_BYTES // (row_bytes * max(stop - start, 1))
        width = max(fitting // unit, 1) * unit
        for first in range(0, length, width):
            index = [slice(start, stop)] + [slice(None)] * (dataset.ndim - 1)
            index[axis] = slice(first, min(first + width, length))
            yield first, self.read(dataset, *index)

    def showers(self, dataset: h5py.Dataset, start: int, stop: int, decode: Decode) -> Ragged:
        """Points of showers [start, stop), decoded window by window.

        Args:
            dataset: whose chunks make the windows.
            start, stop: the range.
            decode: gives the points of rows of the file, stripe by stripe.

        Raises:
            HepfmError: the range leaves the file.
        """
        entries = dataset.shape[0]
        if not 0 <= start <= stop <= entries:
            raise HepfmError(f"entries {start} to {stop} were asked for, it has {entries}", self.path)
        if dataset.chunks is None or start == stop:
            return gathered(start, stop, decode(self, start, stop))
        rows = -(-LEAST_ROWS // dataset.chunks[0]) * dataset.chunks[0]
        parts = []
        for first in range(start // rows * rows, stop, rows):
            last = min(first + rows, entries)
            key = (id(self), dataset.name, first)
            window = _WINDOWS.get(key)
            if window is None:
                pa.default_memory_pool().release_unused()  # of the blocks before, which Arrow keeps: 100 MB and more
                window = _WINDOWS.add(key, _Window(first, last, decode(self, first, last)))
            parts.append(window.part(max(start, first), min(stop, last)))
        return joined(parts)

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        try:
            yield
        except HepfmError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # which one is up to h5py
            mend = "pip install hdf5plugin" if "filter" in str(error) and "registered" in str(error) else _AGAIN
            raise HepfmError(f"{what} ({type(error).__name__}: {str(error)[:120]})", self.path, mend) from error


def joined(parts: list[Ragged]) -> Ragged:
    """Showers of parts that follow each other."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Ragged(parts[0].start, np.concatenate([[0], np.cumsum(lengths)]), columns)


def gathered(start: int, stop: int, stripes: Iterable[Stripe]) -> Ragged:
    """Points of showers [start, stop) from stripes; within a shower they stand in the order of the stripes."""
    found = list(stripes)
    shower = np.concatenate([rows for rows, _ in found])
    columns = {name: np.concatenate([part[name] for _, part in found]) for name in found[0][1]}
    offsets = np.concatenate([[0], np.cumsum(np.bincount(shower, minlength=stop - start))])
    if len(found) > 1:
        order = np.argsort(shower, kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
    return Ragged(start, offsets, columns)


class _Window:
    """Points of showers [start, stop), stripe by stripe, in a mapped file without a name.

    Raises:
        HepfmError: the temporary folder is full.
    """

    def __init__(self, start: int, stop: int, stripes: Iterable[Stripe]) -> None:
        self._start = start
        offsets, columns = [], []
        with TemporaryFile() as file:
            for shower, values in stripes:
                offsets.append(np.concatenate([[0], np.cumsum(np.bincount(shower, minlength=stop - start))]))
                columns.append({name: (_appended(file, array), array.dtype) for name, array in values.items()})
            self.bytes = file.tell()
            mapped = mmap.mmap(file.fileno(), self.bytes, access=mmap.ACCESS_READ) if self.bytes else b""
        self._stripes = [
            (bounds, {name: np.frombuffer(mapped, kind, bounds[-1], at) for name, (at, kind) in places.items()})
            for bounds, places in zip(offsets, columns, strict=True)
        ]

    def part(self, start: int, stop: int) -> Ragged:
        """Showers [start, stop) of the file, which lie in this."""
        first, last = start - self._start, stop - self._start
        return gathered(
            start,
            stop,
            (
                (
                    np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1])),
                    {name: values[offsets[first] : offsets[last]] for name, values in columns.items()},
                )
                for offsets, columns in self._stripes
            ),
        )


def _appended(file: IO[bytes], values: np.ndarray) -> int:
    """Write values at the end of a file and say where they begin."""
    try:
        file.write(bytes(-file.tell() % ALIGNED_BYTES))
        at = file.tell()
        file.write(np.ascontiguousarray(values).data)
        file.flush()
    except OSError as error:
        mend = "let TMPDIR name a folder with more space"
        raise HepfmError(f"temporary files cannot be written ({error.strerror})", gettempdir(), mend) from error
    return at


class _Windows:
    """The windows used last, as many as :data:`WINDOW_BYTES` hold, and the newest whatever its size."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[int, str, int], _Window] = OrderedDict()

    def get(self, key: tuple[int, str, int]) -> _Window | None:
        if key in self._windows:
            self._windows.move_to_end(key)
        return self._windows.get(key)

    def add(self, key: tuple[int, str, int], window: _Window) -> _Window:
        self._windows[key] = window
        while len(self._windows) > 1 and sum(window.bytes for window in self._windows.values()) > WINDOW_BYTES:
            self._windows.popitem(last=False)
        return window

    def forget(self, file: int) -> None:
        for key in [key for key in self._windows if key[0] == file]:
            del self._windows[key]


_WINDOWS = _Windows()
_FILES = OpenFiles(OPEN_FILES, ShowerFile)


def shower_file(path: Path) -> ShowerFile:
    """The open file at ``path``; the ones used last stay open in this process.

    Raises:
        HepfmError: as for :class:`ShowerFile`.
    """
    return _FILES.get(path)


class Rows:
    """A data set that grows by rows, compressed by gzip, in chunks of whole rows and about 1 MiB."""

    def __init__(self, file: h5py.File, name: str, row: tuple[int, ...], dtype: str) -> None:
        self.chunk = max(CHUNK_BYTES // max(int(np.prod(row)) * np.dtype(dtype).itemsize, 1), 1)
        self._dataset = file.create_dataset(
            name, (0, *row), dtype, maxshape=(None, *row), chunks=(self.chunk, *row), compression="gzip"
        )

    def append(self, rows: np.ndarray) -> None:
        """Add rows; their shape and order of axes are the data set's."""
        end = len(self._dataset)
        self._dataset.resize(end + len(rows), axis=0)
        self._dataset[end:] = rows
