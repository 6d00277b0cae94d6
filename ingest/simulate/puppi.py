"""Pileup per particle identification: PUPPI (Bertolini, Harris, Low, Tran, arXiv:1407.6013), vectorised over events.

Tracks are told apart by their vertex; neutrals get weights by alpha = log sum (pt_j / dR_j)^2 over the tracks of the
primary vertex nearby, compared with its distribution over the pileup tracks of the same event. R0, the least distance,
the least weight and the cut on neutrals are those of CMS's central algorithm in 2016, not the paper's.

Simplifications: there is no forward region, so that neutrals more than R0 beyond the tracker (abs(eta) < 2.5) get
weight 0; no correction for low pileup, and no protection of hard neutrals, which CMS added to the paper's rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.special import chdtr

from hepfm.ingest.simulate.particles import Candidates

R0 = 0.4
# Nearer tracks do not count: they may be the particle's own remnants, and the sum would diverge.
MIN_DISTANCE = 0.01
MIN_WEIGHT = 0.01
# Least weighted pt [GeV] of a neutral: constant, and slope by number of reconstructed vertices.
NEUTRAL_PT_GEV, NEUTRAL_PT_SLOPE_GEV = 0.2, 0.015
# A track within so many uncertainties of a vertex, in z, is compatible with it.
COMPATIBLE = 3.0
# One that is compatible with no vertex (of a decay in flight) is the primary one's within this distance [mm].
DISPLACED_MM = 3.0
# A vertex is counted as reconstructed with as many tracks (CMS asks for more than 4 degrees of freedom).
VERTEX_TRACKS = 4
# Events lie so far apart where nearest neighbours are looked up: beyond R0, and beyond any dz [mm].
_APART, _APART_MM = 1.0, 20_000.0


@dataclass(frozen=True)
class Vertices:
    """Pileup interactions, (n,) each: event index, z [mm] from the primary vertex of their event."""

    event: np.ndarray
    z: np.ndarray


def associate(candidates: Candidates, vertices: Vertices) -> np.ndarray:
    """The pileup interaction that each candidate's track comes from.

    A track is the primary vertex's if that is the nearest one in z; if its dz is within 3 uncertainties of 0; or if it
    is within 3 mm and the nearest pileup vertex is more than 3 uncertainties away. Else it is that vertex's. Vertices
    are taken to be found where they are, all of them.

    Returns:
        Index (N,) in ``vertices``; -1 for the primary vertex, and for neutrals, which have no track.
    """
    index = np.full(len(candidates), -1)
    track = np.flatnonzero((candidates.charge != 0) & (np.abs(candidates.dz) > COMPATIBLE * candidates.dzerr))
    if not len(vertices.event) or not len(track):
        return index
    dz = candidates.dz[track]
    order = np.lexsort((vertices.z, vertices.event))
    places = vertices.event[order] * _APART_MM + vertices.z[order]
    at = candidates.event[track] * _APART_MM + np.clip(dz, -_APART_MM / 4, _APART_MM / 4)
    above = np.searchsorted(places, at)
    neighbours = np.stack([np.maximum(above - 1, 0), np.minimum(above, len(places) - 1)])
    distance = np.abs(places[neighbours] - at)
    best = distance.argmin(axis=0)
    column = np.arange(len(track))
    # Vertices of other events are further away than any primary vertex.
    distance = distance[best, column]
    nearer = distance < np.minimum(np.abs(dz), _APART_MM / 4)
    nearer &= (distance < COMPATIBLE * candidates.dzerr[track]) | (np.abs(dz) > DISPLACED_MM)
    index[track[nearer]] = order[neighbours[best, column][nearer]]
    return index


def puppi_weights(candidates: Candidates, vertices: Vertices) -> np.ndarray:
    """PUPPI weights (N,) in [0, 1]: 1 for tracks of the primary vertex, 0 for those of pileup, neutrals between.

    A neutral without such a track nearby gets 0. In an event without tracks of pileup all weights are 1.

    Args:
        candidates: of any number of events, impact parameters from the primary vertex.
        vertices: their pileup interactions.
    """
    vertex = associate(candidates, vertices)
    events = int(candidates.event.max(initial=-1)) + 1
    charged = candidates.charge != 0
    reference = vertex >= 0
    polluted = np.bincount(candidates.event[reference], minlength=events)[candidates.event] > 0
    weights = np.where(reference, 0.0, 1.0)
    neutral = np.flatnonzero(~charged & polluted)
    primary, asked = np.flatnonzero(charged & ~reference & polluted), np.flatnonzero(reference | (~charged & polluted))
    alpha = np.full(len(candidates), -np.inf)
    alpha[asked] = _alpha(candidates, asked, primary)
    known = np.flatnonzero(reference & np.isfinite(alpha))
    median, sigma = _median_and_left_rms(alpha[known], candidates.event[known], events)
    event = candidates.event[neutral]
    weight = _probability(alpha[neutral], median[event], sigma[event])
    pt = np.hypot(candidates.px[neutral], candidates.py[neutral])
    least = NEUTRAL_PT_GEV + NEUTRAL_PT_SLOPE_GEV * _reconstructed(vertex, vertices, events)[event]
    weights[neutral] = np.where((weight < MIN_WEIGHT) | (weight * pt < least), 0.0, weight)
    return weights


def _alpha(candidates: Candidates, asked: np.ndarray, primary: np.ndarray) -> np.ndarray:
    """log sum (pt_j / dR_j)^2 over the candidates ``primary`` within R0, for those ``asked``; -inf where there is
    none."""
    if not len(asked) or not len(primary):
        return np.full(len(asked), -np.inf)
    pt = np.hypot(candidates.px, candidates.py)
    phi = np.minimum(np.arctan2(candidates.py, candidates.px) % (2 * np.pi), np.nextafter(2 * np.pi, 0))
    places = np.stack([candidates.event * _APART, np.arcsinh(candidates.pz / pt), phi], axis=1)
    box = (0.0, 0.0, 2 * np.pi)  # phi alone is periodic
    # Trees that are used once are better built fast than well.
    fast = {"balanced_tree": False, "compact_nodes": False}
    trees = [KDTree(places[which], boxsize=box, **fast) for which in (asked, primary)]
    pairs = trees[0].sparse_distance_matrix(trees[1], R0, output_type="ndarray")
    pairs = pairs[pairs["v"] > MIN_DISTANCE]
    terms = (pt[primary[pairs["j"]]] / pairs["v"]) ** 2
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(pairs["i"], terms, len(asked)))


def _median_and_left_rms(alpha: np.ndarray, event: np.ndarray, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Median, and root mean square about it of the values up to it (events,); 0 for an event without values."""
    order = np.lexsort((alpha, event))
    alpha, event = alpha[order], event[order]
    count = np.bincount(event, minlength=events)
    first = np.cumsum(count) - count
    filled = count > 0
    median = np.zeros(events)
    low, high = (first + (count - 1) // 2)[filled], (first + count // 2)[filled]
    median[filled] = (alpha[low] + alpha[high]) / 2
    left = alpha <= median[event]
    squares = np.bincount(event[left], (alpha - median[event])[left] ** 2, events)
    return median, np.sqrt(squares / np.maximum(np.bincount(event[left], minlength=events), 1))


def _probability(alpha: np.ndarray, median: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """The chi-square probability (N,), at 1 degree of freedom, of being no pileup; 0 up to the median."""
    above = alpha > median
    with np.errstate(divide="ignore"):
        distance = np.where(above, alpha - median, 0.0) / np.where(above, sigma, 1.0)
    return chdtr(1, distance**2)


def _reconstructed(vertex: np.ndarray, vertices: Vertices, events: int) -> np.ndarray:
    """Number (events,) of vertices that are found: the primary one, and those of pileup with enough tracks."""
    tracks = np.bincount(vertex[vertex >= 0], minlength=len(vertices.event))
    return 1 + np.bincount(vertices.event[tracks >= VERTEX_TRACKS], minlength=events)
