"""Pythia's events with resonances of free mass: what they decay to, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hepfm.ingest.simulate.particles import Particles, Products, wrapped
from hepfm.ingest.simulate.pythia import column, require_pythia, stable_particles, started
from hepfm.ingest.simulate.resonance_events import CHARGED, TAU, Mode, X, Y, draw_events
from hepfm.ingest.simulate.resonance_labels import KINDS, kinds_of

SETTINGS = (
    "Beams:frameType = 5",
    "Print:quiet = on",
    "Next:numberCount = 0",
    # X and Y carry no colour: without this, initial-state showers would be as hard as the collision allows.
    "SpaceShower:pTmaxMatch = 1",
)
_CASCADE = (X, Y, CHARGED)
_OUT_OF_RESONANCE = 23
_PROCESS = 9_999
_DRAWN_AT_A_TIME = 200
_UNPOLARISED = 9.0
_NOTHING = -1.0


@dataclass(frozen=True)
class Resonances:
    """Resonances X, (n,) each, in the order of their numbers, or one Y of each: PDG id, pt and mass [GeV], eta, phi."""

    pdg_id: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    mass: np.ndarray


class ResonanceGenerator:
    """A Pythia of its own, fed with hard events.

    Raises:
        HepfmError: pythia8mc is not installed.
    """

    def __init__(self, modes: tuple[Mode, ...], seed: int, rng: np.random.Generator, where: str) -> None:
        self._feed = _feed(modes, rng)
        self._pythia = started(SETTINGS, seed, where, self._feed)

    def events(self, count: int) -> tuple[Particles, Products, tuple[Resonances, ...]]:
        """The next ``count`` events (fewer if Pythia gives one up): stable particles, decay products of the X, the X,
        and, where X decays to YY, of each X the Y of higher and of lower pt."""
        record = self._pythia.nextBatch(count).layout.content("prt")
        offsets = np.asarray(record.offsets.data)
        event = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return stable_particles(record.content, event), *_resonances(record.content, event, offsets)


def _feed(modes: tuple[Mode, ...], rng: np.random.Generator) -> Any:
    class Feed(require_pythia().LHAup):  # type: ignore[misc]
        """Gives Pythia one hard event after another, all with weight 1."""

        def __init__(self) -> None:
            super().__init__(3)
            self._drawn: list[Any] = []

        def setInit(self) -> bool:
            for beam in (self.setBeamA, self.setBeamB):
                beam(2212, 6_500.0)
            self.addProcess(_PROCESS, 1.0, 0.0, 1.0)
            return True

        def setEvent(self, process: int = 0) -> bool:
            if not self._drawn:
                self._drawn = _rows(draw_events(modes, _DRAWN_AT_A_TIME, rng))
            scale, particles = self._drawn.pop()
            self.setProcess(_PROCESS, 1.0, scale, _NOTHING, _NOTHING)
            for particle in particles:
                self.addParticle(*particle, 0.0, _UNPOLARISED, _NOTHING)
            return True

    return Feed()


def _rows(events: dict[str, np.ndarray]) -> list[Any]:
    scale = events.pop("scale").tolist()
    columns = [values.tolist() for values in events.values()]
    return [(scale[i], list(zip(*(column[i] for column in columns), strict=True))) for i in range(len(scale))]


def _resonances(content: Any, event: np.ndarray, offsets: np.ndarray) -> tuple[Products, tuple[Resonances, ...]]:
    pdg = column(content, "id")
    size, status = np.abs(pdg), np.abs(column(content, "status"))
    mother = column(content, "mother1") + offsets[event]
    in_cascade = np.isin(size, _CASCADE)
    product = np.flatnonzero((status == _OUT_OF_RESONANCE) & ~in_cascade & in_cascade[mother])
    above = mother[product]
    born = _first_copy(size, mother, above)
    from_y = (size[above] != X) & (size[mother[born]] == X)
    x, number = np.unique(np.where(from_y, mother[born], above), return_inverse=True)
    order = np.argsort(number, kind="stable")
    product, number = product[order], number[order]
    kind, seen = _kinds(size, mother, product)
    px, py, pz = (column(content.content("p"), name) for name in ("px", "py", "pz"))
    eta, phi = np.arcsinh(pz[seen] / np.hypot(px[seen], py[seen])), np.arctan2(py[seen], px[seen])
    products = Products(event[product], number, kind, eta, phi)
    found = [x]
    if from_y.any():
        y, which = np.unique(above[from_y], return_index=True)
        of_x = mother[born[from_y][which]]
        pairs = y[np.lexsort((-np.hypot(px[y], py[y]), of_x))].reshape(-1, 2)
        found += [pairs[:, 0], pairs[:, 1]]
    return products, tuple(_properties(content, pdg, index) for index in found)


def _kinds(size: np.ndarray, mother: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind (n,) of each product, and the particle (n,) whose direction is its own: of a leptonic tau the lepton."""
    kind, seen = kinds_of(size[product]), product.copy()
    for name, pdg in (("taue", 11), ("taum", 13)):
        lepton = np.flatnonzero((size == pdg) & (size[mother] == TAU))
        where = np.full(len(size), -1)
        where[_first_copy(size, mother, mother[lepton])] = lepton
        decayed = where[product] >= 0
        kind[decayed] = KINDS.index(name)
        seen[decayed] = where[product[decayed]]
    return kind, seen


def _first_copy(size: np.ndarray, mother: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The same particles (n,) as they were born, before they radiated or recoiled."""
    while (copied := size[mother[index]] == size[index]).any():
        index = np.where(copied, mother[index], index)
    return index


def _properties(content: Any, pdg: np.ndarray, index: np.ndarray) -> Resonances:
    px, py, pz = (column(content.content("p"), name)[index] for name in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    mass = column(content, "m")[index]
    return Resonances(pdg[index], pt, np.arcsinh(pz / pt), wrapped(np.arctan2(py, px)), mass)
