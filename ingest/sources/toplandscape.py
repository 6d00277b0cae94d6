"""The top-tagging landscape (Zenodo 2603256, arXiv:1902.09914) as jet records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import FourVectors, any_in, in_pt_order, kept_entries, origin, unpadded
from hepfm.ingest.formats.hdf5_rows import open_hdf5
from hepfm.ingest.formats.pandas_hdf5 import Frame, frames
from hepfm.ingest.formats.parquet_lists import equal_lists, is_parquet, numbers
from hepfm.ingest.formats.ragged import Lists, lists_of
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents, contents
from hepfm.ingest.tally import Tally

LABELS = ("QCD", "top")
SCHEMA = records.schema(
    "jets", ("pt", "deta", "dphi", "energy"), ("pt", "pt_constituents", "eta", "phi", "mass", "label")
)

TABLE = "table/table"
TABLE_FIELDS = ("index", "values_block_0", "values_block_1")
CONSTITUENTS = 200
# 200 times E, PX, PY, PZ, then the four-vector of the generated top quark; and ttv (which of the three files), label.
WIDTHS = (4 * CONSTITUENTS + 4, 2)
LABEL_PLACE = (1, 1)
# The same in pandas' other layout, where a table's blocks are data sets of their own.
BLOCKS = ("table/block0_values", "table/block1_values")
LIST_COLUMNS = ("part_px", "part_py", "part_pz", "part_energy")
LIST_KEYS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy")
FLAT_COLUMNS = tuple(f"{part}_{number}" for number in range(CONSTITUENTS) for part in ("E", "PX", "PY", "PZ"))
FLAT_LABEL = "is_signal_new"
# Of the columns that make a key: the four-vectors of the two leading constituents.
KEY_COLUMNS = 8
KEY_WINDOW = 16_384
OPEN_FILES = 16
EXPECTED = (
    f"top-tagging landscape files are HDF5 files with a table '{TABLE}', or Parquet files with lists part_px, ..., "
    "part_energy, or with columns E_0, PX_0, ..., PZ_199"
)


class TopLandscapeSource(Source):
    """Reader of the top-tagging landscape: one record an entry, labels ``QCD`` and ``top``.

    Three forms: the original HDF5 files (a pandas table, or fixed frame, of 200 zero-padded four-vectors; columns are
    found by name), the Parquet files of the Particle Transformer's authors (lists ``part_px``, ...; ``label`` 1 is
    top), and Parquet files with the original's columns. The same jets give the same records. The files hold
    constituents alone: a jet's pt, eta, phi and mass are those of the sum of its (up to 200) constituents, in float64,
    with the stored energies. Axis: that sum. The flipped ``part_deta`` of the second form is not used. The generated
    top quark is not read.
    """

    name = "toplandscape"
    kind = "jets"
    schema = SCHEMA
    axis = "constituent_sum"
    labels = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        lists = contents.has("", *LIST_COLUMNS, "label") and not contents.has("", "part_pid")
        flat = contents.has("", *FLAT_COLUMNS[:4], FLAT_LABEL)
        fixed = tuple(contents.shape(name)[-1:] for name in BLOCKS) == tuple((width,) for width in WIDTHS)
        return contents.fields.get(TABLE, frozenset()) >= set(TABLE_FIELDS) or fixed or lists or flat

    def entries(self, path: Path) -> int:
        return _OPEN.get(path).entries

    def keys(self, path: Path) -> np.ndarray | None:
        """Of the bits of the two leading constituents, or of the jet's four-vector where that is stored.

        The original HDF5 files have to be decoded once for it.
        """
        return _OPEN.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        opened = _OPEN.get(path)
        check_range(path, start, stop, opened.entries)
        return _records(*opened.jets(start, stop), path, start, tally)


def _records(
    parts: tuple[Lists, ...], label: np.ndarray, path: Path, start: int, tally: Tally | None
) -> pa.RecordBatch:
    """Records of jets given by lists of E, px, py, pz, and labels (n,)."""
    kept = kept_entries(
        {
            "its label is neither 0 nor 1": ~((label == 0) | (label == 1)),
            "a constituent has momentum but no energy": any_in(parts[0].values == 0, parts[0].offsets),
        },
        start,
        path,
        tally,
    )
    lengths = parts[0].lengths
    energy, px, py, pz = (part.values[np.repeat(kept, lengths)].astype(np.float64) for part in parts)
    offsets = lists_of(lengths[kept], energy).offsets
    points, jets = FourVectors(px, py, pz, energy, offsets).quantities()
    columns = {**jets, "label": label[kept], **origin(start + np.flatnonzero(kept))}
    return jet_batch(SCHEMA, LABELS, offsets, in_pt_order(points, offsets), columns)


class _Form(ABC):
    """An open file of one of the forms."""

    entries: int

    @abstractmethod
    def jets(self, start: int, stop: int) -> tuple[tuple[Lists, ...], np.ndarray]:
        """Lists of E, px, py, pz of entries [start, stop), without padding, and their labels."""

    @abstractmethod
    def keys(self) -> np.ndarray | None:
        """A key of each entry."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class _PandasTable(_Form):
    def __init__(self, path: Path) -> None:
        self._file = open_hdf5(path, EXPECTED)
        try:
            frame = next((frame for frame in frames(self._file, path) if frame.key == "table"), None)
            if frame is None:
                raise HepfmError("has no data frame 'table'", path, EXPECTED)
            self._frame = frame
            self._momenta, self._label = _places(frame, path)
            self.entries = frame.rows
            if not self.entries:
                raise HepfmError("has no entries", path, "leave the file out")
        except BaseException:
            self.close()
            raise

    def jets(self, start: int, stop: int) -> tuple[tuple[Lists, ...], np.ndarray]:
        blocks = self._frame.read(start, stop)
        block, column = self._label
        return _without_padding(_columns(blocks, self._momenta)), blocks[block][:, column]

    def keys(self) -> np.ndarray:
        leading = self._momenta[:KEY_COLUMNS]
        found = [
            key(*_columns(self._frame.read(first, min(first + KEY_WINDOW, self.entries)), leading).T)
            for first in range(0, self.entries, KEY_WINDOW)
        ]
        return np.concatenate(found)

    def close(self) -> None:
        self._file.close()


def _places(frame: Frame, path: Path) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Block and column of each of ``FLAT_COLUMNS``, and of the label.

    They are found by name: another order would give wrong jets that look like jets. Where names cannot be read they are
    where the published files have them.

    Raises:
        HepfmError: a column is missing, or those of a file without names are not as many as in the published files.
    """
    if all(block.names is not None for block in frame.blocks):
        found = {name: frame.place(name) for name in (*FLAT_COLUMNS, FLAT_LABEL)}
        if missing := [name for name, place in found.items() if place is None]:
            more = ", ..." if len(missing) > 3 else ""
            raise HepfmError(f"has no column {', '.join(missing[:3])}{more}", path, EXPECTED)
        *momenta, label = (place for place in found.values() if place)
        return momenta, label
    widths = tuple(block.width for block in frame.blocks)
    if widths != WIDTHS:
        raise HepfmError(f"its columns are {widths}, not {WIDTHS}", path, EXPECTED)
    return [(0, column) for column in range(4 * CONSTITUENTS)], LABEL_PLACE


def _columns(blocks: tuple[np.ndarray, ...], places: list[tuple[int, int]]) -> np.ndarray:
    """Columns (n, k) at places; without a copy where they follow one another, as in the published files."""
    first, start = places[0]
    if places == [(first, start + number) for number in range(len(places))]:
        return blocks[first][:, start : start + len(places)]
    return np.stack([blocks[block][:, column] for block, column in places], axis=1)


class _FlatParquet(_Form):
    def __init__(self, path: Path) -> None:
        self._table = open_table(path, (*FLAT_COLUMNS, FLAT_LABEL), "top-tagging landscape")
        self.entries = self._table.entries

    def jets(self, start: int, stop: int) -> tuple[tuple[Lists, ...], np.ndarray]:
        columns = self._table.read((*FLAT_COLUMNS, FLAT_LABEL), start, stop)
        values = np.stack([numbers(columns, name, self._table.path) for name in FLAT_COLUMNS], axis=1)
        return _without_padding(values), numbers(columns, FLAT_LABEL, self._table.path)

    def keys(self) -> np.ndarray:
        columns = self._table.whole(FLAT_COLUMNS[:KEY_COLUMNS])
        return key(*(numbers(columns, name, self._table.path) for name in FLAT_COLUMNS[:KEY_COLUMNS]))

    def close(self) -> None:
        self._table.close()


class _ListParquet(_Form):
    def __init__(self, path: Path) -> None:
        self._table = open_table(path, (*LIST_COLUMNS, "label"), "top-tagging landscape")
        self.entries = self._table.entries

    def jets(self, start: int, stop: int) -> tuple[tuple[Lists, ...], np.ndarray]:
        columns = self._table.read((*LIST_COLUMNS, "label"), start, stop)
        px, py, pz, energy = equal_lists(columns, LIST_COLUMNS, self._table.path, start)
        return (energy, px, py, pz), numbers(columns, "label", self._table.path)

    def keys(self) -> np.ndarray | None:
        if not self._table.names.issuperset(LIST_KEYS):
            return None
        columns = self._table.whole(LIST_KEYS)
        return key(*(numbers(columns, name, self._table.path) for name in LIST_KEYS))

    def close(self) -> None:
        self._table.close()


def _without_padding(values: np.ndarray) -> tuple[Lists, ...]:
    """Lists of E, px, py, pz from rows (n, 800) of zero-padded four-vectors."""
    padded = values.reshape(len(values), CONSTITUENTS, 4)
    flat, offsets = unpadded(padded, (padded != 0).any(axis=2))
    return tuple(Lists(offsets, column) for column in flat.T)


def _open(path: Path) -> _Form:
    if not is_parquet(path):
        return _PandasTable(path)
    return _FlatParquet(path) if contents(path).has("", FLAT_LABEL) else _ListParquet(path)


_OPEN = OpenFiles(OPEN_FILES, _open)
