"""Energy flow polynomials are what their graphs say."""

from __future__ import annotations

import numpy as np
import pytest

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.energy_flow import CONNECTED, PRIME_4, PRODUCTS, Edges, vertices
from hepfm.core.observables import Constituents


def jets_of(*jets: list[tuple[float, float, float]]) -> Constituents:
    """Jets of (pt, deta, dphi)."""
    offsets = np.concatenate([[0], np.cumsum([len(jet) for jet in jets])])
    pt, deta, dphi = np.array([part for jet in jets for part in jet], dtype=np.float64).reshape(-1, 3).T
    return Constituents(pt, deta, dphi, offsets)


def by_definition(graph: Edges, z: np.ndarray, theta: np.ndarray) -> float:
    """Sum over all assignments of constituents to vertices."""
    letters = "abcde"[: vertices(graph)]
    terms = [*letters, *(letters[a] + letters[b] for a, b in graph)]
    return float(np.einsum(f"{','.join(terms)}->", *[z] * len(letters), *[theta] * len(graph)))


def test_there_are_as_many_graphs_as_there_are() -> None:
    """Loopless multigraphs without isolated vertices of 0 to 4 edges: 1, 1, 3, 8, 23 (OEIS A050535)."""
    edges = [sum(len(CONNECTED[part]) for part in parts) for parts in PRODUCTS]
    assert np.bincount(edges).tolist() == [1, 1, 3, 8, 23]
    assert len(set(PRODUCTS)) == 36
    assert len(PRIME_4) == 5


def test_no_two_connected_graphs_are_the_same() -> None:
    draws = np.random.default_rng(1)
    z, theta = draws.random(5), draws.random((5, 5))
    theta = theta + theta.T - np.diag(2 * np.diag(theta))
    found = [by_definition(graph, z, theta) for graph in CONNECTED]
    assert len(np.unique(np.round(found, 9))) == len(CONNECTED)


def test_every_polynomial_is_that_of_its_definition(toy_jets) -> None:  # type: ignore[no-untyped-def]
    jets = toy_jets(jets=30, mean=5)
    found = metrics.energy_flow_polynomials(jets)
    for jet in range(len(jets)):
        here = slice(*jets.offsets[jet : jet + 2])
        z, eta, phi = jets.pt[here], jets.deta[here], jets.dphi[here]
        theta = np.hypot(eta[:, None] - eta, phi[:, None] - phi)
        alone = [by_definition(graph, z, theta) for graph in CONNECTED]
        expected = [np.prod([alone[part] for part in parts]) for parts in PRODUCTS]
        np.testing.assert_allclose(found[jet], expected, rtol=1e-10)


def test_two_constituents_by_hand() -> None:
    """Each end of each edge carries either constituent: a star of three edges is z1 z2 (z1^2 + z2^2) dR^3."""
    found = metrics.connected_polynomials(jets_of([(2.0, 0.0, 3.1), (3.0, 0.3, 3.1 - 2 * np.pi + 0.4)]))[0]
    assert found[0] == 5
    assert found[1] == pytest.approx(2 * 2 * 3 * 0.5)
    star = CONNECTED.index(((0, 1), (0, 2), (0, 3)))
    assert found[star] == pytest.approx(2 * 3 * (2**2 + 3**2) * 0.5**3)
    triangle = CONNECTED.index(((0, 1), (0, 2), (1, 2)))
    assert found[triangle] == pytest.approx(0, abs=1e-12)


def test_empty_jets_and_any_order_of_jets() -> None:
    jets = jets_of([], [(1.0, 0.1, 0.2)], [(1.0, 0.0, 0.0), (2.0, 0.1, 0.1)], [(5.0, 0.2, 0.0)] * 40)
    found = metrics.energy_flow_polynomials(jets)
    assert not found[0].any()
    assert found[1].tolist() == [1.0] + [0.0] * 35
    assert not found[3, 1:].any()
    alone = metrics.energy_flow_polynomials(jets.range(2, 3))
    np.testing.assert_array_equal(found[2], alone[0])
