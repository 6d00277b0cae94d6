"""Calorimeter towers, and what remains of them once tracks are taken out (energy flow).

Granularity, resolutions and thresholds are those of the Delphes card that JetClass was made with, which is Delphes'
CMS card with finer towers (public repository jet-universe/jetclass_generation, delphes_card.tcl); the rule of the
energy flow is Delphes' (arXiv:1307.6346, section 3.4, in its later form that scales tracks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hepfm.ingest.simulate.particles import Candidates


@dataclass(frozen=True)
class Deposits:
    """Energy that enters a calorimeter, (N,) each: event index, position, energy [GeV]."""

    event: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Flow:
    """What the energy flow makes of towers and tracks: neutral candidates, and the factor (T,) on the momentum of each
    track; 0: the track is lost with its tower."""

    neutrals: Candidates
    factor: np.ndarray


@dataclass(frozen=True)
class Calorimeter:
    """Rings of towers, symmetric in eta.

    Attributes:
        edges: eta of the rings' edges from 0 outwards.
        phi_towers: towers around in each ring.
        min_energy: least energy [GeV] of a tower, and of an excess over its tracks.
        min_significance: least energy in units of its uncertainty.
        resolution: uncertainty [GeV] from energy [GeV] and abs(eta).
        species: index in ``records.SPECIES`` of the neutral candidates.
    """

    edges: tuple[float, ...]
    phi_towers: tuple[int, ...]
    min_energy: float
    min_significance: float
    resolution: Callable[[np.ndarray, np.ndarray], np.ndarray]
    species: int

    @property
    def max_eta(self) -> float:
        return self.edges[-1]

    def flow(self, deposits: Deposits, tracks: Deposits, track_error: np.ndarray, rng: np.random.Generator) -> Flow:
        """Compare towers with the tracks that point to them.

        A tower's energy beyond its tracks is a neutral candidate if it is significant. If not, the tracks are scaled so
        that their energy is the mean of both measurements, weighted by their uncertainties; the tower's alone where
        the tracks have none.

        Args:
            deposits: all energy that enters.
            tracks: energy of the tracks that are expected to leave it here, where they enter.
            track_error: uncertainty (T,) [GeV] of the tracks' energy.
            rng: source of randomness.
        """
        found, index = np.unique(np.concatenate([self._tower(deposits), self._tower(tracks)]), return_inverse=True)
        of_deposit, of_track = index[: len(deposits.event)], index[len(deposits.event) :]
        event, cell = np.divmod(found, self._cells)
        ring = np.searchsorted(self._first, cell, side="right") - 1
        centre = np.abs(self._rings[ring] + self._rings[ring + 1]) / 2
        true = np.bincount(of_deposit, deposits.energy, len(found))
        measured = _log_normal(true, self.resolution(true, centre), rng)
        error = self.resolution(measured, centre)
        measured = np.where(self._passes(measured, error), measured, 0.0)

        expected = np.bincount(of_track, tracks.energy, len(found))
        variance = np.bincount(of_track, track_error**2, len(found))
        excess = np.maximum(measured - expected, 0.0)
        significant = self._passes(excess, np.sqrt(error**2 + variance))
        mean = np.where(variance > 0, (measured * variance + expected * error**2) / (variance + error**2), measured)
        factor = np.where(significant, 1.0, mean / np.where(expected > 0, expected, 1.0))

        kept = np.flatnonzero(significant)
        ring = ring[kept]
        # A uniform place in the tower: its centre would show the grid in every jet.
        eta = self._rings[ring] + rng.random(len(kept)) * (self._rings[ring + 1] - self._rings[ring])
        place = cell[kept] - self._first[ring] + rng.random(len(kept))
        phi = place * (2 * np.pi / self._around[ring]) - np.pi
        return Flow(self._candidates(event[kept], excess[kept], eta, phi), factor[of_track])

    @cached_property
    def _rings(self) -> np.ndarray:
        return np.concatenate([-np.array(self.edges[:0:-1]), self.edges])

    @cached_property
    def _around(self) -> np.ndarray:
        return np.array([*self.phi_towers[::-1], *self.phi_towers])

    @cached_property
    def _first(self) -> np.ndarray:
        """Number of the first tower of each ring."""
        return np.concatenate(([0], np.cumsum(self._around)[:-1]))

    @property
    def _cells(self) -> int:
        return int(self._around.sum())

    def _tower(self, deposits: Deposits) -> np.ndarray:
        ring = np.searchsorted(self._rings, deposits.eta, side="right") - 1
        around = self._around[ring]
        phi_cell = ((deposits.phi + np.pi) / (2 * np.pi) * around).astype(np.int64) % around
        return deposits.event.astype(np.int64) * self._cells + self._first[ring] + phi_cell

    def _passes(self, energy: np.ndarray, error: np.ndarray) -> np.ndarray:
        return (energy > self.min_energy) & (energy > self.min_significance * error)

    def _candidates(self, event: np.ndarray, energy: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> Candidates:
        pt = energy / np.cosh(eta)
        nothing = np.zeros(len(event))
        return Candidates(
            event=event,
            px=pt * np.cos(phi),
            py=pt * np.sin(phi),
            pz=pt * np.sinh(eta),
            energy=energy,
            charge=np.zeros(len(event), dtype=np.int8),
            species=np.full(len(event), self.species, dtype=np.int8),
            d0=nothing,
            d0err=nothing,
            dz=nothing,
            dzerr=nothing,
        )


def _log_normal(mean: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws (N,) of the log-normal distributions with these means and standard deviations; 0 where the mean is 0."""
    filled = mean > 0
    width = np.sqrt(np.log1p((sigma / np.where(filled, mean, 1.0)) ** 2))
    return np.where(filled, mean * np.exp(width * rng.standard_normal(len(mean)) - width**2 / 2), 0.0)
