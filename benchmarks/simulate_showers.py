"""Benchmark ``simulate-showers``: parametrised showers, cells included, on one core; against random numbers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hepfm.benchmarks.workload import Way, Workload
from hepfm.core.draws import generator
from hepfm.ingest.gflash.simulation import BATCH_SHOWERS, GflashShowers

SHOWERS = {"ild": 1_280, "calochallenge2": 640, "calochallenge3": 320}
DRAWS_PER_SPOT = 2  # radius and azimuth: what no way to make spots can do without


def simulate(simulation: GflashShowers, showers: int) -> int:
    """Showers as records of cells."""
    return sum(len(batch) for batch in simulation.batches(simulation.streams[0], 0, showers))


def spots_of(simulation: GflashShowers, showers: int) -> int:
    """How many spots these showers consist of."""
    parts = showers // BATCH_SHOWERS
    return sum(len(simulation.draw(simulation.streams[0], 0, part)[1].radius) for part in range(parts))


@contextmanager
def simulate_showers() -> Iterator[Workload]:
    """Simulate showers in each detector, and draw as many random numbers as ILD's spots need."""
    simulations = {name: GflashShowers(detector=name) for name in SHOWERS}
    for simulation in simulations.values():
        simulation.check()
    spots = spots_of(simulations["ild"], SHOWERS["ild"])
    draws = generator("bench")
    ways = {
        name: Way(lambda name=name, simulation=simulation: simulate(simulation, SHOWERS[name]), SHOWERS[name])  # type: ignore[misc]
        for name, simulation in simulations.items()
    }
    ways["random_numbers"] = Way(lambda: draws.random((DRAWS_PER_SPOT, spots), dtype=np.float32), SHOWERS["ild"])
    yield Workload(
        unit="showers/s",
        ways=ways,
        value="ild",
        ratios={"random_numbers": ("ild", "random_numbers")},
        figures={
            f"spots_per_shower_{name}": lambda name=name, simulation=simulation: (  # type: ignore[misc]
                spots_of(simulation, SHOWERS[name]) / SHOWERS[name]
            )
            for name, simulation in simulations.items()
        },
        notes=("one process; energies are each detector's own, cells and records included",),
    )
