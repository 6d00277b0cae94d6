"""Everything that is measured on two samples of showers, the classifiers aside, in one call; read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hepfm.benchmarks.scores import shower_histograms, shower_relations
from hepfm.benchmarks.scores.ild import IldObservables, ild_observables, ild_scores
from hepfm.benchmarks.scores.one_dimensional import Binned
from hepfm.benchmarks.scores.outcome import Outcome, attempt, enough
from hepfm.benchmarks.scores.shower_features import ShowerFeatures, shower_features
from hepfm.benchmarks.scores.showers import ShowerSample, check_alike, check_energies
from hepfm.benchmarks.scores.showers import check_units as check_response
from hepfm.benchmarks.scores.suite_parts import (
    MANIFOLD_EVENTS,
    Kept,
    Seconds,
    feature_manifolds,
    of_the_first,
    physics_distances,
    plain,
)
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import REPLICAS, Estimate

VOXEL_FLOOR = 0.1  # MeV that stands for an empty voxel under a logarithm
MOST_VOXEL_BYTES = 2 << 30  # of both samples' voxels as PRDC takes them
GROUPS = ("separation", "correlation", "distances", "manifolds", "ild")


class ShowerSide:
    """Showers with what is computed from them, each part once and when it is first asked for."""

    def __init__(self, sample: ShowerSample, seed: int = 0) -> None:
        self.sample, self._seed, self.kept = sample, seed, Kept()
        self._spectra: dict[bytes, Binned] = {}

    @cached_property
    def features(self) -> ShowerFeatures:
        """High-level features of all showers."""
        return shower_features(self.sample)

    @cached_property
    def inputs(self) -> np.ndarray:
        """Inputs (n, d) of FPD, KPD and the high-level classifier."""
        return self.features.inputs()

    @cached_property
    def ild(self) -> IldObservables:
        """Observables of the ILD set about the axis of the grid."""
        return ild_observables(self.sample, (0.0, 0.0), key=self._seed)

    def spectrum(self, edges: np.ndarray) -> Binned:
        """Numbers of voxels by energy, of each shower."""
        key = edges.tobytes()
        if key not in self._spectra:
            self._spectra = {key: shower_histograms.voxel_spectrum(self.sample, edges)}
        return self._spectra[key]


@dataclass(frozen=True)
class ShowerScores:
    """What two samples of showers show.

    Attributes:
        separation: every histogram with its separation power.
        means: mean over layers of the separation powers of each group.
        correlation: mean absolute difference of the correlations of layer energies.
        distances: FPD and KPD on the high-level features.
        manifolds: precision, recall, density, coverage on log10 voxels.
        response: visible over incident energy by incident energy.
        ild: the ILD set, for grids.
    """

    separation: list[shower_histograms.Separation]
    means: dict[str, Outcome]
    correlation: Outcome
    distances: dict[str, Outcome]
    manifolds: dict[str, Outcome]
    response: list[shower_relations.EnergyBin]
    ild: dict[str, Outcome] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """As JSON; what could not be computed has no value but a note."""
        histograms = {part.observable.name: plain(part.outcome) for part in self.separation}
        rest = {name: plain(value) for name, value in vars(self).items() if name not in ("separation", "response")}
        bins = [
            {
                **{name: plain(value) for name, value in vars(part).items()},
                "response_ratio": plain(part.response_ratio),
                "resolution_ratio": plain(part.resolution_ratio),
            }
            for part in self.response
        ]
        return {"separation": histograms, **rest, "response": bins}


def shower_scores(
    reference: ShowerSample | ShowerSide,
    sample: ShowerSample | ShowerSide,
    *,
    seed: int = 0,
    replicas: int = REPLICAS,
    without: Collection[str] = (),
    seconds: Seconds | None = None,
) -> ShowerScores:
    """All metrics of showers (but classifiers) of a sample against real showers, read in chunks.

    Args:
        reference, sample: showers; as a :class:`ShowerSide`, what is computed from them is kept for the next one.
        seed: of all draws.
        replicas: of bootstraps, and splits for floors.
        without: groups of :data:`GROUPS` that are left out.
        seconds: takes the time of each group.

    Raises:
        HepfmError: other cells, units or incident energies than the reference's, values that cannot be a shower's, or
            fewer than 50 showers. A metric that needs more showers is told as such in its place.
    """
    real = reference if isinstance(reference, ShowerSide) else ShowerSide(reference, seed)
    made = alike(real.sample, sample, seed)
    geometry, clock, left_out = real.sample.geometry, seconds or Seconds(), frozenset(without)
    with clock.of("features"):
        check_showers(real.features, made.features, made.sample.name)
    separation: list[shower_histograms.Separation] = []
    if "separation" not in left_out:
        with clock.of("separation"):
            separation = shower_histograms.separation_powers(
                real.features, made.features, geometry, key=seed, replicas=replicas
            )
            separation.append(_voxels(real, made, seed, replicas))
    groups: dict[str, Callable[[], dict[str, Outcome]]] = {
        "correlation": lambda: {"layers": _correlation(real.features, made.features, seed, replicas)},
        "distances": lambda: physics_distances(real.inputs, made.inputs, "calochallenge", seed, real.kept),
        "manifolds": lambda: _voxel_manifolds(real, made, seed),
        "ild": lambda: _ild(real, made, seed) if geometry.kind == "grid" else {},
    }
    found: dict[str, dict[str, Outcome]] = {}
    for name, compute in groups.items():
        if name in left_out:
            found[name] = {}
            continue
        with clock.of(name):
            found[name] = compute()
    with clock.of("response"):
        energies = [(side.features.incident, side.features.response) for side in (real, made)]
        response = shower_relations.conditional_response(energies[0], energies[1])
    left = Outcome(None, None, "left out")
    return ShowerScores(
        separation=separation,
        means=_means(separation),
        correlation=found["correlation"].get("layers", left),
        distances=found["distances"],
        manifolds=found["manifolds"],
        response=response,
        ild=found["ild"],
    )


def alike(reference: ShowerSample, sample: ShowerSample | ShowerSide, seed: int = 0) -> ShowerSide:
    """A sample in the cells, and with the threshold, of the reference.

    Raises:
        HepfmError: it has other cells.
    """
    side = sample if isinstance(sample, ShowerSide) else ShowerSide(sample, seed)
    check_alike(reference, side.sample)
    if side.sample.geometry is reference.geometry:
        return side
    return ShowerSide(replace(side.sample, geometry=reference.geometry), seed)


def _correlation(real: ShowerFeatures, made: ShowerFeatures, seed: int, replicas: int) -> Outcome:
    energies = (real.layer_energy, made.layer_energy)
    return attempt(
        lambda: shower_relations.correlation_difference(*energies, key=seed, replicas=replicas),
        lambda: shower_relations.correlation_floor(
            real.layer_energy, (len(real), len(made)), key=seed, splits=max(2, replicas)
        ),
    )


def check_showers(reference: ShowerFeatures, sample: ShowerFeatures, name: str) -> None:
    """See that two samples of showers can be compared.

    Raises:
        HepfmError: as for :func:`shower_scores`.
    """
    for which, side in (("reference", reference), (f"sample '{name}'", sample)):
        enough(len(side), shower_histograms.FEWEST_SHOWERS, "showers", "a comparison", which)
    check_energies(reference.incident, sample.incident, name)
    check_response(reference.response, sample.response, name)


def _voxels(real: ShowerSide, made: ShowerSide, seed: int, replicas: int) -> shower_histograms.Separation:
    edges = shower_histograms.voxel_edges(real.features, real.sample.geometry)
    return shower_histograms.voxel_separation(
        real.spectrum(edges), made.spectrum(edges), edges, key=seed, replicas=replicas
    )


def _means(separation: list[shower_histograms.Separation]) -> dict[str, Outcome]:
    """Mean over layers of each group, as published; those without a value are left out and counted."""
    groups: dict[str, list[Outcome]] = {}
    for part in separation:
        if part.observable.part is None:
            groups.setdefault(part.observable.group, []).append(part.outcome)
    found = {}
    for group, outcomes in groups.items():
        known = [outcome for outcome in outcomes if outcome.value is not None]
        note = "" if len(known) == len(outcomes) else f"{len(outcomes) - len(known)} of {len(outcomes)} have no value"
        if not known:
            found[group] = Outcome(None, None, note)
            continue
        value = _mean([outcome.value for outcome in known if outcome.value is not None])
        floors = [outcome.floor for outcome in known if outcome.floor is not None]
        floor = _mean([Estimate(part.value, part.error) for part in floors]) if len(floors) == len(known) else None
        found[group] = Outcome(value, floor, note)
    return found


def _mean(values: list[Estimate]) -> Estimate:
    """Mean over layers; its error takes layers as fully correlated, which is the safe side."""
    return Estimate(*(float(np.mean([getattr(value, name) for value in values])) for name in ("value", "error")))


def _voxel_manifolds(real: ShowerSide, made: ShowerSide, seed: int) -> dict[str, Outcome]:
    most = min(MANIFOLD_EVENTS, MOST_VOXEL_BYTES // (16 * real.sample.geometry.voxels))
    values = [log_voxels(side.sample.limited(most)) for side in (real, made)]
    found = feature_manifolds(values[0], values[1], seed, real.kept)
    return of_the_first(found, most, max(real.sample.showers, made.sample.showers), "showers")


def log_voxels(sample: ShowerSample) -> np.ndarray:
    """log10 of the voxels (n, voxels) [MeV], empty ones taken as 0.1 MeV: CaloChallenge's features for PRDC."""
    found, start = np.empty((sample.showers, sample.geometry.voxels)), 0
    for hits in sample.chunks(sample.geometry.threshold):
        dense = hits.dense(sample.geometry.voxels)
        found[start : start + len(hits)] = np.log10(np.where(dense > 0, dense, VOXEL_FLOOR))
        start += len(hits)
    return found


def _ild(real: ShowerSide, made: ShowerSide, seed: int) -> dict[str, Outcome]:
    """The ILD set about the axis of the grid, in ten batches of as many showers as there are."""
    try:
        sides = [side.ild for side in (real, made)]
        batch = min(len(side) for side in sides) // 10
        return {score.name: score.outcome for score in ild_scores(sides[0], sides[1], batch, key=seed)}
    except HepfmError as error:
        return {"ILD": Outcome(None, None, str(error))}
