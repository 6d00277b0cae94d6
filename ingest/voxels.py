"""Showers as points, and as dense arrays of voxels: from one to the other and exactly back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest.geometry import Cells, Geometry


@dataclass(frozen=True)
class Points:
    """Points of n showers: offsets (n + 1,) int64, the cell and the energy (N,) of each, in the order of voxels."""

    offsets: np.ndarray
    cells: Cells
    energy: np.ndarray


def points_from_voxels(dense: np.ndarray, geometry: Geometry) -> Points:
    """The voxels that hold something, as points.

    Args:
        dense: (n, voxels) energies of any float type, in the geometry's order of voxels. Only voxels whose bits are all
            0 are left out, so that :func:`voxelise` gives equal bits back: -0.0 is a point.

    Raises:
        HepfmError: another number of voxels than the geometry has.
    """
    if dense.ndim != 2 or dense.shape[1] != geometry.voxels:
        raise HepfmError(f"voxels of shape {dense.shape}", geometry.name, f"it has {geometry.voxels:,} voxels a shower")
    shower, voxel = np.nonzero(filled(dense))
    cells = geometry.cells
    offsets = np.concatenate([[0], np.cumsum(np.bincount(shower, minlength=len(dense)))])
    return Points(offsets, Cells(cells.layer[voxel], cells.cell_a[voxel], cells.cell_b[voxel]), dense[shower, voxel])


def filled(energies: np.ndarray) -> np.ndarray:
    """Flags of the energies that are not +0.0; those of every other bit pattern (-0.0, NaN) hold something."""
    found = energies != 0
    return np.logical_or(found, np.signbit(energies), out=found)


def voxelise(batch: pa.RecordBatch, geometry: Geometry) -> np.ndarray:
    """The energy [MeV] in each voxel, (n, voxels) of the energies' own type; points in one voxel are summed in float64.

    A point is put by its cell, or where records have positions by :meth:`Geometry.locate`. What lies at a position
    outside all cells is left out (:func:`voxels_of` tells what).

    Raises:
        HepfmError: a cell that the geometry does not have, or records with neither cells nor layer and positions.
    """
    energy = points_of(batch, "energy")
    voxel = voxels_of(batch, geometry)
    shower = np.repeat(np.arange(len(batch)), lengths_of(batch.column("points")))
    dense = np.zeros((len(batch), geometry.voxels), dtype=energy.dtype)
    inside = voxel >= 0
    if not inside.all():
        shower, voxel, energy = shower[inside], voxel[inside], energy[inside]
    place = shower * geometry.voxels + voxel
    taken = np.zeros(dense.size, dtype=bool)
    taken[place] = True
    if int(np.count_nonzero(taken)) == len(place):
        dense.reshape(-1)[place] = energy
    else:
        sums = np.bincount(place, weights=energy.astype(np.float64), minlength=dense.size)
        dense = sums.astype(energy.dtype).reshape(dense.shape)
    return dense


def voxels_of(batch: pa.RecordBatch, geometry: Geometry) -> np.ndarray:
    """The voxel (N,) int64 of every point of a batch; -1 for a position outside all cells.

    Raises:
        HepfmError: as for :func:`voxelise`.
    """
    present = {field.name for field in batch.schema.field("points").type.value_type}
    if {"layer", "cell_a", "cell_b"} <= present:
        voxel = geometry.voxel(*(points_of(batch, name) for name in ("layer", "cell_a", "cell_b")))
        if len(voxel) and voxel.min() < 0:
            wrong = int(np.argmin(voxel))
            cell = ", ".join(f"{name} {points_of(batch, name)[wrong]}" for name in ("layer", "cell_a", "cell_b"))
            raise HepfmError(f"a point lies in {cell}", geometry.name, "it has no such cell: name the right geometry")
        return voxel
    if {"layer", *geometry.across} <= present:
        return geometry.locate(*(points_of(batch, name) for name in ("layer", *geometry.across)))
    raise HepfmError(
        f"points have {', '.join(sorted(present))}",
        "voxelise",
        f"it takes layer, cell_a and cell_b, or layer, {' and '.join(geometry.across)}",
    )


def positions_of(batch: pa.RecordBatch, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N,) [mm] of the points of a batch along both axes across a layer: their own, or their cells' centres.

    Raises:
        HepfmError: points with neither.
    """
    present = {field.name for field in batch.schema.field("points").type.value_type}
    if set(geometry.across) <= present:
        first, second = (points_of(batch, name) for name in geometry.across)
        return first, second
    voxel = voxels_of(batch, geometry)
    first, second = (getattr(geometry.centres, name) for name in geometry.across)
    return first[voxel], second[voxel]
