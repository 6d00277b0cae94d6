"""Binned divergences see what they should, in tails too, and say how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.one_dimensional import Binned, divergence_limit
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import Values

RNG = np.random.default_rng(0)
EXPONENTIAL = RNG.exponential(1, 100_000)
OTHER = RNG.exponential(1, 100_000)


def with_outlier(values: np.ndarray, share: float = 0.05, at: float = 1e3) -> np.ndarray:
    """A sample of which a share is moved to one far place."""
    moved = values.copy()
    moved[: int(share * len(values))] = at
    return moved


def test_five_percent_moved_to_an_outlier_is_seen_only_by_the_open_divergence() -> None:
    """Worked by hand: the last of 30 bins gets 0.05 more, every bin loses a twentieth of its share."""
    moved = with_outlier(OTHER)
    share = 1 / 30
    by_hand = 29 * share * np.log(1 / 0.95) + share * np.log(share / (0.95 * share + 0.05))
    assert metrics.quantiled_kl(EXPONENTIAL, moved) == pytest.approx(by_hand, rel=0.1)
    assert metrics.quantiled_kl(EXPONENTIAL, OTHER) < 0.05 * by_hand
    blind = metrics.quantiled_kl_published(EXPONENTIAL, moved)
    assert blind < 2 * metrics.quantiled_kl_published(EXPONENTIAL, OTHER)


def test_the_published_divergence_is_that_of_its_formula() -> None:
    edges = np.quantile(EXPONENTIAL, np.linspace(0.001, 0.999, 50))
    p, q = (np.histogram(part, edges, density=True)[0] + 1e-8 for part in (EXPONENTIAL, 1.1 * OTHER))
    found = metrics.quantiled_kl_published(EXPONENTIAL, 1.1 * OTHER)
    assert found == pytest.approx(entropy(p, q), abs=1e-9)
    assert metrics.quantiled_kl(EXPONENTIAL, 1.1 * OTHER) > 2 * found


def test_the_open_divergence_is_that_of_its_formula() -> None:
    edges = np.quantile(EXPONENTIAL, np.linspace(0, 1, 31))
    edges[0], edges[-1] = -np.inf, np.inf
    p, q = (np.histogram(part, edges)[0] / len(part) for part in (EXPONENTIAL, OTHER[:5000]))
    assert metrics.quantiled_kl(EXPONENTIAL, OTHER[:5000]) == pytest.approx(entropy(p, q + 1e-10), abs=1e-6)


def test_a_sample_outside_of_all_the_reference_is_far_away_and_finite() -> None:
    """Worked by hand: 29 of 30 bins are empty, which counts as a probability of 1e-10; the first holds everything."""
    by_hand = 29 / 30 * np.log(1 / 30 / 1e-10) + 1 / 30 * np.log(1 / 30)
    assert metrics.quantiled_kl(EXPONENTIAL[:3000], np.full(1000, -5.0)) == pytest.approx(by_hand)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.integers(300, 400), elements=st.integers(-20, 20)), st.integers(2, 30))
def test_whole_numbers_have_a_divergence_that_is_zero_from_themselves(values: np.ndarray, bins: int) -> None:
    assert abs(metrics.quantiled_kl(values, values, bins)) < 1e-8
    assert metrics.quantiled_kl(values, values + 1, bins) >= -1e-8


def test_the_error_is_the_spread_of_repeated_experiments_and_the_floor_their_mean() -> None:
    def sample(size: int, scale: float = 1) -> Values:
        return Values.per_record(RNG.exponential(scale, size))

    reference = sample(50_000)
    far = [metrics.quantiled_kl(reference.values, sample(2_000, 2).values) for _ in range(100)]
    estimate = metrics.quantiled_kl_estimate(reference, sample(2_000, 2), key="a")
    assert estimate.error == pytest.approx(np.std(far), rel=0.35)
    near = [metrics.quantiled_kl(reference.values, sample(2_000).values) for _ in range(100)]
    floor = metrics.quantiled_kl_floor(reference, (50_000, 2_000), key="a")
    assert floor.value == pytest.approx(np.mean(near), rel=0.15)
    assert floor.scale == pytest.approx(50 / 52)
    edges = np.linspace(0, 5, 51)
    near = [
        metrics.separation_power(*(np.histogram(part, edges)[0] for part in (reference.values, sample(2_000).values)))
        for _ in range(100)
    ]
    assert metrics.separation_power_floor(reference, (50_000, 2_000), edges, key="a").value == pytest.approx(
        np.mean(near), rel=0.15
    )


def test_equal_keys_give_equal_errors() -> None:
    sides = Values.per_record(EXPONENTIAL[:2000]), Values.per_record(OTHER[:2000])
    once, again, other = (metrics.quantiled_kl_estimate(*sides, key=key) for key in ("a", "a", "b"))
    assert once == again
    assert once.error != other.error


def test_constituents_of_a_jet_are_drawn_together() -> None:
    values, offsets = RNG.normal(size=400), np.arange(401) * 25
    single = [Values.per_record(part) for part in (values[:200], values[200:])]
    many = [Values.per_point(np.repeat(part.values, 25), offsets[:201]) for part in single]
    edges = np.linspace(-3, 3, 11)
    alone, together = (metrics.separation_power_estimate(*sides, edges, key="a") for sides in (single, many))
    assert together.value == pytest.approx(alone.value)
    assert together.error == pytest.approx(alone.error)


@pytest.mark.parametrize(
    ("reference", "sample", "told"),
    [
        (EXPONENTIAL[:299], OTHER, "299 values of the reference are too few: a quantiled KL of 30 bins needs 300"),
        (EXPONENTIAL, np.array([1.0, np.nan]), "1 of 2 values are NaN"),
        (EXPONENTIAL, np.array([]), "non-empty"),
    ],
)
def test_what_cannot_be_compared_is_told(reference: np.ndarray, sample: np.ndarray, told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        metrics.quantiled_kl(reference, sample)


def test_a_histogram_without_content_has_no_separation_power() -> None:
    sides = Values.per_record(EXPONENTIAL[:500]), Values.per_record(OTHER[:500] + 100)
    outcome = metrics.attempt(lambda: metrics.separation_power_estimate(*sides, np.linspace(0, 5, 11), key="a"))
    assert outcome.value is None
    assert "contents" in outcome.note


def test_exchanged_records_judge_samples_of_few_records_right() -> None:
    """In bins with few records each, equal samples lie below the limit in about 95% of all cases, others do not."""
    draws, edges = np.random.default_rng(3), np.linspace(-4, 4, 101)

    def binned(values: np.ndarray) -> Binned:
        return Binned(Values.per_record(values), edges)

    def passes(shift: float, trial: int) -> bool:
        real, made = binned(draws.normal(size=200)), binned(draws.normal(shift, 1, size=150))
        found = metrics.separation_power(real.contents, made.contents)
        return found <= divergence_limit(metrics.separation_power, real, made, key=trial, splits=60)

    assert np.mean([passes(0.0, trial) for trial in range(60)]) > 0.83
    assert np.mean([passes(1.5, trial) for trial in range(10)]) < 0.2


def test_variances_of_contents_count_whole_records() -> None:
    contents = RNG.integers(0, 4, (50, 6)).astype(np.float64)
    np.testing.assert_allclose(Binned.of_contents(contents).squares, (contents**2).sum(axis=0))
