"""What lies in a raw file, by names and shapes alone: enough to tell formats apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hepfm.core.errors import HepfmError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 512
FETCH_AGAIN = "fetch it again"


@dataclass(frozen=True)
class Contents:
    """Names and shapes in a file.

    Attributes:
        container: ``root``, ``hdf5``, ``parquet``, ``npz``, or empty for anything else and for damaged files.
        tables: columns of each ROOT tree, RNTuple or Parquet file (there called ``""``), by name.
        arrays: shape of each HDF5 data set, by path (``30x30/layers``), or array of a .npz file, by name.
        fields: names of the fields of HDF5 data sets of compound type, by path.
        fault: what is wrong with a file that is empty, damaged, or something that often takes a data file's place.
        mend: what to do about it.
        stand_in: is it the latter: a web page, a pointer, an archive?
    """

    container: str = ""
    tables: Mapping[str, frozenset[str]] = field(default_factory=dict)
    arrays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fault: str = ""
    mend: str = FETCH_AGAIN
    stand_in: bool = False

    def has(self, table: str, *columns: str) -> bool:
        """Is there such a tree or table, with these columns?"""
        return table in self.tables and self.tables[table].issuperset(columns)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an HDF5 data set or .npz array; empty if there is none."""
        return self.arrays.get(name, ())


def contents(path: Path) -> Contents:
    """What lies in a file; nothing is raised for one that is damaged or of no known container."""
    try:
        state = path.stat()
        return _contents(path, state.st_size, state.st_mtime_ns)
    except OSError:
        return Contents()


@lru_cache(maxsize=64)
def _contents(path: Path, _size: int, _changed: int) -> Contents:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    readers = {
        "root": (b"root", _root),
        "hdf5": (HDF5_MAGIC, _hdf5),
        "parquet": (b"PAR1", _parquet),
        "npz": (b"PK\x03\x04", _npz),
    }
    for name, (magic, read) in readers.items():
        if head.startswith(magic):
            try:
                return read(path)
            except Exception as error:  # a damaged file may fail anywhere
                why = f"truncated or damaged ({type(error).__name__})"
                told = error.what if isinstance(error, HepfmError) else why
                return Contents(fault=f"looks like {name} but cannot be read: {told}")
    return _no_data(head)


def _no_data(head: bytes) -> Contents:
    """What a file of no known container is, by its first bytes."""
    if not head:
        return Contents(fault="is empty")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return Contents(fault="is a web page, not data", stand_in=True)
    if head.startswith(b"version https://git-lfs"):
        return Contents(fault="is a pointer of Git LFS, not the file itself", stand_in=True)
    if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
        return Contents(fault="is an archive", mend="unpack it and name the files in it", stand_in=True)
    return Contents()


def _root(path: Path) -> Contents:
    import uproot

    tables = {}
    with uproot.open(path) as file:
        for name, kind in file.classnames(cycle=False).items():
            if kind.startswith("TTree") or "RNTuple" in kind:
                tables[name] = frozenset(file[name].keys(recursive=False))
    return Contents("root", tables=tables)


def _parquet(path: Path) -> Contents:
    import pyarrow.parquet as pq

    return Contents("parquet", tables={"": frozenset(pq.read_schema(path).names)})


def _hdf5(path: Path) -> Contents:
    import h5py

    arrays: dict[str, tuple[int, ...]] = {}
    fields: dict[str, frozenset[str]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item.shape or ()
            if item.dtype.names:
                fields[name] = frozenset(item.dtype.names)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return Contents("hdf5", arrays=arrays, fields=fields)


def _npz(path: Path) -> Contents:
    from hepfm.ingest.formats.npz_rows import arrays_in, header, open_npz

    arrays = {}
    with open_npz(path) as archive:
        for name in arrays_in(archive):
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = header(stream)[0]
    return Contents("npz", arrays=arrays)
