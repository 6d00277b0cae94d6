"""Looking at every raw file before anything is built: is it whole, what names it, which entries belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

PARTITION_KEYS = 4 << 20  # keys compared at a time: bounds the memory, whatever the size of the data set
HASH_THREADS = 4


@dataclass(frozen=True)
class SourceFile:
    """A raw file: where it lies now, and what identifies it wherever it lies."""

    path: Path
    name: str
    sha256: str
    bytes: int
    entries: int

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "bytes": self.bytes, "entries": self.entries}


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


def probe(source: Source, files: Sequence[Path], on_bad: OnBad = "stop") -> Probed:
    """Open every file, take its checksum and compare the keys of all entries.

    Args:
        source: as bound to these files.
        files: raw files, each once.
        on_bad: with ``skip`` a damaged file and entries that come a second time are left out.

    Raises:
        HepfmError: no file, a missing one, one given twice; and with ``stop`` a damaged file or a repeated entry.
    """
    resolved = existing(files)
    common = Path(os.path.commonpath([file.parent for file in resolved]))
    good: list[SourceFile] = []
    left_out: list[tuple[str, str]] = []
    with progress("checking files", len(files), "files") as task, ThreadPoolExecutor(HASH_THREADS) as threads:
        for path, sha256 in zip(resolved, threads.map(sha256_file, resolved), strict=True):
            name = path.relative_to(common).as_posix()
            try:
                good.append(SourceFile(path, name, sha256, path.stat().st_size, source.entries(path)))
            except HepfmError as error:
                if on_bad == "stop":
                    raise
                left_out.append((name, error.what))
            task.advance()
    _check_once(good)
    if not any(file.entries for file in good):
        faults = f": {left_out[0][1]}" if left_out else ""
        raise HepfmError(f"no file holds an entry{faults}", f"{files[0]}" + (" and the others" if files[1:] else ""))
    good.sort(key=lambda file: file.name)
    edges, repeated = _compare(source, good)
    if repeated and on_bad == "stop":
        raise _told(good, repeated)
    return Probed(tuple(good), edges, repeated, tuple(left_out))


def existing(files: Sequence[Path]) -> list[Path]:
    """The files with their links resolved.

    Raises:
        HepfmError: none was given, or one is no file.
    """
    files = [Path(file) for file in files]
    if not files:
        raise HepfmError("no file was given", "ingest", "name at least one")
    for file in files:
        if not file.is_file():
            raise HepfmError("no such file" if not file.exists() else "is not a file", file)
    return [file.resolve() for file in files]


def _check_once(files: Sequence[SourceFile]) -> None:
    seen: dict[str, SourceFile] = {}
    for file in files:
        if file.sha256 in seen:
            first = seen[file.sha256].path
            twice = "was given twice" if first == file.path else f"is a copy of {first}"
            raise HepfmError(twice, file.path, "give each file once")
        seen[file.sha256] = file


def _compare(
    source: Source, files: Sequence[SourceFile]
) -> tuple[tuple[np.ndarray | None, ...], dict[int, np.ndarray]]:
    """Where collisions begin in each file, and which entries come a second time."""
    edges: list[np.ndarray | None] = []
    with TemporaryFile() as scratch:
        tables: list[_Keys | None] = []
        with progress("comparing entries", len(files), "files") as task:
            for file in files:
                keys = source.keys(file.path)
                starts = np.arange(file.entries) if keys is None else _starts(keys, source.shares_events)
                edges.append(starts if source.shares_events and keys is not None else None)
                tables.append(None if keys is None else _Keys.write(scratch, keys[starts], starts, file.entries))
                task.advance()
        scratch.flush()
        repeated = _repeated([table.open(scratch) if table else None for table in tables])
    return tuple(edges), repeated


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
    def write(cls, scratch: Any, keys: np.ndarray, starts: np.ndarray, entries: int) -> _Keys:
        order = np.argsort(keys, kind="stable")
        stops = np.append(starts[1:], entries)
        offset = scratch.seek(0, 2)
        for column in (keys, starts, stops):
            scratch.write(np.ascontiguousarray(column[order]).astype(np.uint64).tobytes())
        return cls(offset, len(keys))

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
