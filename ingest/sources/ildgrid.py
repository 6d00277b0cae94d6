"""Grid files of ILD's calorimeter (Zenodo 3826103, arXiv:2005.05334) as shower records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ild import ECAL_LAYERS, ild_grid
from hepfm.ingest.formats.ildgrid import ENERGY, FORMAT, LAYERS
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.formats.shower_files import ShowerFile, Stripe, shower_file
from hepfm.ingest.geometry import Geometry, Stored
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.sources.shower_source import ShowerSource
from hepfm.ingest.tally import Tally
from hepfm.ingest.voxels import filled

_GROUP = re.compile(r"(\d+x\d+)/layers")
PUBLISHED = "30x30"


@dataclass(frozen=True)
class IldGridSource(ShowerSource):
    """Reader of grid files of ILD's 30 layers: a point for each cell that is not 0, in the order (layer, x, z).

    ``cell_a`` is x, ``cell_b`` z. Energies keep the file's type where they are in MeV; in GeV they are kept in float64,
    from which float32 goes back to equal bits (``hepfm corpus export --format ildgrid``). Particles come
    perpendicularly, along y.
    """

    energy_unit: Literal["MeV", "GeV"] | None = None
    """Unit of the deposits; by default MeV for arrays in a group like 30x30, GeV for arrays at the root."""
    particle: int = 22
    """PDG id of the incident particle, which the files do not tell."""

    name = "ildgrid"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        prefixes = {"", *(f"{group}/" for group in _groups(contents.arrays))}
        return any(
            len(contents.shape(prefix + LAYERS)) == 4 and contents.shape(prefix + ENERGY) != () for prefix in prefixes
        )

    def settings(self) -> dict[str, Any]:
        unit = {} if self.energy_unit is None else {"energy_unit": self.energy_unit}
        return {**unit, "particle": self.particle}

    def entries(self, path: Path) -> int:
        """Number of showers in a file.

        Raises:
            HepfmError: missing, truncated or not HDF5; no such arrays, of other types or shapes; no showers.
        """
        file = shower_file(path)
        return int(_arrays(file, _group(file))[0].shape[0])

    def look(self, file: ShowerFile) -> Geometry:
        group = _group(file)
        layers, energy = _arrays(file, group)
        stored = Stored(
            self.energy_unit or ("MeV" if group else "GeV"),
            f"<f{layers.dtype.itemsize}",
            "GeV",
            f"<f{energy.dtype.itemsize}",
            {"format": FORMAT, "group": group},
        )
        return ild_grid(layers.shape[2], layers.shape[3], stored)

    def schema_of(self, geometry: Geometry) -> pa.Schema:
        columns = ("incident_energy", "direction_x", "direction_y", "direction_z", "particle")
        return records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), columns, geometry.stored.wide)

    def showers(self, file: ShowerFile, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        geometry = self.bound_geometry
        group = str(geometry.stored.layout["group"])
        layers, _ = _arrays(file, group)
        found = file.showers(layers, start, stop, partial(_decoded, group))
        voxel = found.columns["voxel"]
        points = {name: getattr(geometry.cells, name)[voxel] for name in ("layer", "cell_a", "cell_b")}
        size = stop - start
        columns = {
            "incident_energy": geometry.stored.incident(file.column(_prefix(group) + ENERGY, start, stop)),
            "direction_x": np.zeros(size),
            "direction_y": np.ones(size),
            "direction_z": np.zeros(size),
            "particle": np.full(size, self.particle),
            "source_entry": np.arange(start, stop),
        }
        energy = geometry.stored.deposits(found.columns["energy"])
        return shower_batch(self.schema, found.offsets, {**points, "energy": energy}, columns)


def _groups(names: Any) -> list[str]:
    return sorted(match[1] for name in names if (match := _GROUP.fullmatch(name)))


def _prefix(group: str) -> str:
    return f"{group}/" if group else ""


def _group(file: ShowerFile) -> str:
    """The group that holds the arrays; empty for the root.

    Raises:
        HepfmError: several do.
    """
    groups = [*_groups(file.names()), *([""] if file.has(LAYERS) else [])]
    if len(groups) > 1:
        told = ", ".join(f"'{_prefix(group)}{LAYERS}'" for group in groups)
        raise HepfmError(f"has several grids: {told}", file.path, "leave one of them in the file")
    return groups[0] if groups else PUBLISHED  # without any, the error names what the file lacks


def _arrays(file: ShowerFile, group: str) -> tuple[Any, Any]:
    prefix = _prefix(group)
    layers, energy = file.array(prefix + LAYERS), file.array(prefix + ENERGY)
    if layers.ndim != 4 or energy.shape not in ((len(layers),), (len(layers), 1)):
        raise HepfmError(
            f"'{prefix}{LAYERS}' has shape {layers.shape}, '{prefix}{ENERGY}' {energy.shape}",
            file.path,
            "grid files have (N, 30, 30, 30) and (N, 1)",
        )
    if layers.shape[1] != ECAL_LAYERS:
        raise HepfmError(
            f"{layers.shape[1]} layers, ILD has {ECAL_LAYERS}", file.path, "voxels of CaloChallenge: calochallenge"
        )
    if not len(layers):
        raise HepfmError("has no showers", file.path, "leave the file out")
    return layers, energy


def _decoded(group: str, file: ShowerFile, start: int, stop: int) -> Iterator[Stripe]:
    for first, values in file.stripes(file.array(_prefix(group) + LAYERS), start, stop, axis=1):
        cells = int(np.prod(values.shape[2:]))
        flat = values.reshape(stop - start, -1)
        shower, voxel = np.nonzero(filled(flat))
        yield shower, {"voxel": (first * cells + voxel).astype(np.int32), "energy": flat[shower, voxel]}
