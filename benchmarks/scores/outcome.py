"""What a metric gave: a number with its error and floor, or the reason why there is none; never a 0 in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.core.statistics import Estimate, Floor


@dataclass(frozen=True)
class Outcome:
    """A metric of one sample.

    Attributes:
        value: what was found; None where the metric cannot be computed.
        floor: what two samples of the reference show.
        note: why there is no value, or no floor.
        limit: what a sample of the reference's distribution stays below in 95% of all cases, where that was tested.
    """

    value: Estimate | None
    floor: Floor | Estimate | None = None
    note: str = ""
    limit: float | None = None


def attempt(value: Callable[[], Estimate], floor: Callable[[], Floor | Estimate] | None = None) -> Outcome:
    """Compute a metric and its floor; what is wrong with the samples becomes the note."""
    try:
        found = value()
    except HepfmError as error:
        return Outcome(None, None, str(error))
    if not np.isfinite(found.value):
        return Outcome(None, None, f"is {found.value}")
    if floor is None:
        return Outcome(found)
    try:
        return Outcome(found, floor())
    except HepfmError as error:
        return Outcome(found, None, f"no floor: {error}")


def enough(found: int, needed: int, events: str, metric: str, where: object = "") -> None:
    """See that a metric has the events that it needs.

    Raises:
        HepfmError: there are fewer; says how many it needs.
    """
    if found < needed:
        raise HepfmError(f"{found:,} {events} are too few: {metric} needs {needed:,}", where, "read more of the sample")


def features(values: np.ndarray, where: object) -> np.ndarray:
    """Features (n, d) as float64.

    Raises:
        HepfmError: another shape, or a value that is not finite; says how many and in which column.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise HepfmError(f"has shape {values.shape}, not (events, features)", where)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise HepfmError(
            f"{int(bad.sum()):,} of {values.size:,} features are NaN or infinite, first event {row}, feature {column}",
            where,
            "leave such events out and say so",
        )
    return values


def pair(reference: np.ndarray, sample: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of reference (n, d) and sample (m, d).

    Raises:
        HepfmError: as for :func:`features`, or different numbers of features.
    """
    first, second = features(reference, f"{metric}, reference"), features(sample, f"{metric}, sample")
    if first.shape[1] != second.shape[1]:
        raise HepfmError(f"reference has {first.shape[1]} features, sample {second.shape[1]}", metric)
    return first, second
