"""A parametrised CMS-like detector: stable particles in, particle-flow candidates out.

Tracks for charged particles, towers of an electromagnetic and a hadronic calorimeter for the rest, energy flow
between them. No pileup, no material, no showers beyond a tower. Vectorised over all particles of a batch of events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hepfm.ingest.simulate.calorimeter import Calorimeter, Deposits
from hepfm.ingest.simulate.particles import NEUTRINOS, SPECIES, Candidates, Particles, concatenate
from hepfm.ingest.simulate.tracker import HALF_LENGTH_MM, RADIUS_MM, charges, helix, track

ELECTROMAGNETIC = (11, 22)
MUON = 13
# Further out there is no calorimeter here. No selection reaches as far with its jets' radius.
MAX_ETA = 2.95


@dataclass(frozen=True)
class Card:
    """How the detector treats tracks.

    Attributes:
        momentum_errors: whether the tracks' momenta are smeared, and the energy flow knows by how much. JetClass's card
            does neither: its module for impact parameters restores the true momentum and sets its uncertainty to 0,
            which Delphes' energy flow takes for "unknown". So a tower without a significant excess has the last word:
            its tracks are scaled to what it measured, and are lost where it stays below threshold. A lone charged
            hadron is seen from 2.25 GeV on, where the hadronic calorimeter's uncertainty is its energy.
    """

    momentum_errors: bool


JETCLASS = Card(momentum_errors=False)
CMS = Card(momentum_errors=True)


def _ecal_resolution(energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
    barrel = np.sqrt((0.008 * energy) ** 2 + 0.11**2 * energy + 0.40**2)
    factor = np.where(eta <= 1.5, 1 + 0.64 * eta**2, 2.16 + 5.6 * (eta - 2) ** 2)
    return np.where(eta <= 2.5, barrel * factor, np.sqrt((0.107 * energy) ** 2 + 2.08**2 * energy))


def _hcal_resolution(energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
    return np.sqrt((0.05 * energy) ** 2 + 1.5**2 * energy)


_HCAL_BARREL = tuple(0.087 * ring for ring in range(20))
_HCAL_ENDCAP = (1.74, 1.83, 1.93, 2.043, 2.172, 2.322, 2.5, 2.65, 2.868, 2.95)
ECAL = Calorimeter(
    tuple(0.0174 * ring for ring in range(171)), (360,) * 170, 0.5, 2.0, _ecal_resolution, SPECIES["photon"]
)
HCAL = Calorimeter(
    (*_HCAL_BARREL, *_HCAL_ENDCAP),
    (72,) * 19 + (36,) * 10,
    1.0,
    1.0,
    _hcal_resolution,
    SPECIES["neutral_hadron"],
)


def detect(particles: Particles, rng: np.random.Generator, card: Card = JETCLASS) -> Candidates:
    """What the detector sees of stable particles.

    Args:
        particles: stable particles of any number of events; neutrinos are dropped here.
        rng: source of randomness; the same particles in the same order and the same state give the same result.
        card: the variant of the detector.

    Returns:
        Candidates, ordered by event.
    """
    particles = particles.take(_visible(particles))
    charge = charges(particles.pdg)
    charged = np.flatnonzero(charge != 0)
    path = helix(particles.take(charged), charge[charged])
    found, tracks, relative = track(particles.take(charged), charge[charged], path, rng, card.momentum_errors)

    eta = np.arcsinh(particles.pz / np.hypot(particles.px, particles.py))
    phi = np.arctan2(particles.py, particles.px)
    eta[charged], phi[charged] = path.calorimeter_eta, path.calorimeter_phi
    # Everything but muons leaves all its energy in one of the two calorimeters.
    electromagnetic = np.isin(np.abs(particles.pdg), ELECTROMAGNETIC)
    hadronic = ~electromagnetic & (np.abs(particles.pdg) != MUON)

    tracked = charged[found]
    factor = np.ones(len(tracks))
    neutrals = []
    for calorimeter, absorbed in ((ECAL, electromagnetic), (HCAL, hadronic)):
        inside = absorbed & (np.abs(eta) < MAX_ETA)
        deposits = Deposits(particles.event[inside], eta[inside], phi[inside], particles.energy[inside])
        pointing = inside[tracked]
        where = tracked[pointing]
        expected = tracks.energy[pointing]
        known = Deposits(particles.event[where], eta[where], phi[where], expected)
        flow = calorimeter.flow(deposits, known, expected * relative[pointing], rng)
        factor[pointing] = flow.factor
        neutrals.append(flow.neutrals)
    candidates = concatenate([_scaled(tracks, factor), *neutrals])
    return candidates.take(np.argsort(candidates.event, kind="stable"))


def _visible(particles: Particles) -> np.ndarray:
    """Whether (N,) a particle is no neutrino, begins inside the tracker and flies towards a calorimeter."""
    pt = np.hypot(particles.px, particles.py)
    return (
        ~np.isin(np.abs(particles.pdg), NEUTRINOS)
        & (np.abs(particles.pz) < np.sinh(MAX_ETA) * pt)
        & (particles.x**2 + particles.y**2 < RADIUS_MM**2)
        & (np.abs(particles.z) < HALF_LENGTH_MM)
    )


def _scaled(tracks: Candidates, factor: np.ndarray) -> Candidates:
    """Tracks with their momentum times ``factor`` and their mass; without those whose factor is 0."""
    momentum = [component * factor for component in (tracks.px, tracks.py, tracks.pz)]
    mass_squared = tracks.energy**2 - tracks.px**2 - tracks.py**2 - tracks.pz**2
    energy = np.sqrt(sum(component**2 for component in momentum) + np.maximum(mass_squared, 0.0))
    scaled = replace(tracks, px=momentum[0], py=momentum[1], pz=momentum[2], energy=energy)
    return scaled.take(np.flatnonzero(factor > 0))
