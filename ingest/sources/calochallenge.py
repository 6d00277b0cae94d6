"""CaloChallenge HDF5 files (Zenodo 8099322, 6366271, 6366324) as shower records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.calochallenge import DATASETS, INCIDENT, SHOWERS, Binning, DataSet, dataset_of, read_binning
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.formats.shower_files import ShowerFile, Stripe, shower_file
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.sources.shower_source import SAMPLE, ShowerSource
from hepfm.ingest.tally import Tally
from hepfm.ingest.voxels import filled

ENERGY_ROUNDING = 1e-3
DIRECTION = ("direction_x", "direction_y", "direction_z")


@dataclass(frozen=True)
class CaloChallengeSource(ShowerSource):
    """Reader of CaloChallenge files: a point for each voxel that is not 0, in the order of voxels.

    ``cell_a`` is the ring, ``cell_b`` the sector (from alpha = -pi), ``layer`` counts the layers that have voxels; the
    geometry names their ids. Energies keep the file's type, float32 or float64, and go back to equal bits
    (``hepfm corpus export --format calochallenge``). The sign of charged pions is not in the files:
    their particle is 211. Data sets 2 and 3 are hit along the axis; the direction of data set 1 is not in the files.
    """

    dataset: Literal["1-photons", "1-pions", "2", "3"] | None = None
    """Which data set it is; by default told by the number of voxels."""
    binning: Path | None = None
    """Binning XML of the voxels, for files with other voxels than the public ones."""

    name = "calochallenge"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return len(contents.shape(SHOWERS)) == 2 and len(contents.shape(INCIDENT)) in (1, 2)

    def settings(self) -> dict[str, Any]:
        """Only for people: what the binning says is part of the geometry."""
        chosen = {"dataset": self.dataset, "binning": self.binning.name if self.binning else None}
        return {name: value for name, value in chosen.items() if value is not None}

    def entries(self, path: Path) -> int:
        """Number of showers in a file.

        Raises:
            HepfmError: missing, truncated or not HDF5; no such arrays, of other types or shapes; no showers.
        """
        showers, _ = _arrays(shower_file(path))
        return int(showers.shape[0])

    def look(self, file: ShowerFile) -> Geometry:
        showers, incident = _arrays(file)
        geometry = self._binning(showers.shape[1], file.path).geometry
        stored = replace(geometry.stored, deposit_type=_type(showers), incident_type=_type(incident))
        return replace(geometry, stored=stored)

    def check_units(self, file: ShowerFile) -> None:
        super().check_units(file)
        if self.binning is None and (dataset := dataset_of(self.bound_geometry.voxels)):
            _check_incident(file, dataset)

    def schema_of(self, geometry: Geometry) -> pa.Schema:
        columns = ("incident_energy", "particle", *(DIRECTION if _head_on(geometry) else ()))
        if geometry.stored.keeps_mev:
            columns = (*columns, "incident_energy_mev")
        return records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), columns, geometry.stored.wide)

    def showers(self, file: ShowerFile, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        geometry = self.bound_geometry
        dataset, _ = _arrays(file)
        if dataset.shape[1] != geometry.voxels:
            raise HepfmError(f"{dataset.shape[1]:,} voxels a shower", file.path, f"expected {geometry.summary()}")
        found = file.showers(dataset, start, stop, _decoded)
        incident = file.column(INCIDENT, start, stop)
        voxel = found.columns["voxel"]
        points = {name: getattr(geometry.cells, name)[voxel] for name in ("layer", "cell_a", "cell_b")}
        size = stop - start
        columns = {
            "incident_energy": geometry.stored.incident(incident),
            "incident_energy_mev": incident,
            "particle": np.full(size, self._binning(geometry.voxels, file.path).particle),
            **dict(zip(DIRECTION, np.repeat([[0.0], [0.0], [1.0]], size, axis=1), strict=True)),
            "source_entry": np.arange(start, stop),
        }
        return shower_batch(self.schema, found.offsets, {**points, "energy": found.columns["energy"]}, columns)

    def _binning(self, voxels: int, path: Path) -> Binning:
        if self.binning is not None and self.dataset is not None:
            raise HepfmError("both were given", "--dataset, --binning", "give one")
        if self.binning is not None:
            found = _read_binning(self.binning, self.binning.stat().st_mtime_ns if self.binning.exists() else 0)
            if found.geometry.voxels != voxels:
                raise HepfmError(f"{voxels:,} voxels a shower, {self.binning} has {found.geometry.voxels:,}", path)
            return found
        dataset = dataset_of(voxels)
        known = ", ".join(f"{known.geometry().voxels:,} ({name})" for name, known in DATASETS.items())
        if dataset is None:
            raise HepfmError(f"{voxels:,} voxels a shower", path, f"the data sets have {known}; else give --binning")
        if self.dataset not in (None, dataset.name):
            raise HepfmError(f"{voxels:,} voxels a shower are not data set {self.dataset}", path, f"they have {known}")
        return Binning(dataset.particle, dataset.geometry())


@lru_cache(maxsize=8)
def _read_binning(path: Path, _changed: int) -> Binning:
    return read_binning(path)


def _arrays(file: ShowerFile) -> tuple[Any, Any]:
    showers, incident = file.array(SHOWERS), file.array(INCIDENT)
    if showers.ndim != 2 or incident.shape not in ((len(showers),), (len(showers), 1)):
        raise HepfmError(
            f"'{SHOWERS}' has shape {showers.shape}, '{INCIDENT}' {incident.shape}",
            file.path,
            "CaloChallenge files have (N, voxels) and (N, 1)",
        )
    if not len(showers):
        raise HepfmError("has no showers", file.path, "leave the file out")
    return showers, incident


def _check_incident(file: ShowerFile, dataset: DataSet) -> None:
    """Judge by the first showers whether incident energies are those of the data set, in MeV.

    Raises:
        HepfmError: their median lies outside its range.
    """
    energies = file.column(INCIDENT, 0, SAMPLE)
    energies = energies[np.isfinite(energies)]
    if not len(energies):
        return  # the builder's to judge
    typical = float(np.median(energies)) / MEV_PER_GEV
    least, most = dataset.incident
    if least * (1 - ENERGY_ROUNDING) <= typical <= most * (1 + ENERGY_ROUNDING):
        return
    raise HepfmError(
        f"its first {len(energies)} incident energies have a median of {typical:.4g} GeV, if they are in MeV",
        file.path,
        f"data set {dataset.name} has {least:g} to {most:g} GeV (units?); else give --binning",
    )


def _type(dataset: Any) -> str:
    return f"<f{dataset.dtype.itemsize}"


def _head_on(geometry: Geometry) -> bool:
    return all(layer.position is not None for layer in geometry.layers)


def _decoded(file: ShowerFile, start: int, stop: int) -> Iterator[Stripe]:
    for first, values in file.stripes(file.array(SHOWERS), start, stop, axis=1):
        shower, voxel = np.nonzero(filled(values))
        yield shower, {"voxel": (first + voxel).astype(np.int32), "energy": values[shower, voxel]}
