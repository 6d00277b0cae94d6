"""Columns of the ``Events`` of a CMS ROOT file, a TTree or an RNTuple."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.cms_layouts import EVENTS
from hepfm.ingest.formats.root_files import open_root

# Events that are decoded at once: as many as a basket of candidates has, within these bounds. Of an RNTuple a cluster
# can only be decoded whole.
FEWEST_WINDOW_EVENTS = 512
MOST_WINDOW_EVENTS = 4_096
MOST_CLUSTER_EVENTS = 16_384


class EventsFile:
    """An opened ROOT file with ``Events``.

    Attributes:
        path: the file.
        columns: names of the columns, without the aliases that RNTuples of converted trees have.
        entries: number of events.

    Raises:
        HepfmError: empty, truncated or not a ROOT file; no ``Events``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_root(path, f"CMS files are ROOT files with '{EVENTS}'")
        try:
            self._events = _events(self._file, path)
            # Not recursively: looking into each of an RNTuple's 2,000 columns takes uproot ten seconds. One that was
            # converted shows the collections behind its columns, too: "_collection0".
            names = self._events.keys(recursive=False)
            self.columns = frozenset(name for name in names if "." not in name and not name.startswith("_"))
            self.entries = int(self._events.num_entries)
        except HepfmError:
            self.close()
            raise
        except Exception as error:  # a damaged file can fail anywhere in uproot
            self.close()
            raise HepfmError(f"'{EVENTS}' cannot be read ({type(error).__name__})", path, "fetch it again") from error

    @property
    def _is_rntuple(self) -> bool:
        return hasattr(self._events, "cluster_summaries")

    def close(self) -> None:
        self._file.close()

    def window(self, column: str) -> int:
        """Events to decode at once, by how ``column`` is stored."""
        if self._is_rntuple:
            largest = max((summary.num_entries for summary in self._events.cluster_summaries), default=0)
            most = MOST_CLUSTER_EVENTS
        else:
            largest, most = int(np.diff(self._events[column].entry_offsets).max(initial=0)), MOST_WINDOW_EVENTS
        return min(max(largest, FEWEST_WINDOW_EVENTS), most)

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, ak.Array]:
        """Columns of events [start, stop): numbers, or lists of numbers.

        Raises:
            HepfmError: they cannot be decoded, or are something else.
        """
        try:
            found = self._rntuple(names, start, stop) if self._is_rntuple else self._tree(names, start, stop)
        except Exception as error:  # uproot and its codecs raise many kinds over a damaged file
            raise HepfmError(
                f"events {start} to {stop} cannot be decoded ({type(error).__name__}: {error})",
                self.path,
                "the file is damaged: fetch it again",
            ) from error
        for name, array in found.items():
            depth = 2 if "_" in name and not name.startswith(("HLT_", "Flag_")) else 1
            if array.ndim != depth or len(array) != stop - start:
                what = "one number" if depth == 1 else "a list of numbers"
                raise HepfmError(f"'{name}' is not {what} an event", self.path, f"it is {array.type}")
        return found

    def _tree(self, names: Sequence[str], start: int, stop: int) -> dict[str, ak.Array]:
        wanted = frozenset(names)
        arrays = self._events.arrays(
            filter_name=lambda name: name in wanted,
            entry_start=start,
            entry_stop=stop,
            library="ak",
            how=dict,
            array_cache=None,
        )
        return {name: arrays[name] for name in names}

    def _rntuple(self, names: Sequence[str], start: int, stop: int) -> dict[str, ak.Array]:
        """One by one: for all together uproot would look into every column of the file, twice as long each time."""
        return {name: self._events[name].array(entry_start=start, entry_stop=stop, array_cache=None) for name in names}


def _events(file: Any, path: Path) -> Any:
    classes = file.classnames(cycle=False)
    kind = classes.get(EVENTS, "")
    if not kind.startswith("TTree") and "RNTuple" not in kind:
        raise HepfmError(f"no '{EVENTS}'", path, f"it has {', '.join(classes) or 'nothing'}; is this a CMS file?")
    return file[EVENTS]
