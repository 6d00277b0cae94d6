"""Events from Pythia 8: stable particles and the decay products of the resonance that names a class."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import cycle
from typing import Any

import numpy as np

from hepfm.core import draws
from hepfm.core.errors import HepfmError
from hepfm.ingest.simulate.particles import NEUTRINOS, Particles, Partons
from hepfm.ingest.simulate.processes import COMMON, Process

MAX_SEED = 900_000_000
_OUT_OF_RESONANCE = 23


def sequence_seed(*parts: object, number: int) -> int:
    """What names Pythia's random sequence ``number`` of a stream that ``parts`` name.

    Pythia tells 900,000,000 seeds apart. Drawn independently, some 10,000 sequences would hold the same events twice in
    one of twenty samples; counted from a drawn one, those of a stream never do.
    """
    return draws.key_of("pythia", *parts, 0) + number


def require_pythia() -> Any:
    """The module pythia8mc.

    Raises:
        HepfmError: it is not installed.
    """
    try:
        return import_module("pythia8mc")
    except ImportError as error:
        raise HepfmError("Pythia 8 is not installed", "simulation", "pip install 'hepfm[simulate]'") from error


def started(settings: Sequence[str], seed: int, where: str, hard_events: Any = None, hooks: Any = None) -> Any:
    """A Pythia that is ready for events.

    Args:
        settings: lines for ``readString``.
        seed: names its random sequence.
        where: what an error names.
        hard_events: an ``LHAup`` that gives the hard processes (with ``Beams:frameType = 5``); whoever calls keeps it.
        hooks: ``UserHooks``; whoever calls keeps them.

    Raises:
        HepfmError: pythia8mc is not installed, or Pythia refuses the settings.
    """
    pythia = require_pythia().Pythia("", False)
    random = ("Random:setSeed = on", f"Random:seed = {seed % MAX_SEED + 1}")
    for setting in (*settings, *random):
        if not pythia.readString(setting):
            raise HepfmError(f"Pythia does not know the setting '{setting}'", where)
    if hard_events is not None:
        pythia.setLHAupPtr(hard_events)
    if hooks is not None:
        pythia.setUserHooksPtr(hooks)
    if not pythia.init():
        raise HepfmError("Pythia cannot start with these settings", where)
    return pythia


class Generator:
    """A Pythia of its own for one process and seed; ``hooks``, if any, are Pythia's UserHooks.

    Raises:
        HepfmError: pythia8mc is not installed, or Pythia refuses the settings.
    """

    def __init__(self, process: Process, seed: int, hooks: Any = None) -> None:
        self._process = process
        self._hooks = hooks  # Pythia does not keep them alive
        where = f"class {process.label}"
        self._turns = cycle(
            [started((*COMMON, *process.settings, *variant), seed, where, hooks=hooks) for variant in process.variants]
        )

    def events(self, count: int) -> tuple[Particles, Partons]:
        """The next ``count`` events (fewer if Pythia gives one up)."""
        record = self.generate(count).layout.content("prt")
        offsets = np.asarray(record.offsets.data)
        event = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return stable_particles(record.content, event), _decay_products(record.content, event, offsets, self._process)

    def generate(self, count: int) -> Any:
        """The next ``count`` events as Pythia's own awkward array."""
        return next(self._turns).nextBatch(count)


def column(content: Any, name: str) -> np.ndarray:
    """All entries of one quantity of an event record."""
    return np.asarray(content.content(name).data)


def stable_particles(content: Any, event: np.ndarray) -> Particles:
    """Particles in the final state of the record ``content``, whose entries are of the events ``event``."""
    final = np.flatnonzero(column(content, "status") > 0)
    px, py, pz, energy = (column(content.content("p"), name)[final] for name in ("px", "py", "pz", "e"))
    # Particles without a vertex of their own (index -1) come from the origin.
    vertex = content.content("vProd")
    index = np.asarray(vertex.index.data)[final]
    x, y, z = (
        np.append(column(vertex.content, name), 0.0)[index] if len(vertex.content) else np.zeros(len(final))
        for name in ("px", "py", "pz")
    )
    return Particles(event[final], column(content, "id")[final], px, py, pz, energy, x, y, z)


def _decay_products(content: Any, event: np.ndarray, offsets: np.ndarray, process: Process) -> Partons:
    size = np.abs(column(content, "id"))
    mother = column(content, "mother1") + offsets[event]
    in_cascade = np.isin(size, process.cascade)
    out = np.abs(column(content, "status")) == _OUT_OF_RESONANCE
    product = np.flatnonzero(out & ~in_cascade & ~np.isin(size, NEUTRINOS) & in_cascade[mother])
    resonance = mother[product]
    while in_cascade[mother[resonance]].any():
        above = mother[resonance]
        resonance = np.where(in_cascade[above], above, resonance)
    px, py, pz = (column(content.content("p"), name)[product] for name in ("px", "py", "pz"))
    return Partons(event[product], resonance, np.arcsinh(pz / np.hypot(px, py)), np.arctan2(py, px))
