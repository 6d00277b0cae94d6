"""Benchmark ``metrics``: the parts that decide the time of the metrics, and all of them once on large samples.

References are the same quantities in the way of the tools that published them: energy flow polynomials graph by graph
and jet by jet (einsum along a contraction path), shower features layer by layer on dense voxels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from hepfm.benchmarks import metrics
from hepfm.benchmarks.bench import report
from hepfm.benchmarks.scores import jet_suite, shower_suite
from hepfm.benchmarks.scores.energy_flow import CONNECTED, Edges, distances, vertices
from hepfm.benchmarks.scores.shower_features import Axes, features_of
from hepfm.benchmarks.scores.showers import Hits
from hepfm.benchmarks.synthetic import real_multiplicities
from hepfm.benchmarks.workload import REPEATS, Way, Workload, measure
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents
from hepfm.core.progress import say
from hepfm.core.statistics import REPLICAS
from hepfm.ingest.gflash.simulation import GflashShowers

JETS, SHOWERS = 2_000, 256  # of a call
LOOPED_JETS = 50
WHOLE_JETS, WHOLE_SHOWERS = 100_000, 20_000
DETECTOR = "calochallenge2"
JET_PARTS = ("quantities", "correlation", "polynomials", *jet_suite.GROUPS)
SHOWER_PARTS = ("features", *(group for group in shower_suite.GROUPS if group != "ild"), "response")


def random_jets(seed: int, jets: int) -> Constituents:
    """Jets with the multiplicities of real ones."""
    draws = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(real_multiplicities(draws, jets))])
    pt = draws.lognormal(1.5, 1.2, offsets[-1])
    deta, dphi = draws.normal(0, 0.2, (2, offsets[-1]))
    return Constituents(pt, deta, dphi, offsets)


def looped_polynomials(jets: Constituents) -> np.ndarray:
    """The connected polynomials (n, 21), each by one einsum a jet."""
    found = np.empty((len(jets), len(CONNECTED)))
    for jet in range(len(jets)):
        here = slice(*jets.offsets[jet : jet + 2])
        z, eta, phi = jets.pt[here], jets.deta[here], jets.dphi[here]
        theta = distances(eta, phi, eta, phi)
        found[jet] = [np.einsum(*_operands(graph, z, theta), optimize=_path(graph, 32)) for graph in CONNECTED]
    return found


def _operands(graph: Edges, z: np.ndarray, theta: np.ndarray) -> list[Any]:
    letters = "abcde"[: vertices(graph)]
    terms = [*letters, *(letters[a] + letters[b] for a, b in graph)]
    return [f"{','.join(terms)}->", *[z] * len(letters), *[theta] * len(graph)]


@cache
def _path(graph: Edges, size: int) -> list[Any]:
    return np.einsum_path(*_operands(graph, np.ones(size), np.ones((size, size))), optimize="greedy")[0]


def layer_by_layer(dense: np.ndarray, axes: Axes) -> np.ndarray:
    """Sums, centres, widths and sparsity of dense voxels (n, voxels), one layer after another."""
    found = []
    for layer in range(len(axes.cells)):
        here = axes.layer == layer
        energy = dense[:, here]
        total = energy.sum(axis=1)
        found += [total, 1 - (energy > 0).mean(axis=1)]
        for axis in (axes.eta[here], axes.phi[here], axes.r[here]):
            mean = (axis * energy).sum(axis=1) / (total + 1e-16)
            square = (axis * axis * energy).sum(axis=1) / (total + 1e-16)
            found += [mean, np.sqrt((square - mean**2).clip(min=0))]
    return np.stack(found, axis=1)


def simulated(seed: int, showers: int) -> metrics.ShowerSample:
    """Parametrised showers in the cells of data set 2, read from memory."""
    simulation = GflashShowers(detector=DETECTOR, seed=seed)
    batches = list(simulation.batches(simulation.streams[0], 0, showers))
    return metrics.ShowerSample.of_batches(f"seed {seed}", simulation.layout, showers, lambda: iter(batches))


@dataclass(frozen=True)
class MetricsConfig:
    """Measure the metrics: polynomials and shower features against the loops of the published tools, and the seconds of
    every part of all metrics on two samples of 100,000 jets and two of 20,000 showers of CaloChallenge's data set 2."""

    share: float = 1.0
    """Of these jets and showers; 0.1 shows where the time goes in a tenth of it or less."""
    repeats: int = REPEATS
    """Measurements of each rate, of which the median counts."""
    json: Path | None = None
    """File for the result."""


def main(config: MetricsConfig) -> None:
    """Measure and print rates, ratios and seconds."""
    if not 0 < config.share <= 1:
        raise HepfmError(f"must be above 0 and at most 1, is {config.share}", "--share")
    if config.repeats < 1:
        raise HepfmError(f"must be at least 1, is {config.repeats}", "--repeats")
    with metrics_speed(config.share) as workload:
        report(measure("metrics", workload, config.repeats), config.json)


@contextmanager
def metrics_speed(share: float = 1.0) -> Iterator[Workload]:
    """Polynomials and features against their loops; seconds of all on a share of 100,000 jets and of 20,000 showers."""
    jet_parts, shower_parts = Parts("jets"), Parts("showers")
    whole_jets, whole_showers = round(share * WHOLE_JETS), round(share * WHOLE_SHOWERS)
    jets, few = random_jets(0, JETS), random_jets(0, LOOPED_JETS)
    sample = simulated(0, SHOWERS)
    hits = list(sample.chunks(sample.geometry.threshold))
    dense = np.concatenate([part.dense(sample.geometry.voxels) for part in hits])
    axes, layers = Axes.of(sample.geometry), tuple(range(len(sample.geometry.layers)))
    yield Workload(
        unit="jets/s, showers/s",
        ways={
            "polynomials": Way(partial(metrics.connected_polynomials, jets), JETS),
            "polynomials_einsum": Way(partial(looped_polynomials, few), LOOPED_JETS),
            "shower_features": Way(partial(_features, hits, axes, layers), SHOWERS),
            "shower_features_dense": Way(partial(layer_by_layer, dense, axes), SHOWERS),
        },
        value="polynomials",
        ratios={
            "polynomials_einsum": ("polynomials", "polynomials_einsum"),
            "shower_features_dense": ("shower_features", "shower_features_dense"),
        },
        figures={
            f"seconds_{whole_jets}_jets": partial(_seconds, partial(all_of_jets, whole_jets, jet_parts)),
            **{f"jets_{name}_s": partial(jet_parts.of, name) for name in JET_PARTS},
            f"seconds_{whole_showers}_showers": partial(_seconds, partial(all_of_showers, whole_showers, shower_parts)),
            **{f"showers_{name}_s": partial(shower_parts.of, name) for name in SHOWER_PARTS},
        },
        notes=(
            "seconds: two samples of so many jets (protocol jetnet), or of parametrised showers in the 6,480 voxels of "
            "data set 2, all metrics but the classifiers, errors and floors included; making the samples is not",
        ),
    )


def _features(hits: list[Hits], axes: Axes, layers: tuple[int, ...]) -> None:
    for part in hits:
        features_of(part, axes, layers)


class Parts:
    """Seconds of the parts of a suite, told as they end."""

    def __init__(self, what: str) -> None:
        self.seconds = metrics.Seconds(told=lambda name, seconds: say(f"{what}, {name}: {seconds:.1f} s"))

    def of(self, name: str) -> float:
        """Seconds of one part, once the suite was computed."""
        return self.seconds.parts[name]


def all_of_jets(jets: int, parts: Parts) -> Callable[[], object]:
    """What computes all metrics of two samples of so many jets, once these are made."""
    samples = random_jets(0, jets), random_jets(1, jets)
    return partial(metrics.jet_scores, *samples, replicas=REPLICAS, seconds=parts.seconds)


def all_of_showers(showers: int, parts: Parts) -> Callable[[], object]:
    """The same of showers."""
    samples = simulated(0, showers), simulated(1, showers)
    return partial(metrics.shower_scores, *samples, replicas=REPLICAS, seconds=parts.seconds)


def _seconds(make: Callable[[], Callable[[], object]]) -> float:
    call = make()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
