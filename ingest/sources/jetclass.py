"""JetClass ROOT files (Zenodo 6619768, arXiv:2202.03772) as jet records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind
from hepfm.ingest.formats.arrays import pt_order
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import origin
from hepfm.ingest.formats.jetclass import FLAGS, LABEL_BRANCHES, LABELS, PART_FLOATS, SCHEMA
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
from hepfm.ingest.formats.root_table import RootTable
from hepfm.ingest.formats.windows import OpenFiles
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
    "jet_nparticles",
)
# Momenta along the beam are looked at in the first jets only: px, py and deta tell as much.
PART_BRANCHES = tuple(name for name in (*PART_FLOATS, *FLAGS) if name != "part_pz")
# What is decoded, and what a file must have.
BRANCHES = (*PART_BRANCHES, *LABEL_BRANCHES, *JET_FLOATS)
NEEDED_BRANCHES = ("part_pz", *BRANCHES)
KEY_BRANCHES = ("jet_pt", "jet_eta", "jet_phi")

# What tells the format, so that a file which lacks another branch is told so.
SIGNATURE = ("part_px", "part_deta", "jet_pt")

OPEN_FILES = 16
FORMAT = "JetClass"


class JetClassSource(Source):
    """Reader of JetClass ROOT files: one record an entry, class by label branch (never by file name).

    ``deta`` loses the files' factor sign(jet_eta); ``dphi`` is kept; impact parameters become null where all four are
    exactly 0, as they are for neutrals, and as null ones are written; ``mass`` is that of the stored jet four-vector;
    constituents are put in order of pt where they are not. Axis: the stored jet axis. tau1 to tau4 and soft-drop mass
    are the file's, but a mass between -1 GeV and 0 (rounding) is 0. The table, ``tree`` in the published files, may be
    a TTree or an RNTuple and have any name.
    """

    name: str = "jetclass"
    kind: Kind = "jets"
    schema: pa.Schema = SCHEMA
    axis: str = "stored"
    labels: tuple[str, ...] = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return any(names.issuperset(SIGNATURE) and names & {*LABEL_BRANCHES} for names in contents.tables.values())

    def entries(self, path: Path) -> int:
        """Number of jets in a file, once the convention of ``part_deta`` is checked on its first jets.

        Raises:
            HepfmError: missing, empty, truncated or not a ROOT file; no such tree; missing branches; no entries;
                ``part_deta`` that is not multiplied by the sign of ``jet_eta``.
        """
        table = _OPEN.get(path)
        check_axis(table)
        return table.entries

    def keys(self, path: Path) -> np.ndarray:
        """One for each jet, of the bits of its pt, eta and phi."""
        columns = _OPEN.get(path).whole(KEY_BRANCHES)
        check_shapes(columns, PART_BRANCHES, path, FORMAT)
        return key(*(numbers(columns, name) for name in KEY_BRANCHES))

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of entries [start, stop).

        Entries are refused (``tally``) whose lists of constituents differ in length or from ``jet_nparticles``, that
        have a label other than 0 and 1 or more than one, a charge that is no whole number, a neutral constituent with
        an impact parameter, or a jet energy below the momentum. Values that are not finite pass: what happens to such
        records is the builder's choice.

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; the file is damaged.
        """
        columns: Columns = _OPEN.get(path).read(BRANCHES, start, stop)
        check_shapes(columns, PART_BRANCHES, path, FORMAT)
        columns, entries = checked(columns, np.arange(start, stop), CHECKS, path, tally or Tally())
        with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
            points = points_of(columns, FLAGS)
            jets = {**jets_of(columns), "label": _label_indices(columns), **origin(entries)}
        offsets = lists(columns, "part_px").offsets
        order = pt_order(points["pt"], offsets)
        if order is not None:
            points = {name: values[order] for name, values in points.items()}
        return jet_batch(SCHEMA, LABELS, offsets, points, jets, tracked=points.pop("tracked"))


def _open(path: Path) -> RootTable:
    table = RootTable(path, NEEDED_BRANCHES, expected="JetClass files are ROOT files")
    try:
        if missing := [name for name in NEEDED_BRANCHES if name not in table.names]:
            names = ", ".join(f"'{name}'" for name in missing)
            present = ", ".join(sorted(table.names)) or "no branches"
            raise HepfmError(f"its tree '{table.tree}' has no branch {names}", path, f"it has {present}")
        if not table.entries:
            raise HepfmError("the tree has no entries", path, "leave the file out")
    except HepfmError:
        table.close()
        raise
    return table


_OPEN: OpenFiles[RootTable] = OpenFiles(OPEN_FILES, _open)


def _label_values(columns: Columns) -> tuple[str, np.ndarray]:
    good = np.ones(len(numbers(columns, "jet_pt")), dtype=bool)
    for name in LABEL_BRANCHES:
        flag = numbers(columns, name)
        good &= (flag == 0) | (flag == 1)
    return "a label is neither 0 nor 1", good


def _label_counts(columns: Columns) -> tuple[str, np.ndarray]:
    return "more than one label is set", _label_flags(columns).sum(axis=1) <= 1


def _label_flags(columns: Columns) -> np.ndarray:
    """Which labels (n, 10) are set."""
    return np.stack([numbers(columns, name) != 0 for name in LABEL_BRANCHES], axis=1)


def _label_indices(columns: Columns) -> np.ndarray:
    """Index of each jet's label; -1 (null) for one without, as in generated jets."""
    flags = _label_flags(columns)
    return np.where(flags.any(axis=1), flags.argmax(axis=1), -1)


CHECKS = (counts, _label_values, _label_counts, charges, neutrals, energies)
