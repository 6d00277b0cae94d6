"""HDF5 data sets read by ranges of rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
from h5py import h5z

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ragged import FETCH_AGAIN, first_line

MAGIC = b"\x89HDF\r\n\x1a\n"
# Rows of a data set in larger chunks are decoded a whole chunk at a time; the last one is kept.
SMALL_CHUNK_ROWS = 512


def open_hdf5(path: Path, expected: str) -> h5py.File:
    """Open an HDF5 file for reading.

    Args:
        path: the file.
        expected: what such a file should be, for the message ("JetNet files are HDF5 files with ...").

    Raises:
        HepfmError: a folder, empty, of another format, truncated or damaged.
    """
    if path.is_dir():
        raise HepfmError("a folder, not an HDF5 file", path, "name the files in it")
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    if head != MAGIC:
        raise HepfmError("not an HDF5 file" if head else "an empty file", path, expected)
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise HepfmError(f"truncated or damaged ({first_line(error)})", path, "fetch it again") from error


def dataset(file: h5py.File, name: str, path: Path, expected: str) -> h5py.Dataset:
    """A data set of an open file.

    Raises:
        HepfmError: there is none; the message lists what the file has.
    """
    try:
        found = file.get(name)
        present = ", ".join(file.keys())
    except (KeyError, OSError, RuntimeError) as error:
        raise HepfmError(f"damaged ({first_line(error)})", path, "fetch it again") from error
    if not isinstance(found, h5py.Dataset):
        raise HepfmError(f"has no data set '{name}'", path, f"it has {present or 'nothing'}; {expected}")
    return found


def names_in(found: h5py.Dataset, path: Path) -> tuple[str, ...]:
    """Strings (k,) of a data set that names the columns of another.

    Raises:
        HepfmError: they are no strings, or cannot be read.
    """
    if found.ndim != 1 or not (found.dtype.kind == "S" or h5py.check_string_dtype(found.dtype)):
        raise HepfmError(f"'{found.name}' holds no names", path, "it may be of another format")
    values = Rows(found, path).read(0, len(found))
    return tuple((value.decode() if isinstance(value, bytes) else str(value)).rstrip("\0") for value in values)


class Rows:
    """A data set, read by ranges of rows.

    A data set in chunks of more than 512 rows is decoded in such chunks, and the last one is kept, so that ranges in
    ascending order decode each chunk once. Memory is then one chunk's rows; else it is the range asked for.

    Args:
        found: the data set, with rows along its first axis.
        path: its file, for messages.

    Raises:
        HepfmError: it is compressed with a filter that cannot be loaded.
    """

    def __init__(self, found: h5py.Dataset, path: Path) -> None:
        self.shape: tuple[int, ...] = found.shape
        self.dtype: np.dtype = found.dtype
        self.path = path
        self._dataset = found
        self._window: tuple[int, np.ndarray] | None = None
        _check_filters(found, path)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop).

        Raises:
            HepfmError: they cannot be decoded.
        """
        size = self._dataset.chunks[0] if self._dataset.chunks else 0
        if size <= SMALL_CHUNK_ROWS or start == stop:
            return self._decode(start, stop)
        parts = []
        for first in range(start // size * size, stop, size):
            window = self._windowed(first, min(first + size, len(self)))
            parts.append(window[max(start - first, 0) : stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def columns(self, columns: Sequence[int]) -> np.ndarray:
        """Columns (n, k) of all rows of a data set of two axes; for a few columns."""
        try:
            return np.stack([self._dataset[:, column] for column in columns], axis=1)
        except (OSError, RuntimeError) as error:
            raise self._damaged(0, len(self), error) from error

    def _windowed(self, start: int, stop: int) -> np.ndarray:
        if self._window is None or self._window[0] != start:
            self._window = (start, self._decode(start, stop))
        return self._window[1]

    def _decode(self, start: int, stop: int) -> np.ndarray:
        try:
            return self._dataset[start:stop]
        except (OSError, RuntimeError) as error:
            raise self._damaged(start, stop, error) from error

    def _damaged(self, start: int, stop: int, error: Exception) -> HepfmError:
        return HepfmError(
            f"rows {start} to {stop} of '{self._dataset.name}' cannot be decoded ({first_line(error)})",
            self.path,
            FETCH_AGAIN,
        )


def _check_filters(found: h5py.Dataset, path: Path) -> None:
    """PyTables compresses with Blosc, which HDF5 itself lacks: hdf5plugin registers it."""
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    if all(h5z.filter_avail(code) for code, *_ in filters):
        return
    with suppress(ImportError):
        import_module("hdf5plugin")
    for code, _flags, _values, name in filters:
        if not h5z.filter_avail(code):
            what = f"'{found.name}' is compressed with {name.decode() or f'HDF5 filter {code}'}, which is not at hand"
            raise HepfmError(what, path, "pip install hdf5plugin")
