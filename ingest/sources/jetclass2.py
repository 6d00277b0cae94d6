"""JetClass-II files (Hugging Face data set jet-universe/jetclass2, arXiv:2405.12972) as jet records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.ingest.formats.arrays import pt_order
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import origin
from hepfm.ingest.formats.jetclass2 import (
    FLAGS,
    GENERATOR_COLUMNS,
    GENERATOR_SCHEMA,
    LABELS,
    NEEDED_COLUMNS,
    PART_COLUMNS,
    RESONANCE_COLUMNS,
    SCHEMA,
)
from hepfm.ingest.formats.jetclass2_generator import generator_quantities
from hepfm.ingest.formats.jetclass_columns import (
    Columns,
    charges,
    check_axis,
    check_shapes,
    checked,
    counts,
    energies,
    jets_of,
    lists,
    neutrals,
    numbers,
    points_of,
)
from hepfm.ingest.formats.ragged import Table
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

# An open Parquet file costs about 35 MB: a batch of decoded entries and a page of each column.
OPEN_FILES = 16
FORMAT = "JetClass-II"
KEY_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy")
# What tells the format, so that a file which lacks another column is told so.
SIGNATURE = ("part_px", "part_deta", "jet_pt", "jet_label")
LISTS = {*PART_COLUMNS, *RESONANCE_COLUMNS}

_OPEN: OpenFiles[Table] = OpenFiles(OPEN_FILES, partial(open_table, format_name=FORMAT))


@dataclass(frozen=True)
class JetClass2Source(Source):
    """Reader of JetClass-II files: Parquet, or the same columns as a ROOT tree or RNTuple; one record an entry.

    ``deta`` loses the files' factor sign(jet_eta); ``dphi`` is kept; impact parameters become null where all four are
    exactly 0, as they are for neutrals, and as null ones are written; ``mass`` is that of the stored jet four-vector;
    constituents are put in order of pt where they are not; the class is the label with index ``jet_label``. Axis: the
    stored jet axis. tau1 to tau4 and soft-drop mass are the file's, but a mass between -1 GeV and 0 (rounding) is 0.

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
        return any(contents.has(table, *SIGNATURE) for table in contents.tables)

    def bind(self, files: Sequence[Path]) -> JetClass2Source:
        """This source: Parquet and ROOT files may stand together. Every file is checked for the columns needed.

        Raises:
            HepfmError: as for :meth:`entries`; ``part_deta`` that is not multiplied by the sign of ``jet_eta``.
        """
        for file in files:
            check_axis(self._table(file))
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
        check_shapes(columns, LISTS, path, FORMAT)
        return key(*(numbers(columns, name) for name in KEY_COLUMNS))

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of entries [start, stop).

        Entries are refused (``tally``) whose lists of constituents differ in length or from ``jet_nparticles``, whose
        label is no index of the 188, whose charges are not whole numbers, that have a neutral constituent with an
        impact parameter, or a jet energy below the momentum.

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; the file is damaged.
        """
        columns: Columns = self._table(path).read(self._columns_read, start, stop)
        check_shapes(columns, LISTS, path, FORMAT)
        checks = (counts, _aux_counts, _label_indices, charges, neutrals, energies)
        columns, entries = checked(columns, np.arange(start, stop), checks, path, tally or Tally())
        with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
            return self._records(columns, entries)

    @cached_property
    def _columns_read(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != "part_pz")  # px, py and deta tell as much

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a file must have; streaming the data set fetches these alone."""
        return (*NEEDED_COLUMNS, *(GENERATOR_COLUMNS if self.generator else ()))

    def _table(self, path: Path) -> Table:
        return _OPEN.get(path, self.columns)

    def _records(self, columns: Columns, entries: np.ndarray) -> pa.RecordBatch:
        offsets = lists(columns, "part_px").offsets
        points = points_of(columns, FLAGS)
        order = pt_order(points["pt"], offsets)
        if order is not None:
            points = {name: values[order] for name, values in points.items()}
        tracked = points.pop("tracked")
        values, known = generator_quantities(columns) if self.generator else ({}, {})
        jets = {**jets_of(columns), "label": numbers(columns, "jet_label"), **values, **origin(entries)}
        return jet_batch(self.schema, LABELS, offsets, points, jets, known, tracked)


def _aux_counts(columns: Columns) -> tuple[str, np.ndarray]:
    good = np.ones(len(numbers(columns, "jet_pt")), dtype=bool)
    present = [lists(columns, name).lengths for name in RESONANCE_COLUMNS if name in columns]
    for lengths in present[1:]:
        good &= lengths == present[0]
    return "its lists 'aux_genpart_...' differ in length", good


def _label_indices(columns: Columns) -> tuple[str, np.ndarray]:
    label = numbers(columns, "jet_label")
    return f"'jet_label' is not one of 0 to {len(LABELS) - 1}", np.isin(label, np.arange(len(LABELS)))
