"""Outcomes of metrics as rows of a table: value, error, what chance gives, and whether the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hepfm.benchmarks.report import number
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.statistics import Estimate, Floor

NOT_COMPUTED = "not computed"
# Standard deviations within which a value agrees with a floor that is known with its error only.
AGREES = 2.0
NOTE = (
    "Errors are one standard deviation. In brackets the floor: what two samples of the reference show by chance."
    " Green: not told from it; red: beyond it."
)

OF_HALVES = (
    "Precision, recall, density and coverage depend on the number of events; their floor is of halves of the reference,"
    " and they are not judged by it."
)


@dataclass(frozen=True)
class Row:
    """One metric of every sample.

    Attributes:
        title: of the metric, with its unit.
        outcomes: by sample.
        scale: what values are multiplied with, as papers do.
        two_sided: a value below the floor differs from it, too (such as a share); distances only lie above.
        judged: whether value and floor are of as many events, so that they can be compared.
    """

    title: str
    outcomes: Mapping[str, Outcome]
    scale: float = 1.0
    two_sided: bool = False
    judged: bool = True


def like_reference(outcome: Outcome, two_sided: bool = False) -> bool | None:
    """Whether a sample cannot be told from the reference by this metric; None where value or floor are not known."""
    value, floor = outcome.value, outcome.floor
    if value is not None and outcome.limit is not None:
        return value.value <= outcome.limit
    if value is None or floor is None:
        return None
    if isinstance(floor, Floor):
        return value.value <= floor.upper
    apart = value.value - floor.value
    allowed = AGREES * float(np.hypot(value.error, floor.error))
    return bool(abs(apart) <= allowed if two_sided else apart <= allowed)


def outcome_cell(outcome: Outcome | None, scale: float = 1.0, two_sided: bool = False, judged: bool = True) -> Cell:
    """Value, error and floor; a metric that could not be computed says so, and why."""
    if outcome is None:
        return Cell("-")
    if outcome.value is None:
        return Cell(NOT_COMPUTED, note=outcome.note)
    floor = outcome.floor
    like = like_reference(outcome, two_sided) if judged else None
    return Cell(
        number(scaled(outcome.value, scale)),
        missed=like is False,
        good=like is True,
        chance="" if floor is None else number(scaled(Estimate(floor.value, floor.error), scale)),
        note=outcome.note,
    )


def scaled(estimate: Estimate, scale: float) -> Estimate:
    """An estimate times a positive number."""
    return Estimate(estimate.value * scale, estimate.error * scale)


def outcome_table(title: str, rows: Sequence[Row], names: Sequence[str], note: str = "") -> Table:
    """A row for each metric, a column for each sample."""
    body = []
    for row in rows:
        label = row.title if row.scale == 1 else f"{row.title} x {row.scale:,.0f}"
        cells = [outcome_cell(row.outcomes.get(name), row.scale, row.two_sided, row.judged) for name in names]
        body.append((Cell(label), *cells))
    return Table(title, ("metric", *names), tuple(body), f"{note} {NOTE}".strip())


def counts(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Of how many metrics each sample passes, fails or leaves open."""
    body = []
    for name in names:
        marks = [
            like_reference(row.outcomes[name], row.two_sided) if row.judged else None
            for row in rows
            if name in row.outcomes
        ]
        missing = sum(row.outcomes[name].value is None for row in rows if name in row.outcomes)
        like, unlike = marks.count(True), marks.count(False)
        body.append(
            (
                Cell(name),
                Cell(f"{like}", good=like > 0),
                Cell(f"{unlike}", missed=unlike > 0),
                Cell(f"{len(marks) - like - unlike - missing}"),
                Cell(f"{missing}"),
            )
        )
    header = ("sample", "like the reference", "beyond the floor", "not judged", NOT_COMPUTED)
    return Table("Verdict", header, tuple(body), "Metrics of the tables below. They are not independent of each other.")


def with_verdict(outcome: Outcome, two_sided: bool = False, judged: bool = True) -> dict[str, Any]:
    """An outcome as plain data, with ``like_reference``."""
    return {**plain_outcome(outcome), "like_reference": like_reference(outcome, two_sided) if judged else None}


def plain_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain data; errors that are not finite become null."""
    value = outcome.value
    if value is not None and not np.isfinite(value.error):
        value = replace(value, error=None)  # type: ignore[arg-type]
    return {
        "value": None if value is None else asdict(value),
        "floor": None if outcome.floor is None else asdict(outcome.floor),
        "note": outcome.note,
        "limit": None if outcome.limit is None or not np.isfinite(outcome.limit) else outcome.limit,
    }
