"""The quark-gluon data sets of EnergyFlow (Zenodo 3164691 and 3066475, arXiv:1810.05165) as jet records."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import (
    FourVectors,
    any_in,
    in_pt_order,
    kept_entries,
    massless,
    origin,
    unpadded,
)
from hepfm.ingest.formats.hdf5_rows import Rows, dataset, open_hdf5
from hepfm.ingest.formats.npz_rows import NpzRows, is_npz, open_npz
from hepfm.ingest.formats.parquet_lists import equal_lists, is_parquet, numbers
from hepfm.ingest.formats.quark_gluon import charge_and_species
from hepfm.ingest.formats.ragged import lists_of
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

LABELS = ("gluon", "quark")  # 0 and 1 in the files
SCHEMA = records.schema(
    "jets",
    ("pt", "deta", "dphi", "energy", "charge", "species"),
    ("pt", "pt_constituents", "eta", "phi", "mass", "label"),
)

LIST_COLUMNS = ("part_px", "part_py", "part_pz", "part_energy", "part_pid")
LIST_KEYS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy")
KEY_WINDOW = 4_096
OPEN_FILES = 16
EXPECTED = (
    "quark-gluon files are .npz or HDF5 files with X (jets, particles, 4) and y (jets,), or Parquet files with lists "
    "part_px, ..., part_energy, part_pid and a column label"
)


class QuarkGluonSource(Source):
    """Reader of quark and gluon jets: one record an entry, labels ``quark`` and ``gluon``.

    Three forms: the original ``.npz`` files (X: pt [GeV], rapidity, phi, PDG id, zero-padded; y: 1 for quarks), HDF5
    files with the same arrays, and the Parquet files of the Particle Transformer's authors. X has no masses, so its
    particles are taken as massless, as those authors do: rapidity is then pseudorapidity, and energy pt cosh(eta); the
    generated particles had masses, and their pseudorapidity was larger by what these make of it. A jet's pt, eta, phi
    and mass are those of the sum of its particles, in float64. Axis: that sum (the flipped ``part_deta`` of the
    Parquet form is not used). Charge and species follow from the PDG id.
    """

    name = "quarkgluon"
    kind = "jets"
    schema = SCHEMA
    axis = "constituent_sum"
    labels = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        x, y = contents.shape("X"), contents.shape("y")
        padded = len(x) == 3 and x[2] == 4 and y == x[:1]
        return padded or contents.has("", *LIST_COLUMNS, "label")

    def entries(self, path: Path) -> int:
        return _OPEN.get(path).entries

    def keys(self, path: Path) -> np.ndarray | None:
        """Of the bits of the two leading particles; in the Parquet form of the jet's four-vector, where that is stored.

        The original files have to be decoded once for it.
        """
        return _OPEN.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        opened = _OPEN.get(path)
        check_range(path, start, stop, opened.entries)
        return _records(opened.jets(start, stop), path, start, tally)


@dataclass(frozen=True)
class _Jets:
    """Particles, their PDG ids (N,) and labels (n,) of some jets."""

    particles: FourVectors
    pdg: np.ndarray
    label: np.ndarray


def _records(found: _Jets, path: Path, start: int, tally: Tally | None) -> pa.RecordBatch:
    particles = found.particles
    charge, species = charge_and_species(found.pdg)
    kept = kept_entries(
        {
            "its label is neither 0 nor 1": ~((found.label == 0) | (found.label == 1)),
            "a particle has no energy": any_in(particles.energy == 0, particles.offsets),
            "a particle has an unknown PDG id": any_in(species < 0, particles.offsets),
        },
        start,
        path,
        tally,
    )
    lengths = np.diff(particles.offsets)
    of_kept = np.repeat(kept, lengths)
    px, py, pz, energy = (part[of_kept] for part in (particles.px, particles.py, particles.pz, particles.energy))
    offsets = lists_of(lengths[kept], px).offsets
    points, jets = FourVectors(px, py, pz, energy, offsets).quantities()
    points |= {"charge": charge[of_kept], "species": species[of_kept]}
    columns = {**jets, "label": found.label[kept], **origin(start + np.flatnonzero(kept))}
    return jet_batch(SCHEMA, LABELS, offsets, in_pt_order(points, offsets), columns)


class _Form(ABC):
    """An open file of one of the forms."""

    entries: int

    @abstractmethod
    def jets(self, start: int, stop: int) -> _Jets:
        """Jets of entries [start, stop)."""

    @abstractmethod
    def keys(self) -> np.ndarray | None:
        """A key of each entry."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class _Arrays(_Form):
    """X and y, in a .npz or an HDF5 file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | h5py.File) -> None:
        self._archive = archive
        try:
            if isinstance(archive, zipfile.ZipFile):
                self._x: NpzRows | Rows = NpzRows(archive, "X", path)
                self._y: NpzRows | Rows = NpzRows(archive, "y", path)
            else:
                self._x, self._y = (Rows(dataset(archive, name, path, EXPECTED), path) for name in ("X", "y"))
            x, y = self._x.shape, self._y.shape
            if len(x) != 3 or x[2] != 4 or y != x[:1]:
                raise HepfmError(f"X is {x} and y is {y}", path, EXPECTED)
            for name, rows in (("X", self._x), ("y", self._y)):
                if rows.dtype.kind not in "fiub":
                    raise HepfmError(f"{name} holds {rows.dtype}", path, "numbers are needed")
            self.entries = x[0]
            if not self.entries:
                raise HepfmError("has no entries", path, "leave the file out")
        except BaseException:
            self.close()
            raise

    def jets(self, start: int, stop: int) -> _Jets:
        padded = self._x.read(start, stop)
        particles, offsets = unpadded(padded, (padded != 0).any(axis=2))
        pt, rapidity, phi, pdg = particles.T
        return _Jets(massless(pt, rapidity, phi, offsets), pdg, self._y.read(start, stop))

    def keys(self) -> np.ndarray:
        found = []
        for start in range(0, self.entries, KEY_WINDOW):
            rows = self._x.read(start, min(start + KEY_WINDOW, self.entries))
            found.append(key(*rows[:, :2].reshape(len(rows), -1).T))
        return np.concatenate(found)

    def close(self) -> None:
        self._archive.close()


class _ListParquet(_Form):
    def __init__(self, path: Path) -> None:
        self._table = open_table(path, (*LIST_COLUMNS, "label"), "quark-gluon")
        self.entries = self._table.entries

    def jets(self, start: int, stop: int) -> _Jets:
        path = self._table.path
        columns = self._table.read((*LIST_COLUMNS, "label"), start, stop)
        *vectors, pdg = equal_lists(columns, LIST_COLUMNS, path, start)
        px, py, pz, energy = (part.values.astype(np.float64) for part in vectors)
        return _Jets(FourVectors(px, py, pz, energy, pdg.offsets), pdg.values, numbers(columns, "label", path))

    def keys(self) -> np.ndarray | None:
        if not self._table.names.issuperset(LIST_KEYS):
            return None
        columns = self._table.whole(LIST_KEYS)
        return key(*(numbers(columns, name, self._table.path) for name in LIST_KEYS))

    def close(self) -> None:
        self._table.close()


def _open(path: Path) -> _Form:
    if is_parquet(path):
        return _ListParquet(path)
    return _Arrays(path, open_npz(path) if is_npz(path) else open_hdf5(path, EXPECTED))


_OPEN = OpenFiles(OPEN_FILES, _open)
