"""Files of the LHC Olympics 2020 (Zenodo 6466204, 8370758 and others): which column is what.

Particle files are data frames of 700 zero-padded particles of three numbers, and possibly a label (0 QCD, 1 signal).
The numbers are pt [GeV], eta, phi by documentation. The extra QCD sample names them px, py, pz and holds pt, eta, phi
nevertheless, followed by jet features; so names are not believed and the numbers are looked at:

* the first of the three is negative somewhere: px, py, pz;
* it never is, and the other two lie within what eta and phi can be: pt, eta, phi;
* else the file is refused.

Momenta point everywhere, so one event is enough to tell them from transverse momenta; up to 256 are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.four_vectors import FourVectors, massless, unpadded
from hepfm.ingest.formats.hdf5_rows import open_hdf5
from hepfm.ingest.formats.pandas_hdf5 import Frame, frames

PARTICLES = 700
PARTICLE_COLUMNS = 3 * PARTICLES
# Of the highest (j1) and second highest (j2) jet in pt; tau of N-subjettiness.
FEATURES = tuple(f"{name}j{jet}" for jet in (1, 2) for name in ("px", "py", "pz", "m", "tau1", "tau2", "tau3"))
LABEL = "label"
KEYS = ("df", "Particles")
LOOKED_AT_EVENTS = 256
MAX_ETA, MAX_PHI = 10.0, 2 * np.pi + 1e-3
EXPECTED = (
    f"LHC Olympics files are pandas HDF5 files of {PARTICLE_COLUMNS} particle columns (700 x pt, eta, phi), "
    "with or without a label"
)
_NAME = re.compile(r"([a-z]+)_?(\d+)")
_KINDS = (("px", "pt"), ("py", "eta"), ("pz", "phi"))

Coordinates = Literal["pt, eta, phi", "px, py, pz"]


@dataclass(frozen=True)
class Events:
    """Some events: particles (n, 700, 3) as stored, and labels (n,), NaN where the file has none."""

    particles: np.ndarray
    label: np.ndarray


class ParticleFile:
    """An open file of particles.

    Attributes:
        entries: events it has.
        coordinates: what its three numbers of a particle are.
        misnamed: are they called px, py, pz, but are pt, eta, phi?
        labelled: has it a label column?
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path, EXPECTED)
        try:
            self._frame = _particle_frame(frames(self._file, path), path)
            self.entries = self._frame.rows
            if not self.entries:
                raise HepfmError("has no events", path, "leave the file out")
            self._label = _label_place(self._frame)
            self.labelled = self._label is not None
            self.coordinates = self._told_coordinates()
            self.misnamed = self.coordinates == "pt, eta, phi" and _names(self._frame)[:1] == ("px0",)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> Events:
        """Events [start, stop).

        Raises:
            HepfmError: they cannot be decoded.
        """
        blocks = self._frame.read(start, stop)
        particles = blocks[0][:, :PARTICLE_COLUMNS].reshape(stop - start, PARTICLES, 3)
        if self._label is None:
            return Events(particles, np.full(stop - start, np.nan))
        block, column = self._label
        return Events(particles, blocks[block][:, column].astype(np.float64))

    def vectors(self, particles: np.ndarray) -> FourVectors:
        """Four-vectors of the massless particles (n, 700, 3) of n events, without padding; zero momenta are padding."""
        if self.coordinates == "pt, eta, phi":
            flat, offsets = unpadded(particles, particles[:, :, 0] != 0)
            pt, eta, phi = flat.T
            return massless(pt, eta, phi, offsets)
        flat, offsets = unpadded(particles, (particles != 0).any(axis=2))
        px, py, pz = flat.T.astype(np.float64)
        return FourVectors(px, py, pz, np.sqrt(px**2 + py**2 + pz**2), offsets)

    def faults(self, events: Events) -> dict[str, np.ndarray]:
        """What is wrong with which events (n,), before anything is clustered."""
        particles, label = events.particles, events.label
        finite = np.isfinite(particles).all(axis=(1, 2))
        faults = {"a particle is not finite": ~finite}
        if self.coordinates == "pt, eta, phi":
            faults["a particle has negative pt"] = (particles[:, :, 0] < 0).any(axis=1)
            faults["a particle has an impossible eta or phi"] = (
                (np.abs(particles[:, :, 1]) > MAX_ETA) | (np.abs(particles[:, :, 2]) > MAX_PHI)
            ).any(axis=1)
        if self.labelled:
            faults["its label is neither 0 nor 1"] = ~((label == 0) | (label == 1))
        return faults

    def close(self) -> None:
        self._file.close()

    def _told_coordinates(self) -> Coordinates:
        particles = self.read(0, min(self.entries, LOOKED_AT_EVENTS)).particles
        particles = particles[np.isfinite(particles).all(axis=2)]
        if not (particles != 0).any():
            raise HepfmError(f"its first {LOOKED_AT_EVENTS} events have no particles", self.path, "fetch it again")
        if (particles[:, 0] < 0).any():
            return "px, py, pz"
        if (np.abs(particles[:, 1]) <= MAX_ETA).all() and (np.abs(particles[:, 2]) <= MAX_PHI).all():
            return "pt, eta, phi"
        raise HepfmError("its particles are neither pt, eta, phi nor px, py, pz", self.path, EXPECTED)


class FeatureFile:
    """An open file with the features of two jets an event: a features file, or the extra QCD sample.

    Attributes:
        entries: events it has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path, "a features file is a pandas HDF5 file with columns pxj1, ..., tau3j2")
        try:
            for frame in frames(self._file, path):
                places = [frame.place(name) for name in FEATURES]
                if all(places):
                    self._frame, self._places = frame, [place for place in places if place]
                    break
            else:
                raise HepfmError(f"has no columns {', '.join(FEATURES)}", path, "give the features file of the events")
            self.entries = self._frame.rows
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Features of events [start, stop): for each quantity (px, py, pz [GeV], m [GeV], tau1, ...) (n, 2).

        Raises:
            HepfmError: they cannot be decoded.
        """
        blocks = self._frame.read(start, stop)
        columns = [blocks[block][:, column].astype(np.float64) for block, column in self._places]
        half = len(columns) // 2
        return {
            FEATURES[number][:-2]: np.stack([columns[number], columns[number + half]], axis=1) for number in range(half)
        }

    def close(self) -> None:
        self._file.close()


def _particle_frame(found: list[Frame], path: Path) -> Frame:
    for frame in found:
        if frame.blocks[0].width in (PARTICLE_COLUMNS, PARTICLE_COLUMNS + 1) or _names(frame):
            if frame.blocks[0].width < PARTICLE_COLUMNS:
                continue
            _check_names(_names(frame)[:PARTICLE_COLUMNS], path)
            return frame
    if any(frame.place(FEATURES[0]) for frame in found):
        raise HepfmError("holds jet features, no particles", path, "give the particle file, and this as --features")
    widths = ", ".join(str(sum(block.width for block in frame.blocks)) for frame in found)
    raise HepfmError(f"has {widths} columns", path, EXPECTED)


def _names(frame: Frame) -> tuple[str, ...]:
    """Names of the particle columns; none if they are unnamed or numbered."""
    names = frame.blocks[0].names or ()
    return () if names and names[0].isdigit() else names


def _check_names(names: tuple[str, ...], path: Path) -> None:
    for column, name in enumerate(names):
        told = _NAME.fullmatch(name)
        if told is None or told[1] not in _KINDS[column % 3] or int(told[2]) != column // 3:
            raise HepfmError(f"its column {column} is called '{name}'", path, EXPECTED)


def _label_place(frame: Frame) -> tuple[int, int] | None:
    """Block and column of the label; in files without names it is the one column that is no particle's."""
    named = frame.place(LABEL)
    if named is not None or _names(frame):
        return named
    if frame.blocks[0].width > PARTICLE_COLUMNS:
        return 0, PARTICLE_COLUMNS
    return (1, 0) if len(frame.blocks) == 2 and frame.blocks[1].width == 1 else None
