"""Distances against scipy and hand cases; errors and floors against what repeated experiments show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

from hepfm.core.errors import HepfmError
from hepfm.core.statistics import (
    Values,
    chance_floors,
    distance_estimates,
    histogram,
    median_estimate,
    quantiles_replicated,
    wasserstein_1,
    wasserstein_1_estimate,
    wasserstein_1_floor,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)
samples = st.lists(numbers, min_size=1, max_size=40).map(np.array)


def test_hand_cases() -> None:
    assert wasserstein_1(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 2
    assert wasserstein_1(np.array([0.0]), np.array([0.0, 1.0])) == 0.5
    assert wasserstein_1(np.array([1.0, 1.0, 4.0]), np.array([2.0])) == pytest.approx(4 / 3)


def test_five_percent_moved_far_away_shows_in_full() -> None:
    """W1 sees tails: 5% of a sample moved by 100 is 5."""
    values = np.linspace(0, 1, 1000)
    moved = values + np.where(np.arange(1000) < 50, 100, 0)
    assert wasserstein_1(values, moved) == pytest.approx(5)


@settings(max_examples=200, deadline=None)
@given(samples, samples)
def test_agrees_with_scipy(a: np.ndarray, b: np.ndarray) -> None:
    assert wasserstein_1(a, b) == pytest.approx(wasserstein_distance(a, b), rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(samples, samples, samples, st.floats(-1e3, 1e3))
def test_is_a_distance_that_moves_with_shifts(a: np.ndarray, b: np.ndarray, c: np.ndarray, shift: float) -> None:
    assert wasserstein_1(a, a) == 0
    assert wasserstein_1(a, b) == pytest.approx(wasserstein_1(b, a))
    assert wasserstein_1(a, c) <= wasserstein_1(a, b) + wasserstein_1(b, c) + 1e-6
    assert wasserstein_1(a, a + shift) == pytest.approx(abs(shift), abs=1e-6)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf], []])
def test_values_that_are_not_numbers_are_refused(bad: list[float]) -> None:
    for a, b in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(HepfmError):
            wasserstein_1(np.array(a), np.array(b))
    with pytest.raises(HepfmError, match="jet mass: 1 of 2 values"):
        Values.per_record(np.array([1.0, np.nan]), "jet mass")


def test_the_bootstrap_error_is_the_spread_of_repeated_experiments() -> None:
    rng = np.random.default_rng(1)

    def experiment() -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0, 1, 400), rng.normal(0.7, 1, 600)

    repeated = np.std([wasserstein_1(*experiment()) for _ in range(400)])
    a, b = (Values.per_record(values) for values in experiment())
    estimate = wasserstein_1_estimate(a, b, key="test", replicas=400)
    assert estimate.value == wasserstein_1(a.values, b.values)
    assert estimate.error == pytest.approx(repeated, rel=0.2)
    assert estimate == wasserstein_1_estimate(a, b, key="test", replicas=400)
    assert estimate != wasserstein_1_estimate(a, b, key="other", replicas=400)


def test_values_of_one_record_are_drawn_together() -> None:
    """Ten equal values a record hold no more information than one."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 300), rng.normal(0.5, 1, 300)
    offsets = np.arange(301) * 10
    single = wasserstein_1_estimate(Values.per_record(a), Values.per_record(b), key=1)
    many = wasserstein_1_estimate(
        Values.per_point(np.repeat(a, 10), offsets), Values.per_point(np.repeat(b, 10), offsets), key=1
    )
    assert many.value == pytest.approx(single.value)
    assert many.error == pytest.approx(single.error)


def test_the_floor_is_what_two_real_samples_show() -> None:
    rng = np.random.default_rng(3)
    pairs = [wasserstein_1(rng.normal(size=500), rng.normal(size=300)) for _ in range(300)]
    floor = wasserstein_1_floor(Values.per_record(rng.normal(size=800)), (500, 300), key="test")
    assert floor.records == (500, 300)
    assert floor.scale == 1
    assert floor.value == pytest.approx(np.mean(pairs), rel=0.25)
    assert floor.value < floor.upper


def test_a_floor_from_fewer_records_is_scaled_to_the_sizes_compared() -> None:
    rng = np.random.default_rng(4)
    whole = Values.per_record(rng.normal(size=4000))
    exact = wasserstein_1_floor(whole, (2000, 2000), key="test")
    halves = wasserstein_1_floor(whole.first(1000), (2000, 2000), key="test")
    assert halves.records == (500, 500)
    assert halves.scale == pytest.approx(0.5)
    assert halves.value == pytest.approx(exact.value, rel=0.25)
    with pytest.raises(HepfmError, match="needs 2 real records"):
        wasserstein_1_floor(whole.first(1), (5, 5), key="test")


def test_a_histogram_counts_everything_once() -> None:
    sample = Values.per_record(np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 2.1]))
    found = histogram(sample, np.array([0.0, 1.0, 2.0]))
    assert np.allclose(found.share * 6, [2, 2])
    assert (found.below * 6, found.above * 6) == (pytest.approx(1), pytest.approx(1))
    assert np.allclose(found.error * 6, np.sqrt([2, 2]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_shares_add_up_and_errors_know_records(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 30)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    values = rng.normal(size=offsets[-1])
    edges = np.linspace(-1, 1, 6)
    found = histogram(Values.per_point(values, offsets), edges)
    assert found.share.sum() + found.below + found.above == pytest.approx(1)
    assert np.allclose(found.share * len(values), np.histogram(values, edges)[0])
    table = np.array([np.histogram(values[a:b], edges)[0] for a, b in pairwise(offsets)])
    assert np.allclose(found.error * len(values), np.sqrt((table**2).sum(axis=0)))


# Whole numbers: samples share values, as multiplicities do.
counts = st.lists(st.integers(0, 8), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=float))


@pytest.mark.filterwarnings("ignore:divide by zero")  # in scipy's p-value of very small samples
@settings(max_examples=200, deadline=None)
@given(st.one_of(samples, counts), st.one_of(samples, counts))
def test_the_ks_distance_agrees_with_scipy_also_for_equal_values(a: np.ndarray, b: np.ndarray) -> None:
    _, found = distance_estimates(Values.per_record(a), Values.per_record(b), key="test", replicas=2)
    assert found.value == pytest.approx(ks_2samp(a, b, method="asymp").statistic, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts, counts, st.integers(0, 2**32))
def test_a_weight_is_a_number_of_copies(a: np.ndarray, b: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    copies = rng.integers(1, 4, len(a))
    record = np.arange(len(a))
    weighted = Values(a, record, len(a), copies.astype(float))
    copied = Values(np.repeat(a, copies), np.repeat(record, copies), len(a))
    other = Values.per_record(b)
    pairs = (distance_estimates(sample, other, key=seed, replicas=5) for sample in (weighted, copied))
    for one, two in zip(*pairs, strict=True):
        assert one.value == pytest.approx(two.value)
        assert one.error == pytest.approx(two.error, abs=1e-9)
    edges = np.arange(-0.5, 9)
    one, two = (histogram(sample, edges) for sample in (weighted, copied))
    assert np.allclose(one.share, two.share)
    assert np.allclose(one.error, two.error)


def test_records_can_be_chosen_in_any_order() -> None:
    sample = Values.per_point(np.array([1.0, 2, 3, 4, 5, 6]), np.array([0, 2, 2, 5, 6]))
    chosen = sample.of(np.array([3, 1, 0]))
    assert chosen.values.tolist() == [1, 2, 6]
    assert chosen.record.tolist() == [2, 2, 0]
    assert chosen.records == 3


def test_what_chance_gives_is_what_repeated_experiments_show() -> None:
    """Also for one sample much larger than the real one that it is estimated from."""
    rng = np.random.default_rng(5)
    pairs = [(rng.normal(size=50), rng.normal(size=600)) for _ in range(300)]
    distances = [wasserstein_1(*pair) for pair in pairs], [ks_2samp(*pair).statistic for pair in pairs]
    # A sample of 50 has its own width: floors of several agree with repeated experiments on average.
    found = [chance_floors(Values.per_record(rng.normal(size=50)), (50, 600), key=number) for number in range(8)]
    for which, repeated in enumerate(distances):
        floors = [pair[which] for pair in found]
        assert np.mean([floor.value for floor in floors]) == pytest.approx(np.mean(repeated), rel=0.15)
        assert np.mean([floor.upper for floor in floors]) == pytest.approx(np.quantile(repeated, 0.95), rel=0.2)
        assert floors[0].records == (50, 600)


def test_the_error_of_a_median_is_that_of_a_normal_sample() -> None:
    """sigma sqrt(pi / 2n): Kendall and Stuart; within what one sample's own density allows."""
    rng = np.random.default_rng(6)
    expected = np.sqrt(np.pi / 2 / 400)
    errors, others = [], []
    for number in range(10):
        values = rng.normal(10, 1, 400)
        estimate = median_estimate(values, key=number)
        assert estimate.value == np.median(values)
        errors.append(estimate.error)
        _, drawn = quantiles_replicated(Values.per_record(values), (0.5,), key=number, replicas=300)
        others.append(drawn.std())
    assert np.mean(errors) == pytest.approx(expected, rel=0.2)
    assert np.mean(others) == pytest.approx(expected, rel=0.2)


def test_weighted_quantiles_by_hand() -> None:
    sample = Values(np.array([3.0, 1.0, 2.0]), np.array([0, 1, 2]), 3, np.array([1.0, 2.0, 5.0]))
    found, drawn = quantiles_replicated(sample, (0.2, 0.5, 0.9), key=1, replicas=7)
    assert found.tolist() == [1, 2, 3]
    assert drawn.shape == (7, 3)
