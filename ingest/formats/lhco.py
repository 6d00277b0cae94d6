"""Files of the LHC Olympics 2020 (Zenodo 6466204, 8370758 and others): which column is what.

Particle files are data frames of 700 zero-padded particles of three numbers, and possibly a label (0 QCD, 1 signal).
The numbers are pt [GeV], eta, phi by documentation. The extra QCD sample names them px, py, pz and holds pt, eta, phi
nevertheless, followed by jet features; so names are not believed and the numbers are looked at:

* the other two lie within what eta and phi can be, and the first is hardly ever negative: pt, eta, phi;
* the first two are often negative, and often larger than any angle: px, py, pz;
* else the file is refused.

Momenta point everywhere, so one event is enough to tell them from transverse momenta; up to 256 are looked at. A few
bad particles do not decide what a file is: they are refused event by event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.formats.four_vectors import FourVectors, massless, unpadded
from hepfm.ingest.formats.hdf5_rows import open_hdf5
from hepfm.ingest.formats.pandas_hdf5 import Block, Frame, frames
from hepfm.ingest.keys import key

PARTICLES = 700
PARTICLE_COLUMNS = 3 * PARTICLES
# Of the highest (j1) and second highest (j2) jet in pt; tau of N-subjettiness.
FEATURES = tuple(f"{name}j{jet}" for jet in (1, 2) for name in ("px", "py", "pz", "m", "tau1", "tau2", "tau3"))
LABEL = "label"
LOOKED_AT_EVENTS = 256
MAX_ETA, MAX_PHI = 10.0, 2 * np.pi + 1e-3
# Share of the particles that may be bad without making a file one of other coordinates.
BAD_PARTICLES = 0.01
# No event of the data set is as soft (the trigger asks for a jet of 1,200 GeV), and in TeV every one would be.
LEAST_TOTAL_PT_GEV = 40.0
# Events whose keys are made at a time.
KEY_EVENTS = 1_024
EXPECTED = (
    f"LHC Olympics files are pandas HDF5 files of {PARTICLE_COLUMNS} particle columns (700 x pt [GeV], eta, phi), "
    "with or without a label"
)
_NAME = re.compile(r"(p[txyz]|eta|phi)_?(\d+)")
_KINDS = (("px", "pt"), ("py", "eta"), ("pz", "phi"))

Coordinates = Literal["pt, eta, phi", "px, py, pz"]
_NAMED: dict[str, Coordinates] = {"pt": "pt, eta, phi", "px": "px, py, pz"}


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
        named: what the names of their columns say; None in files without names.
        unread: names of columns that are no particle's, no jet's and not the label.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path, EXPECTED)
        try:
            self._frame, self._block, self._first = _particle_columns(frames(self._file, path), path)
            self.entries = self._frame.rows
            if not self.entries:
                raise HepfmError("has no events", path, "leave the file out")
            self._label = _label_place(self._frame, self._block)
            names = _names(self._frame.blocks[self._block])
            self.named = _NAMED.get(names[self._first][:2]) if names else None
            self.unread = _unread(self._frame)
            self.coordinates = self._told_coordinates()
            self._check_unit()
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> Events:
        """Events [start, stop).

        Raises:
            HepfmError: they cannot be decoded.
        """
        blocks = self._frame.read(start, stop)
        columns = slice(self._first, self._first + PARTICLE_COLUMNS)
        particles = blocks[self._block][:, columns].reshape(stop - start, PARTICLES, 3)
        if self._label is None:
            return Events(particles, np.full(stop - start, np.nan))
        block, column = self._label
        return Events(particles, blocks[block][:, column].astype(np.float64))

    def keys(self) -> np.ndarray:
        """A key (n,) of each event: of its two leading particles. Every event has to be decoded for it."""
        found = []
        for start in range(0, self.entries, KEY_EVENTS):
            stop = min(start + KEY_EVENTS, self.entries)
            leading = self.read(start, stop).particles[:, :2].reshape(stop - start, 6)
            # Events without particles do not repeat one another.
            empty = np.where((leading == 0).all(axis=1), np.arange(start, stop) + 1, 0)
            found.append(key(*leading.T, empty))
        return np.concatenate(found)

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
        if self._label is not None:
            faults["its label is neither 0 nor 1"] = ~((label == 0) | (label == 1))
        return faults

    def close(self) -> None:
        self._file.close()

    def _check_unit(self) -> None:
        vectors = self.vectors(self.read(0, min(self.entries, LOOKED_AT_EVENTS)).particles)
        total = segment_sums(np.hypot(vectors.px, vectors.py), vectors.offsets)
        if np.nanmax(total) < LEAST_TOTAL_PT_GEV:
            what = f"its first {len(total)} events have at most {np.nanmax(total):.3g} GeV of transverse momentum"
            raise HepfmError(what, self.path, "is the unit GeV?")

    def _told_coordinates(self) -> Coordinates:
        particles = self.read(0, min(self.entries, LOOKED_AT_EVENTS)).particles
        particles = particles[np.isfinite(particles).all(axis=2)]
        if not (particles != 0).any():
            raise HepfmError(f"its first {LOOKED_AT_EVENTS} events have no particles", self.path, "fetch it again")
        particles = particles[(particles != 0).any(axis=1)]
        angles = (np.abs(particles[:, 1]) <= MAX_ETA) & (np.abs(particles[:, 2]) <= MAX_PHI)
        negative, large = (flags[:, :2].mean(axis=0) for flags in (particles < 0, np.abs(particles) > MAX_ETA))
        if angles.mean() >= 1 - BAD_PARTICLES and negative[0] <= BAD_PARTICLES:
            return "pt, eta, phi"
        if (negative > BAD_PARTICLES).all() and (large > BAD_PARTICLES).all():
            return "px, py, pz"
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


def _particle_columns(found: list[Frame], path: Path) -> tuple[Frame, int, int]:
    """The frame of particles, which of its blocks holds them, and the first of their columns in it."""
    for frame in found:
        for number, block in enumerate(frame.blocks):
            names = _names(block)
            if block.width in (PARTICLE_COLUMNS, PARTICLE_COLUMNS + 1) and not names:
                return frame, number, 0
            if block.width >= PARTICLE_COLUMNS and names:
                first = next((column for column, name in enumerate(names) if _NAME.fullmatch(name)), 0)
                _check_names(names[first : first + PARTICLE_COLUMNS], first, path)
                return frame, number, first
    if any(frame.place(FEATURES[0]) for frame in found):
        raise HepfmError("holds jet features, no particles", path, "give the particle file, and this as --features")
    widths = ", ".join(str(sum(block.width for block in frame.blocks)) for frame in found)
    raise HepfmError(f"has {widths} columns", path, EXPECTED)


def _names(block: Block) -> tuple[str, ...]:
    """Names of a block's columns; none if they are unnamed or numbered."""
    return () if not block.names or block.names[0].isdigit() else block.names


def _check_names(names: tuple[str, ...], first: int, path: Path) -> None:
    for column, name in enumerate(names):
        told = _NAME.fullmatch(name)
        if told is None or told[1] not in _KINDS[column % 3] or int(told[2]) != column // 3:
            raise HepfmError(f"its column {first + column} is called '{name}'", path, EXPECTED)


def _label_place(frame: Frame, particles: int) -> tuple[int, int] | None:
    """Block and column of the label; in files without names it is the one column that is no particle's."""
    named = frame.place(LABEL)
    if named is not None or _names(frame.blocks[particles]):
        return named
    if frame.blocks[particles].width > PARTICLE_COLUMNS:
        return particles, PARTICLE_COLUMNS
    others = [number for number in range(len(frame.blocks)) if number != particles]
    return (others[0], 0) if len(others) == 1 and frame.blocks[others[0]].width == 1 else None


def _unread(frame: Frame) -> tuple[str, ...]:
    names = [name for block in frame.blocks for name in _names(block)]
    return tuple(name for name in names if not _NAME.fullmatch(name) and name not in (*FEATURES, LABEL))
