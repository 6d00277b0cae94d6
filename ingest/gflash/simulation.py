"""Electromagnetic showers, parametrised after Grindhammer and Peters (hep-ex/0001020), as a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.config import to_dict
from hepfm.core.draws import generator
from hepfm.core.files import digest_of
from hepfm.core.records import Kind
from hepfm.ingest.formats.ild import DEPTHS_MM, ECAL_LAYERS
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.gflash.calibrate import Calibration, calibration_of, check_containment, signal_scale
from hepfm.ingest.gflash.detectors import PARTICLES, Detector, detector_of
from hepfm.ingest.gflash.readout import deposits, voxel_of
from hepfm.ingest.gflash.showers import draw_showers
from hepfm.ingest.gflash.spots import Spots, draw_spots
from hepfm.ingest.gflash.stack import Stack, stack_of
from hepfm.ingest.simulate.numbering import numbered
from hepfm.ingest.simulate.simulation import Simulation
from hepfm.ingest.voxels import points_from_voxels

# Raised whenever the same settings give other showers than before.
SIMULATION_VERSION = 2
BATCH_SHOWERS = 64  # drawn together: dense voxels of so many fit in a cache
# Clouds of ILD are padded to 1,700 points, which showers of more than 100 GeV can exceed; then as CaloClouds does.
USUAL_ROWS_GEV, MOST_ROWS = 100.0, 6_000
COLUMNS = ("incident_energy", "direction_x", "direction_y", "direction_z", "particle")


@dataclass(frozen=True)
class GflashShowers(Simulation):
    """Showers of photons and electrons in a sampling calorimeter, parametrised after Grindhammer and Peters.

    Detectors: ild (30 layers of 30 x 30 cells, photons of 10-100 GeV; deposits as the silicon sees them),
    calochallenge2 and calochallenge3 (45 layers of 9 x 16 and 18 x 50 voxels, electrons of 1 GeV to 1 TeV,
    log-uniform; deposits that sum to about the incident energy), or a YAML file that describes another one.
    Particles come in along the depth at one place.
    """

    name: ClassVar[str] = "gflash"
    kind: ClassVar[Kind] = "showers"

    detector: str = "ild"
    """ild, calochallenge2, calochallenge3, or a YAML file."""
    particles: tuple[Literal["photon", "electron"], ...] = ()
    """Incident particles, photon or electron; default the detector's."""
    energy: tuple[float, float] | None = None
    """Least and largest incident energy, GeV; default the detector's."""
    spectrum: Literal["uniform", "log-uniform"] | None = None
    """How incident energies are distributed; default the detector's."""

    @cached_property
    def calorimeter(self) -> Detector:
        """The detector, with what is asked of it instead of its defaults."""
        found = detector_of(self.detector)
        return replace(
            found,
            particles=self.particles or found.particles,
            energy=self.energy or found.energy,
            spectrum=self.spectrum or found.spectrum,
        )

    @cached_property
    def stack(self) -> Stack:
        return stack_of(self.calorimeter)

    @cached_property
    def layout(self) -> Geometry:
        """The geometry of the detector, with how its files hold showers."""
        found = detector_of(self.detector).geometry()
        stored = found.stored
        if "rows" in stored.layout and self.calorimeter.energy[1] > USUAL_ROWS_GEV:
            stored = replace(stored, layout={**stored.layout, "rows": MOST_ROWS})
        return replace(found, stored=stored)

    @property
    def schema(self) -> pa.Schema:
        return records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), COLUMNS, self.layout.stored.wide)

    @property
    def geometry(self) -> dict[str, Any]:
        return self.layout.to_data()

    @property
    def formats(self) -> tuple[str, ...]:
        if self.layout.kind == "cylinder":
            return ("calochallenge", "showerdata")
        ild = tuple(layer.position for layer in self.layout.layers) == DEPTHS_MM[:ECAL_LAYERS]
        grid = ("ildgrid",) if len(self.layout.layers) == ECAL_LAYERS else ()
        return (*(("showerclouds",) if ild else ()), *grid, "showerdata")

    @property
    def streams(self) -> tuple[str, ...]:
        return self.calorimeter.particles

    def check(self) -> None:
        self.calorimeter.check()
        check_containment(self.calorimeter)

    def calibration(self, particle: str) -> Calibration:
        """What gives the incident energy back from a shower's layers."""
        return calibration_of(self.calorimeter, particle)

    def settings(self) -> dict[str, Any]:
        return {
            "version": SIMULATION_VERSION,
            "seed": self.seed,
            "detector": to_dict(self.calorimeter),
            "calibration": {particle: self.calibration(particle).to_data() for particle in self.streams},
        }

    def identity(self, stream: str, number: int) -> str:
        # The other particles that are asked for do not change a sequence.
        return super(GflashShowers, replace(self, particles=cast(Any, (stream,)))).identity(stream, number)

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        return numbered((self._batch(stream, number, part) for part in count()), records)

    @cached_property
    def signal_scale(self) -> np.ndarray:
        """MeV (layers,) of a layer's signal for 1 GeV deposited there."""
        return signal_scale(self.calorimeter, self.stack)

    @cached_property
    def _shot(self) -> str:
        """Names the random numbers: with other energies or another detector, the showers of a seed are others. Else two
        corpora might hold nearly the same showers unseen."""
        return digest_of(to_dict(replace(self.calorimeter, particles=())))

    def draw(self, stream: str, number: int, part: int) -> tuple[np.ndarray, Spots]:
        """Incident energies (64,) [GeV] and spots of the showers in one part of a sequence, before readout."""
        rng = generator("gflash", self.seed, self._shot, stream, number, part)
        stored = self.layout.stored
        incident = stored.incident(stored.stored_incident(_incident(self.calorimeter, BATCH_SHOWERS, rng)))
        showers = draw_showers(self.stack.medium, stream, incident.astype(np.float64), rng)
        return incident, draw_spots(self.stack, self.calorimeter.stochastic, showers, rng)

    def _batch(self, stream: str, number: int, part: int) -> pa.RecordBatch:
        detector, geometry, size = self.calorimeter, self.layout, BATCH_SHOWERS
        incident, spots = self.draw(stream, number, part)
        dense = deposits(spots, voxel_of(spots, detector.cells), self.signal_scale, size, geometry.voxels)
        dense = dense.astype(np.float32)
        dense[dense < detector.threshold] = 0
        points = points_from_voxels(dense, geometry)
        cells = {name: getattr(points.cells, name) for name in ("layer", "cell_a", "cell_b")}
        columns = {
            "incident_energy": incident,
            **{f"direction_{axis}": np.full(size, float(axis == geometry.depth)) for axis in "xyz"},
            "particle": np.full(size, PARTICLES[stream]),
            "source_entry": np.arange(size),
        }
        return shower_batch(self.schema, points.offsets, {**cells, "energy": points.energy}, columns)


def _incident(detector: Detector, size: int, rng: np.random.Generator) -> np.ndarray:
    """Incident energies (size,) [GeV]."""
    low, high = detector.energy
    uniform = rng.random(size)
    if detector.spectrum == "log-uniform":
        return np.asarray(low * (high / low) ** uniform)
    return np.asarray(low + (high - low) * uniform)
