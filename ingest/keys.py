"""Keys of entries: what a collision or a jet is recognised by when it comes a second time."""

from __future__ import annotations

import numpy as np

from hepfm.core.draws import hashed


def key(*columns: np.ndarray) -> np.ndarray:
    """A 64-bit key (n,) uint64 of each row; equal rows have equal keys, others differ but for 1 pair in 2^64.

    Args:
        columns: (n,) integers or floats (taken by their bits; -0.0 counts as 0.0).
    """
    return hashed(0, *(_bits(np.asarray(column)) for column in columns))


def _bits(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind != "f":
        return column.astype(np.int64).view(np.uint64)
    return (column.astype(np.float64) + 0.0).view(np.uint64)
