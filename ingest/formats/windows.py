"""Reading ranges of entries from files that are stored in larger pieces, and telling a tally about each range."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.tally import Tally


@dataclass(frozen=True)
class Decoded:
    """Records of a stretch of n entries, and for each entry what a tally is to be told of it.

    Attributes:
        batch: the records, in order of entries.
        offsets: (n + 1,) records of entry i are ``offsets[i]:offsets[i + 1]``.
        flow: counts (n,) by name, in the order of the cuts.
        faults: (n,) bool by what is wrong; such entries have no records.
    """

    batch: pa.RecordBatch
    offsets: np.ndarray
    flow: dict[str, np.ndarray]
    faults: dict[str, np.ndarray]

    def slice(self, start: int, stop: int) -> Decoded:
        """Entries [start, stop) of these."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Decoded(
            self.batch.slice(first, last - first),
            self.offsets[start : stop + 1] - first,
            {name: counts[start:stop] for name, counts in self.flow.items()},
            {what: found[start:stop] for what, found in self.faults.items()},
        )

    def tell(self, tally: Tally, start: int, path: Path) -> None:
        """Add the flow and the faults to a tally.

        Args:
            tally: is told.
            start: entry of the file that these begin with.
            path: the file.

        Raises:
            HepfmError: there is a fault, and the tally stops at faults.
        """
        for name, counts in self.flow.items():
            tally.count(name, int(counts.sum()))
        for what, found in self.faults.items():
            tally.reject(what, start + np.flatnonzero(found), path)


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Stretches that follow one another, as one."""
    if len(parts) == 1:
        return parts[0]
    sizes = [np.diff(part.offsets) for part in parts]
    return Decoded(
        pa.concat_batches([part.batch for part in parts]),
        np.concatenate([[0], np.cumsum(np.concatenate(sizes))]),
        {name: np.concatenate([part.flow[name] for part in parts]) for name in parts[0].flow},
        {what: np.concatenate([part.faults[what] for part in parts]) for what in parts[0].faults},
    )


class Windows:
    """Ranges of a file's entries, decoded in aligned windows of which the last is kept.

    A file's chunks, baskets or clusters can only be decompressed whole; a pass in order decodes each window once.

    Args:
        entries: entries of the file.
        size: entries of a window; 0 decodes just the range that is asked for.
        decode: gives the entries [start, stop).
    """

    def __init__(self, entries: int, size: int, decode: Callable[[int, int], Decoded]) -> None:
        self._entries, self._size, self._decode = entries, size, decode
        self._last: tuple[int, Decoded] | None = None

    def read(self, start: int, stop: int) -> Decoded:
        size = self._size
        if not size or start == stop:
            return self._decode(start, stop)
        parts = []
        for first in range(start // size * size, stop, size):
            if self._last is None or self._last[0] != first:
                self._last = (first, self._decode(first, min(first + size, self._entries)))
            parts.append(self._last[1].slice(max(start - first, 0), min(stop - first, size)))
        return joined(parts)


class Closable(Protocol):
    def close(self) -> None: ...


Opened = TypeVar("Opened", bound=Closable)


class OpenFiles(Generic[Opened]):
    """The files used last, opened once in a process (and once for each way of reading them)."""

    def __init__(self, limit: int, opening: Callable[..., Opened]) -> None:
        self._limit, self._opening = limit, opening
        self._files: OrderedDict[Hashable, Opened] = OrderedDict()

    def get(self, path: Path, *settings: Hashable) -> Opened:
        """The file, opened as ``opening(path, *settings)``, anew if it changed.

        Raises:
            HepfmError: no such file, or what opening it raises.
        """
        try:
            state = path.stat()
        except OSError as error:
            raise HepfmError("no such file", path) from error
        if path.is_dir():
            raise HepfmError("a folder, not a file", path, "name the files in it")
        key = (str(path), state.st_size, state.st_mtime_ns, *settings)
        if key not in self._files:
            self._files[key] = self._opening(path, *settings)
            if len(self._files) > self._limit:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(key)
        return self._files[key]


def check_range(path: Path, start: int, stop: int, entries: int) -> None:
    """Raise a :class:`HepfmError` if ``[start, stop)`` leaves a file of so many entries."""
    if not 0 <= start <= stop <= entries:
        raise HepfmError(f"entries {start} to {stop} were asked for, it has {entries}", path)
