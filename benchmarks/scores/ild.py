"""The 26 observables of ILD photon showers that CaloClouds II is judged by (arXiv:2309.05704), and their W1 scores.

Centres of gravity x, depth (in layers), z; occupancy; sampling fraction; the energies of cells; the energy in ten parts
of the depth and in ten rings, which hold a tenth of the hits each. Cells below 0.1 MeV count as empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hepfm.benchmarks.scores.outcome import Outcome, enough
from hepfm.benchmarks.scores.showers import Hits, ShowerSample, response
from hepfm.core.draws import generator, hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.statistics import Estimate, wasserstein_1

LAYER_EDGES = (0, 8, 11, 13, 15, 16, 18, 19, 21, 24, 29)  # the last one belongs to the last part
RING_EDGES = (0, 6.558, 9.849, 12.96, 17.028, 23.434, 33.609, 40.119, 48.491, 68.808, 300)  # mm
AXIS = (0.0, 40.0)  # mm in x and z where CaloClouds' showers enter; the public 30 x 30 x 30 grid: (0, 0)
BATCH, BATCHES = 50_000, 10
CENTRES = ("centre x", "centre depth", "centre z")
SINGLE = (*CENTRES, "occupancy", "sampling fraction")
PARTS = ("energy in depth", "energy in rings")


@dataclass(frozen=True)
class IldObservables:
    """The observables of n showers.

    Attributes:
        columns: by name (n, k): k = 1, or 10 for the energies [MeV] in depth and rings.
        cells: energies [MeV] of cells chosen at random among those of all showers.
    """

    columns: Mapping[str, np.ndarray]
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.columns["occupancy"])


def ild_observables(
    sample: ShowerSample, axis: tuple[float, float] = AXIS, cells: int = BATCH * BATCHES, *, key: object = 0
) -> IldObservables:
    """Observables of all showers, read in chunks.

    Args:
        sample: showers in cells of ILD's electromagnetic calorimeter.
        axis: position [mm] along both axes of a layer where the particle enters.
        cells: how many cell energies to keep, at most.
        key: names the choice of them.

    Raises:
        HepfmError: no grid of layers, or values that cannot be a shower's.
    """
    geometry = sample.geometry
    if geometry.kind != "grid":
        raise HepfmError(f"is a {geometry.kind}, not a grid", geometry.name, "the ILD set is for cells in x and z")
    positions = [getattr(geometry.centres, name) for name in geometry.across]
    layer = geometry.cells.layer.astype(np.float64)
    radius = np.hypot(positions[0] - axis[0], positions[1] - axis[1])
    places = (positions[0], layer, positions[1])
    parts, kept = [], _Kept(cells, key_of("ild cells", key))
    with progress(f"observables of {sample.name}", sample.showers, "showers") as bar:
        for hits in sample.chunks(geometry.threshold):
            parts.append(_columns(hits, places, layer, radius))
            kept.add(hits)
            bar.advance(len(hits))
    return IldObservables({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, kept.energy)


def _columns(
    hits: Hits, places: tuple[np.ndarray, ...], layer: np.ndarray, radius: np.ndarray
) -> dict[str, np.ndarray]:
    def sums(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(hits.shower, weights=weights, minlength=len(hits))

    def parts(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
        count = len(edges) - 1
        part = np.searchsorted(edges, values, side="right") - 1
        part[values == edges[-1]] = count - 1
        inside = (part >= 0) & (part < count)
        place = hits.shower[inside] * count + part[inside]
        return np.bincount(place, weights=hits.energy[inside], minlength=len(hits) * count).reshape(len(hits), count)

    total = sums(hits.energy)
    with np.errstate(invalid="ignore", divide="ignore"):  # a shower without cells has no centre
        centres = [sums(place[hits.voxel] * hits.energy) / total for place in places]
    single = [*centres, sums(None), response(total, hits.incident)]
    return {
        **{name: values[:, None] for name, values in zip(SINGLE, single, strict=True)},
        PARTS[0]: parts(layer[hits.voxel], LAYER_EDGES),
        PARTS[1]: parts(radius[hits.voxel], RING_EDGES),
    }


class _Kept:
    """A random choice of cells, the same however the showers come in chunks: those of the lowest hashes."""

    def __init__(self, most: int, key: int) -> None:
        self._most, self._key, self._showers = most, key, 0
        self.energy, self._order = np.zeros(0), np.zeros(0)

    def add(self, hits: Hits) -> None:
        order = hashed_uniform(self._key, hits.shower + self._showers, hits.voxel)
        self._showers += len(hits)
        energy = np.concatenate([self.energy, hits.energy])
        order = np.concatenate([self._order, order])
        if len(order) > self._most:
            chosen = np.argpartition(order, self._most)[: self._most]
            energy, order = energy[chosen], order[chosen]
        self.energy, self._order = energy, order


@dataclass(frozen=True)
class IldScore:
    """W1 of one row of the published table: the mean of its observables, standardised with the reference."""

    name: str
    outcome: Outcome


def ild_scores(
    reference: IldObservables,
    sample: IldObservables,
    batch: int = BATCH,
    batches: int = BATCHES,
    *,
    key: object = 0,
) -> list[IldScore]:
    """Mean and spread over disjoint batches of W1 of the standardised observables; published values are times 100.

    The energies in ten parts are averaged. Showers without any cell have no centre and are left out of that row. The
    floor is the same of two halves of the reference, with half as many batches where it has too few showers.

    Raises:
        HepfmError: fewer showers than all batches need.
    """
    for name, side in (("reference", reference), ("sample", sample)):
        enough(len(side), batch * batches, "showers", "the ILD set", name)
    found = []
    for name in (*SINGLE, "cell energy", *PARTS):
        sides = [_column(side, name, key) for side in (reference, sample)]
        found.append(IldScore(name, _score(name, sides[0], sides[1], batch, batches, key)))
    return found


def _column(side: IldObservables, name: str, key: object) -> np.ndarray:
    """Values (n, k) of one row in random order, undefined ones left out."""
    values = side.cells[:, None] if name == "cell energy" else side.columns[name]
    values = values[np.isfinite(values).all(axis=1)]
    return values[generator("ild batches", key, name).permutation(len(values))]


def _score(name: str, real: np.ndarray, made: np.ndarray, batch: int, batches: int, key: object) -> Outcome:
    for side, values in (("reference", real), ("sample", made)):
        if len(values) < batch * batches:
            return Outcome(None, None, f"{side}: {len(values):,} values of {name}, {batch * batches:,} are needed")
    mean, spread = real.mean(axis=0), real.std(axis=0)
    if not (spread > 0).all():
        return Outcome(None, None, f"{name} of the reference never changes in {int((spread == 0).sum())} parts")
    scaled = [(values - mean) / spread for values in (real, made)]
    value = _distances(scaled[0], scaled[1], batch, batches)
    half = len(real) // 2
    pairs = min(batches, half // batch)
    if pairs < 2:
        return Outcome(value, None, f"no floor: the reference has {len(real):,} values, {4 * batch:,} are needed")
    return Outcome(value, _distances(scaled[0][:half], scaled[0][half:], batch, pairs))


def _distances(real: np.ndarray, made: np.ndarray, batch: int, batches: int) -> Estimate:
    """Mean over columns of W1, over batches: mean and standard deviation."""
    found = [
        np.mean([wasserstein_1(real[part, column], made[part, column]) for column in range(real.shape[1])])
        for part in (slice(number * batch, (number + 1) * batch) for number in range(batches))
    ]
    return Estimate(float(np.mean(found)), float(np.std(found)))
