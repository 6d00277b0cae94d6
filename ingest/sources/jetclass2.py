"""JetClass-II files (Hugging Face data set jet-universe/jetclass2, arXiv:2405.12972) as jet records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.arrays import pt_order, segment_sums, wrapped
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass import eta_sign
from hepfm.ingest.formats.jetclass2 import (
    FLAGS,
    GENERATOR_COLUMNS,
    GENERATOR_SCHEMA,
    JET_COLUMNS,
    LABELS,
    NEEDED_COLUMNS,
    PART_COLUMNS,
    RESONANCE_COLUMNS,
    SCHEMA,
    mass_of,
)
from hepfm.ingest.formats.jetclass2_generator import generator_quantities
from hepfm.ingest.formats.ragged import Column, Lists, Table, chosen
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

# An open Parquet file costs about 35 MB: a batch of decoded entries and a page of each column.
OPEN_FILES = 16
KEY_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy")
LISTS = {*PART_COLUMNS, *RESONANCE_COLUMNS}
IMPACT_COLUMNS = ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")

_OPEN: OpenFiles[Table] = OpenFiles(OPEN_FILES, partial(open_table, format_name="JetClass-II"))


@dataclass(frozen=True)
class JetClass2Source(Source):
    """Reader of JetClass-II files: Parquet, or the same columns as a ROOT tree or RNTuple; one record an entry.

    ``deta`` loses the files' factor sign(jet_eta); ``dphi`` is kept; impact parameters of neutrals (exactly 0 in the
    files) become null; ``mass`` is that of the stored jet four-vector; constituents are put in order of pt where they
    are not; the class is the label with index ``jet_label``. Axis: the stored jet axis. tau1 to tau4 and soft-drop
    mass are the file's.

    The sign of ``part_d0val`` is that of d0 = (x py - y px)/pt: tracks of the published example that match a generated
    particle with a vertex displaced by more than five standard deviations have the d0 of that vertex and momentum
    (correlation +0.998, all 17 signs agree). It is kept.

    Generator level, where asked for: the generated jet and the resonances, one number each. The lists of generated
    particles are not taken, as a record has one list, its constituents.
    """

    generator: bool = False
    """Take generator-level quantities too: the generated jet, and X and Y resonances (GeV, rad)."""

    name = "jetclass2"
    kind = "jets"
    axis = "stored"
    labels = LABELS

    @cached_property
    def schema(self) -> pa.Schema:
        return GENERATOR_SCHEMA if self.generator else SCHEMA

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return any(contents.has(table, *NEEDED_COLUMNS) for table in contents.tables)

    def bind(self, files: Sequence[Path]) -> JetClass2Source:
        """This source: Parquet and ROOT files may stand together. Every file is checked for the columns needed.

        Raises:
            HepfmError: as for :meth:`entries`.
        """
        for file in files:
            self._table(file)
        return self

    def settings(self) -> dict[str, Any]:
        return {"generator": self.generator}

    def entries(self, path: Path) -> int:
        """Number of jets in a file.

        Raises:
            HepfmError: missing, empty, truncated, neither Parquet nor ROOT, columns that are missing, no entries.
        """
        return self._table(path).entries

    def keys(self, path: Path) -> np.ndarray:
        """One for each jet, of the bits of its four-vector."""
        columns = self._table(path).whole(KEY_COLUMNS)
        _check_shapes(columns, path)
        return key(*(_numbers(columns, name) for name in KEY_COLUMNS))

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of entries [start, stop).

        Entries are refused (``tally``) whose lists of constituents differ in length or from ``jet_nparticles``, whose
        label is no index of the 188, whose charges are not whole numbers, or that have a neutral constituent with an
        impact parameter.

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; the file is damaged.
        """
        columns = self._table(path).read(self.columns, start, stop)
        _check_shapes(columns, path)
        entries = np.arange(start, stop)
        for check in (_counts, _aux_counts, _label_indices, _charges, _neutrals):
            what, good = check(columns)
            if not good.all():
                (tally or Tally()).reject(what, entries[~good], path)
                columns, entries = chosen(columns, good), entries[good]
        with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
            return self._records(columns, entries)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a file that are read; streaming the data set fetches these alone."""
        return (*NEEDED_COLUMNS, *(GENERATOR_COLUMNS if self.generator else ()))

    def _table(self, path: Path) -> Table:
        return _OPEN.get(path, self.columns)

    def _records(self, columns: Mapping[str, Column], entries: np.ndarray) -> pa.RecordBatch:
        offsets = _lists(columns, "part_px").offsets
        points = _points(columns)
        order = pt_order(points["pt"], offsets)
        if order is not None:
            points = {name: values[order] for name, values in points.items()}
        values, known = generator_quantities(columns) if self.generator else ({}, {})
        origin = {"source_file": np.zeros(len(entries)), "source_entry": entries}
        return jet_batch(self.schema, LABELS, offsets, points, {**_jets(columns), **values, **origin}, known)


def _check_shapes(columns: Mapping[str, Column], path: Path) -> None:
    """Every column must be a list or a number an entry, as JetClass-II has it."""
    for name, column in columns.items():
        nested = name in LISTS
        if isinstance(column, Lists) != nested:
            what = "a list of numbers" if nested else "one number"
            raise HepfmError(f"column '{name}' does not hold {what} an entry", path, "is this a JetClass-II file?")


def _lists(columns: Mapping[str, Column], name: str) -> Lists:
    column = columns[name]
    assert isinstance(column, Lists)
    return column


def _numbers(columns: Mapping[str, Column], name: str) -> np.ndarray:
    column = columns[name]
    assert isinstance(column, np.ndarray)
    return column


def _counts(columns: Mapping[str, Column]) -> tuple[str, np.ndarray]:
    stated = _numbers(columns, "jet_nparticles")
    good = np.ones(len(stated), dtype=bool)
    for name in PART_COLUMNS:
        good &= _lists(columns, name).lengths == stated
    return "its lists of constituents differ in length, or from 'jet_nparticles'", good


def _aux_counts(columns: Mapping[str, Column]) -> tuple[str, np.ndarray]:
    good = np.ones(len(_numbers(columns, "jet_pt")), dtype=bool)
    present = [_lists(columns, name).lengths for name in RESONANCE_COLUMNS if name in columns]
    for lengths in present[1:]:
        good &= lengths == present[0]
    return "its lists 'aux_genpart_...' differ in length", good


def _label_indices(columns: Mapping[str, Column]) -> tuple[str, np.ndarray]:
    label = _numbers(columns, "jet_label")
    return f"'jet_label' is not one of 0 to {len(LABELS) - 1}", np.isin(label, np.arange(len(LABELS)))


def _charges(columns: Mapping[str, Column]) -> tuple[str, np.ndarray]:
    charge = _lists(columns, "part_charge").values
    whole = (np.abs(charge) <= np.iinfo(np.int8).max) & (np.trunc(charge) == charge)
    return "'part_charge' is not a charge in units of e", _jets_of(columns, whole)


def _neutrals(columns: Mapping[str, Column]) -> tuple[str, np.ndarray]:
    good = _lists(columns, "part_charge").values != 0
    zero = np.ones_like(good)
    for name in IMPACT_COLUMNS:
        zero &= _lists(columns, name).values == 0
    return "a neutral constituent has an impact parameter", _jets_of(columns, good | zero)


def _jets_of(columns: Mapping[str, Column], good: np.ndarray) -> np.ndarray:
    """Which jets (n,) have only good constituents (N,)."""
    offsets = _lists(columns, "part_px").offsets
    bad = np.concatenate([[0], np.cumsum(~good)])
    return bad[offsets[1:]] == bad[offsets[:-1]]


def _points(columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    parts = {name: _lists(columns, name).values for name in PART_COLUMNS}
    lengths = _lists(columns, "part_px").lengths
    species = np.full(len(parts["part_px"]), -1, dtype=np.int8)
    for flag, name in FLAGS.items():
        np.copyto(species, records.SPECIES.index(name), where=parts[flag] != 0)
    return {
        "pt": np.hypot(parts["part_px"], parts["part_py"]),
        "deta": parts["part_deta"] * np.repeat(eta_sign(_numbers(columns, "jet_eta")), lengths),
        "dphi": wrapped(parts["part_dphi"]),
        "energy": parts["part_energy"],
        "d0": parts["part_d0val"],
        "d0err": parts["part_d0err"],
        "dz": parts["part_dzval"],
        "dzerr": parts["part_dzerr"],
        "charge": parts["part_charge"],
        "species": species,
    }


def _jets(columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    stored = {name.removeprefix("jet_"): _numbers(columns, name) for name in JET_COLUMNS}
    px, py = (_lists(columns, name) for name in ("part_px", "part_py"))
    return {
        "pt": stored["pt"],
        "pt_constituents": np.hypot(segment_sums(px.values, px.offsets), segment_sums(py.values, py.offsets)),
        "eta": stored["eta"],
        "phi": wrapped(stored["phi"]),
        "mass": mass_of(stored["pt"], stored["eta"], stored["energy"]),
        "softdrop_mass": stored["sdmass"],
        **{f"tau{n}": stored[f"tau{n}"] for n in (1, 2, 3, 4)},
        "label": stored["label"],
    }
