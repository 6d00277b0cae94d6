"""The exponent of (metric - floor) ~ N^-gamma, with its error."""

from __future__ import annotations

import numpy as np
import pytest

from hepfm.benchmarks.transfer.law import fitted
from hepfm.core.statistics import Estimate

COUNTS = (100, 1_000, 10_000, 100_000)


def points(gamma: float, floor: float, relative: float, noise: np.ndarray | None = None) -> list[Estimate]:
    above = 3.0 * np.array(COUNTS, dtype=float) ** -gamma
    moved = above * np.exp(relative * (np.zeros(4) if noise is None else noise))
    return [Estimate(floor + value, relative * size) for value, size in zip(moved, above, strict=True)]


@pytest.mark.parametrize("gamma", [0.2, 0.45, 1.0])
def test_an_exact_law_is_found(gamma: float) -> None:
    law = fitted(COUNTS, points(gamma, 0.01, 0.1), 0.01)
    assert law is not None
    assert law.gamma.value == pytest.approx(gamma)
    assert law.amplitude == pytest.approx(3.0)
    np.testing.assert_allclose(law(np.array(COUNTS)), 3.0 * np.array(COUNTS, dtype=float) ** -gamma)
    assert law.gamma.error == pytest.approx(0.1 / (np.log(10) * np.sqrt(5)))  # sigma / sqrt(sum (x - mean)^2)


def test_the_error_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1)
    pulls = []
    for _ in range(400):
        law = fitted(COUNTS, points(0.3, 0.0, 0.05, draws.normal(size=4)), 0.0)
        assert law is not None
        pulls.append((law.gamma.value - 0.3) / law.gamma.error)
    assert np.mean(pulls) == pytest.approx(0, abs=0.15)
    assert 0.6 < np.mean(np.abs(pulls) < 1) < 0.85  # errors grow where points scatter, so a little above 0.68


def test_what_does_not_stand_above_the_floor_is_left_out() -> None:
    found = points(0.5, 0.1, 0.1)
    found[-1] = Estimate(0.09, 0.01)
    law = fitted(COUNTS, found, 0.1)
    assert law is not None
    assert law.points == 3
    assert law.gamma.value == pytest.approx(0.5)
    assert fitted(COUNTS, [*found[:1], *[Estimate(0.1, 0.01)] * 3], 0.1) is None
