"""JetNet (Zenodo 6975118 and 6975117, arXiv:2106.11535) as jet records."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import any_in, in_pt_order, kept_entries, origin, rounded_angle, unpadded
from hepfm.ingest.formats.hdf5_rows import Rows, dataset, open_hdf5
from hepfm.ingest.formats.jetnet import CLASSES, JETS, PARTICLE_FEATURES, PARTICLES, Label
from hepfm.ingest.formats.parquet_lists import equal_lists, is_parquet, numbers
from hepfm.ingest.formats.ragged import lists_of
from hepfm.ingest.formats.tables import open_table
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

LABELS = CLASSES
SCHEMA = records.schema("jets", ("pt", "deta", "dphi"), ("pt", "pt_constituents", "eta", "mass", "label"))

RELATIVE, MASK = ("etarel", "phirel", "ptrel"), "mask"
QUANTITIES, TYPE = ("pt", "eta", "mass"), "type"
# pt, eta, mass, number of particles; before them the class in files that the jetnet library's own arrays were saved to.
JET_FEATURES, TYPED_JET_FEATURES = 4, 5
OPEN_FILES = 16
EXPECTED = (
    f"JetNet files are HDF5 files with {PARTICLES} (jets, 30 or 150, 4) and {JETS} (jets, 4), or Parquet files with "
    f"lists {', '.join(RELATIVE)} and columns {', '.join(QUANTITIES)}"
)
_NAMED = re.compile(rf"([{''.join(LABELS)}])(?:30|150)?")


@dataclass(frozen=True)
class JetNetSource(Source):
    """Reader of JetNet: one record an entry, labels g, q, t, w, z.

    Two forms: the original HDF5 files (padded arrays with a mask), and Parquet files with the jetnet library's names of
    the features as columns (lists ``etarel``, ``phirel``, ``ptrel`` and, if they are padded, ``mask``; numbers ``pt``,
    ``eta``, ``mass`` and possibly ``type``). The same jets give the same records.

    Particles are relative to the stored jet: pt = ptrel times jet pt, ``deta`` and ``dphi`` as stored (JetNet does not
    flip deta); where the mask is 0 there is none, nor, without a mask, where all three are 0. pt [GeV], eta and mass
    [GeV] of the jet are the file's; ``pt_constituents`` is that of the sum of its (up to 30 or 150) particles. The
    files have neither jet phi nor particle energies. The class is in the file's name alone (``g.hdf5``,
    ``t150.hdf5``), unless ``label`` says it or the jets have a fifth feature, in front (``type``), which is its number
    in g, q, t, w, z.
    """

    label: Label | None = None
    """Class of all jets: g, q, t, w or z. Default: from each file's name (g.hdf5, t150.hdf5)."""

    name = "jetnet"
    kind = "jets"
    schema = SCHEMA
    axis = "stored"
    labels = LABELS

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        arrays = _fits(contents.shape(PARTICLES), contents.shape(JETS))
        return arrays or contents.has("", *RELATIVE, *QUANTITIES)

    def bind(self, files: Sequence[Path]) -> JetNetSource:
        """Check that the class of each file is known, and tell the classes that its name gives."""
        told = [f"{path.name}: {self._class(path)}" for path in files if not self.label and not _OPEN.get(path).typed]
        if told:
            say(f"JetNet classes by file name: {', '.join(told)}")
        return self

    def settings(self) -> dict[str, Any]:
        return {"label": self.label}

    def entries(self, path: Path) -> int:
        return _OPEN.get(path).entries

    def keys(self, path: Path) -> np.ndarray:
        """Of the bits of the jet's pt, eta and mass: the same for the jet's records with 30 and with 150 particles."""
        return _OPEN.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        opened = _OPEN.get(path)
        check_range(path, start, stop, opened.entries)
        jets = opened.jets(start, stop)
        label = jets.columns.get(TYPE)
        if self.label or label is None:
            label = np.full(stop - start, LABELS.index(self.label or self._class(path)))
        return _records(jets, label, path, start, tally)

    def _class(self, path: Path) -> Label:
        named = _NAMED.fullmatch(path.stem)
        if not named:
            raise HepfmError("its name does not tell the class of its jets", path, "give --label g, q, t, w or z")
        return LABELS[LABELS.index(named[1])]


@dataclass(frozen=True)
class _Jets:
    """Some jets: particles without padding and columns by their names in the files, and what else is to be judged.

    Attributes:
        particles: etarel, phirel, ptrel (N,).
        offsets: (n + 1,) of the particles of each jet.
        columns: pt, eta, mass and possibly type (n,).
        bad_mask: (n,) whether the mask of a jet is neither 0 nor 1 somewhere.
    """

    particles: Mapping[str, np.ndarray]
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    bad_mask: np.ndarray


def _records(jets: _Jets, label: np.ndarray, path: Path, start: int, tally: Tally | None) -> pa.RecordBatch:
    """Records of jets and labels (n,)."""
    kept = kept_entries(
        {
            "its type is not one of g, q, t, w, z": ~np.isin(label, np.arange(len(LABELS))),
            "its mask is neither 0 nor 1": jets.bad_mask,
        },
        start,
        path,
        tally,
    )
    lengths = np.diff(jets.offsets)
    deta, dphi, ptrel = (jets.particles[name][np.repeat(kept, lengths)] for name in RELATIVE)
    offsets = lists_of(lengths[kept], ptrel).offsets
    pt, eta, mass = (jets.columns[name][kept] for name in QUANTITIES)
    with np.errstate(over="ignore", invalid="ignore"):
        constituent_pt = ptrel.astype(np.float64) * np.repeat(pt.astype(np.float64), lengths[kept])
        along, across = (
            segment_sums(constituent_pt * turn(dphi.astype(np.float64)), offsets) for turn in (np.cos, np.sin)
        )
        points = {"pt": constituent_pt.astype(np.float32), "deta": deta, "dphi": rounded_angle(dphi)}
    columns = {
        "pt": pt,
        "pt_constituents": np.hypot(along, across),
        "eta": eta,
        "mass": mass,
        "label": label[kept].astype(np.int64),
        **origin(start + np.flatnonzero(kept)),
    }
    return jet_batch(SCHEMA, LABELS, offsets, in_pt_order(points, offsets), columns)


class _Form(ABC):
    """An open, checked file of one of the forms.

    Attributes:
        entries: jets it has.
        typed: does it tell the class of each jet itself?
    """

    entries: int
    typed: bool

    @abstractmethod
    def jets(self, start: int, stop: int) -> _Jets:
        """Jets [start, stop)."""

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
            self._particles, self._jets = (
                Rows(dataset(self._file, name, path, EXPECTED), path) for name in (PARTICLES, JETS)
            )
            if not _fits(self._particles.shape, self._jets.shape):
                what = f"{PARTICLES} is {self._particles.shape} and {JETS} is {self._jets.shape}"
                raise HepfmError(what, path, EXPECTED)
            if {self._particles.dtype.kind, self._jets.dtype.kind} != {"f"}:
                what = f"{PARTICLES} holds {self._particles.dtype} and {JETS} {self._jets.dtype}"
                raise HepfmError(what, path, "floats are needed")
            self.entries = len(self._jets)
            self.typed = self._jets.shape[1] == TYPED_JET_FEATURES
            if not self.entries:
                raise HepfmError("has no entries", path, "leave the file out")
        except BaseException:
            self.close()
            raise

    def jets(self, start: int, stop: int) -> _Jets:
        padded, features = self._particles.read(start, stop), self._jets.read(start, stop)
        mask = padded[:, :, -1]
        particles, offsets = unpadded(padded, mask == 1)
        names = (TYPE, *QUANTITIES) if self.typed else QUANTITIES
        return _Jets(
            dict(zip(RELATIVE, particles.T[:-1], strict=True)),
            offsets,
            dict(zip(names, features.T[:-1], strict=True)),
            ~((mask == 0) | (mask == 1)).all(axis=1),
        )

    def keys(self) -> np.ndarray:
        return key(*self._jets.read(0, self.entries)[:, -JET_FEATURES:-1].T)

    def close(self) -> None:
        self._file.close()


class _Parquet(_Form):
    def __init__(self, path: Path) -> None:
        self._table = open_table(path, (*RELATIVE, *QUANTITIES), "JetNet")
        self.entries = self._table.entries
        self.typed = TYPE in self._table.names

    def jets(self, start: int, stop: int) -> _Jets:
        path = self._table.path
        lists = (*RELATIVE, *({MASK} & self._table.names))
        numbered = (*QUANTITIES, *({TYPE} & self._table.names))
        columns = self._table.read((*lists, *numbered), start, stop)
        particles = dict(zip(lists, equal_lists(columns, lists, path, start), strict=True))
        offsets = particles["ptrel"].offsets
        values = {name: particles[name].values for name in RELATIVE}
        if MASK in particles:
            mask = particles[MASK].values
        else:
            mask = np.logical_or.reduce([column != 0 for column in values.values()])
        filled = mask == 1
        return _Jets(
            {name: column[filled] for name, column in values.items()},
            lists_of(segment_sums(filled, offsets).astype(np.int64), filled).offsets,
            {name: numbers(columns, name, path) for name in numbered},
            any_in((mask != 0) & ~filled, offsets),
        )

    def keys(self) -> np.ndarray:
        columns = self._table.whole(QUANTITIES)
        return key(*(numbers(columns, name, self._table.path) for name in QUANTITIES))

    def close(self) -> None:
        self._table.close()


def _fits(particles: tuple[int, ...], jets: tuple[int, ...]) -> bool:
    return (
        len(particles) == 3
        and particles[2] == PARTICLE_FEATURES
        and len(jets) == 2
        and jets[1] in (JET_FEATURES, TYPED_JET_FEATURES)
        and jets[0] == particles[0]
    )


def _open(path: Path) -> _Form:
    return _Parquet(path) if is_parquet(path) else _Hdf5(path)


_OPEN = OpenFiles(OPEN_FILES, _open)
