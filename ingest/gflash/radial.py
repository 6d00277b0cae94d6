"""Radial profiles of electromagnetic showers in sampling calorimeters (hep-ex/0001020, sections 3.3 and 3.4).

f(r) = p 2 r R_C^2/(r^2 + R_C^2)^2 + (1 - p) 2 r R_T^2/(r^2 + R_T^2)^2 with a core and a tail; radii in Moliere radii.
The parameters depend on tau, the depth in units of the shower's centre of gravity corrected for its maximum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.gflash.longitudinal import Medium, Profiles

# Beyond this the tail's radius grows without bound; nearly no energy lies there.
MOST_TAU = 5.0
TAIL_SLOPE = 0.0421  # of k4 in ln E


@dataclass(frozen=True)
class RadialShape:
    """Radii of core and tail [R_M] and the core's weight, of any common shape."""

    core: np.ndarray
    tail: np.ndarray
    weight: np.ndarray

    def inside(self, radius: np.ndarray) -> np.ndarray:
        """Share of the energy within ``radius`` [R_M]: r^2/(r^2 + R^2) of core and tail."""
        square = radius**2
        core, tail = square / (square + self.core**2), square / (square + self.tail**2)
        return np.asarray(self.weight * core + (1 - self.weight) * tail)


def relative_depth(profiles: Profiles, depth: np.ndarray) -> np.ndarray:
    """tau (n, layers) at ``depth`` (layers,) [X0]: (t/<t>) <alpha>/(<alpha> - 1), with <t> = T alpha/(alpha - 1)."""
    alpha, mean = profiles.alpha, profiles.mean_alpha
    per_length = (alpha - 1) / (alpha * profiles.maximum) * mean / (mean - 1)
    beyond = np.maximum(depth[None, :] - profiles.start[:, None], 0.0)
    return np.minimum(per_length[:, None] * beyond, MOST_TAU)


def radial_shape(medium: Medium, energy: np.ndarray, tau: np.ndarray) -> RadialShape:
    """Radial profiles (n, layers) of showers of ``energy`` (n,) [GeV] at relative depths ``tau`` (n, layers)."""
    log_energy, z = np.log(energy)[:, None], medium.z
    steps, lack = 1 / medium.sampling_frequency, 1 - medium.response
    near = steps * np.exp(-tau)
    core = 0.0251 + 0.00319 * log_energy + (0.1162 - 0.000381 * z) * tau
    beyond = tau - 0.645
    tail = (0.659 - 0.00309 * z) * (np.exp(-2.59 * beyond) + np.exp((0.3585 + TAIL_SLOPE * log_energy) * beyond))
    scaled = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * log_energy)
    weight = (2.632 - 0.00094 * z) * np.exp(scaled - np.exp(scaled))
    core = np.maximum(core - 0.0203 * lack + 0.0397 * near, 1e-3)
    tail = tail - 0.14 * lack - 0.495 * near
    weight = weight + lack * (0.348 - 0.642 * steps * np.exp(-((tau - 1) ** 2)))
    return RadialShape(core, np.maximum(tail, core), np.clip(weight, 0.0, 1.0))
