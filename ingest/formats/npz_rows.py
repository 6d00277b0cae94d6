"""Arrays in .npz files (zipped .npy), read by ranges of rows without holding a whole array."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ragged import FETCH_AGAIN, first_line

MAGIC = b"PK\x03\x04"
SUFFIX = ".npy"
PIECE_BYTES = 1 << 18
_ERRORS = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class NpzRows:
    """An array of a .npz file, read by ranges of rows.

    A compressed array can only be decoded from its start: the decoder is kept where it stands, so that ranges in
    ascending order decode the array once, and a range further back starts anew. Memory is the range asked for. The
    checksum is compared when the last row is read.

    Args:
        archive: the open archive.
        name: of the array.
        path: the file, for messages.

    Raises:
        HepfmError: no such array; one of objects (pickled, never read); stored column by column; damaged.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        self.path, self._name = path, name
        try:
            entry = archive.getinfo(name + SUFFIX)
        except KeyError as error:
            there = ", ".join(arrays_in(archive))
            raise HepfmError(f"has no array '{name}'", path, f"it has {there or 'none'}") from error
        try:
            self._archive, self._entry = archive, entry
            self._stream = archive.open(entry)
            self.shape, by_column, self.dtype = header(self._stream)
            self._first = self._stream.tell()
        except _ERRORS as error:
            raise HepfmError(f"array '{name}' cannot be read ({first_line(error)})", path, "fetch it again") from error
        if self.dtype.hasobject:
            raise HepfmError(f"array '{name}' holds pickled objects", path, "only plain numbers are read")
        if by_column and len(self.shape) > 1:
            raise HepfmError(f"array '{name}' is stored column by column", path, "save it in C order")
        if not self.shape:
            raise HepfmError(f"array '{name}' is a single number", path)
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        if entry.file_size != self._first + self._row * self.shape[0]:
            raise HepfmError(f"array '{name}' has not the size that its header says", path, "fetch it again")

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop).

        Raises:
            HepfmError: they cannot be decoded.
        """
        try:
            self._go_to(self._first + start * self._row)
            data = self._stream.read((stop - start) * self._row)
            values = np.frombuffer(data, dtype=self.dtype).reshape(stop - start, *self.shape[1:])
        except _ERRORS as error:
            what = f"rows {start} to {stop} of array '{self._name}' cannot be decoded ({first_line(error)})"
            raise HepfmError(what, self.path, FETCH_AGAIN) from error
        return values

    def _go_to(self, place: int) -> None:
        # Not by seek(): it reads 16 MB at a time, and ends the comparison of checksums at the end of the array.
        if place < self._stream.tell():
            self._stream.close()
            self._stream = self._archive.open(self._entry)
        while (missing := place - self._stream.tell()) > 0:
            if not self._stream.read(min(missing, PIECE_BYTES)):
                raise EOFError("it ends early")


def is_npz(path: Path) -> bool:
    """Does the file begin as .npz files do? True for a truncated one."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_npz(path: Path) -> zipfile.ZipFile:
    """Open an archive.

    Raises:
        HepfmError: truncated or damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except _ERRORS as error:
        raise HepfmError(f"truncated or damaged ({first_line(error)})", path, "fetch it again") from error


def arrays_in(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays of an archive."""
    return [name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX)]


def header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether column by column, and type of the .npy array at the start of a stream; nothing is evaluated.

    Raises:
        ValueError: not such an array.
    """
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of .npy is not one for plain numbers")
    return read(stream)
