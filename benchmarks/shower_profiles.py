"""Parametrised showers against the profiles of full simulation, and what a calorimeter makes of their energy."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of, values_of
from hepfm.core.statistics import REPLICAS, Estimate, separation_power
from hepfm.ingest.gflash.simulation import BATCH_SHOWERS, GflashShowers

RADIAL_BINS, RADIAL_MM = 32, 500.0
REFERENCE_GEV = (10.0, 90.0)  # of the reference's photons, uniform
ENERGY_EDGES = np.arange(10.0, 100.0, 10.0)
STOCHASTIC, CONSTANT = 0.17, 0.01  # of the resolution that is expected
STREAM = "photon"


@dataclass(frozen=True)
class Reference:
    """Mean profiles of full simulation: energy by radius (32,) and by layer (30,), and the box [mm] around the axis."""

    radial: np.ndarray
    layers: np.ndarray
    box: float


def read_reference(path: Path) -> Reference:
    """Read histograms ``counts_1`` (energy per radius), ``counts_3`` (per layer) and ``xyz_limits`` of a npz file.

    Raises:
        HepfmError: it cannot be read, or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            radial, layers, limits = (file[name].astype(np.float64) for name in ("counts_1", "counts_3", "xyz_limits"))
    except OSError as error:
        raise HepfmError(f"cannot be read ({error.strerror})", path) from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise HepfmError(
            f"holds no profiles: {error}", path, "it should have counts_1, counts_3, xyz_limits"
        ) from error
    if radial.shape != (RADIAL_BINS,) or layers.ndim != 1:
        raise HepfmError(f"has bins of shape {radial.shape} and {layers.shape}", path, f"expected {RADIAL_BINS} radii")
    return Reference(radial, layers, float(np.abs(limits[0]).max()))


@dataclass(frozen=True)
class Profiles:
    """Visible energy [MeV] of n showers: by radius (n, 32) of the spots, and by layer (n, layers)."""

    radial: np.ndarray
    layers: np.ndarray


def profiles_of(simulation: GflashShowers, showers: int, box: float) -> Profiles:
    """Profiles of photons from where the spots fall, not from cells: the reference's points are much finer than cells.

    Spots beside a square of half side ``box`` [mm] are left out, as in the reference.
    """
    layers = len(simulation.stack.seen)
    parts = [_profiles(simulation, part, layers, box) for part in range(-(-showers // BATCH_SHOWERS))]
    radial, deep = (np.concatenate(values)[:showers] for values in zip(*parts, strict=True))
    return Profiles(radial, deep)


def _profiles(simulation: GflashShowers, part: int, layers: int, box: float) -> tuple[np.ndarray, np.ndarray]:
    _, spots = simulation.draw(STREAM, 0, part)
    energy = spots.energy * simulation.signal_scale[spots.layer]
    angle = 2 * np.pi * spots.turn
    reach = spots.radius * np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    energy[reach > box] = 0
    ring = np.minimum((spots.radius * (RADIAL_BINS / RADIAL_MM)).astype(np.int64), RADIAL_BINS - 1)
    return tuple(  # type: ignore[return-value]
        np.bincount(spots.particle * bins + place, energy, BATCH_SHOWERS * bins).reshape(BATCH_SHOWERS, bins)
        for place, bins in ((ring, RADIAL_BINS), (spots.layer, layers))
    )


def separation(reference: np.ndarray, showers: np.ndarray, key: str, replicas: int = REPLICAS) -> Estimate:
    """Separation power of the sum of histograms (n, bins) to a reference (bins,), with its bootstrap error."""
    draws = generator("bootstrap", key)
    size = len(showers)
    values = [
        separation_power(reference, np.bincount(draws.integers(0, size, size), minlength=size) @ showers)
        for _ in range(replicas)
    ]
    return Estimate(separation_power(reference, showers.sum(axis=0)), float(np.std(values, ddof=1)))


@dataclass(frozen=True)
class EnergyBin:
    """Calibrated over incident energy of the showers between two incident energies [GeV]."""

    low: float
    high: float
    showers: int
    response: Estimate
    resolution: Estimate
    expected: float


def energy_bins(simulation: GflashShowers, showers: int) -> list[EnergyBin]:
    """Response and relative resolution of records, after the calibration that the simulation gives with them.

    Resolution is the standard deviation of calibrated over incident energy, divided by its mean.
    """
    calibration = simulation.calibration(STREAM)
    incident, found = [], []
    for batch in simulation.batches(STREAM, 0, showers):
        shower = np.repeat(np.arange(len(batch)), lengths_of(batch.column("points")))
        layers = len(simulation.stack.seen)
        place = shower * layers + points_of(batch, "layer")
        signals = np.bincount(place, points_of(batch, "energy"), len(batch) * layers).reshape(len(batch), layers)
        incident.append(values_of(batch.column("incident_energy")).astype(np.float64))
        found.append(calibration.energy(signals))
    energy, ratio = np.concatenate(incident), np.concatenate(found) / np.concatenate(incident)
    low, high = simulation.calorimeter.energy
    edges = [edge for edge in ENERGY_EDGES if low <= edge <= high]
    return [_energy_bin(energy, ratio, start, stop) for start, stop in pairwise(edges)]


def _energy_bin(energy: np.ndarray, ratio: np.ndarray, low: float, high: float) -> EnergyBin:
    chosen = (energy >= low) & (energy < high)
    values, size = ratio[chosen], int(chosen.sum())
    width = float(values.std() / values.mean())
    return EnergyBin(
        low=float(low),
        high=float(high),
        showers=size,
        response=Estimate(float(values.mean()), float(values.std() / np.sqrt(size))),
        resolution=Estimate(width, width / np.sqrt(2 * size)),
        expected=float(np.sqrt(np.mean(STOCHASTIC**2 / energy[chosen]) + CONSTANT**2)),
    )
