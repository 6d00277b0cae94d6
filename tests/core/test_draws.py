"""Keyed draws: the same for the same purpose, whatever is drawn with it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hepfm.core.draws import generator, hashed_uniform, key_of, torch_generator


def test_a_key_depends_on_every_part_and_on_their_order() -> None:
    keys = {
        key_of(1, "order", 2),
        key_of(2, "order", 1),
        key_of(1, "mask", 2),
        key_of(1, "order2"),
        key_of("1order", 2),
    }
    assert len(keys) == 5
    assert all(0 <= key < 2**63 for key in keys)


def test_generators_repeat() -> None:
    assert np.array_equal(generator(1, "a").random(5), generator(1, "a").random(5))
    assert not np.array_equal(generator(1, "a").random(5), generator(1, "b").random(5))
    assert torch_generator(3, "x").initial_seed() == torch_generator(3, "x").initial_seed()


@given(st.integers(0, 2**62), st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_a_draw_does_not_depend_on_its_neighbours(key: int, records: list[int]) -> None:
    together = hashed_uniform(key, np.array(records), np.arange(len(records)))
    alone = [hashed_uniform(key, np.array([record]), np.array([step]))[0] for step, record in enumerate(records)]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = hashed_uniform(key_of("test"), np.arange(100_000)[:, None] // 100, np.arange(100_000)[:, None] % 100)[:, 0]
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02
