"""From spots to the cells of a detector."""

from __future__ import annotations

import numpy as np

from hepfm.ingest.gflash.detectors import Cells
from hepfm.ingest.gflash.spots import Spots


def voxel_of(spots: Spots, cells: Cells) -> np.ndarray:
    """The voxel (N,) int64 in which each spot falls, -1 beside the cells. The first index of a grid and the
    second of a cylinder run slowest in a layer, as in :attr:`Geometry.fastest`."""
    if cells.kind == "cylinder":
        first = np.floor(spots.radius * np.float32(1 / cells.size)).astype(np.int64)
        second = np.minimum((spots.turn * np.float32(cells.second)).astype(np.int64), cells.second - 1)
        within = second * cells.first + first
    else:
        angle = spots.turn * np.float32(2 * np.pi)
        first, second = (
            np.floor((spots.radius * part(angle) - np.float32(bins.first)) * np.float32(1 / bins.width)).astype(
                np.int64
            )
            for part, bins in zip((np.cos, np.sin), cells.bins(), strict=True)
        )
        within = first * cells.second + second
    inside = (first >= 0) & (first < cells.first) & (second >= 0) & (second < cells.second)
    return np.where(inside, spots.layer * (cells.first * cells.second) + within, -1)


def deposits(spots: Spots, voxel: np.ndarray, scale: np.ndarray, showers: int, voxels: int) -> np.ndarray:
    """Energies (showers, voxels) [MeV] of all spots that fall in a voxel.

    Args:
        spots: (N,).
        voxel: (N,) of each, -1 for none.
        scale: (layers,) MeV of a layer's signal for 1 GeV deposited there.
        showers, voxels: how many there are.
    """
    seen = spots.energy * scale[spots.layer]
    place = spots.particle * voxels + voxel
    inside = voxel >= 0
    if not inside.all():
        place, seen = place[inside], seen[inside]
    return np.bincount(place, weights=seen, minlength=showers * voxels).reshape(showers, voxels)
