"""What a benchmark measures, and how: interleaved repeats, medians, ratios within one run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hepfm.core.files import read_json, write_json
from hepfm.core.progress import progress
from hepfm.core.versions import versions

REPEATS = 5
# What every result is; what else was found goes into a file of details beside it.
KEYS = ("name", "value", "unit", "ratios", "spread", "machine", "versions")


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
        name, value, unit, ratios (medians of the repeats), spread (half the range of the value over its median),
        machine and versions, which are :data:`KEYS`; and as details rates, rate_spread, value_of (the way whose rate is
        the value), ratio_spread (of each ratio, repeat by repeat), figures and notes.
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
    apart = {
        ratio: _spread([a / b for a, b in zip(rates[way], rates[reference], strict=True)])
        for ratio, (way, reference) in workload.ratios.items()
    }
    for share, (ratio, bound) in workload.bounds.items():
        ratios[share], apart[share] = ratios[ratio] / bound, apart[ratio]
    return {
        "name": name,
        "value": medians[workload.value],
        "unit": workload.unit,
        "rates": medians,
        "ratios": ratios,
        "spread": _spread(rates[workload.value]),
        "rate_spread": {label: _spread(values) for label, values in rates.items()},
        "value_of": workload.value,
        "ratio_spread": apart,
        "figures": {label: call() for label, call in workload.figures.items()},
        "notes": list(workload.notes),
        "machine": machine(),
        "versions": versions(),
    }


def details_path(path: Path) -> Path:
    """Where the details of a result in ``path`` are."""
    return path.with_name(f"{path.stem}.details.json")


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a result, exactly :data:`KEYS`, and its details beside it."""
    write_json(path, {key: result[key] for key in KEYS})
    write_json(details_path(path), {key: value for key, value in result.items() if key not in KEYS})


def read_details(path: Path) -> dict[str, Any]:
    """The details beside a result; none if it has none."""
    beside = details_path(path)
    return dict(read_json(beside)) if beside.is_file() else {}


def _spread(values: list[float]) -> float:
    """Half the range over the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def machine() -> str:
    """Processor, cores and system, for the record."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
