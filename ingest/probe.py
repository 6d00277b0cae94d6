"""Looking at every raw file before anything is built: is it whole, what names it, which entries belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.progress import progress
from hepfm.ingest.sources.base import Source
from hepfm.ingest.tally import OnBad
from hepfm.ingest.workers import Workers

PARTITION_KEYS = 4 << 20  # keys compared at a time: bounds the memory, whatever the size of the data set
SMALL_BYTES = 32 << 20  # files of less in all are read here: calling workers would cost more


@dataclass(frozen=True)
class SourceFile:
    """A raw file: where it lies now and when it was last changed, and what identifies it wherever it lies."""

    path: Path
    name: str
    sha256: str
    bytes: int
    entries: int
    modified_ns: int

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "bytes": self.bytes, "entries": self.entries}

    def unchanged(self) -> bool:
        """Is it, by size and time, the file whose checksum was taken?"""
        found = self.path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.bytes, self.modified_ns)


@dataclass(frozen=True)
class Probed:
    """The raw files of a corpus, by name, so that it does not matter in which order they were given.

    Attributes:
        files: the good ones.
        edges: for each file the entries (k,) at which a collision begins; None where any entry may begin a run.
        repeated: for each file with such entries their ranges (k, 2) of entries that came before, in it or another.
        left_out: name of each damaged file that was left out, and what is wrong with it.
    """

    files: tuple[SourceFile, ...]
    edges: tuple[np.ndarray | None, ...]
    repeated: dict[int, np.ndarray]
    left_out: tuple[tuple[str, str], ...] = ()


def probe(
    source: Source,
    files: Sequence[Path],
    on_bad: OnBad = "stop",
    workers: Workers | None = None,
    lacking: Sequence[tuple[str, str]] = (),
) -> Probed:
    """Open every file, take its checksum and compare the keys of all entries.

    Args:
        source: as bound to these files.
        files: raw files, each once.
        on_bad: with ``skip`` a damaged file and entries that come a second time are left out.
        workers: who reads the files; this process by default.
        lacking: files that were left out before, and what is wrong with each.

    Raises:
        HepfmError: no file, a missing one, one given twice; and with ``stop`` a damaged file or a repeated entry.
    """
    resolved = existing(files)
    common = Path(os.path.commonpath([file.parent for file in resolved]))
    if workers is None or sum(path.stat().st_size for path in resolved) < SMALL_BYTES:
        workers = Workers()
    good: list[SourceFile] = []
    left_out = list(lacking)
    with TemporaryFile() as scratch, progress("checking files", len(files), "files") as task:
        tables: dict[Path, _Keys] = {}
        for path, looked in workers.results(_Look(source, on_bad), resolved, "ingest"):
            name = path.relative_to(common).as_posix()
            if looked.fault:
                left_out.append((name, looked.fault))
            else:
                good.append(SourceFile(path, name, looked.sha256, looked.bytes, looked.entries, looked.modified_ns))
            if looked.keys is not None:
                tables[path] = _Keys.write(scratch, looked.keys, source.shares_events)
            task.advance()
        good.sort(key=lambda file: resolved.index(file.path))
        copies = _copies(good)
        if copies and on_bad == "stop":
            copy, what = copies[0]
            raise HepfmError(what, copy.path, "give each file once")
        left_out += [(file.name, what) for file, what in copies]
        good = sorted(set(good) - {file for file, _ in copies}, key=lambda file: file.name)
        if not any(file.entries for file in good):
            faults = f": {left_out[0][1]}" if left_out else ""
            raise HepfmError(
                f"no file holds an entry{faults}", f"{files[0]}" + (" and the others" if files[1:] else "")
            )
        scratch.flush()
        opened = [tables[file.path].open(scratch) if file.path in tables else None for file in good]
        repeated = _repeated(opened)
        edges = tuple(
            np.sort(table[1].astype(np.int64)) if table is not None and source.shares_events else None
            for table in opened
        )
    if repeated and on_bad == "stop":
        raise _told(good, repeated)
    return Probed(tuple(good), edges, repeated, tuple(sorted(left_out)))


@dataclass(frozen=True)
class _Looked:
    """What is found in a file: checksum, size, entries and their keys, time; or what is wrong with it."""

    sha256: str = ""
    bytes: int = 0
    entries: int = 0
    modified_ns: int = 0
    keys: np.ndarray | None = None
    fault: str = ""


@dataclass(frozen=True)
class _Look:
    """Reads one file; sent to worker processes."""

    source: Source
    on_bad: OnBad

    def __call__(self, path: Path) -> _Looked:
        found = path.stat()
        try:
            entries, keys = self.source.entries(path), self.source.keys(path)
        except HepfmError as error:
            if self.on_bad == "stop":
                raise
            return _Looked(fault=error.what)
        return _Looked(sha256_file(path), found.st_size, entries, found.st_mtime_ns, keys)


def existing(files: Sequence[Path]) -> list[Path]:
    """The files with their links resolved.

    Raises:
        HepfmError: none was given, or one is no file.
    """
    files = [Path(file) for file in files]
    if not files:
        raise HepfmError("no file was given", "ingest", "name at least one")
    for file in files:
        if file.is_dir():
            raise HepfmError("is a folder", file, "name the files in it")
        if not file.is_file():
            raise HepfmError("no such file" if not file.exists() else "is not a file", file)
    return [file.resolve() for file in files]


def _copies(files: Sequence[SourceFile]) -> list[tuple[SourceFile, str]]:
    """Files that are the same as one before.

    Raises:
        HepfmError: the very same file was given twice.
    """
    seen: dict[str, SourceFile] = {}
    found = []
    for file in files:
        first = seen.setdefault(file.sha256, file)
        if first is not file and first.path == file.path:
            raise HepfmError("was given twice", file.path, "give each file once")
        if first is not file:
            found.append((file, f"is a copy of {first.path}"))
    return found


def _starts(keys: np.ndarray, shared: bool) -> np.ndarray:
    """Entries (k,) with which a collision begins; every entry where each stands for itself."""
    if not shared or not len(keys):
        return np.arange(len(keys))
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])


@dataclass(frozen=True)
class _Keys:
    """Sorted keys of a file in a scratch file, with the range of entries that each stands for."""

    offset: int
    count: int

    @classmethod
    def write(cls, scratch: Any, keys: np.ndarray, shared: bool) -> _Keys:
        starts = _starts(keys, shared)
        stops = np.append(starts[1:], len(keys))
        order = np.argsort(keys[starts], kind="stable")
        offset = scratch.seek(0, 2)
        for column in (keys[starts], starts, stops):
            scratch.write(column[order].astype(np.uint64).tobytes())
        return cls(offset, len(starts))

    def open(self, scratch: Any) -> np.ndarray:
        """(3, count) uint64: keys, first entries, stops; mapped, not read."""
        if not self.count:
            return np.zeros((3, 0), np.uint64)
        return np.memmap(scratch, np.uint64, "r", self.offset, (3, self.count))


def _repeated(tables: Sequence[np.ndarray | None]) -> dict[int, np.ndarray]:
    """Ranges of entries, by file, whose key came before: in an earlier file, or earlier in the same."""
    known = [(file, table) for file, table in enumerate(tables) if table is not None]
    total = sum(table.shape[1] for _, table in known)
    found: dict[int, list[np.ndarray]] = {}
    for low, high in _partitions(total):
        parts, owners = [], []
        for file, table in known:
            first, stop = np.searchsorted(table[0], np.array([low, high], np.uint64))
            # The last partition ends at the largest key there is, which belongs to it.
            stop = table.shape[1] if high == _LARGEST else stop
            parts.append(np.asarray(table[:, first:stop]))
            owners.append(np.full(stop - first, file))
        columns, owner = np.concatenate(parts, axis=1), np.concatenate(owners)
        order = np.argsort(columns[0], kind="stable")
        keys = columns[0][order]
        again = order[1:][keys[1:] == keys[:-1]]
        for file in np.unique(owner[again]).tolist():
            found.setdefault(file, []).append(columns[1:, again[owner[again] == file]].T.astype(np.int64))
    return {file: _sorted(np.concatenate(ranges)) for file, ranges in sorted(found.items())}


_LARGEST = (1 << 64) - 1


def _partitions(total: int) -> Iterator[tuple[int, int]]:
    """Stretches of the 64-bit keys that hold about :data:`PARTITION_KEYS` of ``total`` hashed keys each."""
    parts = -(-total // PARTITION_KEYS)
    for part in range(parts):
        yield part * (_LARGEST // parts), _LARGEST if part == parts - 1 else (part + 1) * (_LARGEST // parts)


def _sorted(ranges: np.ndarray) -> np.ndarray:
    return ranges[np.argsort(ranges[:, 0], kind="stable")]


def _told(files: Sequence[SourceFile], repeated: dict[int, np.ndarray]) -> HepfmError:
    file, ranges = next(iter(repeated.items()))
    count = sum(int((stops - starts).sum()) for starts, stops in (part.T for part in repeated.values()))
    return HepfmError(
        f"came before, in this file or another ({count:,} such entries in all)",
        f"{files[file].path}, entry {int(ranges[0, 0])}",
        "leave the copy out, or give --on-bad skip, which keeps the first of each",
    )
