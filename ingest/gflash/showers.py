"""Showers of incident particles: photons become pairs, electrons shower at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.gflash.longitudinal import CONVERSION_DEPTH, Medium, Profiles, draw_profiles, share_of_pair

LEAST_SHARE = 1e-6  # of a photon's energy: keeps logarithms finite


@dataclass(frozen=True)
class Showers:
    """Profiles of the sub-showers, and the incident particle (n,) that each comes from."""

    profiles: Profiles
    particle: np.ndarray


def draw_showers(medium: Medium, particle: str, energy: np.ndarray, rng: np.random.Generator) -> Showers:
    """Sub-showers of particles of ``energy`` (n,) [GeV] that come in at depth 0.

    A photon goes an exponential depth of mean 9/7 X0 and becomes an electron and a positron, each of which showers.
    """
    number = np.arange(len(energy))
    if particle == "electron":
        return Showers(draw_profiles(medium, energy, np.zeros(len(energy)), rng), number)
    start = rng.exponential(CONVERSION_DEPTH, len(energy))
    share = np.clip(share_of_pair(len(energy), rng), LEAST_SHARE, 1 - LEAST_SHARE)
    both = np.concatenate([share * energy, (1 - share) * energy])
    return Showers(draw_profiles(medium, both, np.tile(start, 2), rng), np.tile(number, 2))
