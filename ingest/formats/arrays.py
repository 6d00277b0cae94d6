"""Arithmetic on ragged arrays that readers share: sums over segments, wrapped angles, order by pt."""

from __future__ import annotations

import numpy as np

FULL_TURN = 2 * np.pi * (1 + 1e-6)  # rounding to float32 included


def segment_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums (n,) float64 of the values (N,) between consecutive ``offsets`` (n + 1,); 0 for an empty segment."""
    sums = np.zeros(len(offsets) - 1)
    filled = np.diff(offsets) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled], dtype=np.float64)
    return sums


def wrapped(angle: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi); values that are there already keep their bits.

    So do values beyond 2 pi, which no angle in rad and no difference of two has (degrees?): the builder refuses them.
    """
    outside = (angle < -np.pi) | (angle >= np.pi)
    if not outside.any():
        return angle
    outside &= np.abs(angle) <= FULL_TURN
    turned = (angle.astype(np.float64) + np.pi) % (2 * np.pi) - np.pi
    return np.where(outside, turned.astype(angle.dtype), angle)


def pt_order(pt: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
    """Indices (N,) that put each jet's constituents in descending pt, ties as they stand; None if they are."""
    if len(pt) < 2:
        return None
    rises = np.flatnonzero(pt[1:] > pt[:-1]) + 1
    starts = np.zeros(len(pt) + 1, dtype=bool)
    starts[offsets] = True
    rises = rises[~starts[rises]]
    if not len(rises):
        return None
    jet = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    disordered = np.zeros(len(offsets) - 1, dtype=bool)
    disordered[jet[rises]] = True
    chosen = np.flatnonzero(disordered[jet])
    order = np.arange(len(pt))
    order[chosen] = chosen[np.lexsort((-pt[chosen], jet[chosen]))]
    return order
