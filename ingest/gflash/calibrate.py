"""What a detector should see of a shower, from its own geometry and the parametrisation alone, and how to undo it.

Two things are between the incident energy and the sum of signals: layers see different shares of what is deposited in
them (the absorber in front of a sensor is thicker in some), and part of a shower ends behind the last layer or beside
the cells, the more the higher its energy. The first is a weight for each layer, the second a function of the weighted
sum. Both come from mean profiles of a fixed, small sample of showers, without spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.ingest.gflash.detectors import Cells, Detector
from hepfm.ingest.gflash.radial import radial_shape, relative_depth
from hepfm.ingest.gflash.showers import draw_showers
from hepfm.ingest.gflash.stack import Stack, stack_of

SHOWERS = 1_000  # of each energy: mean containment to 0.1%
ENERGIES = 10  # from the least to the largest
BEYOND = 3.0  # one further energy on both sides, that factor away: sums of showers at the ends lie inside
DIRECTIONS = 24  # in which the distance to the edge of a grid is taken
MOST_LOST = 0.05
MEV_PER_GEV = 1e3


@dataclass(frozen=True)
class Expected:
    """Mean shares of the incident energy at K energies.

    Attributes:
        energy: (K,) GeV.
        kept: (K, layers) deposited in a layer's cells.
        behind: (K,) deposited behind the last layer.
        beside: (K,) deposited beside the cells.
    """

    energy: np.ndarray
    kept: np.ndarray
    behind: np.ndarray
    beside: np.ndarray


@lru_cache(maxsize=16)
def expected(detector: Detector, particle: str) -> Expected:
    """Mean shares at the detector's energies, and one beyond on both sides."""
    stack, (low, high) = stack_of(detector), detector.energy
    energies = np.unique([low / BEYOND, *np.geomspace(low, high, ENERGIES), high * BEYOND])
    kept, behind, beside = [], [], []
    for energy in energies:
        rng = generator("gflash calibration", particle)  # the same fluctuations at every energy: a smooth curve
        showers = draw_showers(stack.medium, particle, np.full(SHOWERS, energy), rng)
        profiles = showers.profiles
        share = profiles.energy[:, None] * profiles.fractions(stack.edges) / (energy * SHOWERS)
        shape = radial_shape(stack.medium, profiles.energy, relative_depth(profiles, stack.middles))
        inside = np.mean([shape.inside(edge / stack.moliere) for edge in _edges(detector.cells)], axis=0)
        kept.append((share * inside).sum(axis=0))
        behind.append(1 - share.sum())
        beside.append((share * (1 - inside)).sum())
    return Expected(energies, np.array(kept), np.array(behind), np.array(beside))


def _edges(cells: Cells) -> np.ndarray:
    """Distances [mm] from the origin to the edge of the cells, in equally spread directions."""
    if cells.kind == "cylinder":
        return np.array([cells.first * cells.size])
    angle = (np.arange(DIRECTIONS) + 0.5) * 2 * np.pi / DIRECTIONS
    distances = []
    for bins, along in zip(cells.bins(), (np.cos(angle), np.sin(angle)), strict=True):
        low, high = bins.edges[0], bins.edges[-1]
        distances.append(np.maximum(np.where(along > 0, high, low) / along, 0.0))
    return np.minimum(*distances)


def check_containment(detector: Detector) -> None:
    """See that cells and layers hold nearly all of every shower.

    Raises:
        HepfmError: showers lose more than 5% on average at some energy; it says how much, where, and what to change.
    """
    for particle in detector.particles:
        found = expected(detector, particle)
        lost = (found.behind + found.beside)[1:-1]
        worst = int(np.argmax(lost)) + 1
        if lost.max() <= MOST_LOST:
            continue
        behind, beside = found.behind[worst], found.beside[worst]
        mend = "more layers or thicker absorbers" if behind > beside else "more or larger cells"
        raise HepfmError(
            f"{particle}s of {found.energy[worst]:.3g} GeV lose {lost.max():.1%} of their energy: {behind:.1%} behind "
            f"the last layer, {beside:.1%} beside {detector.cells.summary()}",
            detector.name,
            f"a sample should lose less than {MOST_LOST:.0%}: {mend}",
        )


@dataclass(frozen=True)
class Calibration:
    """From the signals of layers to the incident energy.

    Attributes:
        weights: (layers,) GeV for each MeV of a layer's signal.
        sums: (K,) GeV, weighted sums that showers are expected to have.
        energies: (K,) GeV, incident energies of these.
    """

    weights: np.ndarray
    sums: np.ndarray
    energies: np.ndarray

    def energy(self, signals: np.ndarray) -> np.ndarray:
        """Incident energies (n,) [GeV] from the signals (n, layers) [MeV] of layers."""
        total = signals @ self.weights
        ratio = np.interp(np.log(np.maximum(total, 1e-9)), np.log(self.sums), self.energies / self.sums)
        return np.asarray(total * ratio)

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "layer_weights_gev_per_mev": self.weights.tolist(),
            "weighted_sums_gev": self.sums.tolist(),
            "incident_energies_gev": self.energies.tolist(),
        }


def signal_scale(detector: Detector, stack: Stack) -> np.ndarray:
    """MeV (layers,) of a layer's signal in records for 1 GeV deposited there.

    What active slices see of it; for a calibrated detector all of it, divided by the share that the cells keep of
    electrons on average.
    """
    if not detector.calibrated:
        return MEV_PER_GEV * stack.seen
    kept = expected(detector, "electron").kept[1:-1].sum(axis=1).mean()
    return np.full(len(stack.seen), MEV_PER_GEV / kept)


def calibration_of(detector: Detector, particle: str) -> Calibration:
    """The calibration of a detector for one kind of particle."""
    found = expected(detector, particle)
    weights = 1 / signal_scale(detector, stack_of(detector))
    return Calibration(weights, found.energy * found.kept.sum(axis=1), found.energy)
