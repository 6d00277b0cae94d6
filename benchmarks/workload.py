"""What a benchmark measures, and how: interleaved repeats, medians, ratios within one run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hepfm.core.progress import progress
from hepfm.core.versions import versions

REPEATS = 5


@dataclass(frozen=True)
class Way:
    """One way to do the work: a call, how many units it does (None: it returns them), and what is done before it,
    untimed."""

    call: Callable[[], Any]
    units: float | None = None
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Workload:
    """The same work done in several ways.

    Attributes:
        unit: of the rates.
        ways: by name.
        value: the way whose rate is the result.
        ratios: name of a ratio -> (way, reference).
        bounds: name of a ratio -> (another ratio, what that one could be at most): how much of it is reached.
        figures: further numbers, each measured once after the rates.
        notes: what a reader of the result has to know.
    """

    unit: str
    ways: dict[str, Way]
    value: str
    ratios: dict[str, tuple[str, str]]
    bounds: dict[str, tuple[str, float]] = field(default_factory=dict)
    figures: dict[str, Callable[[], float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure(name: str, workload: Workload, repeats: int = REPEATS) -> dict[str, Any]:
    """Rates of all ways, taken in turns so that a busy moment hits all of them alike.

    Returns:
        name, value, unit, ratios (medians of the repeats), spread (half the range of each rate over its median),
        figures, notes, machine and versions.
    """
    rates: dict[str, list[float]] = {way: [] for way in workload.ways}
    with progress(f"bench {name}", (repeats + 1) * len(rates), "runs") as task:
        for repeat in range(repeats + 1):
            for label, way in workload.ways.items():
                way.before()
                started = time.perf_counter()
                done = way.call()
                seconds = time.perf_counter() - started
                if repeat:  # the first round warms caches
                    rates[label].append((done if way.units is None else way.units) / seconds)
                task.advance()
    medians = {label: statistics.median(values) for label, values in rates.items()}
    ratios = {ratio: medians[way] / medians[reference] for ratio, (way, reference) in workload.ratios.items()}
    ratios |= {share: ratios[ratio] / bound for share, (ratio, bound) in workload.bounds.items()}
    return {
        "name": name,
        "value": medians[workload.value],
        "unit": workload.unit,
        "rates": medians,
        "ratios": ratios,
        "spread": {label: (max(values) - min(values)) / 2 / medians[label] for label, values in rates.items()},
        "figures": {label: call() for label, call in workload.figures.items()},
        "notes": list(workload.notes),
        "machine": machine(),
        "versions": versions(),
    }


def machine() -> str:
    """Processor, cores and system, for the record."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
