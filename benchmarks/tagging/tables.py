"""Measured taggers under the published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hepfm.benchmarks.report import one_digit
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tagging.published import Benchmark, Row
from hepfm.core.statistics import Estimate
from hepfm.finetune.discriminants import MeasuredDiscriminant
from hepfm.finetune.tagging_metrics import Measured, Rejection


def result_table(
    name: str, measured: Measured, benchmark: Benchmark | None, others: Mapping[str, Measured] | None = None
) -> Table:
    """A row for each of ours; where the classes are those of a public set, under its published rows and in their
    layout."""
    columns = benchmark.columns if benchmark else tuple((item.signal, item.efficiency) for item in measured.rejections)
    header = ("tagger", "accuracy", "AUC", *(f"{signal} @{efficiency:.3g}" for signal, efficiency in columns), "ECE")
    rows = [_published(row) for row in benchmark.rows] if benchmark else []
    rows += [_measured(label, item, columns) for label, item in {name: measured, **(others or {})}.items()]
    auc = f"The measured AUC is the mean of {measured.auc_kind}; ECE is the calibration error of the highest score."
    note = f"{measured.jets:,} jets were judged. {auc}"
    if benchmark:
        note = f"{benchmark.note} {note} Rows compare only on the same jets."
    return Table(benchmark.title if benchmark else "Tagging", header, tuple(rows), note)


def _measured(name: str, measured: Measured, columns: Sequence[tuple[str, float]]) -> tuple[Cell, ...]:
    found = {(item.signal, item.efficiency): item for item in measured.rejections}
    return (
        Cell(f"{name} (measured)"),
        Cell(_estimate(measured.accuracy, 4)),
        Cell(_estimate(measured.auc, 5)),
        *(Cell(_rejection(found.get(column))) for column in columns),
        Cell(_estimate(measured.calibration_error, 4)),
    )


def discriminant_table(found: Sequence[MeasuredDiscriminant]) -> Table:
    """Discriminants of summed scores."""
    efficiencies = [item.efficiency for item in found[0].rejections]
    header = ("discriminant", "signal jets", "background jets", "AUC", *(f"1/FPR @{e:.3g}" for e in efficiencies))
    rows = tuple(
        (
            Cell(item.name),
            Cell(f"{item.jets[0]:,}"),
            Cell(f"{item.jets[1]:,}"),
            Cell(_estimate(item.auc, 4)),
            *(Cell(_rejection(rejection)) for rejection in item.rejections),
        )
        for item in found
    )
    return Table("Discriminants", header, rows, "Ratios S / (S + B) of summed scores, on jets of both.")


def _published(row: Row) -> tuple[Cell, ...]:
    rejections = (Cell("-" if value is None else f"{value:g}") for value in row.rejections)
    return (Cell(row.name), Cell(f"{row.accuracy:.3f}"), Cell(f"{row.auc:.4f}"), *rejections, Cell("-"))


def _estimate(estimate: Estimate, digits: int) -> str:
    """To so many digits after the point, fewer where the error is large."""
    if 0 < estimate.error < math.inf:
        digits = min(digits, max(0, 1 - math.floor(math.log10(estimate.error))))
    return f"{estimate.value:.{digits}f} ± {one_digit(estimate.error)}"


def _rejection(item: Rejection | None) -> str:
    if item is None or math.isnan(item.value):
        return "-"
    if math.isinf(item.value):
        return f"> {item.lower_limit:,.0f} (95%)"
    error = "" if math.isnan(item.error) else f" ± {item.error:.2g}"
    return f"{item.value:.4g}{error}"
