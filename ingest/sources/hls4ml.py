"""hls4ml jets (Zenodo 3602260, arXiv:1908.05318) as jet records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import in_pt_order, kept_entries, origin, rounded_angle, unpadded
from hepfm.ingest.formats.hdf5_rows import Rows, dataset, names_in, open_hdf5
from hepfm.ingest.formats.parquet_lists import equal_lists, is_parquet, numbers
from hepfm.ingest.formats.ragged import Column, Lists, chosen
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

LABELS = ("g", "q", "w", "z", "t")
SCHEMA = records.schema(
    "jets",
    ("pt", "deta", "dphi", "energy"),
    ("pt", "pt_constituents", "eta", "mass", "softdrop_mass", "tau1", "tau2", "tau3", "label"),
)

CONSTITUENTS, JETS = "jetConstituentList", "jets"
CONSTITUENT_NAMES, JET_NAMES = "particleFeatureNames", "jetFeatureNames"
# The files name one feature of constituents that they do not store.
NOT_STORED = "j1_pdgid"
POINTS = {"pt": "j1_pt", "deta": "j1_etarel", "dphi": "j1_phirel", "energy": "j1_e"}
# mMDT is soft drop with beta 0; tau with beta 1.
QUANTITIES = {
    "pt": "j_pt",
    "eta": "j_eta",
    "mass": "j_mass",
    "softdrop_mass": "j_mass_mmdt",
    "tau1": "j_tau1_b1",
    "tau2": "j_tau2_b1",
    "tau3": "j_tau3_b1",
}
FLAGS = tuple(f"j_{label}" for label in LABELS)
KEYS = ("j_pt", "j_eta", "j_mass", "j_mass_mmdt")
OPEN_FILES = 16
EXPECTED = (
    f"hls4ml files are HDF5 files with {CONSTITUENTS}, {JETS}, {CONSTITUENT_NAMES} and {JET_NAMES}, or Parquet files "
    "with lists j1_pt, j1_etarel, ... and columns j_pt, ..., label"
)


class Hls4mlSource(Source):
    """Reader of hls4ml jets (about 1 TeV): one record an entry, labels g, q, w, z, t.

    Two forms: the original HDF5 files, whose columns are found by the names in them (they name ``j1_pdgid``, which
    they do not store), and Parquet files with the same names as columns (``label``: 0 to 4 for g, q, w, z, t). The
    same jets give the same records. ``deta`` and ``dphi`` are the stored ``j1_etarel`` and ``j1_phirel`` (axis: the
    stored jet). pt, eta, mass, soft-drop mass (mMDT: soft drop with beta 0) and tau1 to tau3 (beta 1) are the file's;
    ``pt_constituents`` is that of the sum of its (up to 30, 50, 100 or 150) constituents. The files have no jet phi.
    """

    name = "hls4ml"
    kind = "jets"
    schema = SCHEMA
    axis = "stored"
    labels = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        arrays = all(contents.shape(name) for name in (CONSTITUENTS, JETS, CONSTITUENT_NAMES, JET_NAMES))
        return arrays or contents.has("", *POINTS.values(), "j_pt", "label")

    def entries(self, path: Path) -> int:
        return _OPEN.get(path).entries

    def keys(self, path: Path) -> np.ndarray:
        """Of the bits of the jet's pt, eta and masses."""
        return _OPEN.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        opened = _OPEN.get(path)
        check_range(path, start, stop, opened.entries)
        columns, label = opened.jets(start, stop)
        kept = kept_entries({"it has not exactly one of the five classes": label < 0}, start, path, tally)
        return _records(chosen(columns, kept), label[kept], start + np.flatnonzero(kept), path)


def _records(columns: dict[str, Column], label: np.ndarray, entries: np.ndarray, path: Path) -> pa.RecordBatch:
    """Records of constituent lists and jet columns by their names in the files, and label indices (n,)."""
    lists = {name: column for name, column in columns.items() if isinstance(column, Lists)}
    offsets = lists[POINTS["pt"]].offsets
    points = {ours: lists[theirs].values for ours, theirs in POINTS.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        pt, dphi = (points[name].astype(np.float64) for name in ("pt", "dphi"))
        along, across = (segment_sums(pt * turn(dphi), offsets) for turn in (np.cos, np.sin))
        points |= {"pt": pt.astype(np.float32), "dphi": rounded_angle(dphi)}
    jets = {
        **{ours: numbers(columns, theirs, path) for ours, theirs in QUANTITIES.items()},
        "pt_constituents": np.hypot(along, across),
        "label": label,
        **origin(entries),
    }
    return jet_batch(SCHEMA, LABELS, offsets, in_pt_order(points, offsets), jets)


class _Form(ABC):
    """An open file of one of the forms."""

    entries: int

    @abstractmethod
    def jets(self, start: int, stop: int) -> tuple[dict[str, Column], np.ndarray]:
        """Columns of entries [start, stop) by their names, and label indices: -1 where there is no or no one class."""

    @abstractmethod
    def keys(self) -> np.ndarray:
        """A key of each entry."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class _Hdf5(_Form):
    def __init__(self, path: Path) -> None:
        self._file = open_hdf5(path, EXPECTED)
        try:
            self._constituents, self._jets = (
                Rows(dataset(self._file, name, path, EXPECTED), path) for name in (CONSTITUENTS, JETS)
            )
            shape, jets = self._constituents.shape, self._jets.shape
            if len(shape) != 3 or len(jets) != 2 or shape[0] != jets[0]:
                raise HepfmError(f"{CONSTITUENTS} is {shape} and {JETS} is {jets}", path, EXPECTED)
            self._point = self._places(CONSTITUENT_NAMES, shape[2], tuple(POINTS.values()), path)
            self._column = self._places(JET_NAMES, jets[1], (*QUANTITIES.values(), *FLAGS), path)
            self.entries = shape[0]
            if not self.entries:
                raise HepfmError("has no entries", path, "leave the file out")
        except BaseException:
            self.close()
            raise

    def _places(self, named: str, width: int, needed: tuple[str, ...], path: Path) -> dict[str, int]:
        names = names_in(dataset(self._file, named, path, EXPECTED), path)
        if len(names) == width + 1:
            names = tuple(name for name in names if name != NOT_STORED)
        if len(names) != width:
            raise HepfmError(f"'{named}' names {len(names)} columns, there are {width}", path, "is the file whole?")
        if missing := [name for name in needed if name not in names]:
            raise HepfmError(f"'{named}' has no {', '.join(missing)}", path, f"it has {', '.join(names)}")
        return {name: names.index(name) for name in needed}

    def jets(self, start: int, stop: int) -> tuple[dict[str, Column], np.ndarray]:
        padded = self._constituents.read(start, stop)[:, :, list(self._point.values())]
        flat, offsets = unpadded(padded, (padded != 0).any(axis=2))
        columns: dict[str, Column] = {
            name: Lists(offsets, values) for name, values in zip(self._point, flat.T, strict=True)
        }
        features = self._jets.read(start, stop)
        columns |= {name: features[:, place] for name, place in self._column.items()}
        flags = np.stack([features[:, self._column[name]] for name in FLAGS], axis=1)
        one = ((flags == 0) | (flags == 1)).all(axis=1) & (flags.sum(axis=1) == 1)
        return columns, np.where(one, flags.argmax(axis=1), -1)

    def keys(self) -> np.ndarray:
        return key(*self._jets.columns([self._column[name] for name in KEYS]).T)

    def close(self) -> None:
        self._file.close()


class _Parquet(_Form):
    NEEDED = (*POINTS.values(), *QUANTITIES.values(), "label")

    def __init__(self, path: Path) -> None:
        self._table = open_table(path, self.NEEDED, "hls4ml")
        self.entries = self._table.entries

    def jets(self, start: int, stop: int) -> tuple[dict[str, Column], np.ndarray]:
        path = self._table.path
        columns = self._table.read(self.NEEDED, start, stop)
        equal_lists(columns, tuple(POINTS.values()), path, start)
        label = numbers(columns, "label", path)
        return columns, np.where(np.isin(label, np.arange(len(LABELS))), label, -1).astype(np.int64)

    def keys(self) -> np.ndarray:
        columns = self._table.whole(KEYS)
        return key(*(numbers(columns, name, self._table.path) for name in KEYS))

    def close(self) -> None:
        self._table.close()


def _open(path: Path) -> _Form:
    return _Parquet(path) if is_parquet(path) else _Hdf5(path)


_OPEN = OpenFiles(OPEN_FILES, _open)
