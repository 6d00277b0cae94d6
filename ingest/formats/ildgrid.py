"""Grids of ILD's calorimeter as in "Getting High" (arXiv:2005.05334) and L2LFlows: names of the arrays, and a writer.

A group named after the cells of a layer, ``30x30``, holds ``energy`` (N, 1) in GeV and ``layers`` (N, layer, x, z) in
MeV. Files with both arrays at the root have deposits in GeV.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.formats.shower_files import Rows
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.shards import reblock
from hepfm.ingest.voxels import voxelise

ENERGY, LAYERS = "energy", "layers"
FORMAT = "ildgrid"


def write_ildgrid(path: Path, batches: Iterable[pa.RecordBatch], geometry: Geometry) -> int:
    """Write showers as a grid file; what came from one comes back bit by bit, gzip-compressed.

    Args:
        path: the file, which appears when it is complete; replaced if it exists.
        batches: shower records with cells, or with positions that are put into the geometry's cells.
        geometry: a grid with equal layers, from the manifest. Place, units and types of the arrays are those of the
            source if it was such a file, else a group, MeV and float32.

    Returns:
        Number of showers written.

    Raises:
        HepfmError: no showers; layers that differ in their cells; a point in a cell that the geometry does not have.
    """
    shape = _shape(geometry)
    stored = geometry.stored
    if stored.layout.get("format") != FORMAT:
        group = f"{shape[1]}x{shape[2]}"
        stored = replace(stored, deposit_unit="MeV", incident_unit="GeV", layout={"group": group})
    group = str(stored.layout["group"])
    prefix = f"{group}/" if group else ""
    count = 0
    with hdf5_written(path) as file:
        energy = Rows(file, prefix + ENERGY, (1,), stored.incident_type)
        layers = Rows(file, prefix + LAYERS, shape, stored.deposit_type)
        for batch in reblock(batches, layers.chunk):
            energy.append(stored.stored_incident(values_of(batch.column("incident_energy")))[:, None])
            layers.append(stored.stored_deposits(voxelise(batch, geometry)).reshape(-1, *shape))
            count += len(batch)
        if not count:
            raise HepfmError("no showers to write", path)
    return count


def _shape(geometry: Geometry) -> tuple[int, int, int]:
    cells = np.unique(geometry.shape, axis=0)
    if len(cells) != 1 or geometry.fastest != "cell_b":
        raise HepfmError("is no grid of equal layers", geometry.name, "CaloChallenge and showerdata files can hold it")
    return len(geometry.layers), int(cells[0, 0]), int(cells[0, 1])
