"""Pileup per particle identification: PUPPI (Bertolini, Harris, Low, Tran, arXiv:1407.6013), vectorised over events.

Tracks are told apart by their vertex; neutrals get weights by alpha = log sum (pt_j / dR_j)^2 over the tracks of the
primary vertex nearby, compared with its distribution over the pileup tracks of the same event. R0 and the cuts, and
what becomes of hard neutrals and of tracks without a vertex, are those of CMS's tune V15 (reprocessed data of 2016).

Simplifications: there is no forward region, so that neutrals more than R0 beyond the tracker (abs(eta) < 2.5) get
weight 0; no correction for low pileup; no recovery of a primary vertex that was split.
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
# One that is compatible with none (of a decay in flight) is weighted as neutrals are; from this pt [GeV] on it is the
# primary vertex's.
HARD_TRACK_GEV = 20.0
# The least weight of neutrals rises from 0 to 1 between these pt [GeV].
HARD_NEUTRAL_GEV = (20.0, 200.0)
# A vertex is counted as reconstructed with as many tracks (CMS asks for more than 4 degrees of freedom).
VERTEX_TRACKS = 4
# Events lie so far apart where nearest neighbours are looked up: beyond R0, and beyond any dz [mm].
_APART, _APART_MM = 1.0, 20_000.0
PRIMARY, NO_VERTEX = -1, -2


@dataclass(frozen=True)
class Vertices:
    """Pileup interactions, (n,) each: event index, z [mm] from the primary vertex of their event."""

    event: np.ndarray
    z: np.ndarray


def associate(candidates: Candidates, vertices: Vertices) -> np.ndarray:
    """The interaction that each candidate's track comes from.

    A track is the primary vertex's if its dz is within 3 uncertainties of 0; else the nearest pileup vertex's if it is
    within 3 uncertainties of that one. Vertices are taken to be found where they are, all of them.

    Returns:
        Index (N,) in ``vertices``; -1 for the primary vertex, and for neutrals, which have no track; -2 for a track
        that fits to no vertex, unless it is hard.
    """
    index = np.full(len(candidates), PRIMARY)
    track = np.flatnonzero((candidates.charge != 0) & (np.abs(candidates.dz) > COMPATIBLE * candidates.dzerr))
    soft = np.hypot(candidates.px[track], candidates.py[track]) < HARD_TRACK_GEV
    index[track[soft]] = NO_VERTEX
    if not len(vertices.event) or not len(track):
        return index
    order = np.lexsort((vertices.z, vertices.event))
    places = vertices.event[order] * _APART_MM + vertices.z[order]
    at = candidates.event[track] * _APART_MM + np.clip(candidates.dz[track], -_APART_MM / 4, _APART_MM / 4)
    above = np.searchsorted(places, at)
    neighbours = np.stack([np.maximum(above - 1, 0), np.minimum(above, len(places) - 1)])
    distance = np.abs(places[neighbours] - at)
    best = neighbours[distance.argmin(axis=0), np.arange(len(track))]
    fits = distance.min(axis=0) <= COMPATIBLE * candidates.dzerr[track]
    index[track[fits]] = order[best[fits]]
    return index


def puppi_weights(candidates: Candidates, vertices: Vertices) -> np.ndarray:
    """PUPPI weights (N,) in [0, 1]: 1 for tracks of the primary vertex, 0 for those of pileup, the others between.

    One of the others without a track of the primary vertex nearby gets 0, unless it is a hard neutral. In an event
    without tracks of pileup all weights are 1.

    Args:
        candidates: of any number of events, impact parameters from the primary vertex.
        vertices: their pileup interactions.
    """
    vertex = associate(candidates, vertices)
    events = int(candidates.event.max(initial=-1)) + 1
    charged, reference = candidates.charge != 0, vertex >= 0
    polluted = np.bincount(candidates.event[reference], minlength=events)[candidates.event] > 0
    weights = np.where(reference, 0.0, 1.0)
    weighted = polluted & (~charged | (vertex == NO_VERTEX))
    asked, primary = np.flatnonzero(reference | weighted), np.flatnonzero(polluted & charged & (vertex == PRIMARY))
    alpha = np.full(len(candidates), -np.inf)
    alpha[asked] = _alpha(candidates, asked, primary)
    known = np.flatnonzero(reference & np.isfinite(alpha))
    median, sigma = _median_and_left_rms(alpha[known], candidates.event[known], events)
    chosen = np.flatnonzero(weighted)
    event, neutral = candidates.event[chosen], ~charged[chosen]
    weight = _probability(alpha[chosen], median[event], sigma[event])
    pt = np.hypot(candidates.px[chosen], candidates.py[chosen])
    weight = np.where(neutral, np.maximum(weight, np.interp(pt, HARD_NEUTRAL_GEV, (0.0, 1.0))), weight)
    least = NEUTRAL_PT_GEV + NEUTRAL_PT_SLOPE_GEV * _reconstructed(vertex, vertices, events)[event]
    weights[chosen] = np.where((weight < MIN_WEIGHT) | (neutral & (weight * pt < least)), 0.0, weight)
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
