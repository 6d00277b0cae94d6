"""The ``showerdata`` format (the package's version 0.7): names and types of the arrays, and a writer.

Per shower: ``showers``, a list of float32 of varying length, point after point, with 4 or 5 columns (x [mm], y [mm],
layer or z [mm], deposit [GeV], time [ns]); ``energies`` (N, 1) [GeV]; ``directions`` (N, 3), unit vectors with z along
the depth; ``pdg``, ``shower_ids``, ``num_points`` (N,). ``shape`` is (showers, length that the longest is padded to,
columns); attribute ``showerdata_version``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, points_of, values_of
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.geometry import Geometry, Stored
from hepfm.ingest.shards import reblock
from hepfm.ingest.voxels import positions_of

FORMAT = "showerdata"
VERSION = "0.7.0"
SHOWERS, SHAPE, ENERGIES, DIRECTIONS, PDG = "showers", "shape", "energies", "directions", "pdg"
IDS, NUM_POINTS, VERSION_ATTRIBUTE = "shower_ids", "num_points", "showerdata_version"
# What files may tell of the calorimeter, as attributes.
NUM_LAYERS, SAMPLING_FRACTION = "num_layers", "sampling_fraction"
COLUMNS = (4, 5)
STORED = Stored("GeV", "<f4", "GeV", "<f4", {"format": FORMAT})
WRITE_SHOWERS = 32  # held at a time
CHUNK_SHOWERS = 1024
_POINTS = h5py.vlen_dtype(np.dtype("<f4"))


def write_showerdata(path: Path, batches: Iterable[pa.RecordBatch], geometry: Geometry) -> int:
    """Write showers as a ``showerdata`` file; what came from one comes back bit by bit.

    Records of any geometry can be written: cells become their centres across the layer, and where points have a layer
    that is the third column, else their depth. Without a direction that along the depth is written, without a particle
    id 0, without an id of the shower its number in the file. A fifth column is written where points have a time.

    Args:
        path: the file, which appears when it is complete; replaced if it exists.
        batches: shower records.
        geometry: from the manifest.

    Returns:
        Number of showers written.

    Raises:
        HepfmError: no showers, or points with neither a layer nor a depth.
    """
    with hdf5_written(path) as file:
        out = _Out(file, geometry, path)
        for batch in reblock(batches, WRITE_SHOWERS):
            out.append(batch)
        if not out.count:
            raise HepfmError("no showers to write", path)
        longest = max(out.most, int(geometry.stored.layout.get("longest", 0)))
        file.create_dataset(SHAPE, data=np.array((out.count, longest, out.columns), dtype=np.int64))
        file.attrs[VERSION_ATTRIBUTE] = VERSION
        if geometry.layers:
            file.attrs[NUM_LAYERS] = len(geometry.layers)
        if geometry.sampling_fraction is not None and not geometry.calibrated:
            file.attrs[SAMPLING_FRACTION] = geometry.sampling_fraction
    return out.count


@dataclass
class _Out:
    """A file that is being written: showers so far, points of the longest, columns of a point."""

    file: h5py.File
    geometry: Geometry
    path: Path
    count: int = 0
    most: int = 0
    columns: int = COLUMNS[0]
    arrays: dict[str, h5py.Dataset] = field(default_factory=dict)

    def append(self, batch: pa.RecordBatch) -> None:
        """Add records; the same quantities in every batch."""
        offsets = offsets_of(batch.column("points"))
        points = np.stack([values.astype("<f4") for values in self._points(batch)], axis=1)
        self.columns = points.shape[1]
        lengths = np.diff(offsets)
        self.most = max(self.most, int(lengths.max(initial=0)))
        # A plain list: of an object array h5py makes a table where all happen to be of one length.
        self._extend(SHOWERS, np.split(points.reshape(-1), offsets[1:-1] * self.columns), _POINTS)
        self._extend(NUM_POINTS, lengths, "<i4")
        for name, (values, kind) in self._showers(batch).items():
            self._extend(name, values, kind)
        self.count += len(batch)

    def _extend(self, name: str, values: np.ndarray | list[np.ndarray], kind: object) -> None:
        if name not in self.arrays:
            row = () if isinstance(values, list) else values.shape[1:]
            self.arrays[name] = self.file.create_dataset(
                name, (0, *row), kind, maxshape=(None, *row), chunks=(CHUNK_SHOWERS, *row)
            )
        dataset = self.arrays[name]
        dataset.resize(self.count + len(values), axis=0)
        dataset[self.count :] = values

    def _points(self, batch: pa.RecordBatch) -> list[np.ndarray]:
        geometry = self.geometry
        present = {part.name for part in batch.schema.field("points").type.value_type}
        along = "layer" if "layer" in present else geometry.depth
        if along not in present:
            raise HepfmError(f"points have neither layer nor {geometry.depth}", self.path, "the format needs one")
        first, second = positions_of(batch, geometry)
        energy = STORED.stored_deposits(points_of(batch, "energy"))
        time = [points_of(batch, "time")] if "time" in present else []
        return [first, second, points_of(batch, along), energy, *time]

    def _showers(self, batch: pa.RecordBatch) -> dict[str, tuple[np.ndarray, str]]:
        names, size = batch.schema.names, len(batch)
        axes = (*self.geometry.across, self.geometry.depth)
        if "direction_x" in names:
            direction = np.stack([values_of(batch.column(f"direction_{axis}")) for axis in axes], axis=1)
        else:
            direction = np.repeat([[0.0, 0.0, 1.0]], size, axis=0)
        particle = values_of(batch.column("particle")) if "particle" in names else np.zeros(size)
        number = np.arange(self.count, self.count + size)
        return {
            ENERGIES: (STORED.stored_incident(values_of(batch.column("incident_energy")))[:, None], "<f4"),
            DIRECTIONS: (direction.astype("<f4"), "<f4"),
            PDG: (particle, "<i4"),
            IDS: (values_of(batch.column("shower_id")) if "shower_id" in names else number, "<i4"),
        }
