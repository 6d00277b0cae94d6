"""What the suites of jets and of showers share: metrics of features with floors, and outcomes as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from hepfm.benchmarks.scores.manifolds import Manifolds, manifolds
from hepfm.benchmarks.scores.outcome import Outcome, attempt
from hepfm.benchmarks.scores.physics_distances import FPD_SIZES, KPD_BATCH, fpd, halves, kpd
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import Estimate

T = TypeVar("T")
MANIFOLD_EVENTS = 20_000  # of either side at most: the time goes with the square of their number


@dataclass(frozen=True)
class Seconds:
    """Seconds that each part of a suite took.

    Attributes:
        parts: by name; a part that comes again adds to it.
        told: is called with the name and the seconds when a part ends.
    """

    parts: dict[str, float] = field(default_factory=dict)
    told: Callable[[str, float], None] = lambda name, seconds: None

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.parts[name] = self.parts.get(name, 0.0) + seconds
        self.told(name, seconds)


class Kept:
    """What was computed once and is asked for again, as the floors of a reference are for each sample."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of ``compute``, or what it gave the first time with this key."""
        if key not in self._found:
            self._found[key] = compute()
        found: T = self._found[key]
        return found


def physics_distances(real: np.ndarray, made: np.ndarray, rules: str, seed: int, kept: Kept) -> dict[str, Outcome]:
    """FPD and KPD of features with floors between halves of the reference."""
    sizes, batch = FPD_SIZES[rules], KPD_BATCH[rules]
    first, second = halves(real, generator("physics distances", seed))
    return {
        "fpd": attempt(
            lambda: fpd(real, made, sizes), lambda: kept.once(("fpd", seed), lambda: fpd(first, second, sizes))
        ),
        "kpd": attempt(
            lambda: kpd(real, made, batch), lambda: kept.once(("kpd", seed), lambda: kpd(first, second, batch))
        ),
    }


def feature_manifolds(real: np.ndarray, made: np.ndarray, seed: int, kept: Kept) -> dict[str, Outcome]:
    def listed(found: Manifolds) -> list[Estimate]:
        return [found.precision, found.recall, found.density, found.coverage]

    return outcomes_of(
        ("precision", "recall", "density", "coverage"),
        lambda: listed(manifolds(real, made, key=seed)),
        lambda: kept.once(
            ("manifolds", seed), lambda: listed(manifolds(*halves(real, generator("manifold halves", seed)), key=seed))
        ),
    )


def outcomes_of(
    names: tuple[str, ...], value: Callable[[], list[Estimate]], floor: Callable[[], list[Estimate]]
) -> dict[str, Outcome]:
    """Outcomes of a metric that gives several numbers at once."""
    try:
        values = value()
    except HepfmError as error:
        return {name: Outcome(None, None, str(error)) for name in names}
    try:
        floors: list[Estimate | None] = [*floor()]
        note = ""
    except HepfmError as error:
        floors, note = [None] * len(names), f"no floor: {error}"
    return {name: Outcome(values[i], floors[i], note) for i, name in enumerate(names)}


def of_the_first(found: dict[str, Outcome], taken: int, there: int, events: str) -> dict[str, Outcome]:
    """Told in the notes, if not all events were taken."""
    if there <= taken:
        return found
    told = f"of the first {taken:,} {events}"
    return {
        name: Outcome(outcome.value, outcome.floor, "; ".join(filter(None, [outcome.note, told])))
        for name, outcome in found.items()
    }


def plain(value: Any) -> Any:
    """Plain data: numbers, texts, lists and dictionaries."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
