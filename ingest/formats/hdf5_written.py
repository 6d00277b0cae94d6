"""HDF5 files that appear when they are complete, also where the disk runs full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from hepfm.core.files import atomic_path


@contextmanager
def hdf5_written(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that appears at ``path`` when it is complete; equal calls give equal bytes.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with atomic_path(path) as partial, _Patient(partial) as target:
        try:
            with h5py.File(target, "w", track_order=False) as file:
                yield file
        finally:
            if target.failure is not None:
                raise target.failure


class _Patient(io.FileIO):
    """A file that keeps its first failure for later.

    HDF5 cannot give up a file that it cannot write: it tries again at every close, and at the end crashes the process.
    So it is told that all is well, and what was written is thrown away.
    """

    failure: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.failure is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0
