"""Point clouds of ILD showers padded to equal length: the two layouts in use, and their writer.

===========  ================================================  ======================================================
``showers``  (N, rows, 4): x, y, layer as cell indices 0-29,   ``genE`` or ``incident_energies`` (N,) or (N, 1) [GeV]
             deposit [MeV]; padded at the end
``events``   (N, 4, rows) or (N, rows, 4): x [mm], depth,      ``energy`` (N, 1) [GeV]; ``p_norm_local`` (N, 3) or
             z [mm], deposit [GeV]; padded at either end       (3, N): direction as x, z, depth
===========  ================================================  ======================================================

The depth of ``events`` is a layer (Geant4 data of CaloClouds, arXiv:2305.04847 and 2309.05704), a layer with a fraction
(generated showers), or y of the detector in mm. A row with a deposit of 0 is padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, offsets_of, points_of, values_of
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.formats.ild import DEPTHS_MM, STEPS_MM
from hepfm.ingest.formats.shower_files import Rows
from hepfm.ingest.geometry import Geometry, Stored
from hepfm.ingest.shards import reblock
from hepfm.ingest.voxels import positions_of

FORMAT = "showerclouds"
SHOWERS, EVENTS, DIRECTION = "showers", "events", "p_norm_local"
INCIDENT = {SHOWERS: ("genE", "incident_energies"), EVENTS: ("energy",)}
COLUMNS = 4
# What the second column of ``events`` may be.
LAYER, FRACTION, MM = "layer", "fraction", "mm"


def depth_of_fraction(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layer and depth [mm, float64] of a layer with a fraction, which is taken as linear between two sensors."""
    layer = np.floor(value)
    inside = np.clip(layer, 0, len(DEPTHS_MM) - 1).astype(np.int64)
    depth = np.array(DEPTHS_MM)[inside] + (value.astype(np.float64) - layer) * np.array(STEPS_MM)[inside]
    return layer, depth


def fraction_of_depth(layer: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """What :func:`depth_of_fraction` was given; a float32 comes back exactly, as depths begin with 0 in the first."""
    inside = np.clip(layer, 0, len(DEPTHS_MM) - 1).astype(np.int64)
    return layer + (depth - np.array(DEPTHS_MM)[inside]) / np.array(STEPS_MM)[inside]


def write_showerclouds(path: Path, batches: Iterable[pa.RecordBatch], geometry: Geometry) -> int:
    """Write showers as padded clouds; what came from such a file comes back bit by bit, gzip-compressed.

    Args:
        path: the file, which appears when it is complete; replaced if it exists.
        batches: shower records.
        geometry: from the manifest. Layout, units and types are those of the source if it was such a file, else
            ``events`` (N, 6000, 4) with the layer as depth, padded at the end.

    Returns:
        Number of showers written.

    Raises:
        HepfmError: no showers, one with more points than rows, points without a layer where the layout needs it, or
            cells of another calorimeter than ILD: such files mean ILD's layers.
    """
    positions = tuple(layer.position for layer in geometry.layers)
    if geometry.kind != "points" and positions != DEPTHS_MM[: len(positions)]:
        raise HepfmError("is not ILD, whose layers this format means", geometry.name, "export it as showerdata")
    stored = geometry.stored
    if stored.layout.get("format") != FORMAT:
        layout: dict[str, str | int] = {"array": EVENTS, "incident": "energy", "rows": 6000, "axis": 1}
        layout |= {"padding": "end", "depth": LAYER, "direction": "", "type": "<f4", "incident_axes": 2}
        stored = replace(stored, deposit_unit="GeV", incident_unit="GeV", layout=layout)
    layout = dict(stored.layout)
    rows, axis = int(layout["rows"]), int(layout["axis"])
    shape = (rows, COLUMNS) if axis == 1 else (COLUMNS, rows)
    directions = []
    count = 0
    with hdf5_written(path) as file:
        incident = Rows(file, str(layout["incident"]), (1,) * (int(layout["incident_axes"]) - 1), stored.incident_type)
        clouds = Rows(file, str(layout["array"]), shape, str(layout["type"]))
        for batch in reblock(batches, clouds.chunk):
            energy = stored.stored_incident(values_of(batch.column("incident_energy")))
            incident.append(energy.reshape(len(batch), *(1,) * (int(layout["incident_axes"]) - 1)))
            dense = _padded(batch, geometry, stored, path)
            clouds.append(dense if axis == 1 else dense.transpose(0, 2, 1))
            if layout["direction"] and "direction_x" in batch.schema.names:
                directions.append(_directions(batch))
            count += len(batch)
        if not count:
            raise HepfmError("no showers to write", path)
        if directions:
            values = np.concatenate(directions).astype(str(layout["direction"])[1:])
            file[DIRECTION] = values if str(layout["direction"])[0] == "r" else values.T
    return count


def _padded(batch: pa.RecordBatch, geometry: Geometry, stored: Stored, path: Path) -> np.ndarray:
    """The clouds (n, rows, 4) of a batch."""
    rows = int(stored.layout["rows"])
    lengths = lengths_of(batch.column("points"))
    if len(lengths) and lengths.max() > rows:
        raise HepfmError(
            f"a shower has {lengths.max():,} points, the layout {rows:,} rows", path, "cut it, or voxelise"
        )
    shower = np.repeat(np.arange(len(batch)), lengths)
    row = np.arange(len(shower)) - np.repeat(offsets_of(batch.column("points"))[:-1], lengths)
    if stored.layout["padding"] == "front":
        row += np.repeat(rows - lengths, lengths)
    kind = np.dtype(str(stored.layout["type"]))
    dense = np.zeros((len(batch), rows, COLUMNS), dtype=kind)
    for column, values in enumerate(_columns(batch, geometry, stored, path)):
        dense[shower, row, column] = values.astype(kind)
    return dense


def _columns(batch: pa.RecordBatch, geometry: Geometry, stored: Stored, path: Path) -> tuple[np.ndarray, ...]:
    present = {field.name for field in batch.schema.field("points").type.value_type}
    energy = stored.stored_deposits(points_of(batch, "energy"))
    if stored.layout["array"] == SHOWERS:
        needed = ("cell_a", "cell_b", "layer")
        if not present.issuperset(needed):
            raise HepfmError("points without cells", path, "this layout holds cells: voxelise first")
        a, b, layer = (points_of(batch, name) for name in needed)
        return a, b, layer, energy
    depth = stored.layout["depth"]
    name = "layer" if depth == LAYER else geometry.depth
    if name not in present:
        raise HepfmError(f"points without {name}", path, "this layout needs it")
    x, z = positions_of(batch, geometry)
    along = points_of(batch, name)
    if depth == MM:
        along = along + (geometry.front or 0.0)
    elif depth == FRACTION:
        along = fraction_of_depth(points_of(batch, "layer"), along)
    return x, along, z, energy


def _directions(batch: pa.RecordBatch) -> np.ndarray:
    """Directions (n, 3) as the files have them: along x, z and depth."""
    return np.stack([values_of(batch.column(f"direction_{axis}")) for axis in ("x", "z", "y")], axis=1)
