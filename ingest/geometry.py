"""The geometry of a calorimeter: which cells it has and where, and how points fill them.

It stands in a corpus's manifest as plain data (:meth:`Geometry.to_data`), so that showers can be voxelised, decoded and
plotted without knowing where they came from. Frame: the first and second cell index run across a layer, ``depth`` is
the axis that runs through the layers. A cylinder's first index is its ring, its second the sector, counted from alpha =
-pi. Depths are in mm beyond the front of the first layer; ``front`` says where that lies in the detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np

from hepfm.core.errors import HepfmError

Kind = Literal["cylinder", "grid", "points"]
Unit = Literal["MeV", "GeV"]
MEV_PER_GEV = 1000.0
_MEND = "restore the manifest from a copy"


@dataclass(frozen=True)
class Bins:
    """Cells along one index: equal ones by number, first edge and width, others by all of their edges.

    Attributes:
        cells: how many.
        first: lowest edge, mm (rad for sectors).
        width: of one cell, same unit; 0 if they differ.
        listed: all edges (cells + 1,), ascending, if they differ.
    """

    cells: int
    first: float = 0.0
    width: float = 0.0
    listed: tuple[float, ...] = ()

    @classmethod
    def irregular(cls, edges: tuple[float, ...]) -> Bins:
        """Cells between ``edges``."""
        return cls(len(edges) - 1, edges[0], 0.0, edges)

    @classmethod
    def sectors(cls, cells: int) -> Bins:
        """Equal sectors of the full circle from -pi to pi."""
        return cls(cells, -np.pi, 2 * np.pi / cells)

    @property
    def edges(self) -> np.ndarray:
        """Edges (cells + 1,) float64."""
        return np.array(self.listed) if self.listed else self.first + self.width * np.arange(self.cells + 1)

    @property
    def centres(self) -> np.ndarray:
        """Centres (cells,) float64."""
        edges = self.edges
        return 0.5 * (edges[1:] + edges[:-1])

    def to_data(self) -> dict[str, Any]:
        if self.listed:
            return {"edges": list(self.listed)}
        return {"cells": self.cells, "first": self.first, "width": self.width}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Bins:
        if "edges" in data:
            return cls.irregular(tuple(float(edge) for edge in data["edges"]))
        return cls(int(data["cells"]), float(data["first"]), float(data["width"]))


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        id: the source's number of it; records count layers from 0 instead.
        cell_a, cell_b: its cells along both indices; None where hits are points.
        position: depth [mm] of its front beyond that of the first layer; None if unknown.
        thickness: what it takes up in depth [mm]; None if unknown.
    """

    id: int
    cell_a: Bins | None = None
    cell_b: Bins | None = None
    position: float | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class Stored:
    """How the source's files hold showers: what a writer needs in order to give equal arrays back.

    Records are in MeV (deposits) and GeV (incident energies). A value that this changes is kept in float64: a float32
    comes back exactly from there (a product or quotient with 1000 errs by less than 2^-52 of it). A float64 in MeV does
    not come back from GeV: :attr:`keeps_mev`. A float64 deposit in GeV comes back to within its last bit.

    Attributes:
        deposit_unit, deposit_type: unit and NumPy type of deposits (``<f4``).
        incident_unit, incident_type: the same of incident energies.
        layout: names and shapes of the arrays; what it means is between a format's reader and writer.
    """

    deposit_unit: Unit = "MeV"
    deposit_type: str = "<f4"
    incident_unit: Unit = "GeV"
    incident_type: str = "<f4"
    layout: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def wide(self) -> frozenset[str]:
        """Quantities of records that have to be float64."""
        deposits = self.deposit_unit == "GeV" or np.dtype(self.deposit_type).itemsize > 4
        incident = self.incident_unit == "MeV" or np.dtype(self.incident_type).itemsize > 4
        return frozenset({"energy"} if deposits else ()) | frozenset({"incident_energy"} if incident else ())

    @property
    def keeps_mev(self) -> bool:
        """Must records keep the incident energy in MeV beside the one in GeV?"""
        return self.incident_unit == "MeV" and np.dtype(self.incident_type).itemsize > 4

    def summary(self) -> str:
        """What is known of the files, for people."""
        layout = [f"{name} {value}" for name, value in self.layout.items() if value != ""]
        energies = f"deposits {self.deposit_unit} {self.deposit_type}"
        incident = f"incident energies {self.incident_unit} {self.incident_type}"
        return ", ".join([*layout, energies, incident])

    def deposits(self, stored: np.ndarray) -> np.ndarray:
        """Deposits [MeV] from what the files hold."""
        return stored * np.float64(MEV_PER_GEV) if self.deposit_unit == "GeV" else stored

    def stored_deposits(self, energy: np.ndarray) -> np.ndarray:
        """What the files hold, from deposits [MeV]."""
        if self.deposit_unit == "GeV":
            energy = energy.astype(np.float64) / MEV_PER_GEV
        return energy.astype(self.deposit_type)

    def incident(self, stored: np.ndarray) -> np.ndarray:
        """Incident energies [GeV] from what the files hold."""
        return stored.astype(np.float64) / MEV_PER_GEV if self.incident_unit == "MeV" else stored

    def stored_incident(self, energy: np.ndarray) -> np.ndarray:
        """What the files hold, from incident energies [GeV]."""
        if self.incident_unit == "MeV":
            energy = energy.astype(np.float64) * MEV_PER_GEV
        return energy.astype(self.incident_type)


@dataclass(frozen=True)
class Cells:
    """A cell for each of N voxels or points, (N,) int16 each: layer (counted from 0), first and second index."""

    layer: np.ndarray
    cell_a: np.ndarray
    cell_b: np.ndarray


@dataclass(frozen=True)
class Centres:
    """Centres of the voxels, (voxels,) float64 [mm], NaN where unknown; radius and alpha [rad] of a cylinder's cells.

    x, y, z are in the geometry's frame: for depth ``z`` the cells of a layer lie in x and y, for ``y`` in x and z.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    radius: np.ndarray
    alpha: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """A calorimeter.

    Attributes:
        name: what it is.
        kind: ``cylinder`` (rings and sectors, possibly other ones in each layer), ``grid``, or ``points`` (no cells).
        layers: from the front; empty if unknown.
        depth: the axis through the layers: ``z`` (cells lie in x, y) or ``y`` (cells lie in x, z).
        fastest: the index that runs fastest in the source's voxels; the layer runs slowest.
        front: where the front of the first layer lies in the detector [mm]; None if unknown.
        threshold: readout threshold [MeV] that analyses apply to a voxel; None if unknown.
        sampling_fraction: share of the energy that active material sees; None if unknown.
        calibrated: deposits are already divided by it, so that they sum to about the incident energy.
        stored: how the source's files hold showers.
    """

    name: str
    kind: Kind
    layers: tuple[Layer, ...] = ()
    depth: Literal["y", "z"] = "z"
    fastest: Literal["cell_a", "cell_b"] = "cell_b"
    front: float | None = None
    threshold: float | None = None
    sampling_fraction: float | None = None
    calibrated: bool = False
    stored: Stored = field(default_factory=Stored)

    @property
    def across(self) -> tuple[str, str]:
        """Names of the two axes along a layer, of the first and of the second index."""
        return ("x", "z") if self.depth == "y" else ("x", "y")

    @cached_property
    def shape(self) -> np.ndarray:
        """Cells (layers, 2) int64 of each layer along the first and second index."""
        if self.kind == "points":
            raise HepfmError("has no cells, its showers are points", self.name, "voxelise into a geometry with cells")
        pairs = [(a.cells, b.cells) for a, b in self._bins()]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def first_voxel(self) -> np.ndarray:
        """Voxels (layers + 1,) int64 before each layer, and their total."""
        return np.concatenate([[0], np.cumsum(self.shape.prod(axis=1))])

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.first_voxel[-1])

    @cached_property
    def cells(self) -> Cells:
        """The cell of each voxel, in the source's order."""
        layer = np.repeat(np.arange(len(self.layers)), np.diff(self.first_voxel))
        within = np.arange(self.voxels) - self.first_voxel[layer]
        first, second = (0, 1) if self.fastest == "cell_a" else (1, 0)
        fast = within % self.shape[layer, first]
        slow = within // self.shape[layer, first]
        indices = (fast, slow) if (first, second) == (0, 1) else (slow, fast)
        return Cells(*(values.astype(np.int16) for values in (layer, *indices)))

    def voxel(self, layer: np.ndarray, cell_a: np.ndarray, cell_b: np.ndarray) -> np.ndarray:
        """The voxel (N,) int64 of each cell, -1 where there is no such cell."""
        layer, cell_a, cell_b = (np.asarray(values, dtype=np.int64) for values in (layer, cell_a, cell_b))
        known = (layer >= 0) & (layer < len(self.layers))
        if not known.all():
            layer = np.where(known, layer, 0)
        cells_a, cells_b = self.shape[layer].T
        known &= (cell_a >= 0) & (cell_a < cells_a) & (cell_b >= 0) & (cell_b < cells_b)
        within = cell_b * cells_a + cell_a if self.fastest == "cell_a" else cell_a * cells_b + cell_b
        return np.where(known, self.first_voxel[layer] + within, -1)

    @cached_property
    def centres(self) -> Centres:
        """Where the voxels lie, in the source's order."""
        cells = self.cells
        a, b, depth = (np.empty(self.voxels) for _ in range(3))
        for number, (layer, bins) in enumerate(zip(self.layers, self._bins(), strict=True)):
            here = slice(self.first_voxel[number], self.first_voxel[number + 1])
            a[here] = bins[0].centres[cells.cell_a[here]]
            b[here] = bins[1].centres[cells.cell_b[here]]
            depth[here] = np.nan if layer.position is None else layer.position + 0.5 * (layer.thickness or 0.0)
        unknown = np.full(self.voxels, np.nan)
        if self.kind == "cylinder":
            return Centres(a * np.cos(b), a * np.sin(b), depth, radius=a, alpha=b)
        y, z = (depth, b) if self.depth == "y" else (b, depth)
        return Centres(a, y, z, unknown, unknown)

    def locate(self, layer: np.ndarray, across_a: np.ndarray, across_b: np.ndarray) -> np.ndarray:
        """The voxel (N,) int64 in which each point lies, -1 where it lies outside the cells of its layer.

        Args:
            layer: (N,) its layer.
            across_a, across_b: (N,) its position [mm] along both axes of :attr:`across`.
        """
        layer = np.asarray(layer)
        a = np.asarray(across_a, dtype=np.float64)
        b = np.asarray(across_b, dtype=np.float64)
        if self.kind == "cylinder":
            a, b = np.hypot(a, b), np.arctan2(b, a)
        cell_a, cell_b = (np.full(len(layer), -1, dtype=np.int64) for _ in range(2))
        for number, bins in enumerate(self._bins()):
            here = np.flatnonzero(layer == number)
            cell_a[here] = np.searchsorted(bins[0].edges, a[here], side="right") - 1
            cell_b[here] = np.searchsorted(bins[1].edges, b[here], side="right") - 1
            if self.kind == "cylinder":  # alpha = pi is the end of the circle, and rounding may reach beyond it
                cell_b[here] = np.clip(cell_b[here], 0, bins[1].cells - 1)
        return self.voxel(layer, cell_a, cell_b)

    def to_data(self) -> dict[str, Any]:
        """Plain data for the manifest; neighbouring layers with equal cells are told together."""
        return {
            "name": self.name,
            "kind": self.kind,
            "depth": self.depth,
            "order": ["layer", *(("cell_b", "cell_a") if self.fastest == "cell_a" else ("cell_a", "cell_b"))],
            "front": self.front,
            "layers": [_group(list(group)) for _, group in groupby(self.layers, key=_alike)],
            "threshold": self.threshold,
            "sampling_fraction": self.sampling_fraction,
            "calibrated": self.calibrated,
            "stored": {**vars(self.stored), "layout": dict(self.stored.layout)},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Geometry:
        """The geometry that :meth:`to_data` described.

        Raises:
            HepfmError: it describes none.
        """
        try:
            layers = [layer for group in data["layers"] for layer in _ungrouped(group)]
            known = {name: data[name] for name in ("name", "kind", "depth", "front", "threshold", "sampling_fraction")}
            return cls(
                **known,
                layers=tuple(layers),
                fastest=data["order"][-1],
                calibrated=data["calibrated"],
                stored=Stored(**data["stored"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise HepfmError(f"is no geometry of a calorimeter: {error!r}", "the manifest", _MEND) from error

    def summary(self) -> str:
        """One line for people."""
        cells = "points" if self.kind == "points" else f"{self.voxels:,} voxels, {self.kind}"
        layers = f"{len(self.layers)} layers" if self.layers else "layers unknown"
        threshold = "" if self.threshold is None else f", threshold {self.threshold:.4g} MeV"
        return f"{self.name}: {layers}, {cells}{threshold}"

    def _bins(self) -> Iterator[tuple[Bins, Bins]]:
        for layer in self.layers:
            if layer.cell_a is None or layer.cell_b is None:
                raise HepfmError(f"layer {layer.id} has no cells", self.name, _MEND)
            yield layer.cell_a, layer.cell_b


def _alike(layer: Layer) -> tuple[Any, ...]:
    return layer.cell_a, layer.cell_b, layer.thickness, layer.position is None


def _group(layers: list[Layer]) -> dict[str, Any]:
    first = layers[0]
    return {
        "ids": [layer.id for layer in layers],
        "positions": None if first.position is None else [layer.position for layer in layers],
        "thickness": first.thickness,
        "cell_a": first.cell_a.to_data() if first.cell_a else None,
        "cell_b": first.cell_b.to_data() if first.cell_b else None,
    }


def _ungrouped(group: Mapping[str, Any]) -> Iterator[Layer]:
    cell_a, cell_b = (Bins.from_data(group[name]) if group[name] else None for name in ("cell_a", "cell_b"))
    positions = group["positions"] or [None] * len(group["ids"])
    for number, position in zip(group["ids"], positions, strict=True):
        yield Layer(number, cell_a, cell_b, position, group["thickness"])
