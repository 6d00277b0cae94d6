"""Benchmark ``simulate-jets``: jets of every JetClass class, against Pythia's events alone, on one core and on all."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import pyarrow as pa

from hepfm.benchmarks.workload import Way, Workload
from hepfm.ingest.simulate.processes import LABELS, process_for
from hepfm.ingest.simulate.pythia import Generator, require_pythia
from hepfm.ingest.simulate.ten_classes import JetClassJets
from hepfm.ingest.simulate.veto import early_veto

EVENTS = 50  # of Pythia alone, a call
ENDLESS = 10**9


def jets_of(label: str, number: int = 0) -> Iterator[pa.RecordBatch]:
    """Jets of a class without end, batch by batch, as every simulation makes them."""
    return JetClassJets(classes=(label,)).batches(label, number, ENDLESS)


def one_batch(jets: Iterator[pa.RecordBatch]) -> int:
    """Simulate a batch of events: generation, detector, clustering, selection, matching, substructure, records."""
    return len(next(jets))


def rate_beside_others(label: str, number: int) -> float:
    """Jets/s of this process, start-up left out."""
    jets = jets_of(label, number)
    next(jets)
    started = time.perf_counter()
    return one_batch(jets) / (time.perf_counter() - started)


@contextmanager
def simulate_jets() -> Iterator[Workload]:
    """Start a simulation of each class, and a Pythia that does nothing else with the same events."""
    JetClassJets().check()
    cores = os.cpu_count() or 1
    ways, ratios = {}, {}
    for label in LABELS:
        process = process_for(label)
        jets, generator = jets_of(label), Generator(process, 0, early_veto(require_pythia(), process))
        ways[label] = Way(partial(one_batch, jets))
        ways[f"{label}_pythia_events"] = Way(partial(generator.generate, EVENTS), EVENTS)
        ratios[label] = (label, f"{label}_pythia_events")
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:

        def all_cores(label: str) -> float:
            return sum(pool.map(rate_beside_others, [label] * cores, range(1, cores + 1)))

        yield Workload(
            unit="jets/s",
            ways=ways,
            value="QCD",
            ratios=ratios,
            figures={f"{label}_all_cores": partial(all_cores, label) for label in LABELS},
            notes=(
                "one process a class; Pythia's events: those that the simulation keeps for its detector, one a unit",
                f"all_cores: jets/s of {cores} processes at once, measured once",
            ),
        )
