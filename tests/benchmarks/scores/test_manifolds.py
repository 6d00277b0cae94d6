"""Precision, recall, density and coverage are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores import manifolds as module
from hepfm.core.errors import HepfmError


def by_definition(real: np.ndarray, made: np.ndarray, k: int) -> list[float]:
    """Naively, with all distances at once."""

    def reach(values: np.ndarray) -> np.ndarray:
        return np.sort(cdist(values, values), axis=1)[:, k]

    apart = cdist(real, made)
    return [
        (apart < reach(real)[:, None]).any(axis=0).mean(),
        (apart < reach(made)[None]).any(axis=1).mean(),
        (apart < reach(real)[:, None]).sum(axis=0).mean() / k,
        (apart.min(axis=1) < reach(real)).mean(),
    ]


def listed(found: metrics.Manifolds) -> list[float]:
    return [part.value for part in (found.precision, found.recall, found.density, found.coverage)]


@pytest.mark.parametrize(("shift", "k"), [(0.0, 5), (1.5, 3), (50.0, 5)])
def test_agrees_with_the_definition_whatever_the_blocks(shift: float, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 70)
    draws = np.random.default_rng(2)
    real, made = draws.normal(size=(400, 6)), draws.normal(shift, 0.8, size=(350, 6))
    assert listed(metrics.manifolds(real, made, k)) == pytest.approx(by_definition(real, made, k), abs=1e-12)


def test_by_hand() -> None:
    """Real 0, 1, 3 with k = 1 reach 1, 1, 2; generated 0.5, 0.6 lie in the reach of 0 and 1. 100 reaches 1 and 3."""
    real, made = np.array([[0.0], [1], [3]]), np.array([[0.5], [0.6], [100]])
    found = metrics.manifolds(real, made, 1)
    assert listed(found) == pytest.approx([2 / 3, 2 / 3, 4 / 3, 2 / 3])


def test_a_collapsed_sample_is_precise_and_covers_nothing() -> None:
    draws = np.random.default_rng(4)
    real = draws.normal(size=(500, 3))
    found = metrics.manifolds(real, draws.normal(0, 1e-3, size=(500, 3)))
    assert found.precision.value > 0.9
    assert found.recall.value < 0.05
    assert found.coverage.value < 0.2


def test_too_few_events_are_told() -> None:
    with pytest.raises(HepfmError, match="sample: 4 events are too few: PRDC with k = 5 needs 7"):
        metrics.manifolds(np.zeros((10, 2)), np.zeros((4, 2)))
