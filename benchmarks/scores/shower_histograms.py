"""All histograms of CaloChallenge's evaluation with their ranges, and separation powers between samples.

Showers of other calorimeters have the energy in rings around the axis beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hepfm.benchmarks.scores.one_dimensional import Binned, divergence_estimate, divergence_floor, divergence_limit
from hepfm.benchmarks.scores.outcome import Outcome, attempt, enough
from hepfm.benchmarks.scores.shower_features import ShowerFeatures
from hepfm.benchmarks.scores.showers import ShowerSample
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.statistics import REPLICAS, Estimate, Values, separation_power
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.geometry import Geometry

FEWEST_SHOWERS = 50
LAYER_EDGES, VOXEL_EDGES = 40, 50
POSITION_BINS = 100
RING = "ring energy"
# Of other calorimeters: widths and radii reach that share of the largest radius of a layer.
WIDTH_SHARE = 0.5


@dataclass(frozen=True)
class Ranges:
    """Half range of centres, and ranges of widths and radii [mm] from 0, of one layer."""

    centre: float
    width: float
    radius: float
    width_r: float


def ranges_of(geometry: Geometry) -> list[Ranges]:
    """Ranges (L,) of each layer: published ones for CaloChallenge's data sets, else from the size of the layer."""
    title = {dataset.title: name for name, dataset in DATASETS.items()}.get(geometry.name, "")
    if title in ("2", "3"):
        return [Ranges(30.0, 30.0, 42.0, 20.0)] * len(geometry.layers)
    if title.startswith("1-"):
        return [_of_dataset_1(layer.id) for layer in geometry.layers]
    return [_of_size(geometry, layer) for layer in range(len(geometry.layers))]


def _of_dataset_1(layer: int) -> Ranges:
    far, wide = layer in (12, 13), layer in (12, 13, 14)
    radius = 1500.0 if wide else 500.0
    return Ranges(500.0 if far else 100.0, 400.0 if far else 100.0, radius, radius)


def _of_size(geometry: Geometry, layer: int) -> Ranges:
    here = slice(geometry.first_voxel[layer], geometry.first_voxel[layer + 1])
    across = [getattr(geometry.centres, axis)[here] for axis in geometry.across]
    reach = float(max(np.abs(values).max() for values in across))
    radius = float(np.hypot(*across).max())
    return Ranges(reach, WIDTH_SHARE * reach, radius, WIDTH_SHARE * radius)


@dataclass(frozen=True)
class Observable:
    """One histogram.

    Attributes:
        group: ``response``, ``layer energy``, ``centre eta``, ..., ``voxel energy``.
        layer: number of the layer in the source, or of the ring; None for those of whole showers.
        unit: of the axis.
        edges: (bins + 1,); None where the reference leaves no range.
        part: the incident energy [GeV] that it is restricted to, for the response by energy of data set 1.
    """

    group: str
    layer: int | None
    unit: str
    edges: np.ndarray | None
    part: float | None = None

    @property
    def name(self) -> str:
        told = "" if self.layer is None else f", {'ring' if self.group == RING else 'layer'} {self.layer}"
        return f"{self.group}{told}" if self.part is None else f"{self.group} at {self.part:.4g} GeV"


@dataclass(frozen=True)
class Separation:
    """Separation power of one histogram, with contents (bins,) of reference and sample as shares inside the range."""

    observable: Observable
    outcome: Outcome
    reference: np.ndarray
    sample: np.ndarray


def observables_of(reference: ShowerFeatures, geometry: Geometry) -> Iterator[tuple[Observable, str, int | None]]:
    """Every histogram of whole showers and layers; the attribute of features that fills it, and its column."""
    ranges, threshold = ranges_of(geometry), geometry.threshold or 0.0
    yield (
        Observable("response", None, "", np.linspace(0.5, 1.5, 101) if geometry.calibrated else _seen(reference)),
        ("response"),
        None,
    )
    for layer, number in enumerate(reference.layers):
        edges = log_edges(threshold, float(reference.layer_energy[:, layer].max()), LAYER_EDGES)
        yield Observable("layer energy", number, "MeV", edges), "layer_energy", layer
    for column, layer in enumerate(reference.angular):
        number, limits = reference.layers[layer], ranges[layer]
        around = np.linspace(-limits.centre, limits.centre, POSITION_BINS + 1)
        wide = np.linspace(0, limits.width, POSITION_BINS + 1)
        for axis in ("eta", "phi"):
            yield Observable(f"centre {axis}", number, "mm", around), f"centre_{axis}", column
            yield Observable(f"width {axis}", number, "mm", wide), f"width_{axis}", column
    for layer, number in enumerate(reference.layers):
        limits = ranges[layer]
        radius = np.linspace(0, limits.radius, POSITION_BINS + 1)
        yield Observable("centre r", number, "mm", radius), "centre_r", layer
        yield Observable("width r", number, "mm", np.linspace(0, limits.width_r, POSITION_BINS + 1)), "width_r", layer
        yield Observable("sparsity", number, "", np.linspace(0, 1, 21)), "sparsity", layer
    if geometry.name in {dataset.title for dataset in DATASETS.values()}:
        return
    for ring, highest in enumerate(reference.ring_energy.max(axis=0)):
        edges = log_edges(threshold, float(highest), LAYER_EDGES)
        if edges is not None:  # most showers have nothing far out: a bin of its own
            yield Observable(RING, ring, "MeV", np.append(0.0, edges)), "ring_energy", ring


def _seen(reference: ShowerFeatures) -> np.ndarray:
    """Of a calorimeter whose deposits are not calibrated: half to one and a half of the median response."""
    return np.linspace(0.5, 1.5, 101) * float(np.median(reference.response))


def log_edges(low: float, high: float, edges: int) -> np.ndarray | None:
    """Logarithmic edges from a threshold to the reference's largest value; None where that is not above it."""
    low = low or high * 1e-6  # a geometry without threshold: six decades
    return np.logspace(np.log10(low), np.log10(high), edges) if high > low > 0 else None


def separation_powers(
    reference: ShowerFeatures,
    sample: ShowerFeatures,
    geometry: Geometry,
    *,
    key: object = 0,
    replicas: int = REPLICAS,
    floors: bool = True,
) -> list[Separation]:
    """Separation powers of all histograms but the one of voxels (:func:`voxel_separation`), with errors and floors.

    Args:
        reference, sample: features of showers.
        geometry: of both; decides the ranges.
        key: names the draws.
        replicas: of the bootstrap, and splits of the reference for the floor.
        floors: whether floors are wanted.

    Raises:
        HepfmError: fewer than 50 showers.
    """
    for name, side in (("reference", reference), ("sample", sample)):
        enough(len(side), FEWEST_SHOWERS, "showers", "separation power", name)
    listed = [*observables_of(reference, geometry), *_by_energy(reference, geometry)]
    found = []
    with progress("separation powers", len(listed), "histograms") as bar:
        for observable, attribute, column in listed:
            sides = [_values(side, attribute, column, observable.part) for side in (reference, sample)]
            found.append(_separation(observable, *sides, key=key, replicas=replicas, floors=floors))
            bar.advance()
    return found


def _by_energy(reference: ShowerFeatures, geometry: Geometry) -> Iterator[tuple[Observable, str, int | None]]:
    """The response at each incident energy of data set 1: 20 bins in 0.4-1.4, of photons from 4 GeV in 0.9-1.1."""
    if not geometry.name.startswith("CaloChallenge data set 1"):
        return
    photons = geometry.name == DATASETS["1-photons"].title
    for power in range(8, 23):
        energy = 2.0**power / 1000
        edges = np.linspace(0.9, 1.1, 21) if photons and power >= 12 else np.linspace(0.4, 1.4, 21)
        yield Observable("response", None, "", edges, energy), "response", None


def _values(features: ShowerFeatures, attribute: str, column: int | None, part: float | None) -> Values:
    values = getattr(features, attribute)
    values = values if column is None else values[:, column]
    if part is not None:  # up to the next energy
        values = values[(features.incident >= part * (1 - 1e-6)) & (features.incident < part * 2 * (1 - 1e-6))]
    return Values(values, np.arange(len(values)), len(values))


def _separation(
    observable: Observable, reference: Values, sample: Values, *, key: object, replicas: int, floors: bool
) -> Separation:
    nothing = np.zeros(0)
    if observable.edges is None:
        outcome = Outcome(None, None, "no value of the reference lies above the threshold")
        return Separation(observable, outcome, nothing, nothing)
    for name, side in (("reference", reference), ("sample", sample)):
        if side.records < FEWEST_SHOWERS:
            told = f"{name}: {side.records} showers are too few, at least {FEWEST_SHOWERS} are needed"
            return Separation(observable, Outcome(None, None, told), nothing, nothing)
    real, made = Binned(reference, observable.edges), Binned(sample, observable.edges)
    return _judged(observable, real, made, f"{key}/{observable.name}", replicas, floors)


def _judged(observable: Observable, real: Binned, made: Binned, key: str, replicas: int, floors: bool) -> Separation:
    def value() -> Estimate:
        return divergence_estimate(separation_power, real, made, key=key, replicas=replicas)

    sizes = (real.records, made.records)
    outcome = attempt(
        value, (lambda: divergence_floor(separation_power, real, sizes, key=key, splits=replicas)) if floors else None
    )
    if floors and outcome.value is not None:
        limit = divergence_limit(separation_power, real, made, key=key, splits=replicas)
        outcome = replace(outcome, limit=limit)
    shares = [side.contents / (side.contents.sum() or 1) for side in (real, made)]
    return Separation(observable, outcome, shares[0], shares[1])


def voxel_edges(reference: ShowerFeatures, geometry: Geometry) -> np.ndarray:
    """Edges of the spectrum of voxel energies [MeV]: 49 logarithmic bins, threshold to the reference's largest.

    Raises:
        HepfmError: no voxel of the reference lies above the threshold.
    """
    edges = log_edges(geometry.threshold or 0.0, reference.highest, VOXEL_EDGES)
    if edges is None:
        raise HepfmError("no voxel of the reference lies above the threshold", "voxel energy")
    return edges


def voxel_spectrum(sample: ShowerSample, edges: np.ndarray) -> Binned:
    """Numbers of voxels by energy, of each shower, in a second pass over the sample."""
    bins, parts = len(edges) - 1, []
    for hits in sample.chunks(sample.geometry.threshold):
        place = np.searchsorted(edges, hits.energy, side="right") - 1
        place[hits.energy == edges[-1]] = bins - 1
        inside = (place >= 0) & (place < bins)
        counts = np.bincount(hits.shower[inside] * bins + place[inside], minlength=len(hits) * bins)
        parts.append(counts.reshape(len(hits), bins))
    return Binned.of_contents(np.concatenate(parts))


def voxel_separation(
    real: Binned,
    made: Binned,
    edges: np.ndarray,
    *,
    key: object = 0,
    replicas: int = REPLICAS,
    floors: bool = True,
) -> Separation:
    """Separation power of the energies of all voxels, errors by whole showers."""
    observable = Observable("voxel energy", None, "MeV", edges)
    return _judged(observable, real, made, f"{key}/voxels", replicas, floors)
