"""Tracks of charged particles in a CMS-like solenoid: helix, efficiency, resolution, impact parameters.

Size, field and efficiencies are those of the CMS card of Delphes 3 (arXiv:1307.6346), which JetClass uses too.
Relative pt resolution (for detectors whose card has one) follows CMS's tracking (arXiv:1405.6569, figure 14, rounded),
uncertainties of impact parameters are from its figure 15, which JetClass's card also has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.simulate.particles import SPECIES, Candidates, Particles, wrapped

FIELD_T = 3.8
RADIUS_MM = 1_290.0
HALF_LENGTH_MM = 3_000.0
MAX_ETA = 2.5
MIN_PT_GEV = 0.1

CHARGES = {11: -1, 13: -1, 15: -1, 211: 1, 321: 1, 2212: 1, 3112: -1, 3222: 1, 3312: -1, 3334: -1}

# Efficiency in ranges of pt that end at these values [GeV] (beyond the last: the last entry), for abs(eta) up to
# CENTRAL_ETA and from there to MAX_ETA. Muons beyond 1 TeV are as those below: no selected jet has one.
EFFICIENCY_PT = (1.0, 100.0)
CENTRAL_ETA = 1.5
HADRON_EFFICIENCY = ((0.70, 0.95, 0.95), (0.60, 0.85, 0.85))
LEPTON_EFFICIENCY = {
    11: ((0.73, 0.95, 0.99), (0.50, 0.83, 0.90)),
    13: ((0.75, 0.99, 0.99), (0.70, 0.98, 0.98)),
}

# Relative pt resolution: constant (+) slope x pt [GeV], by abs(eta).
RESOLUTION_ETA = (0.0, 1.0, 1.5, 2.0, 2.5)
RESOLUTION_CONSTANT = (0.007, 0.010, 0.014, 0.016, 0.020)
RESOLUTION_SLOPE = (1.5e-4, 1.8e-4, 2.2e-4, 3.5e-4, 6.0e-4)
ELECTRON_CONSTANT = 0.015

# Uncertainty [mm] of d0 and dz by pt [GeV], in ranges of abs(eta) that end at these values.
IMPACT_ETA = (0.9, 1.4)
IMPACT_PT = (0.2, 0.3, 0.45, 0.67, 1.0, 1.5, 2.2, 3.3, 5.0, 7.4, 11.0, 16.5, 25.0, 45.0, 100.0)
D0_ERROR = (
    (
        0.354,
        0.230,
        0.174,
        0.106,
        0.0753,
        0.0577,
        0.0452,
        0.0350,
        0.0283,
        0.0237,
        0.0191,
        0.0150,
        0.0130,
        0.0116,
        0.0107,
    ),
    (
        0.456,
        0.301,
        0.203,
        0.138,
        0.0926,
        0.0663,
        0.0488,
        0.0399,
        0.0313,
        0.0233,
        0.0214,
        0.0155,
        0.0128,
        0.0108,
        0.0100,
    ),
    (0.697, 0.532, 0.340, 0.239, 0.156, 0.101, 0.0767, 0.0544, 0.0425, 0.0331, 0.0256, 0.0217, 0.0176, 0.0150, 0.0135),
)
DZ_ERROR = (
    (0.369, 0.313, 0.222, 0.169, 0.111, 0.0882, 0.0684, 0.0551, 0.0484, 0.0416, 0.0382, 0.0317, 0.0316, 0.0316, 0.0300),
    (0.706, 0.599, 0.388, 0.265, 0.198, 0.140, 0.103, 0.0805, 0.0707, 0.0609, 0.0511, 0.0409, 0.0409, 0.0377, 0.0330),
    (2.17, 2.07, 1.44, 0.980, 0.670, 0.437, 0.332, 0.244, 0.182, 0.145, 0.112, 0.102, 0.0882, 0.0784, 0.0820),
)


@dataclass(frozen=True)
class Helix:
    """Where a charged particle goes, (N,) each: calorimeter position, impact parameters [mm].

    d0 = (x py - y px) / pt for a straight track (the sign of Delphes): positive or negative by the side on which the
    origin is passed. dz is z at that closest approach.
    """

    calorimeter_eta: np.ndarray
    calorimeter_phi: np.ndarray
    d0: np.ndarray
    dz: np.ndarray


def charges(pdg: np.ndarray) -> np.ndarray:
    """Electric charge (N,) [e] of stable particles."""
    size = np.abs(pdg)
    charge = np.zeros(len(pdg))
    for number, value in CHARGES.items():
        charge[size == number] = value
    return charge * np.sign(pdg)


def helix(particles: Particles, charge: np.ndarray) -> Helix:
    """Follow charged particles from their vertex to the calorimeter and back to the beam line."""
    px, py, pz = particles.px, particles.py, particles.pz
    pt = np.hypot(px, py)
    slope = pz / pt
    radius = pt / (0.3 * FIELD_T) * 1_000.0  # GeV / (0.3 T) is metres
    centre_x = particles.x + charge * radius * py / pt
    centre_y = particles.y - charge * radius * px / pt
    distance = np.hypot(centre_x, centre_y)
    d0 = charge * (distance - radius)
    # Angle about the centre from the closest approach to the vertex; the particle turns by -charge.
    turned = np.arctan2(particles.y - centre_y, particles.x - centre_x) - np.arctan2(-centre_y, -centre_x)
    dz = particles.z + charge * wrapped(turned) * radius * slope
    # To the calorimeter, as from the origin: the displacement is small against its radius.
    to_barrel = np.where(2 * radius > RADIUS_MM, np.arcsin(np.minimum(RADIUS_MM / (2 * radius), 1.0)), np.inf)
    to_endcap = HALF_LENGTH_MM / (2 * radius * np.maximum(np.abs(slope), 1e-9))
    half_turn = np.minimum(to_barrel, to_endcap)
    outwards = np.maximum(2 * radius * np.abs(np.sin(half_turn)), 1.0)
    eta = np.arcsinh(2 * radius * half_turn * slope / outwards)
    return Helix(eta, wrapped(np.arctan2(py, px) - charge * half_turn), d0, dz)


def track(
    particles: Particles, charge: np.ndarray, path: Helix, rng: np.random.Generator, smear: bool
) -> tuple[np.ndarray, Candidates, np.ndarray]:
    """Reconstruct tracks.

    Args:
        particles: charged particles that begin inside the tracker.
        charge: their charges [e].
        path: their helices.
        rng: source of randomness.
        smear: whether momenta are smeared.

    Returns:
        Indices of the particles that have a track, the tracks, and their relative momentum uncertainty (0 where they
        are not smeared).
    """
    size = np.abs(particles.pdg)
    pt = np.hypot(particles.px, particles.py)
    # As in Delphes, by the place where a track leaves the tracker.
    at_exit = np.abs(path.calorimeter_eta)
    seen = rng.random(len(particles)) < _efficiency(size, pt, at_exit)
    found = np.flatnonzero(seen & (at_exit < MAX_ETA) & (pt > MIN_PT_GEV))
    size, pt, charge = size[found], pt[found], charge[found]
    eta = np.abs(np.arcsinh(particles.pz[found] / pt))
    relative = _resolution(size, pt, eta) if smear else np.zeros(len(found))
    factor = np.exp(relative * rng.standard_normal(len(found)))
    d0err, dzerr = _impact_errors(pt, eta)
    chosen = particles.take(found)
    mass_squared = chosen.energy**2 - chosen.px**2 - chosen.py**2 - chosen.pz**2
    momentum = [component * factor for component in (chosen.px, chosen.py, chosen.pz)]
    tracks = Candidates(
        event=chosen.event,
        px=momentum[0],
        py=momentum[1],
        pz=momentum[2],
        energy=np.sqrt(sum(component**2 for component in momentum) + np.maximum(mass_squared, 0)),
        charge=charge.astype(np.int8),
        species=_species(size),
        d0=path.d0[found] + d0err * rng.standard_normal(len(found)),
        d0err=d0err,
        dz=path.dz[found] + dzerr * rng.standard_normal(len(found)),
        dzerr=dzerr,
    )
    return found, tracks, relative


def _efficiency(size: np.ndarray, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    place = (eta > CENTRAL_ETA).astype(np.intp), np.searchsorted(EFFICIENCY_PT, pt)
    efficiency = np.array(HADRON_EFFICIENCY)[place]
    for number, table in LEPTON_EFFICIENCY.items():
        efficiency = np.where(size == number, np.array(table)[place], efficiency)
    return efficiency


def _resolution(size: np.ndarray, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    constant = np.interp(eta, RESOLUTION_ETA, RESOLUTION_CONSTANT)
    constant = np.where(size == 11, np.maximum(constant, ELECTRON_CONSTANT), constant)
    return np.hypot(constant, np.interp(eta, RESOLUTION_ETA, RESOLUTION_SLOPE) * pt)


def _impact_errors(pt: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at, region = np.log(pt), np.searchsorted(IMPACT_ETA, eta)
    d0, dz = (
        np.exp(np.choose(region, [np.interp(at, np.log(IMPACT_PT), np.log(errors)) for errors in table]))
        for table in (D0_ERROR, DZ_ERROR)
    )
    return d0, dz


def _species(size: np.ndarray) -> np.ndarray:
    species = np.full(len(size), SPECIES["charged_hadron"], dtype=np.int8)
    species[size == 11] = SPECIES["electron"]
    species[size == 13] = SPECIES["muon"]
    return species
