"""A parametrised CMS-like detector: stable particles in, particle-flow candidates out.

Tracks for charged particles, towers of an electromagnetic and a hadronic calorimeter for the rest, energy flow
between them. No pileup, no material, no showers beyond a tower. Vectorised over all particles of a batch of events.
"""

from __future__ import annotations

import numpy as np

from hepfm.ingest.simulate.calorimeter import MAX_ETA, Calorimeter, Deposits
from hepfm.ingest.simulate.particles import SPECIES, Candidates, Particles, concatenate
from hepfm.ingest.simulate.tracker import charges, helix, track

NEUTRINOS = (12, 14, 16)
ELECTROMAGNETIC = (11, 22)
MUON = 13
# Softer particles neither make a track nor add to a tower that passes its threshold.
MIN_PT_GEV = 0.1


def _ecal_resolution(energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
    barrel = np.sqrt((0.008 * energy) ** 2 + 0.11**2 * energy + 0.40**2)
    return barrel * np.where(eta <= 1.5, 1 + 0.64 * eta**2, 2.16 + 5.6 * (eta - 2) ** 2)


def _hcal_resolution(energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
    return np.sqrt((0.05 * energy) ** 2 + 1.5**2 * energy)


ECAL = Calorimeter(np.pi / 180, 360, 0.5, 2.0, _ecal_resolution, SPECIES["photon"])
HCAL = Calorimeter(np.pi / 36, 72, 1.0, 1.0, _hcal_resolution, SPECIES["neutral_hadron"])


def detect(particles: Particles, rng: np.random.Generator) -> Candidates:
    """What the detector sees of stable particles.

    Args:
        particles: stable particles of any number of events; neutrinos are dropped here.
        rng: source of randomness; the same particles in the same order and the same state give the same result.

    Returns:
        Candidates, ordered by event.
    """
    visible = ~np.isin(np.abs(particles.pdg), NEUTRINOS) & (np.hypot(particles.px, particles.py) > MIN_PT_GEV)
    particles = particles.take(visible)
    charge = charges(particles.pdg)
    charged = np.flatnonzero(charge != 0)
    path = helix(particles.take(charged), charge[charged])
    found, tracks, relative = track(particles.take(charged), charge[charged], path, rng)

    eta = np.arcsinh(particles.pz / np.hypot(particles.px, particles.py))
    phi = np.arctan2(particles.py, particles.px)
    eta[charged], phi[charged] = path.calorimeter_eta, path.calorimeter_phi
    # Everything but muons leaves all its energy in one of the two calorimeters.
    electromagnetic = np.isin(np.abs(particles.pdg), ELECTROMAGNETIC)
    hadronic = ~electromagnetic & (np.abs(particles.pdg) != MUON)

    tracked = charged[found]
    neutrals = []
    for calorimeter, absorbed in ((ECAL, electromagnetic), (HCAL, hadronic)):
        inside = absorbed & (np.abs(eta) < MAX_ETA)
        deposits = Deposits(particles.event[inside], eta[inside], phi[inside], particles.energy[inside])
        pointing = inside[tracked]
        where = tracked[pointing]
        expected = tracks.energy[pointing]
        known = Deposits(particles.event[where], eta[where], phi[where], expected)
        neutrals.append(calorimeter.neutral(deposits, known, expected * relative[pointing], rng))
    candidates = concatenate([tracks, *neutrals])
    return candidates.take(np.argsort(candidates.event, kind="stable"))
