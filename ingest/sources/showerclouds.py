"""Padded point clouds of ILD showers (CaloClouds; the cells of OmniJet-alpha_C and SPADE) as shower records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ild import ALL_LAYERS, ECAL_LAYERS, FRONT_MM, GRID_CELLS, ild_grid, ild_points
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.formats.shower_files import Ragged, ShowerFile, Stripe, shower_file
from hepfm.ingest.formats.showerclouds import (
    COLUMNS,
    DIRECTION,
    EVENTS,
    FORMAT,
    FRACTION,
    INCIDENT,
    LAYER,
    MM,
    SHOWERS,
    depth_of_fraction,
)
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry, Stored
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.sources.shower_source import (
    NO_UNIT_VECTOR,
    SAMPLE,
    UNIT_TOLERANCE,
    ShowerSource,
    no_unit_vectors,
    without,
)
from hepfm.ingest.tally import Tally

DIRECTIONS = ("direction_x", "direction_y", "direction_z")
# No calorimeter shows so little: deposits over incident energy that tell MeV where GeV was expected.
LEAST_RESPONSE = 1e-4


@dataclass(frozen=True)
class ShowerCloudsSource(ShowerSource):
    """Reader of padded point clouds: arrays ``showers`` of cells, or ``events`` of positions; points keep their order.

    ``showers``: ``cell_a`` is x, ``cell_b`` y, ``layer`` z, and particles come perpendicularly. ``events``: x and z
    [mm], and for the depth ``layer``, or for layers with a fraction both ``layer`` and ``y`` [mm beyond the first
    sensor, taken as linear between sensors], or ``y`` alone; the direction is that of ``p_norm_local``, where the file
    has it. Which axis has the four columns, and at which end the padding is, is found out. A row with deposit 0 is
    padding.
    Deposits in GeV, and depths, are kept in float64, from which float32 goes back to equal bits
    (``hepfm corpus export --format showerclouds``).
    """

    depth: Literal["layer", "fraction", "mm"] | None = None
    """What the depth of events is: whole layers, layers with a fraction, or mm; judged by the first showers if not
    given."""
    layers: Literal[30, 78] | None = None
    """ILD's layers: 30, or 78 with the hadronic calorimeter; by default judged by the first showers."""
    incident_unit: Literal["GeV", "MeV"] | None = None
    """Unit of the incident energies; by default GeV, unless the first showers are at odds with that."""
    particle: int = 22
    """PDG id of the incident particle, which the files do not tell."""

    name = "showerclouds"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return any(
            len(contents.shape(array)) == 3
            and COLUMNS in contents.shape(array)[1:]
            and any(contents.shape(name) for name in names)
            for array, names in INCIDENT.items()
        )

    def settings(self) -> dict[str, Any]:
        chosen = {"depth": self.depth, "layers": self.layers, "incident_unit": self.incident_unit}
        return {**{name: value for name, value in chosen.items() if value is not None}, "particle": self.particle}

    def entries(self, path: Path) -> int:
        """Number of showers in a file.

        Raises:
            HepfmError: missing, truncated or not HDF5; no such arrays, of other types or shapes; no showers.
        """
        return int(_clouds(shower_file(path))[0].shape[0])

    def look(self, file: ShowerFile) -> Geometry:
        clouds, array, incident, axis = _clouds(file)
        _check_incident(file, incident, INCIDENT[array])
        sample = file.showers(clouds, 0, min(SAMPLE, len(clouds)), partial(_decoded, array, axis))
        layout: dict[str, str | int] = {
            "format": FORMAT,
            "array": array,
            "incident": incident,
            "incident_axes": file.array(incident).ndim,
            "type": f"<f{clouds.dtype.itemsize}",
            "rows": clouds.shape[axis],
            "axis": axis,
            "padding": _padding(file, clouds, axis),
            "direction": _direction_layout(file, len(clouds)) if array == EVENTS else "",
        }
        stored = Stored(
            deposit_unit="GeV" if array == EVENTS else "MeV",
            deposit_type=str(layout["type"]),
            incident_unit=self.incident_unit or "GeV",
            incident_type=f"<f{file.array(incident).dtype.itemsize}",
        )
        self._check_unit(file, sample, incident, stored)
        if array == SHOWERS:
            return ild_grid(GRID_CELLS, GRID_CELLS, replace(stored, layout={**layout, "depth": LAYER}))
        depth, layers = self._depth(sample.columns["1"], file.path)
        return ild_points(layers, replace(stored, layout={**layout, "depth": depth}))

    def common(self, seen: Sequence[Geometry], files: Sequence[Path]) -> Geometry:
        """The geometry of all files; they may be padded to different lengths and differ in the calorimeters reached."""
        widest = max(seen, key=lambda geometry: len(geometry.layers))
        layouts = [geometry.stored.layout for geometry in seen]
        told: dict[str, str | int] = {
            "padding": max(str(layout["padding"]) for layout in layouts),  # front, if any file tells so
            "rows": max(int(layout["rows"]) for layout in layouts),
        }
        if {layout["depth"] for layout in layouts} == {LAYER, FRACTION}:
            told["depth"] = FRACTION
        stored = [replace(geometry.stored, layout={**geometry.stored.layout, **told}) for geometry in seen]
        return super().common([replace(widest, stored=each) for each in stored], files)

    def schema_of(self, geometry: Geometry) -> pa.Schema:
        layout, wide = geometry.stored.layout, geometry.stored.wide
        if layout["array"] == SHOWERS:
            columns = ("incident_energy", *DIRECTIONS, "particle")
            return records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), columns, wide)
        depth = {LAYER: ("layer",), FRACTION: ("layer", "y"), MM: ("y",)}[str(layout["depth"])]
        columns = ("incident_energy", *(DIRECTIONS if layout["direction"] else ()), "particle")
        wide = wide | {"y"} | (set(DIRECTIONS) if str(layout["direction"])[1:] == "<f8" else set())
        if layout["type"] == "<f8":
            wide = wide | {"x", "z"}
        return records.schema("showers", ("x", "z", "energy", *depth), columns, wide)

    def showers(self, file: ShowerFile, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        geometry = self.bound_geometry
        layout = geometry.stored.layout
        clouds, array, incident, axis = _clouds(file)
        found = file.showers(clouds, start, stop, partial(_decoded, array, axis))
        points, what, right = self._points(found, geometry)
        entries = np.arange(start, stop)
        directions = _directions(file, start, stop, str(layout["direction"]))
        columns = {
            "incident_energy": geometry.stored.incident(file.column(incident, start, stop)),
            "particle": np.full(len(entries), self.particle),
            **directions,
            "source_entry": entries,
        }
        wrong = np.zeros(len(entries), dtype=bool)
        wrong[np.repeat(np.arange(len(entries)), np.diff(found.offsets))[~right]] = True
        batch = shower_batch(self.schema, found.offsets, points, columns)
        return without(batch, {what: wrong, NO_UNIT_VECTOR: no_unit_vectors(directions)}, entries, tally, file.path)

    def _points(self, found: Ragged, geometry: Geometry) -> tuple[dict[str, np.ndarray], str, np.ndarray]:
        """Quantities of the points; what may be wrong with one; and which are right."""
        first, second, third, energy = (found.columns[str(column)] for column in range(COLUMNS))
        energy = geometry.stored.deposits(energy)
        layers = len(geometry.layers)
        if geometry.stored.layout["array"] == SHOWERS:
            names = dict(zip(("cell_a", "cell_b", "layer"), (first, second, third), strict=True))
            right = np.logical_and.reduce([_whole(values, GRID_CELLS) for values in names.values()])
            cells = {name: np.where(right, values, 0).astype(np.int16) for name, values in names.items()}
            what = f"a cell index that is no whole number from 0 to {GRID_CELLS - 1}"
            return {**cells, "energy": energy}, what, right
        points = {"x": first, "z": third, "energy": energy}
        depth = geometry.stored.layout["depth"]
        if depth == MM:
            return {**points, "y": second.astype(np.float64) - FRONT_MM}, "", np.ones(len(second), dtype=bool)
        if depth == LAYER:
            right = _whole(second, layers)
            points["layer"] = np.where(right, second, 0)
            return points, f"a depth that is no layer from 0 to {layers - 1} (--depth, --layers)", right
        right = (second >= 0) & (second < layers)
        points["layer"], points["y"] = depth_of_fraction(np.where(right, second, 0))
        return points, f"a depth outside 0 to {layers} layers (--depth, --layers)", right

    def _depth(self, values: np.ndarray, path: Path) -> tuple[str, int]:
        """What depths are, and how many layers there are."""
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        depth: str | None = self.depth
        if depth is None:
            if low >= FRONT_MM - 100:
                depth = MM
            elif low >= 0 and high < (self.layers or ALL_LAYERS):
                depth = LAYER if bool(np.all(values == np.floor(values))) else FRACTION
            else:
                raise HepfmError(
                    f"depths from {low:g} to {high:g} are neither layers of ILD nor its mm", path, "give --depth"
                )
        above = high - FRONT_MM > 250 if depth == MM else high >= ECAL_LAYERS
        return depth, self.layers or (ALL_LAYERS if above else ECAL_LAYERS)

    def _check_unit(self, file: ShowerFile, sample: Ragged, incident: str, stored: Stored) -> None:
        if self.incident_unit is not None or not len(sample.columns["3"]):
            return
        size = len(sample.offsets) - 1
        with np.errstate(all="ignore"):  # values that are not finite are the builder's to judge
            energies = stored.incident(file.column(incident, 0, size)).astype(np.float64)
            deposits = np.sum(stored.deposits(sample.columns["3"]), dtype=np.float64) / MEV_PER_GEV
            share = deposits / energies.sum()
        if share < LEAST_RESPONSE:
            raise HepfmError(
                f"its first {size} showers deposit {share:.1e} of '{incident}' taken as GeV",
                file.path,
                "give --incident-unit GeV or MeV",
            )


def _clouds(file: ShowerFile) -> tuple[Any, str, str, int]:
    """The array of clouds, its name, that of the incident energies, and the axis that counts points."""
    if file.has(SHOWERS) and file.has(EVENTS):
        raise HepfmError(f"has clouds in both '{SHOWERS}' and '{EVENTS}'", file.path, "leave one of them out")
    array = SHOWERS if file.has(SHOWERS) else EVENTS
    incident = next((name for name in INCIDENT[array] if file.has(name)), INCIDENT[array][0])
    clouds, energy = file.array(array), file.array(incident)
    if file.has("layer_counts"):
        raise HepfmError("its clouds begin with rows of counts ('layer_counts')", file.path, "leave these rows out")
    if clouds.ndim != 3 or energy.shape not in ((len(clouds),), (len(clouds), 1)):
        raise HepfmError(
            f"'{array}' has shape {clouds.shape}, '{incident}' {energy.shape}",
            file.path,
            "clouds are (N, rows, 4) or (N, 4, rows), energies (N,) or (N, 1)",
        )
    axes = [axis for axis in (1, 2) if clouds.shape[3 - axis] == COLUMNS]
    if len(axes) != 1:
        raise HepfmError(
            f"'{array}' has shape {clouds.shape}", file.path, "one axis, and only one, must have 4 columns"
        )
    if not len(clouds):
        raise HepfmError("has no showers", file.path, "leave the file out")
    return clouds, array, incident, axes[0]


def _check_incident(file: ShowerFile, used: str, others: Sequence[str]) -> None:
    """Raise a :class:`HepfmError` where an array of another name tells other incident energies."""
    values = file.read(file.array(used), slice(None)).reshape(-1)
    for other in others:
        if other == used or not file.has(other):
            continue
        if not np.array_equal(values, file.read(file.array(other), slice(None)).reshape(-1)):
            raise HepfmError(f"'{used}' and '{other}' differ", file.path, "leave the wrong one out")


def _padding(file: ShowerFile, clouds: Any, axis: int) -> str:
    """At which end the first showers are padded; at the end if they do not tell."""
    index = [slice(0, min(SAMPLE, len(clouds))), slice(None), slice(None)]
    index[3 - axis] = slice(COLUMNS - 1, COLUMNS)
    energy = file.read(clouds, *index).reshape(index[0].stop, -1)
    return "front" if bool(np.any((energy[:, 0] == 0) & (energy[:, -1] != 0))) else "end"


def _decoded(array: str, axis: int, file: ShowerFile, start: int, stop: int) -> Iterator[Stripe]:
    for _, values in file.stripes(file.array(array), start, stop, axis):
        values = values if axis == 1 else values.transpose(0, 2, 1)
        shower, row = np.nonzero(values[..., COLUMNS - 1])
        yield shower, {str(column): values[shower, row, column] for column in range(COLUMNS)}


def _whole(values: np.ndarray, below: int) -> np.ndarray:
    return (values >= 0) & (values < below) & (values == np.floor(values))


def _direction_layout(file: ShowerFile, showers: int) -> str:
    """Empty without directions, else ``r`` (N, 3) or ``c`` (3, N), and their type."""
    if not file.has(DIRECTION):
        return ""
    found = file.array(DIRECTION)
    if found.shape not in ((showers, 3), (3, showers)):
        raise HepfmError(f"'{DIRECTION}' has shape {found.shape}", file.path, f"expected ({showers}, 3)")
    rows = found.shape == (showers, 3)
    if showers == 3:  # the shape does not tell: directions are unit vectors
        squares = file.read(found, slice(None)).astype(np.float64) ** 2
        units = [bool(np.all(np.abs(np.sqrt(squares.sum(axis=axis)) - 1) < UNIT_TOLERANCE)) for axis in (1, 0)]
        if units[0] == units[1]:
            raise HepfmError(f"'{DIRECTION}' has shape (3, 3)", file.path, "whether rows are showers cannot be told")
        rows = units[0]
    return f"{'r' if rows else 'c'}<f{found.dtype.itemsize}"


def _directions(file: ShowerFile, start: int, stop: int, layout: str) -> dict[str, np.ndarray]:
    if not layout:
        values = np.repeat([[0.0], [1.0], [0.0]], stop - start, axis=1)
    else:
        rows = layout[0] == "r"
        found = file.array(DIRECTION)
        index = (slice(start, stop),) if rows else (slice(0, 3), slice(start, stop))
        values = file.read(found, *index)
        values = (values.T if rows else values)[[0, 2, 1]]
    return dict(zip(DIRECTIONS, values, strict=True))
