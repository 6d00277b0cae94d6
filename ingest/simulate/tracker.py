"""Tracks of charged particles in a CMS-like solenoid: helix, efficiency, resolution, impact parameters.

The plateau of the efficiency is that of the CMS card of Delphes 3 (arXiv:1307.6346); its rise with pt, which in
JetClass is much slower, was read from 500 public JetClass jets (charged constituents by pt). Relative pt resolution
follows CMS's tracking (arXiv:1405.6569, figures 14 and 15, rounded). Uncertainties of impact parameters are medians
of 100 public JetClass-II jets, whose detector is JetClass's with pileup.
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

# Efficiency by pt [GeV] (linear in log pt), central, and the factor on it beyond abs(eta) = 1.5.
EFFICIENCY_PT = (0.2, 0.5, 0.7, 1.0, 1.4, 1.75, 2.2, 3.0, 100.0)
HADRON_EFFICIENCY = (0.0, 0.03, 0.07, 0.18, 0.32, 0.55, 0.85, 0.92, 0.95)
LEPTON_EFFICIENCY = {11: 0.95, 13: 0.99}
CENTRAL_ETA = 1.5
FORWARD_FACTOR = 0.9

# Relative pt resolution: constant (+) slope x pt [GeV], by abs(eta).
RESOLUTION_ETA = (0.0, 1.0, 1.5, 2.0, 2.5)
RESOLUTION_CONSTANT = (0.007, 0.010, 0.014, 0.016, 0.020)
RESOLUTION_SLOPE = (1.5e-4, 1.8e-4, 2.2e-4, 3.5e-4, 6.0e-4)
ELECTRON_CONSTANT = 0.015

# Uncertainty [mm] of d0 and dz by pt [GeV] at abs(eta) < 1, and the factor on it by abs(eta).
IMPACT_PT = (0.5, 1.0, 2.0, 4.0, 7.0, 15.0, 35.0, 100.0, 1000.0)
D0_ERROR = (0.150, 0.0753, 0.0400, 0.0290, 0.0235, 0.0160, 0.0130, 0.0110, 0.0095)
DZ_ERROR = (0.220, 0.1113, 0.0650, 0.0484, 0.0420, 0.0350, 0.0316, 0.0316, 0.0300)
IMPACT_ETA = (0.0, 1.0, 1.25, 1.75, 2.25, 2.5)
D0_FACTOR = (0.95, 1.05, 1.15, 1.50, 1.80, 2.00)
DZ_FACTOR = (0.95, 1.05, 1.50, 3.20, 3.60, 4.00)


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
    particles: Particles, charge: np.ndarray, path: Helix, rng: np.random.Generator
) -> tuple[np.ndarray, Candidates, np.ndarray]:
    """Reconstruct tracks.

    Args:
        particles: charged particles.
        charge: their charges [e].
        path: their helices.
        rng: source of randomness.

    Returns:
        Indices of the particles that have a track, the tracks, and their relative momentum uncertainty.
    """
    size = np.abs(particles.pdg)
    pt = np.hypot(particles.px, particles.py)
    eta = np.abs(np.arcsinh(particles.pz / pt))
    produced_inside = (np.hypot(particles.x, particles.y) < RADIUS_MM) & (np.abs(particles.z) < HALF_LENGTH_MM)
    seen = rng.random(len(particles)) < _efficiency(size, pt, eta)
    found = np.flatnonzero(seen & produced_inside & (eta < MAX_ETA) & (pt > MIN_PT_GEV))
    size, pt, eta, charge = size[found], pt[found], eta[found], charge[found]
    relative = _resolution(size, pt, eta)
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
    efficiency = np.interp(np.log(pt), np.log(EFFICIENCY_PT), HADRON_EFFICIENCY)
    for number, plateau in LEPTON_EFFICIENCY.items():
        efficiency = np.where(size == number, efficiency / HADRON_EFFICIENCY[-1] * plateau, efficiency)
    return efficiency * np.where(eta > CENTRAL_ETA, FORWARD_FACTOR, 1.0)


def _resolution(size: np.ndarray, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    constant = np.interp(eta, RESOLUTION_ETA, RESOLUTION_CONSTANT)
    constant = np.where(size == 11, np.maximum(constant, ELECTRON_CONSTANT), constant)
    return np.hypot(constant, np.interp(eta, RESOLUTION_ETA, RESOLUTION_SLOPE) * pt)


def _impact_errors(pt: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = np.log(pt)
    d0 = np.exp(np.interp(at, np.log(IMPACT_PT), np.log(D0_ERROR)))
    dz = np.exp(np.interp(at, np.log(IMPACT_PT), np.log(DZ_ERROR)))
    return d0 * np.interp(eta, IMPACT_ETA, D0_FACTOR), dz * np.interp(eta, IMPACT_ETA, DZ_FACTOR)


def _species(size: np.ndarray) -> np.ndarray:
    species = np.full(len(size), SPECIES["charged_hadron"], dtype=np.int8)
    species[size == 11] = SPECIES["electron"]
    species[size == 13] = SPECIES["muon"]
    return species
