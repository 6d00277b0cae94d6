"""Calorimeter towers and what remains of them once tracks are taken out (energy flow).

Granularity, resolutions, thresholds and the energy-flow rule are those of the CMS card of Delphes 3
(arXiv:1307.6346, section 3.3 and 3.4): a tower's excess over its tracks is a neutral candidate if it is significant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepfm.ingest.simulate.particles import Candidates

MAX_ETA = 3.0
# Mean share of the energy that towers show. With 1, resonance masses would lie 3% above those of 500 public JetClass
# jets, and neutrals would carry 1-2% too much of the jets' energy.
RESPONSE = 0.95


@dataclass(frozen=True)
class Deposits:
    """Energy that enters a calorimeter, (N,) each: event index, position, energy [GeV]."""

    event: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Calorimeter:
    """Towers of equal size in eta and phi, up to abs(eta) = 3.

    Attributes:
        eta_size: width of a tower.
        phi_towers: towers around.
        min_energy: least energy [GeV] of a tower, and of an excess over its tracks.
        min_significance: least energy in units of its uncertainty.
        resolution: uncertainty [GeV] from energy [GeV] and abs(eta).
        species: index in ``records.SPECIES`` of the neutral candidates.
    """

    eta_size: float
    phi_towers: int
    min_energy: float
    min_significance: float
    resolution: Callable[[np.ndarray, np.ndarray], np.ndarray]
    species: int

    def neutral(
        self, deposits: Deposits, tracks: Deposits, track_error: np.ndarray, rng: np.random.Generator
    ) -> Candidates:
        """Neutral candidates: what towers hold beyond the tracks that point to them.

        Args:
            deposits: all energy that enters.
            tracks: measured energy of the tracks that are expected to leave it here, where they enter.
            track_error: uncertainty (N,) [GeV] of the tracks' energy.
            rng: source of randomness.
        """
        towers, index = np.unique(np.concatenate([self._tower(deposits), self._tower(tracks)]), return_inverse=True)
        of_deposit, of_track = index[: len(deposits.event)], index[len(deposits.event) :]
        true = RESPONSE * np.bincount(of_deposit, deposits.energy, len(towers))
        expected = np.bincount(of_track, tracks.energy, len(towers))
        expected_variance = np.bincount(of_track, track_error**2, len(towers))
        event, cell = np.divmod(towers, self._eta_towers * self.phi_towers)
        eta_cell, phi_cell = np.divmod(cell, self.phi_towers)
        centre = np.abs((eta_cell + 0.5) * self.eta_size - MAX_ETA)
        measured = _log_normal(true, self.resolution(true, centre), rng)
        error = self.resolution(measured, centre)
        measured = np.where(self._passes(measured, error), measured, 0.0)
        excess = np.maximum(measured - expected, 0.0)
        kept = np.flatnonzero(self._passes(excess, np.sqrt(error**2 + expected_variance)))
        # A uniform place in the tower: its centre would show the grid in every jet.
        eta = (eta_cell[kept] + rng.random(len(kept))) * self.eta_size - MAX_ETA
        phi = (phi_cell[kept] + rng.random(len(kept))) * (2 * np.pi / self.phi_towers) - np.pi
        return self._candidates(event[kept], excess[kept], eta, phi)

    @property
    def _eta_towers(self) -> int:
        return int(np.ceil(2 * MAX_ETA / self.eta_size))

    def _tower(self, deposits: Deposits) -> np.ndarray:
        eta_cell = ((deposits.eta + MAX_ETA) / self.eta_size).astype(np.int64)
        phi_cell = ((deposits.phi + np.pi) / (2 * np.pi) * self.phi_towers).astype(np.int64) % self.phi_towers
        return (deposits.event.astype(np.int64) * self._eta_towers + eta_cell) * self.phi_towers + phi_cell

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
