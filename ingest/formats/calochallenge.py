"""CaloChallenge files (Zenodo 8099322, 6366271, 6366324; arXiv:2410.21611): geometry, binning XML, and their writer.

An HDF5 file holds ``incident_energies`` (N, 1) and ``showers`` (N, voxels), both in MeV. Rings run fastest, then
sectors, then layers; sectors begin at alpha = -pi. Data sets 2 and 3 are divided by the sampling fraction 0.033; their
layers are 3.4 mm deep. The geometries below are the contents of the public binning files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.formats.shower_files import Rows
from hepfm.ingest.geometry import Bins, Geometry, Layer, Stored
from hepfm.ingest.shards import reblock
from hepfm.ingest.voxels import voxelise

SHOWERS, INCIDENT = "showers", "incident_energies"
FORMAT = "calochallenge"
SAMPLING_FRACTION = 0.033
LAYER_MM = 3.4
XML_BYTES = 1 << 20
MOST_SECTORS = 10_000
_XML = "it should be one of the data sets' binning_dataset_*.xml"


@dataclass(frozen=True)
class DataSet:
    """One of the public data sets.

    Attributes:
        name: what a user calls it.
        title: for people.
        particle: PDG id of the incident particle (pions of both signs are 211).
        layers: id, ring edges [mm] and number of sectors of each layer that has voxels.
        threshold: readout threshold [MeV] that the challenge's evaluation applies to voxels.
        incident: least and largest incident energy [GeV].
        regular: one of the data sets of 45 equal layers, hit head-on.
    """

    name: str
    title: str
    particle: int
    layers: tuple[tuple[int, tuple[float, ...], int], ...]
    threshold: float
    incident: tuple[float, float]
    regular: bool = False

    def geometry(self) -> Geometry:
        """Its geometry."""
        return Geometry(
            name=self.title,
            kind="cylinder",
            layers=tuple(
                Layer(
                    number,
                    Bins.irregular(edges),
                    Bins.sectors(sectors),
                    position=round(LAYER_MM * number, 1) if self.regular else None,
                    thickness=LAYER_MM if self.regular else None,
                )
                for number, edges, sectors in self.layers
            ),
            depth="z",
            fastest="cell_a",
            front=800.0 if self.regular else None,
            threshold=self.threshold,
            sampling_fraction=SAMPLING_FRACTION if self.regular else None,
            calibrated=True,
            stored=STORED,
        )


STORED = Stored("MeV", "<f4", "MeV", "<f4", {"format": FORMAT})
_POWERS_OF_TWO = (0.256, 4194.304)  # fifteen energies, 2^8 to 2^22 MeV
_LOG_UNIFORM = (1.0, 1000.0)
_FRONT = (0.0, 5.0, 10.0, 30.0, 50.0, 100.0, 200.0, 400.0, 600.0)
_BACK = (0.0, 50.0, 100.0, 200.0, 400.0, 600.0)


def _edges(text: str) -> tuple[float, ...]:
    return tuple(float(edge) for edge in text.split())


def _equal_layers(ring: float, rings: int, sectors: int) -> tuple[tuple[int, tuple[float, ...], int], ...]:
    edges = tuple(round(ring * number, 3) for number in range(rings + 1))
    return tuple((layer, edges, sectors) for layer in range(45))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            "1-photons",
            "CaloChallenge data set 1, photons",
            22,
            (
                (0, _FRONT, 1),
                (1, _edges("0 2 4 6 8 10 12 15 20 30 40 50 70 90 120 150 200"), 10),
                (2, _edges("0 2 5 10 15 20 25 30 40 50 60 80 100 130 160 200 250 300 350 400"), 10),
                (3, _BACK, 1),
                (12, _edges("0 100 200 400 1000 2000"), 1),
            ),
            1.0,
            _POWERS_OF_TWO,
        ),
        DataSet(
            "1-pions",
            "CaloChallenge data set 1, pions",
            211,
            (
                (0, _FRONT, 1),
                (1, _edges("0 1 4 7 10 15 30 50 90 150 200"), 10),
                (2, _edges("0 5 10 20 30 50 80 130 200 300 400"), 10),
                (3, _BACK, 1),
                (12, _edges("0 10 20 30 50 80 100 130 160 200 250 300 350 400 1000 2000"), 10),
                (13, _edges("0 10 20 30 50 80 100 130 160 200 250 300 350 400 600 1000 2000"), 10),
                (14, _edges("0 50 100 150 200 250 300 400 600 1000 2000"), 1),
            ),
            1.0,
            _POWERS_OF_TWO,
        ),
        DataSet(
            "2",
            "CaloChallenge data set 2, electrons",
            11,
            _equal_layers(4.65, 9, 16),
            0.5e-3 / SAMPLING_FRACTION,
            _LOG_UNIFORM,
            regular=True,
        ),
        DataSet(
            "3",
            "CaloChallenge data set 3, electrons",
            11,
            _equal_layers(2.325, 18, 50),
            0.5e-3 / SAMPLING_FRACTION,
            _LOG_UNIFORM,
            regular=True,
        ),
    )
}


@lru_cache(maxsize=64)
def dataset_of(voxels: int) -> DataSet | None:
    """The public data set with this number of voxels a shower (368, 533, 6480, 40500)."""
    return next((found for found in DATASETS.values() if found.geometry().voxels == voxels), None)


@dataclass(frozen=True)
class Binning:
    """What a binning XML says: PDG id of the incident particle, and the geometry."""

    particle: int
    geometry: Geometry


def read_binning(path: Path) -> Binning:
    """Read a binning XML: ``<Bins><Bin pid name><Layer id r_edges n_bin_alpha/>...``; a layer with one edge is empty.

    Raises:
        HepfmError: no such file; not well-formed XML, or XML with a document type (entities are never expanded); not
            exactly one particle; edges that do not ascend from 0, or no number of sectors.
    """
    root = _parse(path)
    bins = root.findall("Bin") if root.tag == "Bins" else []
    if len(bins) != 1:
        raise HepfmError(f"has {len(bins)} elements <Bin> in <Bins>, not one", path, _XML)
    try:
        layers = tuple(_layer(element) for element in bins[0].findall("Layer"))
        particle = int(bins[0].get("pid", ""))
    except ValueError as error:
        raise HepfmError(f"is no binning of voxels: {error}", path, _XML) from error
    filled = tuple(layer for layer in layers if layer is not None)
    if not filled:
        raise HepfmError("has no layer with voxels", path, _XML)
    geometry = Geometry(path.name, "cylinder", filled, fastest="cell_a", calibrated=True, stored=STORED)
    return Binning(particle, geometry)


def _parse(path: Path) -> ElementTree.Element:
    try:
        with path.open("rb") as file:
            content = file.read(XML_BYTES + 1)
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    if len(content) > XML_BYTES:
        raise HepfmError("is too large for a binning file", path, _XML)
    try:
        text = content.decode("utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise HepfmError("declares a document type or entities", path, f"take that out; {_XML}")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise HepfmError(f"not a readable XML file ({error})", path, _XML) from error


def _layer(element: ElementTree.Element) -> Layer | None:
    number = int(element.get("id", ""))
    edges = tuple(float(edge) for edge in element.get("r_edges", "").split(","))
    sectors = int(element.get("n_bin_alpha", ""))
    if len(edges) < 2:
        return None
    if edges[0] < 0 or not all(low < high < math.inf for low, high in pairwise(edges)):
        raise ValueError(f"r_edges of layer {number} do not ascend")
    if not 1 <= sectors <= MOST_SECTORS:
        raise ValueError(f"layer {number} has {sectors} sectors")
    return Layer(number, Bins.irregular(edges), Bins.sectors(sectors))


def write_calochallenge(path: Path, batches: Iterable[pa.RecordBatch], geometry: Geometry) -> int:
    """Write showers as a CaloChallenge HDF5 file; what came from one comes back bit by bit, gzip-compressed.

    Args:
        path: the file, which appears when it is complete; replaced if it exists.
        batches: shower records with cells, or with positions that are put into the geometry's cells.
        geometry: with cells, from the manifest. Types are those of the source if it was a CaloChallenge file.

    Returns:
        Number of showers written.

    Raises:
        HepfmError: no showers, a geometry without rings and sectors, or a point in a cell that it does not have.
    """
    if geometry.kind != "cylinder":
        raise HepfmError("has no rings and sectors", geometry.name, "the other formats of showers can hold it")
    stored = geometry.stored
    if stored.layout.get("format") != FORMAT:
        stored = replace(STORED, deposit_type=stored.deposit_type)
    count = 0
    with hdf5_written(path) as file:
        incident = Rows(file, INCIDENT, (1,), stored.incident_type)
        showers = Rows(file, SHOWERS, (geometry.voxels,), stored.deposit_type)
        for batch in reblock(batches, showers.chunk):
            incident.append(_incident(batch, stored)[:, None])
            showers.append(stored.stored_deposits(voxelise(batch, geometry)))
            count += len(batch)
        if not count:
            raise HepfmError("no showers to write", path)
    return count


def _incident(batch: pa.RecordBatch, stored: Stored) -> np.ndarray:
    if "incident_energy_mev" in batch.schema.names:
        return values_of(batch.column("incident_energy_mev")).astype(stored.incident_type)
    return stored.stored_incident(values_of(batch.column("incident_energy")))
