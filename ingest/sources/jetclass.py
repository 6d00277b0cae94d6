"""JetClass ROOT files (Zenodo 6619768, arXiv:2202.03772) as jet records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uproot

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind
from hepfm.ingest.formats.arrays import pt_order, segment_sums, wrapped
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass import (
    FLAGS,
    LABEL_BRANCHES,
    LABELS,
    PART_FLOATS,
    SCHEMA,
    TREE,
    eta_sign,
)
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

JET_FLOATS = (
    "jet_pt",
    "jet_eta",
    "jet_phi",
    "jet_energy",
    "jet_sdmass",
    "jet_tau1",
    "jet_tau2",
    "jet_tau3",
    "jet_tau4",
)
PART_BRANCHES = (*PART_FLOATS, *FLAGS)
BRANCHES = (*PART_BRANCHES, *LABEL_BRANCHES, *JET_FLOATS)
KEY_BRANCHES = ("jet_pt", "jet_eta", "jet_phi")

OPEN_FILES = 16
# A file whose baskets are larger than this is decoded in windows, kept until the next one: a basket is only read whole.
SMALL_BASKET_ENTRIES = 4_096
WINDOW_ENTRIES = 16_384


class JetClassSource(Source):
    """Reader of JetClass ROOT files: one record an entry, class by label branch (never by file name).

    ``deta`` loses the files' factor sign(jet_eta); ``dphi`` is kept; impact parameters of neutrals (0 in the files)
    become null; ``mass`` is that of the stored jet four-vector; constituents are put in order of pt where they are
    not. Axis: the stored jet axis. tau1 to tau4 and soft-drop mass are the file's.
    """

    name: str = "jetclass"
    kind: Kind = "jets"
    schema: pa.Schema = SCHEMA
    axis: str = "stored"
    labels: tuple[str, ...] = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return contents.has(TREE, *PART_FLOATS[:2], *LABEL_BRANCHES)

    def entries(self, path: Path) -> int:
        """Number of jets in a file.

        Raises:
            HepfmError: missing, empty, truncated or not a ROOT file; no such tree; missing branches; no entries.
        """
        return _OPEN.get(path).entries

    def keys(self, path: Path) -> np.ndarray:
        """One for each jet, of the bits of its pt, eta and phi."""
        return _OPEN.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of entries [start, stop).

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; an entry with two labels; a charge that is
                no whole number; part_*
                branches of different length. Values that are not finite pass: what happens to such records is the
                builder's choice.
        """
        opened = _OPEN.get(path)
        if not 0 <= start <= stop <= opened.entries:
            raise HepfmError(f"entries {start} to {stop} were asked for, it has {opened.entries}", path)
        return opened.read(start, stop)


class _OpenFile:
    """An opened, checked file; keeps the window it decoded last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open_root(path)
        try:
            self._tree = _tree(self._file, path)
            self.entries = int(self._tree.num_entries)
            if not self.entries:
                raise HepfmError("the tree has no entries", path, "leave the file out")
            self._window: tuple[int, pa.RecordBatch] | None = None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    @cached_property
    def _window_entries(self) -> int:
        """Entries to decode at once; 0 if any range can be decoded by itself."""
        largest = int(np.diff(self._tree["part_px"].entry_offsets).max())
        return 0 if largest <= SMALL_BASKET_ENTRIES else min(largest, WINDOW_ENTRIES)

    def read(self, start: int, stop: int) -> pa.RecordBatch:
        if start == stop:
            return pa.RecordBatch.from_pylist([], schema=SCHEMA)
        size = self._window_entries
        if not size:
            return self._decode(start, stop)
        parts = []
        for first in range(start // size * size, stop, size):
            window = self._windowed(first, min(first + size, self.entries))
            low, high = max(start, first), min(stop, first + size)
            parts.append(window.slice(low - first, high - low))
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def keys(self) -> np.ndarray:
        found = self._arrays(KEY_BRANCHES, 0, self.entries)
        return key(*(np.asarray(found[name]) for name in KEY_BRANCHES))

    def _windowed(self, start: int, stop: int) -> pa.RecordBatch:
        if self._window is None or self._window[0] != start:
            self._window = (start, self._decode(start, stop))
        return self._window[1]

    def _decode(self, start: int, stop: int) -> pa.RecordBatch:
        arrays = self._arrays(BRANCHES, start, stop)
        return _Entries({name: arrays[name].layout for name in BRANCHES}, self.path, start).records()

    def _arrays(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        try:
            return self._tree.arrays(
                list(branches), entry_start=start, entry_stop=stop, library="ak", how=dict, array_cache=None
            )
        except Exception as error:  # uproot and its codecs raise many kinds over a damaged file
            raise HepfmError(
                f"entries {start} to {stop} cannot be decoded ({type(error).__name__}: {error})",
                self.path,
                "the file is damaged: fetch it again",
            ) from error


class _OpenFiles:
    """The files used last, opened once in a process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[tuple[str, int, int], _OpenFile] = OrderedDict()

    def get(self, path: Path) -> _OpenFile:
        try:
            state = path.stat()
        except OSError as error:
            raise HepfmError("no such file", path) from error
        key = (str(path), state.st_size, state.st_mtime_ns)
        if key not in self._files:
            self._files[key] = _OpenFile(path)
            if len(self._files) > self._limit:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(key)
        return self._files[key]


_OPEN = _OpenFiles(OPEN_FILES)


def _open_root(path: Path) -> Any:
    if path.is_dir():
        raise HepfmError("a folder, not a ROOT file", path, "name the files in it")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    if head[:4] != b"root":
        what = "an empty file" if not size else "not a ROOT file"
        raise HepfmError(what, path, "JetClass files are ROOT files with a tree 'tree'")
    # Bytes 12 to 16 (20 in files above 2 GB, whose version is above 1,000,000) are the end of the file.
    end = int.from_bytes(head[12:20] if int.from_bytes(head[4:8], "big") > 1_000_000 else head[12:16], "big")
    if end > size:
        raise HepfmError(f"truncated: {size:,} of {end:,} bytes", path, "fetch it again")
    try:
        # Mapped: the default handler starts threads for each file, which costs more than it brings on a local disk.
        return uproot.open(path, handler=uproot.MemmapSource)
    except Exception as error:  # a damaged file can fail anywhere in uproot
        raise HepfmError(f"not a readable ROOT file ({type(error).__name__})", path, "fetch it again") from error


def _tree(file: Any, path: Path) -> Any:
    try:
        classes = file.classnames(cycle=False)
        if not classes.get(TREE, "").startswith("TTree"):
            trees = sorted(name for name, kind in classes.items() if kind.startswith("TTree"))
            present = f"it has {', '.join(trees)}" if trees else "it has no tree"
            raise HepfmError(f"no tree '{TREE}'", path, f"{present}; is this a JetClass file?")
        tree = file[TREE]
        present_branches = tree.keys(recursive=False)
    except HepfmError:
        raise
    except Exception as error:
        raise HepfmError(f"the tree cannot be read ({type(error).__name__})", path, "fetch it again") from error
    missing = [name for name in BRANCHES if name not in present_branches]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise HepfmError(
            f"the tree has no branch {names}", path, f"it has {', '.join(present_branches) or 'no branches'}"
        )
    return tree


class _Entries:
    """Decoded entries of one file on their way to records."""

    def __init__(self, layouts: dict[str, Any], path: Path, start: int) -> None:
        self.path, self.start = path, start
        self.size = len(layouts[PART_BRANCHES[0]])
        self.offsets, self.parts = self._flatten(layouts)
        self.jets = {name: self._scalar(layouts[name], name) for name in (*JET_FLOATS, *LABEL_BRANCHES)}

    def _flatten(self, layouts: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        offsets: np.ndarray | None = None
        parts = {}
        for name in PART_BRANCHES:
            layout = layouts[name]
            if not layout.is_list or not layout.content.is_numpy:
                raise HepfmError(f"branch '{name}' is not a list of numbers", self.path, "is this a JetClass file?")
            found = np.asarray(layout.offsets.data)
            parts[name] = np.asarray(layout.content.data)[found[0] : found[-1]]
            found = found - found[0]
            if offsets is None:
                offsets = found
            elif not np.array_equal(found, offsets):
                lengths, others = np.diff(offsets), np.diff(found)
                entry = int(np.argmax(lengths != others))
                raise HepfmError(
                    f"'{PART_BRANCHES[0]}' has {lengths[entry]} values and '{name}' has {others[entry]}",
                    f"{self.path}, entry {self.start + entry}",
                    "the file is damaged or not JetClass's",
                )
        assert offsets is not None
        return offsets, parts

    def _scalar(self, layout: Any, name: str) -> np.ndarray:
        if not layout.is_numpy:
            raise HepfmError(f"branch '{name}' is not one number an entry", self.path, "is this a JetClass file?")
        return np.asarray(layout.data)

    def records(self) -> pa.RecordBatch:
        with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
            points, columns = self._points(), self._columns()
        order = pt_order(points["pt"], self.offsets)
        if order is not None:
            points = {name: values[order] for name, values in points.items()}
        return jet_batch(SCHEMA, LABELS, self.offsets, points, columns)

    def _points(self) -> dict[str, np.ndarray]:
        parts = self.parts
        return {
            "pt": np.hypot(parts["part_px"], parts["part_py"]),
            "deta": parts["part_deta"] * np.repeat(eta_sign(self.jets["jet_eta"]), np.diff(self.offsets)),
            "dphi": wrapped(parts["part_dphi"]),
            "energy": parts["part_energy"],
            "d0": parts["part_d0val"],
            "d0err": parts["part_d0err"],
            "dz": parts["part_dzval"],
            "dzerr": parts["part_dzerr"],
            "charge": self._charge(),
            "species": self._species(),
        }

    def _charge(self) -> np.ndarray:
        charge = self.parts["part_charge"]
        whole = np.abs(charge) <= np.iinfo(np.int8).max  # False for NaN
        if not whole.all():
            first = int(np.argmin(whole))
            entry = self.start + int(np.searchsorted(self.offsets, first, side="right")) - 1
            raise HepfmError(f"'part_charge' is {charge[first]}", f"{self.path}, entry {entry}", "the file is damaged")
        return charge.astype(np.int8)

    def _species(self) -> np.ndarray:
        species = np.full(len(self.parts["part_charge"]), -1, dtype=np.int8)
        for flag, name in FLAGS.items():
            np.copyto(species, records.SPECIES.index(name), where=self.parts[flag] != 0)
        return species

    def _columns(self) -> dict[str, np.ndarray]:
        jets = self.jets
        pt, eta, energy = (jets[name].astype(np.float64) for name in ("jet_pt", "jet_eta", "jet_energy"))
        momentum = pt * np.cosh(eta)
        sums = [segment_sums(self.parts[name], self.offsets) for name in ("part_px", "part_py")]
        return {
            "pt": jets["jet_pt"],
            "pt_constituents": np.hypot(*sums),
            "eta": jets["jet_eta"],
            "phi": wrapped(jets["jet_phi"]),
            "mass": np.sqrt(np.maximum((energy - momentum) * (energy + momentum), 0)),
            "softdrop_mass": jets["jet_sdmass"],
            **{f"tau{n}": jets[f"jet_tau{n}"] for n in (1, 2, 3, 4)},
            "label": self._label(),
            "source_file": np.zeros(self.size),
            "source_entry": np.arange(self.start, self.start + self.size),
        }

    def _label(self) -> np.ndarray:
        """Index of each jet's label; -1 (null) for one without, as in generated jets."""
        flags = np.stack([self.jets[name] != 0 for name in LABEL_BRANCHES], axis=1)
        counts = flags.sum(axis=1)
        if (counts > 1).any():
            entry = int(np.argmax(counts > 1))
            names = [label for label, flag in zip(LABELS, flags[entry], strict=True) if flag]
            raise HepfmError(
                f"the jet has labels {' and '.join(names)}",
                f"{self.path}, entry {self.start + entry}",
                f"at most one of {LABEL_BRANCHES[0]}, ..., {LABEL_BRANCHES[-1]} may be set",
            )
        return np.where(counts == 1, flags.argmax(axis=1), -1)
