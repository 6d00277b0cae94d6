"""Frechet and kernel physics distance on features of jets or showers (Kansal et al., arXiv:2211.10295).

Constants, draws and their seed are those of the JetNet library, so that values agree with it on the same features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import curve_fit

from hepfm.benchmarks.scores.outcome import enough, pair
from hepfm.core.progress import progress
from hepfm.core.statistics import Estimate

SEED = 42
KERNEL_DEGREE = 4
KERNEL_ROWS = 1_000  # of a block of the kernel matrix
QUANTILES = (16.275, 83.725)  # of KPD's error


@dataclass(frozen=True)
class Sizes:
    """Batches of FPD: ``points`` sizes equally spaced in 1/N between ``least`` and ``most``, ``batches`` draws each."""

    least: int = 20_000
    most: int = 50_000
    points: int = 10
    batches: int = 20

    def listed(self) -> np.ndarray:
        """Sizes (points,) int64."""
        return (1 / np.linspace(1.0 / self.least, 1.0 / self.most, self.points)).astype(np.int32).astype(np.int64)


FPD_SIZES = {"jetnet": Sizes(), "calochallenge": Sizes(least=10_000)}
KPD_BATCH = {"jetnet": 5_000, "calochallenge": 10_000}
KPD_BATCHES = 10


def normalised(reference: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both divided by the largest absolute value of each feature in the reference."""
    largest = np.abs(reference).max(axis=0)
    largest[largest == 0] = 1
    return reference / largest, sample / largest


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which are real.
    """
    values, vectors = eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    shared = eigh(root.T @ other_covariance @ root, eigvals_only=True)
    overlap = np.sqrt(np.maximum(shared, 0.0)).sum()
    apart = mean - other_mean
    return float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2 * overlap)


def fpd(reference: np.ndarray, sample: np.ndarray, sizes: Sizes = FPD_SIZES["jetnet"], *, seed: int = SEED) -> Estimate:
    """Frechet physics distance extrapolated to infinitely many events.

    Features are divided by the reference's largest absolute value; the Frechet distance of Gaussian fits is averaged
    over batches drawn with replacement for each size N and fitted as a + b / N with a, b >= 0; a is the value.

    Args:
        reference, sample: features (n, d), (m, d).
        sizes: of the batches; those of JetNet, or of CaloChallenge.
        seed: of the draws.

    Raises:
        HepfmError: fewer events than the smallest batch, features that differ in number or are not finite.
    """
    first, second = pair(reference, sample, "FPD")
    for name, side in (("reference", first), ("sample", second)):
        enough(len(side), sizes.least, "events", "FPD", name)
    first, second = normalised(first, second)
    centre = first.mean(axis=0)  # distances stay, and sums of squares keep their digits
    moments = [_Moments(side - centre) for side in (first, second)]
    draws = np.random.default_rng(seed)
    listed = sizes.listed()
    found = []
    with progress("FPD", len(listed) * sizes.batches, "batches") as bar:
        for size in listed:
            values = []
            for _ in range(sizes.batches):
                chosen = [draws.choice(side.events, size=size) for side in moments]
                drawn = [side.of(index) for side, index in zip(moments, chosen, strict=True)]
                values.append(frechet_distance(*drawn[0], *drawn[1]))
                bar.advance()
            found.append(np.mean(values))
    (intercept, _), covariance = curve_fit(_line, 1 / listed, found, bounds=([0, 0], [np.inf, np.inf]))
    return Estimate(float(intercept), float(np.sqrt(np.diag(covariance)[0])))


def _line(x: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    return intercept + slope * x


class _Moments:
    """Mean and covariance of batches of features: events drawn several times are summed once."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.events = values, len(values)

    def of(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) of the events ``chosen`` (size,)."""
        size = len(chosen)
        counts = np.bincount(chosen, minlength=self.events)
        drawn = np.flatnonzero(counts)
        weights = counts[drawn].astype(np.float64)
        values = self._values[drawn]
        mean = weights @ values / size
        values -= mean
        values *= np.sqrt(weights)[:, None]
        return mean, np.atleast_2d(values.T @ values / (size - 1))


def kpd(
    reference: np.ndarray,
    sample: np.ndarray,
    batch: int = KPD_BATCH["jetnet"],
    batches: int = KPD_BATCHES,
    *,
    seed: int = SEED,
) -> Estimate:
    """Kernel physics distance: unbiased squared MMD with the kernel (x.y / d + 1)^4, on features as for :func:`fpd`.

    Args:
        reference, sample: features (n, d), (m, d).
        batch: events drawn with replacement from either side; 5,000 in JetNet, 10,000 in CaloChallenge.
        batches: how often; the value is their median, the error half of their 16.275-83.725% range.
        seed: of the draws.

    Raises:
        HepfmError: as for :func:`fpd`.
    """
    first, second = pair(reference, sample, "KPD")
    for name, side in (("reference", first), ("sample", second)):
        enough(len(side), batch, "events", "KPD", name)
    first, second = normalised(first, second)
    found = []
    with progress("KPD", batches, "batches") as bar:
        for number in range(batches):
            draws = np.random.default_rng(seed + number * 1000)
            chosen = first[draws.choice(len(first), size=batch)], second[draws.choice(len(second), size=batch)]
            found.append(squared_mmd(*chosen))
            bar.advance()
    low, high = np.percentile(found, QUANTILES)
    return Estimate(float(np.median(found)), float(high - low) / 2)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of (n, d) and (m, d) with the polynomial kernel of degree 4."""
    n, m = len(a), len(b)
    same = (_kernel_sum(a, a) - _kernel_diagonal(a)) / (n * (n - 1))
    other = (_kernel_sum(b, b) - _kernel_diagonal(b)) / (m * (m - 1))
    return same + other - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(a), KERNEL_ROWS):
        block = a[start : start + KERNEL_ROWS] @ b.T
        block /= a.shape[1]
        block += 1
        block *= block
        block *= block
        total += float(block.sum())
    return total


def _kernel_diagonal(a: np.ndarray) -> float:
    return float(((np.einsum("ij,ij->i", a, a) / a.shape[1] + 1) ** KERNEL_DEGREE).sum())


def halves(values: np.ndarray, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of events (n, ...)."""
    order = draws.permutation(len(values))
    middle = len(values) // 2
    return values[order[:middle]], values[order[middle : 2 * middle]]
