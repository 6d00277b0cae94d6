"""JetNet (Zenodo 6975118 and 6975117, arXiv:2106.11535) as jet records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import in_pt_order, kept_entries, origin, rounded_angle, unpadded
from hepfm.ingest.formats.hdf5_rows import Rows, dataset, open_hdf5
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

Label = Literal["g", "q", "t", "w", "z"]
LABELS: tuple[Label, ...] = ("g", "q", "t", "w", "z")
SCHEMA = records.schema("jets", ("pt", "deta", "dphi"), ("pt", "pt_constituents", "eta", "mass", "label"))

PARTICLES, JETS = "particle_features", "jet_features"
PARTICLE_FEATURES = 4  # etarel, phirel, ptrel, mask
# pt, eta, mass, number of particles; before them the class in files that the jetnet library's own arrays were saved to.
JET_FEATURES, TYPED_JET_FEATURES = 4, 5
OPEN_FILES = 16
EXPECTED = f"JetNet files are HDF5 files with {PARTICLES} (jets, 30 or 150, 4) and {JETS} (jets, 4)"
_NAMED = re.compile(rf"([{''.join(LABELS)}])(?:30|150)?")


@dataclass(frozen=True)
class JetNetSource(Source):
    """Reader of JetNet: one record an entry, labels g, q, t, w, z.

    Particles are relative to the stored jet: pt = ptrel times jet pt, ``deta`` and ``dphi`` as stored (JetNet does not
    flip deta); where the mask is 0 there is none. pt [GeV], eta and mass [GeV] of the jet are the file's;
    ``pt_constituents`` is that of the sum of its (up to 30 or 150) particles. The files have neither jet phi nor
    particle energies. The class is in the file's name alone (``g.hdf5``, ``t150.hdf5``), unless ``label`` says it or
    the jets have a fifth feature, in front, which is its number in g, q, t, w, z.
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
        return _fits(contents.shape(PARTICLES), contents.shape(JETS))

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
        padded, features = opened.particles.read(start, stop), opened.jets.read(start, stop)
        if self.label or not opened.typed:
            label = np.full(stop - start, LABELS.index(self.label or self._class(path)), dtype=np.float64)
        else:
            label = features[:, 0]
        return _records(padded, features[:, -JET_FEATURES:], label, path, start, tally)

    def _class(self, path: Path) -> Label:
        named = _NAMED.fullmatch(path.stem)
        if not named:
            raise HepfmError("its name does not tell the class of its jets", path, "give --label g, q, t, w or z")
        return LABELS[LABELS.index(named[1])]


def _records(
    padded: np.ndarray, features: np.ndarray, label: np.ndarray, path: Path, start: int, tally: Tally | None
) -> pa.RecordBatch:
    """Records of padded particles (n, most, 4), jet features (n, 4) and labels (n,)."""
    mask = padded[:, :, 3]
    kept = kept_entries(
        {
            "its type is not one of g, q, t, w, z": ~np.isin(label, np.arange(len(LABELS))),
            "its mask is neither 0 nor 1": ~((mask == 0) | (mask == 1)).all(axis=1),
        },
        start,
        path,
        tally,
    )
    particles, offsets = unpadded(padded[kept], mask[kept] == 1)
    deta, dphi, ptrel, _ = particles.T
    pt, eta, mass, _ = features[kept].T
    with np.errstate(over="ignore", invalid="ignore"):
        constituent_pt = ptrel.astype(np.float64) * np.repeat(pt.astype(np.float64), np.diff(offsets))
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


class _File:
    """An open, checked file."""

    def __init__(self, path: Path) -> None:
        self._file = open_hdf5(path, EXPECTED)
        try:
            self.particles, self.jets = (
                Rows(dataset(self._file, name, path, EXPECTED), path) for name in (PARTICLES, JETS)
            )
            if not _fits(self.particles.shape, self.jets.shape):
                what = f"{PARTICLES} is {self.particles.shape} and {JETS} is {self.jets.shape}"
                raise HepfmError(what, path, EXPECTED)
            if {self.particles.dtype.kind, self.jets.dtype.kind} != {"f"}:
                what = f"{PARTICLES} holds {self.particles.dtype} and {JETS} {self.jets.dtype}"
                raise HepfmError(what, path, "floats are needed")
            self.entries = len(self.jets)
            if not self.entries:
                raise HepfmError("has no entries", path, "leave the file out")
        except BaseException:
            self.close()
            raise

    @property
    def typed(self) -> bool:
        """Does the file itself tell the class of each jet?"""
        return self.jets.shape[1] == TYPED_JET_FEATURES

    def keys(self) -> np.ndarray:
        return key(*self.jets.read(0, self.entries)[:, -JET_FEATURES:-1].T)

    def close(self) -> None:
        self._file.close()


def _fits(particles: tuple[int, ...], jets: tuple[int, ...]) -> bool:
    return (
        len(particles) == 3
        and particles[2] == PARTICLE_FEATURES
        and len(jets) == 2
        and jets[1] in (JET_FEATURES, TYPED_JET_FEATURES)
        and jets[0] == particles[0]
    )


_OPEN = OpenFiles(OPEN_FILES, _File)
