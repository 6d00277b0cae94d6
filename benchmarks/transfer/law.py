"""The law by which a metric falls with the records that were trained on: (metric - floor) = A N^-gamma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.statistics import Estimate


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        gamma: the exponent, with its error (one standard deviation).
        amplitude: A, in the metric's unit.
        points: how many numbers of records it was fitted to.
        chi2: sum of squared residuals in units of their errors.
    """

    gamma: Estimate
    amplitude: float
    points: int
    chi2: float

    def __call__(self, records: np.ndarray) -> np.ndarray:
        """Metric less floor at numbers of records."""
        return self.amplitude * np.asarray(records, dtype=np.float64) ** -self.gamma.value


def fitted(records: Sequence[int], found: Sequence[Estimate], floor: float) -> PowerLaw | None:
    """Weighted least squares of ln(metric - floor) on ln N.

    Points that do not stand above the floor by their error are left out: their logarithm says nothing. The errors of
    the points are taken as they are; where they scatter more than that, the exponent's error is scaled up by
    sqrt(chi2 / degrees of freedom), as the Particle Data Group does.

    Args:
        records: numbers of records trained on.
        found: the metric at each, with its error.
        floor: what the metric shows between two real samples.

    Returns:
        The law; None where fewer than two points stand above the floor.
    """
    above = np.array([one.value - floor for one in found])
    errors = np.array([max(one.error, 1e-12) for one in found])
    kept = above > errors
    if kept.sum() < 2:
        return None
    x, y, weights = np.log(np.asarray(records)[kept]), np.log(above[kept]), (above[kept] / errors[kept]) ** 2
    mean = (weights @ x) / weights.sum()
    spread = weights @ (x - mean) ** 2
    slope = weights @ ((x - mean) * y) / spread
    intercept = (weights @ y) / weights.sum() - slope * mean
    chi2 = float(weights @ (y - intercept - slope * x) ** 2)
    freedom = int(kept.sum()) - 2
    scale = max(1.0, chi2 / freedom) if freedom else 1.0
    return PowerLaw(
        Estimate(float(-slope), float(np.sqrt(scale / spread))), float(np.exp(intercept)), int(kept.sum()), chi2
    )
