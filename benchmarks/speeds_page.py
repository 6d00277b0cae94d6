"""The page of all speeds."""

from __future__ import annotations

from typing import Any

from hepfm.benchmarks.report import part, sections
from hepfm.benchmarks.speeds_compare import changes_table, detailed
from hepfm.benchmarks.tables import Cell, Table

DEFINITIONS = (
    ("Value", "Median of interleaved repeats, after a first round that warms caches."),
    ("Spread", "Half the range over the repeats, over the median."),
    ("Ratio", "This over the reference, both measured in the same run in turns."),
)


def page(data: dict[str, Any]) -> str:
    """The page as HTML."""
    parts = [part("Results", data["machine"], [_summary(data)])]
    if "changes" in data:
        parts.append(part("Against an earlier run", "", [changes_table(data["changes"])]))
    for result in detailed(data):
        notes = [note.rstrip(".") for note in result.get("notes", [])]
        parts.append(part(result["name"], "", _details(result), notes=notes))
    provenance = {name: data[name] for name in ("command", "machine", "code", "versions", "seconds")}
    return sections("Speeds", data["date"], parts, DEFINITIONS, provenance)


def _summary(data: dict[str, Any]) -> Table:
    rows = []
    for result in data["results"]:
        rows.append(
            (
                Cell(result["name"]),
                Cell(f"{result['value']:,.4g}"),
                Cell(result["unit"]),
                Cell(f"±{result['spread']:.0%}"),
                Cell("", note="; ".join(f"{name} {ratio:.3g}" for name, ratio in result["ratios"].items())),
            )
        )
    for name, error in data["failed"].items():
        rows.append((Cell(name), Cell("failed", missed=True), Cell(""), Cell(""), Cell("", note=error)))
    header = ("benchmark", "value", "unit", "spread", "ratios")
    return Table("All", header, tuple(rows), f"{len(data['results'])} measured, {len(data['failed'])} failed.")


def _details(result: dict[str, Any]) -> list[Table]:
    tables = []
    spread = result.get("rate_spread", {})
    if rates := result.get("rates"):
        rows = tuple((Cell(name), Cell(f"{rate:,.4g}"), _share(spread.get(name))) for name, rate in rates.items())
        tables.append(Table("Rates", ("way", result["unit"], "spread"), rows, ""))
    if result["ratios"]:
        apart = result.get("ratio_spread", {})
        rows = tuple(
            (Cell(name), Cell(f"{ratio:.4g}"), _share(apart.get(name))) for name, ratio in result["ratios"].items()
        )
        tables.append(Table("Ratios", ("reference", "ratio", "spread"), rows, ""))
    if figures := result.get("figures"):
        rows_of_two = tuple((Cell(name), Cell(f"{figure:,.4g}")) for name, figure in figures.items())
        tables.append(Table("Figures", ("figure", "number"), rows_of_two, ""))
    return tables


def _share(value: float | None) -> Cell:
    return Cell("-" if value is None else f"±{value:.1%}")
