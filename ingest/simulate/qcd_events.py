"""Pythia's QCD events for JetClass-II-like jets, and the quarks that name them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hepfm.ingest.simulate.particles import Particles, Quarks
from hepfm.ingest.simulate.pythia import column, stable_particles, started

# JetClass-II draws the threshold of pt log-uniform from 100 GeV on; here one run is biased by pt**6, which gives jets
# from 200 to 2,500 GeV in about equal numbers for equal intervals of log pt. Its weights are dropped.
SETTINGS = (
    "Beams:eCM = 13000.",
    "Print:quiet = on",
    "Next:numberCount = 0",
    "HardQCD:all = on",
    "PhaseSpace:pTHatMin = 180.",
    "PhaseSpace:pTHatMax = 2600.",
    "PhaseSpace:bias2Selection = on",
    "PhaseSpace:bias2SelectionPow = 6.",
)
# Gluons split to quarks this much more often (the weights that would undo it are dropped), so that 2,000 jets hold all
# 27 labels. Jets of a label are then not those of nature: they have more splittings besides.
ENRICHED = (
    "Enhancements:doEnhance = on",
    "EnhancedSplittings:List = {fsr:G2QQ=3.,fsr:G2CC=10.,fsr:G2BB=20.}",
)
_BEFORE_HADRONISATION = 71
_HEAVIEST = 5


class QcdGenerator:
    """A Pythia of its own.

    Raises:
        HepfmError: pythia8mc is not installed.
    """

    def __init__(self, enriched: bool, seed: int, where: str) -> None:
        self._pythia = started((*SETTINGS, *(ENRICHED if enriched else ())), seed, where)

    def events(self, count: int) -> tuple[Particles, Quarks]:
        """The next ``count`` events (fewer if Pythia gives one up): stable particles, quarks about to hadronise."""
        record = self._pythia.nextBatch(count).layout.content("prt")
        event = np.repeat(np.arange(len(record.offsets.data) - 1), np.diff(record.offsets.data))
        return stable_particles(record.content, event), _quarks(record.content, event)


def _quarks(content: Any, event: np.ndarray) -> Quarks:
    pdg = column(content, "id")
    status = np.abs(column(content, "status"))
    index = np.flatnonzero((status == _BEFORE_HADRONISATION) & (np.abs(pdg) <= _HEAVIEST))
    px, py, pz = (column(content.content("p"), name)[index] for name in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    return Quarks(event[index], pdg[index], pt, np.arcsinh(pz / pt), np.arctan2(py, px))
