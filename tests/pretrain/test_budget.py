"""What is left of layers while hits are made: energy, hits, cells, and between what the next hit lies."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.pretrain.budget import FIGURES, Cells, bounds, figures, matched, packed_budget

LEAST = 0.3


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.sampled_from([(0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 4, 3), (0, 3, 4, 2), (0, 1, 2, 1)]),
    st.integers(0, 99),
)
def test_what_is_left_is_counted_from_what_has_been_read(
    lengths: list[int], waits: tuple[int, int, int, int], seed: int
) -> None:
    """At each position, from the points whose layer, cell or energy lies at earlier ones; layers in any order."""
    draws, cells = np.random.default_rng(seed), Cells(4, 5, waits, LEAST)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    points = np.stack([draws.integers(0, size, offsets[-1]) for size in (3, 4, 5)], axis=1)
    numbers = np.log(draws.uniform(LEAST, 4, offsets[-1]))
    table = [(points[a:b, 0], np.exp(numbers[a:b])) for a, b in itertools.pairwise(offsets)]
    profile = np.array([[np.bincount(at, e, 3), np.bincount(at, minlength=3)] for at, e in table])
    sizes = [length + max(waits) for length in lengths]
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    found, between = packed_budget(points, numbers, offsets, profile, begins, sum(sizes), cells)
    expected = np.zeros_like(found)
    for record, length in enumerate(lengths):
        for position in range(sizes[record]):
            expected[begins[record] + position] = by_hand(
                points[offsets[record] :][:length],
                numbers[offsets[record] :][:length],
                profile[record],
                position,
                cells,
            )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for record, first in enumerate(offsets[:-1]):
        for point in range(first, offsets[record + 1]):
            layer = points[point, 0]
            mine = [at for at in range(first, point) if points[at, 0] == layer]
            left = np.array([profile[record, 0, layer] - np.exp(numbers[mine]).sum()])
            before = np.array([numbers[mine[-1]] if mine else np.inf])
            further = np.array([profile[record, 1, layer] - len(mine)])
            np.testing.assert_allclose(between[point], np.ravel(bounds(left, further, before, LEAST)), atol=1e-5)


def by_hand(points: np.ndarray, numbers: np.ndarray, profile: np.ndarray, position: int, cells: Cells) -> np.ndarray:
    """What a position of a record is told."""
    to_layer, to_first, to_second, to_energy = cells.waits
    told: np.ndarray = np.zeros(FIGURES + 4 + 5)
    priced = max(position - to_energy, 0)  # hits whose energy has been read
    for place, point, further in ((0, position - to_energy, 0), (6, position - to_layer - 1, 1)):
        if 0 <= point < len(points):
            layer = points[point, 0]
            spent = np.exp(numbers[:priced][points[:priced, 0] == layer]).sum()
            hits = (points[:point, 0] == layer).sum() + further
            known = (np.array([x]) for x in (profile[0, layer], spent, profile[1, layer], hits))
            told[place : place + 5] = figures(*known, LEAST)
    point = position - to_energy
    if 0 <= point < len(points):
        mine = [at for at in range(point) if points[at, 0] == points[point, 0]]
        left = np.array([profile[0, points[point, 0]] - np.exp(numbers[mine]).sum()])
        further = np.array([profile[1, points[point, 0]] - len(mine)])
        low, high = bounds(left, further, np.array([numbers[mine[-1]] if mine else np.inf]), LEAST)
        told[5] = (high[0] - low[0]) / 3
    for place, wait in ((11, to_first), (12, to_second)):
        if to_energy < wait and 0 <= position - wait < len(points):
            told[place] = (numbers[position - wait] - np.log(LEAST)) / 3
    point = position - to_first
    if 0 <= point < len(points):
        mine = points[:point][points[:point, 0] == points[point, 0]]
        told[FIGURES : FIGURES + 4] = np.log1p(np.bincount(mine[:, 1], minlength=4))
    point = position - to_second
    if 0 <= point < len(points):
        mine = points[:point][(points[:point, :2] == points[point, :2]).all(1)]
        told[FIGURES + 4 :] = np.bincount(mine[:, 2], minlength=5) > 0
    return told


@given(st.integers(1, 12), st.integers(0, 1000))
def test_falling_energies_lie_between_their_bounds_and_what_lies_there_can_be_finished(hits: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    energies = np.sort(LEAST + draws.exponential(2, hits))[::-1]
    left, before = energies.sum(), np.inf
    for number, energy in enumerate(energies):  # what training sees
        low, high = bounds(np.array([left]), np.array([hits - number]), np.array([before]), LEAST)
        assert low[0] - 1e-9 <= np.log(energy) <= high[0] + 1e-9
        left, before = left - energy, np.log(energy)
    left, before, made = energies.sum(), np.inf, []
    for number in range(hits):  # what is drawn
        low, high = bounds(np.array([left]), np.array([hits - number]), np.array([before]), LEAST)
        assert low[0] <= high[0]
        before = low[0] + draws.uniform() * (high[0] - low[0])
        made.append(np.exp(before))
        left -= made[-1]
    assert np.isclose(sum(made), energies.sum(), rtol=1e-9)
    assert min(made) >= LEAST * (1 - 1e-9)
    assert (np.diff(made) <= 1e-9).all()


@given(st.integers(0, 1000))
def test_matched_energies_sum_to_the_layers_and_keep_the_threshold(seed: int) -> None:
    draws = np.random.default_rng(seed)
    counts = draws.integers(0, 12, 4)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    layers, energies = draws.integers(0, 3, offsets[-1]), LEAST + draws.exponential(1, offsets[-1])
    group = np.repeat(np.arange(4), counts) * 3 + layers
    hits = np.bincount(group, minlength=12)
    profile = (hits * draws.uniform(0.1, 3, 12)).reshape(4, 3)
    made = matched(energies, layers, offsets, profile, LEAST)
    np.testing.assert_allclose(np.bincount(group, made, 12), profile.ravel(), rtol=1e-9)
    pays = profile.ravel() >= hits * LEAST
    assert (made[pays[group]] >= LEAST * (1 - 1e-12)).all()
    for own in range(12):
        assert (
            np.argsort(made[group == own], kind="stable") == np.argsort(energies[group == own], kind="stable")
        ).all()
