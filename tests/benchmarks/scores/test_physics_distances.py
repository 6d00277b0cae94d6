"""FPD and KPD agree with the published procedure, written out here once more, on the same features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import curve_fit

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.physics_distances import squared_mmd
from hepfm.core.errors import HepfmError

SMALL = metrics.Sizes(least=300, most=1500, points=5, batches=4)


def samples(shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(3)
    mixing = draws.normal(size=(4, 4))
    real, made = (draws.normal(size=(size, 4)) @ mixing for size in (2000, 1600))
    return real, made * 1.1 + shift


def published_fpd(real: np.ndarray, made: np.ndarray, sizes: metrics.Sizes) -> tuple[float, float]:
    """As the JetNet library does it."""
    largest = np.abs(real).max(axis=0)
    real, made = real / largest, made / largest
    listed = (1 / np.linspace(1 / sizes.least, 1 / sizes.most, sizes.points)).astype("int32")
    draws, found = np.random.default_rng(42), []
    for size in listed:
        values = []
        for _ in range(sizes.batches):
            a, b = real[draws.choice(len(real), size=size)], made[draws.choice(len(made), size=size)]
            first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
            apart = a.mean(axis=0) - b.mean(axis=0)
            values.append(apart @ apart + np.trace(first + second - 2 * sqrtm(first @ second).real))
        found.append(np.mean(values))
    parameters, covariance = curve_fit(lambda x, a, b: a + b * x, 1 / listed, found, bounds=([0, 0], [np.inf, np.inf]))
    return parameters[0], np.sqrt(covariance[0, 0])


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_fpd_is_the_published_one(shift: float) -> None:
    real, made = samples(shift)
    found = metrics.fpd(real, made, SMALL)
    value, error = published_fpd(real, made, SMALL)
    assert found.value == pytest.approx(value, abs=1e-6)
    assert found.error == pytest.approx(error, abs=1e-6)


def test_frechet_distance_of_gaussians_by_hand() -> None:
    """In one dimension (m1 - m2)^2 + (s1 - s2)^2; of independent components their sum."""
    found = metrics.frechet_distance(np.array([1.0, 0]), np.diag([4.0, 9]), np.array([3.0, 1]), np.diag([1.0, 25]))
    assert found == pytest.approx((1 - 3) ** 2 + (2 - 1) ** 2 + 1 + (3 - 5) ** 2)


def test_a_distribution_is_at_no_distance_of_itself_within_errors() -> None:
    draws = np.random.default_rng(5)
    real, again = draws.normal(size=(2, 4000, 3))
    found = metrics.fpd(real, again, metrics.Sizes(400, 4000, 6, 10))
    assert found.value < 3 * found.error + 1e-3
    kernel = metrics.kpd(real, again, batch=400)
    assert abs(kernel.value) < 3 * kernel.error + 1e-3


def test_kpd_is_the_published_one() -> None:
    real, made = samples()
    largest = np.abs(real).max(axis=0)
    found = []
    for number in range(6):
        draws = np.random.default_rng(42 + 1000 * number)
        a = real[draws.choice(len(real), size=200)] / largest
        b = made[draws.choice(len(made), size=200)] / largest
        tables = [(x @ y.T / 4 + 1) ** 4 for x, y in ((a, a), (b, b), (a, b))]
        same = [(table.sum() - np.trace(table)) / (200 * 199) for table in tables[:2]]
        found.append(sum(same) - 2 * tables[2].mean())
    estimate = metrics.kpd(real, made, batch=200, batches=6)
    assert estimate.value == pytest.approx(np.median(found), abs=1e-9)
    low, high = np.percentile(found, [16.275, 83.725])
    assert estimate.error == pytest.approx((high - low) / 2, abs=1e-9)


def test_squared_mmd_by_hand() -> None:
    """Samples {0, 0} and {1, 1} in one dimension: 1 + 16 - 2."""
    assert squared_mmd(np.zeros((2, 1)), np.ones((2, 1))) == pytest.approx(15)


def test_what_cannot_be_compared_is_told() -> None:
    real, made = samples()
    with pytest.raises(HepfmError, match="reference: 2,000 events are too few: FPD needs 20,000"):
        metrics.fpd(real, made)
    with pytest.raises(HepfmError, match="KPD needs 5,000"):
        metrics.kpd(real, made)
    with pytest.raises(HepfmError, match="reference has 4 features, sample 3"):
        metrics.fpd(real, made[:, :3], SMALL)
    made[7, 2] = np.nan
    with pytest.raises(HepfmError, match=r"FPD, sample: 1 of .* first event 7, feature 2"):
        metrics.fpd(real, made, SMALL)
