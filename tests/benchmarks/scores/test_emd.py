"""The energy mover's distance is the least work, and coverage is counted as published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.emd import taken
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents


def by_linear_programming(a: np.ndarray, b: np.ndarray) -> float:
    """EMD of (pt, eta, phi) (n, 3), (m, 3): inequality constraints on what leaves and arrives (arXiv:1902.02346)."""
    cost = np.hypot(a[:, None, 1] - b[:, 1], a[:, None, 2] - b[:, 2])
    n, m = cost.shape
    leaves = np.kron(np.eye(n), np.ones(m))
    arrives = np.kron(np.ones(n), np.eye(m))
    moved = min(a[:, 0].sum(), b[:, 0].sum())
    found = linprog(
        cost.ravel(),
        A_ub=np.concatenate([leaves, arrives]),
        b_ub=np.concatenate([a[:, 0], b[:, 0]]),
        A_eq=np.ones((1, n * m)),
        b_eq=[moved],
    )
    return found.fun + abs(a[:, 0].sum() - b[:, 0].sum())


def test_agrees_with_linear_programming(toy_jets) -> None:  # type: ignore[no-untyped-def]
    first, second = toy_jets(jets=5, mean=6, seed=1), toy_jets(jets=4, mean=4, seed=2)
    found = metrics.energy_movers_distance(first, second)

    def jet(jets: Constituents, number: int) -> np.ndarray:
        here = slice(*jets.offsets[number : number + 2])
        return np.stack([jets.pt[here], jets.deta[here], jets.dphi[here]], axis=1)

    expected = [[by_linear_programming(jet(first, i), jet(second, j)) for j in range(4)] for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_by_hand() -> None:
    """10 GeV moved by 0.5 is 5 GeV; 4 GeV more on one side is 4 GeV more, whichever side."""
    one = Constituents(np.array([10.0]), np.array([0.3]), np.array([0.0]), np.array([0, 1]))
    other = Constituents(np.array([14.0]), np.array([0.0]), np.array([0.4]), np.array([0, 1]))
    assert metrics.energy_movers_distance(one, other)[0, 0] == pytest.approx(10 * 0.5 + 4)
    assert metrics.energy_movers_distance(other, one)[0, 0] == pytest.approx(10 * 0.5 + 4)
    assert metrics.energy_movers_distance(one, one)[0, 0] == pytest.approx(0, abs=1e-12)


def test_coverage_of_copies_and_of_a_single_jet(toy_jets) -> None:  # type: ignore[no-untyped-def]
    """One jet over and over is nearest to one of a hundred; MMD to itself is 0 only where it was drawn."""
    real = metrics.relative(toy_jets(jets=60, mean=6))
    single = taken(real, np.zeros(60, dtype=np.int64))
    found = metrics.coverage_and_mmd(real, single, jets=20, batches=3)
    assert found.coverage.value == pytest.approx(1 / 20)
    same = metrics.coverage_and_mmd(real, real, jets=20, batches=3)
    assert same.coverage.value > 5 * found.coverage.value
    assert same.mmd.value < found.mmd.value


def test_what_cannot_be_compared_is_told(toy_jets) -> None:  # type: ignore[no-untyped-def]
    jets = toy_jets(jets=50)
    with pytest.raises(HepfmError, match="reference: 50 jets are too few: coverage needs 100"):
        metrics.coverage_and_mmd(jets, jets)
    nothing = Constituents(np.zeros(1), np.zeros(1), np.zeros(1), np.array([0, 1]))
    with pytest.raises(HepfmError, match="jet 0 has no momentum"):
        metrics.energy_movers_distance(jets, nothing)
