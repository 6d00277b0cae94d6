"""Files of the ``showerdata`` package (CaloHadronic, AllShowers, multi-geometry samples) as shower records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ild import ALL_LAYERS, ild_points
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.formats.shower_files import ShowerFile, shower_file
from hepfm.ingest.formats.showerdata import (
    COLUMNS,
    DIRECTIONS,
    ENERGIES,
    FORMAT,
    IDS,
    NUM_LAYERS,
    NUM_POINTS,
    PDG,
    SAMPLING_FRACTION,
    SHAPE,
    SHOWERS,
    STORED,
)
from hepfm.ingest.geometry import Geometry, Layer, Stored
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.sources.shower_source import NO_UNIT_VECTOR, SAMPLE, ShowerSource, no_unit_vectors, without
from hepfm.ingest.tally import Tally

MOST_LAYERS = 10_000


@dataclass(frozen=True)
class ShowerDataSource(ShowerSource):
    """Reader of ``showerdata`` files: points with x and y [mm] across and layer (or z [mm]) in depth, energy, time.

    Points keep their order and count, those without energy included. Deposits, in GeV in the files, are kept in
    float64, from which they go back to equal bits (``hepfm corpus export --format showerdata``). The group
    ``observables`` is left out: it follows from the points. Number of layers and sampling fraction are taken from the
    file's attributes ``num_layers`` and ``sampling_fraction`` where it has them.
    """

    depth: Literal["layer", "mm"] | None = None
    """What the third column is: layers or mm; by default layers if the first showers have whole numbers there, and mm
    if they reach beyond any number of layers."""
    detector: Literal["ild"] | None = None
    """Put the layers of this detector into the geometry, which the files do not tell."""

    name = "showerdata"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return len(contents.shape(SHOWERS)) == 1 and all(
            contents.shape(name) for name in (SHAPE, ENERGIES, DIRECTIONS, PDG)
        )

    def settings(self) -> dict[str, Any]:
        chosen = {"depth": self.depth, "detector": self.detector}
        return {name: value for name, value in chosen.items() if value is not None}

    def entries(self, path: Path) -> int:
        """Number of showers in a file.

        Raises:
            HepfmError: missing, truncated or not HDF5; no such arrays, of other types or shapes; no showers.
        """
        return int(_lists(shower_file(path)).shape[0])

    def look(self, file: ShowerFile) -> Geometry:
        lists = _lists(file)
        columns = _columns(file)
        layers = file.attribute(NUM_LAYERS) or 0
        if not 0 <= layers <= MOST_LAYERS or layers != int(layers):
            raise HepfmError(f"'{NUM_LAYERS}' is {layers:g}", file.path, "it should count layers")
        depth = self.depth or _depth(_points(file, lists, 0, min(SAMPLE, len(lists)), columns)[0][:, 2], file.path)
        longest = int(file.read(file.array(SHAPE, "iu"), slice(0, 3))[1])
        layout: dict[str, str | int] = {"format": FORMAT, "columns": columns, "depth": depth, "longest": longest}
        stored = replace(STORED, layout=layout)
        sampling = file.attribute(SAMPLING_FRACTION)
        if self.detector == "ild":
            geometry = ild_points(ALL_LAYERS, stored)
            return replace(geometry, depth="z", sampling_fraction=sampling)
        return _unknown(int(layers), sampling, stored)

    def common(self, seen: Sequence[Geometry], files: Sequence[Path]) -> Geometry:
        """The geometry of all files; what the first showers of one do not tell, those of the others do."""
        longest = max(int(found.stored.layout["longest"]) for found in seen)
        depths = [found.stored.layout["depth"] for found in seen]
        usual = next((depth for depth in depths if depth), "layer")
        told: list[dict[str, str | int]] = [{"longest": longest, "depth": depth or usual} for depth in depths]
        stored = [
            replace(found.stored, layout={**found.stored.layout, **known})
            for found, known in zip(seen, told, strict=True)
        ]
        return super().common([replace(found, stored=each) for found, each in zip(seen, stored, strict=True)], files)

    def schema_of(self, geometry: Geometry) -> pa.Schema:
        layout = geometry.stored.layout
        depth = "layer" if layout["depth"] == "layer" else "z"
        points = ("x", "y", depth, "energy", *(("time",) if layout["columns"] == COLUMNS[-1] else ()))
        columns = ("incident_energy", "direction_x", "direction_y", "direction_z", "particle", "shower_id")
        return records.schema("showers", points, columns, geometry.stored.wide)

    def showers(self, file: ShowerFile, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        geometry = self.bound_geometry
        lists = _lists(file)
        if not 0 <= start <= stop <= len(lists):
            raise HepfmError(f"entries {start} to {stop} were asked for, it has {len(lists)}", file.path)
        columns = int(geometry.stored.layout["columns"])
        if _columns(file) != columns:
            raise HepfmError(f"points have {_columns(file)} columns, not {columns}", file.path, "one at a time")
        points, offsets, whole = _points(file, lists, start, stop, columns)
        faults = {"its values are no whole points": ~whole}
        if file.has(NUM_POINTS):
            counts = file.column(NUM_POINTS, start, stop, "iu")
            faults["'num_points' disagrees with its points"] = whole & (counts != np.diff(offsets))
        direction = file.read(file.array(DIRECTIONS), slice(start, stop))
        directions = dict(zip(("direction_x", "direction_y", "direction_z"), direction.T, strict=True))
        faults[NO_UNIT_VECTOR] = no_unit_vectors(directions)
        quantities = {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2], "layer": points[:, 2]}
        if geometry.stored.layout["depth"] == "layer":
            faults |= _layer_faults(points[:, 2], offsets, len(geometry.layers))
            quantities["layer"] = np.where(np.abs(points[:, 2]) < MOST_LAYERS, points[:, 2], 0)
        quantities |= {"energy": geometry.stored.deposits(points[:, 3]), "time": points[:, -1]}
        entries = np.arange(start, stop)
        identity = file.column(IDS, start, stop, "iu") if file.has(IDS) else entries
        showers = {
            "incident_energy": file.column(ENERGIES, start, stop),
            **directions,
            "particle": file.column(PDG, start, stop, "iu"),
            "shower_id": identity,
            "source_entry": entries,
        }
        batch = shower_batch(self.schema, offsets, quantities, showers)
        return without(batch, faults, entries, tally, file.path)


def _depth(values: np.ndarray, path: Path) -> str:
    """What the third column of the first showers is: layers or mm; empty without a point.

    Raises:
        HepfmError: they may be either.
    """
    if not len(values):
        return ""
    if bool(np.all(values == np.floor(values))):
        return "layer"
    if values.min() >= 0 and values.max() < ALL_LAYERS:
        raise HepfmError(
            f"its third column goes from {values.min():g} to {values.max():g}: layers with a fraction, or mm?",
            path,
            "give --depth mm if it is mm; layers have to be whole numbers",
        )
    return "mm"


def _layer_faults(values: np.ndarray, offsets: np.ndarray, layers: int) -> dict[str, np.ndarray]:
    most = layers or MOST_LAYERS
    right = (values >= 0) & (values < most) & (values == np.floor(values))
    shower = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    wrong = np.zeros(len(offsets) - 1, dtype=bool)
    wrong[shower[~right]] = True
    return {f"a layer that is no whole number from 0 to {most - 1} (--depth mm?)": wrong}


def _lists(file: ShowerFile) -> Any:
    """The lists of points, once every array is known to be there and to have as many rows."""
    lists = file.array(SHOWERS, "O")
    inner = h5py.check_vlen_dtype(lists.dtype)
    if lists.ndim != 1 or not isinstance(inner, np.dtype) or inner.kind != "f":
        raise HepfmError(
            f"'{SHOWERS}' holds {lists.dtype} in shape {lists.shape}", file.path, "expected lists of float32"
        )
    shapes = {ENERGIES: ((1,), "f"), DIRECTIONS: ((3,), "f"), PDG: ((), "iu")}
    for name, (row, kinds) in shapes.items():
        found = file.array(name, kinds)
        if found.shape != (len(lists), *row):
            raise HepfmError(f"'{name}' has shape {found.shape}", file.path, f"expected {(len(lists), *row)}")
    if not len(lists):
        raise HepfmError("has no showers", file.path, "leave the file out")
    return lists


def _columns(file: ShowerFile) -> int:
    """Columns of a point, from the array ``shape``."""
    shape = file.array(SHAPE, "iu")
    values = file.read(shape, slice(0, 3)) if shape.shape == (3,) else np.zeros(3)
    if int(values[2]) not in COLUMNS:
        raise HepfmError(f"points have {int(values[2])} columns by '{SHAPE}'", file.path, "expected 4 or 5")
    return int(values[2])


def _points(
    file: ShowerFile, lists: Any, start: int, stop: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, columns) of showers [start, stop), offsets, and which showers consist of whole points.

    A shower that does not has none here.
    """
    found = file.read(lists, slice(start, stop))
    sizes = np.fromiter((len(values) for values in found), dtype=np.int64, count=len(found))
    whole = sizes % columns == 0
    kept = [values for values, right in zip(found, whole, strict=True) if right and len(values)]
    flat = np.concatenate(kept) if kept else np.zeros(0, dtype=np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.where(whole, sizes // columns, 0))])
    return flat.reshape(-1, columns), offsets, whole


def _unknown(layers: int, sampling: float | None, stored: Stored) -> Geometry:
    """A calorimeter of which the files tell only this."""
    named = tuple(Layer(layer) for layer in range(layers))
    return Geometry("calorimeter of a showerdata file", "points", named, sampling_fraction=sampling, stored=stored)
