from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.schedule import learning_rate

BASE = TrainingConfig(steps=100, warmup_steps=10, learning_rate=2.0, min_learning_rate_fraction=0.1)


def rates(**changes: object) -> list[float]:
    config = replace(BASE, **changes)
    return [learning_rate(step, config) for step in range(config.steps)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "exponential", "constant"])
def test_warm_up_rises_linearly_to_the_peak(schedule: str) -> None:
    found = rates(schedule=schedule)
    assert found[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(found) == 2.0


def test_cosine_ends_at_the_lowest_rate_and_is_half_way_in_the_middle() -> None:
    found = rates(schedule="cosine", steps=111)
    assert found[-1] == pytest.approx(0.2)
    assert found[60] == pytest.approx(1.1)
    assert found[10:] == sorted(found[10:], reverse=True)


def test_wsd_is_stable_then_decays() -> None:
    found = rates(schedule="wsd", decay_fraction=0.2)
    assert set(found[10:81]) == {2.0}
    assert found[81] < 2.0
    assert found[-1] == pytest.approx(0.2)


def test_exponential_is_stable_then_falls_by_the_same_factor_each_step() -> None:
    found = rates(schedule="exponential", decay_fraction=0.3)
    assert set(found[10:71]) == {2.0}
    factors = [after / before for before, after in itertools.pairwise(found[70:])]
    assert factors == pytest.approx([0.1 ** (1 / 29)] * 29)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant")[10:]) == {2.0}


@given(
    schedule=st.sampled_from(["cosine", "wsd", "exponential", "constant"]),
    steps=st.integers(1, 50),
    warmup=st.integers(0, 60),
    decay=st.floats(0.01, 1),
)
def test_every_rate_is_positive_and_at_most_the_peak(schedule: str, steps: int, warmup: int, decay: float) -> None:
    found = rates(schedule=schedule, steps=steps, warmup_steps=warmup, decay_fraction=decay)
    assert all(0 < rate <= 2.0 for rate in found)
