"""Calorimeters as configuration: slices of material, layers, cells, and what showers are simulated in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hepfm.core.config import from_yaml
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.formats.ild import GRID_CELLS, GRID_FIRST_MM, PITCH_MM, THRESHOLD_MEV, ild_grid
from hepfm.ingest.geometry import Bins, Geometry, Layer, Stored
from hepfm.ingest.gflash.material import Slice

PARTICLES = {"photon": 22, "electron": 11}
# What the formulas were made for: well above the critical energy, and no higher than they were compared with full
# simulation (CaloChallenge's largest energy).
LEAST_GEV, MOST_GEV = 1.0, 1000.0
# Showers are voxelised 64 at a time, 8 bytes a voxel: half a gigabyte.
MOST_VOXELS = 1_000_000
# Homogeneous calorimeters are that good; a shower's spots are as many as 10/c for each GeV.
LEAST_STOCHASTIC = 0.03
MOST_THICKNESS_MM = MOST_CELL_MM = 10_000.0


@dataclass(frozen=True)
class Section:
    """Layers, once or repeated."""

    repeat: int
    """How often they come."""
    layers: tuple[tuple[Slice, ...], ...]
    """Each layer's slices from the front; one readout for all active slices of a layer."""


@dataclass(frozen=True)
class Cells:
    """Cells of every layer. Showers come in at the origin, along the depth."""

    kind: Literal["grid", "cylinder"]
    """grid (equal squares), or cylinder (rings and sectors about the axis)."""
    first: int
    """Cells along the first index: x, or rings."""
    second: int
    """Cells along the second index: y, or sectors."""
    size: float
    """Side of a square, or width of a ring, mm."""
    corner: tuple[float, float] | None = None
    """Position of a grid's first edges, mm; by default it is centred."""

    def bins(self) -> tuple[Bins, Bins]:
        """Edges along both indices."""
        if self.kind == "cylinder":
            return Bins(self.first, 0.0, self.size), Bins.sectors(self.second)
        low = self.corner or (-0.5 * self.first * self.size, -0.5 * self.second * self.size)
        return Bins(self.first, low[0], self.size), Bins(self.second, low[1], self.size)

    def summary(self) -> str:
        """For people."""
        named = "rings and sectors" if self.kind == "cylinder" else "cells"
        return f"{self.first} x {self.second} {named} of {self.size:g} mm"


@dataclass(frozen=True)
class Detector:
    """A sampling calorimeter."""

    name: str
    """What it is."""
    sections: tuple[Section, ...]
    """Its layers from the front."""
    cells: Cells
    """Cells of a layer."""
    stochastic: float
    """c of its energy resolution sigma/E = c/sqrt(E/GeV)."""
    threshold: float = 0.0
    """Cells with less are left out, MeV."""
    calibrated: bool = False
    """Are deposits scaled so that they sum to about the incident energy? Else they are what active material sees."""
    energy: tuple[float, float] = (10.0, 100.0)
    """Least and largest incident energy, GeV."""
    spectrum: Literal["uniform", "log-uniform"] = "uniform"
    """How incident energies are distributed between them."""
    particles: tuple[Literal["photon", "electron"], ...] = ("photon",)
    """Incident particles."""

    @property
    def layers(self) -> tuple[tuple[Slice, ...], ...]:
        """All layers from the front."""
        return tuple(layer for section in self.sections for _ in range(section.repeat) for layer in section.layers)

    def check(self) -> None:
        """See that showers can be simulated in it.

        Raises:
            HepfmError: no layers; a layer without absorber or active material; no data of a material; thicknesses,
                cells or energies that are impossible.
        """
        self._check_cells()
        layers = self.layers
        if not layers:
            raise HepfmError("has no layers", self.name, "describe its sections")
        for number, layer in enumerate(layers):
            where = f"{self.name}, layer {number}"
            for slice_ in layer:
                _known(slice_, where)
            for role in ("absorber", "active"):
                if not any(slice_.role == role for slice_ in layer):
                    raise HepfmError(f"no slice with the role {role}", where, "a sampling calorimeter has both")
        if not LEAST_STOCHASTIC <= self.stochastic < 1:
            told = f"c is {self.stochastic:g}, not between {LEAST_STOCHASTIC:g} and 1"
            raise HepfmError(told, self.name, "0.17 stands for 17%/sqrt(E)")
        check_energy(self.energy, self.name)
        if not 0 <= self.threshold < 1e3 * self.energy[0]:
            told = f"the threshold is {self.threshold:g} MeV"
            raise HepfmError(told, self.name, "it is from 0 to the least incident energy, and acts on each cell")
        unknown = [name for name in self.particles if name not in PARTICLES]
        if unknown or not self.particles or len(set(self.particles)) < len(self.particles):
            told = f"no showers of '{unknown[0]}'" if unknown else "name at least one particle, and each only once"
            raise HepfmError(told, self.name, f"there is: {', '.join(PARTICLES)}")

    def _check_cells(self) -> None:
        """See that cells are possible, and no more with all layers than memory holds."""
        corner = self.cells.corner or (0.0, 0.0)
        possible = 0 < self.cells.size <= MOST_CELL_MM and all(abs(edge) < math.inf for edge in corner)
        if min(self.cells.first, self.cells.second) < 1 or not possible:
            raise HepfmError(f"impossible cells: {self.cells.summary()}", self.name)
        # Counted, not made: repeats may be any number.
        layers = sum(max(section.repeat, 0) * len(section.layers) for section in self.sections)
        voxels = layers * self.cells.first * self.cells.second
        if voxels > MOST_VOXELS:
            told = f"{layers:,} layers of {self.cells.summary()} are {voxels:,} voxels"
            raise HepfmError(told, self.name, f"at most {MOST_VOXELS:,} are simulated")

    def geometry(self) -> Geometry:
        """What stands in the manifest: the published geometry of a detector that has one."""
        if self == DETECTORS["ild"]:
            return ild_grid(GRID_CELLS, GRID_CELLS, _ILD_STORED)
        for dataset in ("2", "3"):
            if self == DETECTORS[f"calochallenge{dataset}"]:
                return DATASETS[dataset].geometry()
        cell_a, cell_b = self.cells.bins()
        cylinder = self.cells.kind == "cylinder"
        depth, layers = 0.0, []
        for number, slices in enumerate(self.layers):
            thickness = sum(slice_.thickness for slice_ in slices)
            layers.append(Layer(number, cell_a, cell_b, round(depth, 4), round(thickness, 4)))
            depth += thickness
        return Geometry(
            name=self.name,
            kind=self.cells.kind,
            layers=tuple(layers),
            fastest="cell_a" if cylinder else "cell_b",
            threshold=self.threshold,
            calibrated=self.calibrated,
            stored=DATASETS["2"].geometry().stored if cylinder else Stored(),
        )


def _known(slice_: Slice, where: str) -> None:
    try:
        mass = slice_.mass
    except HepfmError as error:
        raise HepfmError(error.what, where, error.mend) from None
    if not (0 < mass < math.inf and slice_.thickness <= MOST_THICKNESS_MM):
        raise HepfmError(
            f"{slice_.thickness:g} mm of {slice_.material}", where, "thicknesses are positive, and at most 10 m"
        )


def check_energy(energy: tuple[float, float], where: str) -> None:
    """See that least and largest incident energy [GeV] are possible.

    Raises:
        HepfmError: not positive, in the wrong order, or outside of what the formulas are valid for.
    """
    low, high = energy
    told = f"energies of {low:g} to {high:g} GeV"
    if not 0 < low <= high:
        raise HepfmError(f"{told} are impossible", where, "give the least, then the largest, both positive")
    if low < LEAST_GEV or high > MOST_GEV:
        raise HepfmError(told, where, f"the parametrisation holds from {LEAST_GEV:g} to {MOST_GEV:g} GeV")


def _plates(*parts: tuple[str, float]) -> tuple[Slice, ...]:
    return tuple(Slice(material, thickness) for material, thickness in parts)


# ILD's barrel (key4hep/k4geo, ILD/compact/ILD_common_v02: ecal_hybrid_defs.xml, SEcal06_hybrid_Barrel.xml; thickness of
# tungsten and layers: ILD Interim Design Report, arXiv:2003.01116). Slabs carry sensors on both sides of a tungsten
# core; tungsten plates of the support stand between slabs. The sums of these thicknesses are the distances of the
# published sensor positions (3.125, 9.345, 5.225 and 11.445 mm).
_OUTSIDE = _plates(("polystyrene", 1.5), ("air", 0.5), ("copper", 0.4), ("aluminium", 0.1), ("carbon_fibre", 0.86))
_INSIDE = _plates(("copper_kapton", 0.1), ("carbon_fibre", 0.15))
_FACE = _plates(("carbon_fibre", 1.08))
_SENSOR = Slice("silicon", 0.525, "active")


def _between_slabs(tungsten: float, before: tuple[Slice, ...] = _OUTSIDE) -> tuple[Slice, ...]:
    return (*before, Slice("tungsten", tungsten, "absorber"), *reversed(_OUTSIDE), _SENSOR)


def _within_slab(tungsten: float) -> tuple[Slice, ...]:
    return (*_INSIDE, Slice("tungsten", tungsten, "absorber"), *reversed(_INSIDE), _SENSOR)


_ILD_STORED = Stored(
    layout={
        "format": "showerclouds",
        "array": "showers",
        "incident": "incident_energies",
        "incident_axes": 2,
        "type": "<f4",
        "rows": 1700,
        "axis": 1,
        "padding": "end",
        "direction": "",
        "depth": "layer",
    }
)

# CaloChallenge data sets 2 and 3 (Geant4's example Par04): a layer is twice 1.4 mm of tungsten and 0.3 mm of silicon.
_PAR04 = (Slice("tungsten", 1.4, "absorber"), Slice("silicon", 0.3, "active"))


def _par04(name: str, rings: int, sectors: int, width: float) -> Detector:
    return Detector(
        name=name,
        sections=(Section(45, (_PAR04 * 2,)),),
        cells=Cells("cylinder", rings, sectors, width),
        # ILD's 17% scaled by the square root of the depth between samplings, 0.40 against 0.64 radiation lengths.
        stochastic=0.134,
        threshold=DATASETS["2"].threshold,
        calibrated=True,
        energy=DATASETS["2"].incident,
        spectrum="log-uniform",
        particles=("electron",),
    )


DETECTORS = {
    "ild": Detector(
        name="ILD electromagnetic calorimeter",
        sections=(
            Section(1, (_between_slabs(2.1, _FACE),)),
            Section(9, (_within_slab(2.1), _between_slabs(2.1))),
            Section(1, (_within_slab(2.1),)),
            Section(5, (_between_slabs(4.2), _within_slab(4.2))),
        ),
        cells=Cells("grid", GRID_CELLS, GRID_CELLS, PITCH_MM, (GRID_FIRST_MM["x"], GRID_FIRST_MM["z"])),
        stochastic=0.17,
        threshold=THRESHOLD_MEV,
    ),
    "calochallenge2": _par04("CaloChallenge data set 2, electrons", 9, 16, 4.65),
    "calochallenge3": _par04("CaloChallenge data set 3, electrons", 18, 50, 2.325),
}


def detector_of(name: str) -> Detector:
    """A built-in detector by name, or one that a YAML file describes.

    Raises:
        HepfmError: neither; what the file says is no detector.
    """
    if name in DETECTORS:
        return DETECTORS[name]
    if name.endswith((".yaml", ".yml")) and Path(name).exists():
        return from_yaml(Detector, Path(name))
    raise HepfmError(f"no detector '{name}'", "--detector", f"there is: {', '.join(DETECTORS)}; or give a YAML file")
