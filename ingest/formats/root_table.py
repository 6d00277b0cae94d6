"""Tables in ROOT files: trees and RNTuples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ragged import (
    FETCH_AGAIN,
    Column,
    Lists,
    Table,
    copied,
    first_line,
    joined,
    not_numbers,
    sliced,
)
from hepfm.ingest.formats.root_files import open_root
from hepfm.ingest.formats.root_lists import VectorsInRange, is_vector
from hepfm.ingest.formats.windows import check_range

# A file whose baskets (clusters) are larger than this is decoded in windows, each kept until the next one. A cluster
# of an RNTuple can only be decoded whole, so its windows are larger.
SMALL_BASKET_ENTRIES = 4_096
WINDOW_ENTRIES = 8_192
CLUSTER_WINDOW_ENTRIES = 16_384


class RootTable(Table):
    """A ROOT tree or RNTuple; of several in a file the one with most of the columns needed.

    What is stored in baskets (clusters) of more than 4,096 entries is decoded in windows of up to 8,192 (16,384)
    entries, column by column, and the last window is kept. Memory is a window and the baskets (clusters) of one column
    under it.

    Attributes:
        tree: its name.
    """

    def __init__(self, path: Path, needed: Sequence[str], expected: str = "") -> None:
        self.path = path
        self._file = open_root(path, expected)
        try:
            self._tree, self.names = self._chosen(needed)
            self.tree, self.entries = str(self._tree.name), int(self._tree.num_entries)
        except HepfmError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise HepfmError(f"its tree cannot be read ({type(error).__name__})", path, "fetch it again") from error
        self._window: tuple[int, tuple[str, ...], dict[str, Column]] | None = None

    def _chosen(self, needed: Sequence[str]) -> tuple[Any, frozenset[str]]:
        classes = self._file.classnames(cycle=False)
        tables: list[tuple[Any, frozenset[str]]] = []
        for name, kind in classes.items():
            if kind.startswith("TTree"):
                tree = self._file[name]
                tables.append((tree, frozenset(tree.keys(recursive=False))))
            elif "RNTuple" in kind:
                tree = self._file[name]
                tables.append((tree, frozenset(key for key in tree.keys() if "." not in key)))  # noqa: SIM118
        if not tables:
            raise HepfmError("has no tree and no RNTuple", self.path, f"it has {', '.join(classes) or 'nothing'}")
        return max(tables, key=lambda table: len(table[1].intersection(needed)))

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        check_range(self.path, start, stop, self.entries)
        size = self._window_entries
        if not size or start == stop:
            return self._decode(names, start, stop)
        parts = []
        for first in range(start // size * size, stop, size):
            window = self._windowed(names, first, min(first + size, self.entries))
            low, high = max(start, first) - first, min(stop, first + size) - first
            parts.append({name: sliced(column, low, high) for name, column in window.items()})
        return parts[0] if len(parts) == 1 else {name: joined([part[name] for part in parts]) for name in names}

    def whole(self, names: Sequence[str]) -> dict[str, Column]:
        return self._decode(names, 0, self.entries)

    def close(self) -> None:
        self._window = None
        self._file.close()

    @cached_property
    def _window_entries(self) -> int:
        """Entries to decode at once; 0 if any range can be decoded by itself."""
        most = WINDOW_ENTRIES
        if self._in_clusters:
            most = CLUSTER_WINDOW_ENTRIES
            largest = max((summary.num_entries for summary in self._tree.cluster_summaries), default=0)
        else:
            baskets = [np.diff(branch.entry_offsets).max(initial=0) for branch in self._tree.branches]
            largest = int(max(baskets, default=0))
        return 0 if largest <= SMALL_BASKET_ENTRIES else min(largest, most)

    def _windowed(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        if self._window is None or self._window[:2] != (start, tuple(names)):
            self._window = None  # not held while the next one is made
            self._window = (start, tuple(names), self._decoded_window(names, start, stop))
        return self._window[2]

    def _decoded_window(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        return {name: copied(self._decode([name], start, stop)[name]) for name in names}

    @property
    def _in_clusters(self) -> bool:
        """Is it an RNTuple?"""
        return hasattr(self._tree, "cluster_summaries")

    def _decode(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        try:
            arrays = self._arrays(names, start, stop)
        except Exception as error:  # uproot and its codecs raise many kinds over a damaged file
            raise HepfmError(
                f"entries {start} to {stop} cannot be decoded ({type(error).__name__}: {first_line(error)})",
                self.path,
                FETCH_AGAIN,
            ) from error
        return {name: _root_column(arrays[name].layout, name, self.path) for name in names}

    def _arrays(self, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        where = {"entry_start": start, "entry_stop": stop, "library": "ak", "array_cache": None}
        if self._in_clusters:
            return self._tree.arrays(list(names), how=dict, **where)
        # Branch by branch: a tree's own method looks at the names of all its branches each time.
        return {name: self._tree[name].array(self._interpretation(name, start, stop), **where) for name in names}

    def _interpretation(self, name: str, start: int, stop: int) -> Any:
        whole = self._tree[name].interpretation
        return VectorsInRange(whole, start, stop) if is_vector(whole) else whole


def _root_column(layout: Any, name: str, path: Path) -> Column:
    if layout.is_list:
        layout = layout.to_ListOffsetArray64(True)
        if layout.content.is_numpy:
            offsets = np.asarray(layout.offsets.data)
            return Lists(offsets, np.asarray(layout.content.data)[: offsets[-1]])
    elif layout.is_numpy:
        return np.asarray(layout.data)
    raise not_numbers(name, path, str(layout.form.type))
