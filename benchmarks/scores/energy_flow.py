"""Energy flow polynomials of up to four edges (Komiske, Metodiev, Thaler, arXiv:1712.07124), all jets at once.

The polynomial of a multigraph is the sum over constituents at its vertices of the product of their z and, for each
edge, of theta = dR. With a_k = (theta^k) z and S = theta Z theta every connected graph of up to four edges is a sum
over vertices or pairs. z is pt as given, as the JetNet library has it (``measure="hadr", beta=1, normed=None``): hand
it relative pt. Graphs without an edge in common multiply.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import prod

import numpy as np

from hepfm.core.observables import Constituents, multiplicity

TABLE_ELEMENTS = 1 << 17  # of one table of distances between the constituents of several jets: 1 MB
Edges = tuple[tuple[int, int], ...]

# Connected graphs by their edges, in the order of the columns of :func:`_connected`.
CONNECTED: tuple[Edges, ...] = (
    (),  # one vertex: the sum of z
    ((0, 1),),
    ((0, 1), (0, 1)),
    ((0, 1), (0, 2)),
    ((0, 1), (0, 1), (0, 1)),
    ((0, 1), (0, 2), (0, 2)),
    ((0, 1), (0, 2), (1, 2)),
    ((0, 1), (0, 2), (0, 3)),
    ((0, 1), (1, 2), (2, 3)),
    ((0, 1), (0, 1), (0, 1), (0, 1)),
    ((0, 1), (0, 2), (0, 2), (0, 2)),
    ((0, 1), (0, 1), (0, 2), (0, 2)),
    ((0, 1), (0, 1), (0, 2), (1, 2)),
    ((0, 1), (0, 2), (0, 3), (0, 3)),
    ((0, 1), (0, 1), (1, 2), (2, 3)),
    ((0, 1), (1, 2), (1, 2), (2, 3)),
    ((0, 1), (1, 2), (2, 3), (0, 3)),
    ((0, 1), (0, 2), (1, 2), (0, 3)),
    ((0, 1), (0, 2), (0, 3), (0, 4)),
    ((0, 1), (1, 2), (2, 3), (3, 4)),
    ((0, 1), (0, 2), (0, 3), (3, 4)),
)


def vertices(graph: Edges) -> int:
    """Number of vertices of a connected graph."""
    return 1 + max((max(edge) for edge in graph), default=0)


def _products() -> tuple[tuple[int, ...], ...]:
    """All graphs of up to four edges as connected parts (indices), by number of edges: the connected ones first."""
    edges = [len(graph) for graph in CONNECTED]
    found: list[tuple[int, ...]] = [(0,)]
    for total in range(1, 5):
        parts = [index for index, size in enumerate(edges) if 0 < size <= total]
        for count in range(1, total + 1):
            combined = combinations_with_replacement(parts, count)
            found += [part for part in combined if sum(edges[index] for index in part) == total]
    return tuple(found)


PRODUCTS = _products()  # 36 graphs
PRIME_4 = tuple(index for index, graph in enumerate(CONNECTED) if vertices(graph) == 4 and len(graph) == 4)


def energy_flow_polynomials(jets: Constituents) -> np.ndarray:
    """The 36 energy flow polynomials of up to four edges (n, 36), those of FPD and KPD (arXiv:2211.10295).

    Columns are :data:`PRODUCTS`.
    """
    connected = connected_polynomials(jets)
    return np.column_stack([connected[:, list(parts)].prod(axis=1) for parts in PRODUCTS])


def prime_polynomials(jets: Constituents) -> np.ndarray:
    """The five connected ones of four vertices and four edges (n, 5), those of W1EFP (arXiv:2106.11535)."""
    return connected_polynomials(jets)[:, list(PRIME_4)]


def connected_polynomials(jets: Constituents) -> np.ndarray:
    """The polynomials (n, 21) of all connected graphs of up to four edges; columns are :data:`CONNECTED`."""
    lengths = multiplicity(jets)
    order = np.argsort(lengths, kind="stable")
    found = np.zeros((len(jets), len(CONNECTED)))
    start = int(np.count_nonzero(lengths == 0))
    while start < len(order):
        # The chunk grows while its longest jet, the last, leaves room.
        stop = start + max(1, TABLE_ELEMENTS // int(lengths[order[start]]) ** 2)
        stop = min(stop, len(order))
        longest = int(lengths[order[stop - 1]])
        stop = min(stop, start + max(1, TABLE_ELEMENTS // longest**2))
        chosen = order[start:stop]
        found[chosen] = _connected(*_padded(jets, chosen, int(lengths[chosen[-1]])))
        start = stop
    return found


def _padded(jets: Constituents, chosen: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """z (n, m) and theta (n, m, m) of jets, filled up with constituents without momentum."""
    places = jets.offsets[chosen][:, None] + np.arange(longest)
    real = places < jets.offsets[chosen + 1][:, None]
    places = np.where(real, places, jets.offsets[chosen][:, None])
    pt, deta, dphi = (np.asarray(values, dtype=np.float64)[places] for values in (jets.pt, jets.deta, jets.dphi))
    return np.where(real, pt, 0.0), distances(deta, dphi, deta, dphi)


def distances(deta: np.ndarray, dphi: np.ndarray, other_deta: np.ndarray, other_dphi: np.ndarray) -> np.ndarray:
    """dR (..., m, k) of points (..., m) and (..., k), around the shorter way in azimuth."""
    around = dphi[..., :, None] - other_dphi[..., None, :]
    if np.abs(around).max(initial=0.0) > np.pi:
        around -= 2 * np.pi * np.round(around / (2 * np.pi))
    across = deta[..., :, None] - other_deta[..., None, :]
    across *= across
    around *= around
    across += around
    return np.sqrt(across, out=across)


def _connected(z: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Columns of :data:`CONNECTED` (n, 21) of jets with momenta z (n, m) and distances theta (n, m, m)."""

    def through(table: np.ndarray, vertex: np.ndarray) -> np.ndarray:
        return (table @ vertex[..., None])[..., 0]

    def total(*factors: np.ndarray) -> np.ndarray:
        return prod(factors[1:], start=factors[0]).sum(axis=1)

    square = theta * theta
    a1, a2 = through(theta, z), through(square, z)
    a3, a4 = through(square * theta, z), through(square * square, z)
    two_steps = (theta * z[:, None, :]) @ theta
    closed = theta * two_steps  # i to j directly, and through another one
    corner = through(closed, z)
    z1, z2 = z * a1, z * a2
    b1 = through(theta, z1)
    columns = [
        z.sum(axis=1),
        total(z1),
        total(z2),
        total(z1, a1),
        total(z, a3),
        total(z1, a2),
        total(z, corner),
        total(z1, a1, a1),
        total(z1, b1),
        total(z, a4),
        total(z1, a3),
        total(z2, a2),
        total(z, through(closed * theta, z)),
        total(z1, a1, a2),
        total(z2, b1),
        total(z1, through(square, z1)),
        total(z, through(two_steps * two_steps, z)),
        total(z1, corner),
        total(z1, a1, a1, a1),
        total(z, b1, b1),
        total(z1, a1, b1),
    ]
    return np.column_stack(columns)
