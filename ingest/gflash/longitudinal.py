"""Longitudinal profiles of electromagnetic showers in sampling calorimeters (hep-ex/0001020, sections 3.1 and 3.2).

Depth t in radiation lengths; dE/dt is a gamma distribution of shape alpha and rate beta = (alpha - 1)/T with its
maximum at T. T and alpha fluctuate from shower to shower, correlated, as log-normal variables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammainc

CONVERSION_DEPTH = 9 / 7  # mean depth [X0] at which a photon of high energy becomes a pair (PDG, section 34.4.5)
# Limits within which the formulas are used, as in Geant4: at low energies the widths diverge and the shapes lose their
# maximum.
MOST_WIDTH = 0.5
LEAST_MAXIMUM, LEAST_ALPHA = 1.0, 1.1
LEAST_LOG_Y = 1.0  # showers of less than e critical energies are taken to have the shape of such a one


@dataclass(frozen=True)
class Medium:
    """What the formulas need to know of a calorimeter.

    Attributes:
        z: effective charge.
        critical_energy: MeV.
        sampling_frequency: F_S, samplings per radiation length.
        response: e/mip, of electrons relative to minimally ionising particles.
    """

    z: float
    critical_energy: float
    sampling_frequency: float
    response: float

    def log_y(self, energy: np.ndarray) -> np.ndarray:
        """ln of energy [GeV] over critical energy."""
        return np.maximum(np.log(energy * 1e3 / self.critical_energy), LEAST_LOG_Y)


@dataclass(frozen=True)
class LogShape:
    """Means and widths of ln T and ln alpha, their correlation; each (n,)."""

    maximum: np.ndarray
    maximum_width: np.ndarray
    alpha: np.ndarray
    alpha_width: np.ndarray
    correlation: np.ndarray


def log_shape(medium: Medium, log_y: np.ndarray) -> LogShape:
    """What ln T and ln alpha are drawn from (hep-ex/0001020, appendix A)."""
    steps = 1 / medium.sampling_frequency
    maximum = log_y - 0.812 - 0.55 * steps - 0.69 * (1 - medium.response)
    alpha = 0.81 + (0.458 + 2.26 / medium.z) * log_y - 0.476 * steps
    return LogShape(
        maximum=np.log(np.maximum(maximum, LEAST_MAXIMUM)),
        maximum_width=_width(-2.5 + 1.25 * log_y),
        alpha=np.log(np.maximum(alpha, LEAST_ALPHA)),
        alpha_width=_width(-0.82 + 0.79 * log_y),
        correlation=0.784 - 0.023 * log_y,
    )


def _width(inverse: np.ndarray) -> np.ndarray:
    return np.where(inverse > 1 / MOST_WIDTH, 1 / np.maximum(inverse, 1 / MOST_WIDTH), MOST_WIDTH)


@dataclass(frozen=True)
class Profiles:
    """Profiles of n sub-showers: energy [GeV], start [X0], shape alpha, maximum T [X0] beyond the start; each (n,).

    ``mean_alpha`` is exp of the mean of ln alpha, which the radial profiles need.
    """

    energy: np.ndarray
    start: np.ndarray
    alpha: np.ndarray
    maximum: np.ndarray
    mean_alpha: np.ndarray

    def fractions(self, edges: np.ndarray, maximum_scale: float = 1.0, alpha_scale: float = 1.0) -> np.ndarray:
        """Energy fractions (n, layers) between depths ``edges`` (layers + 1,) [X0]; the rest lies beyond.

        With scales it is the profile of the spots, whose T and alpha are those of the energy times the scales.
        """
        alpha = np.maximum(self.alpha * alpha_scale, LEAST_ALPHA)[:, None]
        rate = (alpha - 1) / (self.maximum * maximum_scale)[:, None]
        depth = np.maximum(edges[None, :] - self.start[:, None], 0.0)
        return np.diff(gammainc(alpha, rate * depth), axis=1)


def draw_profiles(medium: Medium, energy: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> Profiles:
    """Profiles of showers of electrons of ``energy`` (n,) [GeV] that begin at ``start`` (n,) [X0]."""
    shape = log_shape(medium, medium.log_y(energy))
    first, second = rng.standard_normal((2, len(energy)))
    plus, minus = np.sqrt(0.5 * (1 + shape.correlation)), np.sqrt(0.5 * (1 - shape.correlation))
    maximum = np.exp(shape.maximum + shape.maximum_width * (plus * first + minus * second))
    alpha = np.exp(shape.alpha + shape.alpha_width * (plus * first - minus * second))
    return Profiles(
        energy=energy,
        start=start,
        alpha=np.maximum(alpha, LEAST_ALPHA),
        maximum=np.maximum(maximum, LEAST_MAXIMUM),
        mean_alpha=np.exp(shape.alpha),
    )


def share_of_pair(number: int, rng: np.random.Generator) -> np.ndarray:
    """The share (n,) of a photon's energy that its electron gets; the positron gets the rest.

    Complete screening (PDG, eq. 34.31): dsigma/dx is as 1 - 4/3 x (1 - x), with x = (1 + u)/2 as 6/7 of a uniform and
    1/7 of u^2 in [-1, 1].
    """
    uniform = 2 * rng.random(number) - 1
    square = rng.random(number) < 1 / 7
    return 0.5 * (1 + np.where(square, np.cbrt(uniform), uniform))
