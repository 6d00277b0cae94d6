"""A tokenizer's evaluation as one page that opens without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hepfm.benchmarks.panels import Panel, grid_of
from hepfm.benchmarks.report import sections, themed
from hepfm.benchmarks.tables import Table
from hepfm.benchmarks.tokenizers.evaluation import Evaluation
from hepfm.benchmarks.tokenizers.measures import Row
from hepfm.benchmarks.tokenizers.tables import CATEGORIES, tables
from hepfm.core.plots import Theme
from hepfm.core.progress import progress

THEMES: tuple[Theme, ...] = ("light", "dark")


def page(found: Evaluation, title: str, date: str, provenance: Mapping[str, Any]) -> str:
    """The page as HTML."""
    record, point = found.record_name, found.point_name
    all_tables = {table.title: table for table in tables(found)}
    of_records = _of(all_tables, found.records, f"Residuals of {record}s: half width")
    of_points = _of(all_tables, found.features, f"Residuals of {point}s: half width", CATEGORIES)
    rest = [table for table in all_tables.values() if table not in of_records + of_points]
    drawn = list(_pictures(found))
    parts = [_part("Summary", f"{found.size:,} {record}s, {found.rate.tokens:,} {point}s.", rest, [])]
    names = {row.quantity.title for row in found.records}
    if found.records:
        text = f"Quantities of whole {record}s, of the original and the decoded {point}s by the same functions."
        parts.append(_part(f"{record.capitalize()}s", text, of_records, [p for p in drawn if p["of"] in names]))
    if of_points:
        text = f"The features of the {point}s, one by one; classes count the {point}s of their {record}s."
        pictures = [p for p in drawn if p["of"] not in names]
        parts.append(_part(f"{point.capitalize()}s", text, of_points, pictures))
    definitions = [(row.quantity.title, row.quantity.definition) for row in found.records]
    return sections(title, date, parts, definitions, provenance)


def _of(all_tables: Mapping[str, Table], rows: Sequence[Row], *further: str) -> list[Table]:
    """The table of each row, and further ones by their titles."""
    names = {
        *further,
        *(f"{row.quantity.title} [{row.quantity.unit}]" for row in rows),
        *(r.quantity.title for r in rows),
    }
    return [table for title, table in all_tables.items() if title in names]


def _part(title: str, text: str, of: list[Table], wide: list[dict[str, str]]) -> dict[str, Any]:
    return {"title": title, "text": text, "tables": of, "notes": (), "wide": wide, "plots": []}


def _pictures(found: Evaluation) -> Iterator[dict[str, str]]:
    """Of each quantity its distributions and its residuals, of each feature its residuals."""
    with progress("draw", len(found.records) + len(found.features), "pictures") as bar:
        for row in (*found.records, *found.features):
            if row in found.records:
                yield from _distributions(row, found.record_name)
            yield from _residuals(row, found.record_name if row in found.records else found.point_name)
            bar.advance()


def _distributions(row: Row, per: str) -> Iterator[dict[str, str]]:
    panels = [
        Panel(name, (item.original, item.decoded))
        for name, item in row.classes.items()
        if item.original and item.decoded
    ]
    labels, ylabel = ("original", "decoded"), f"share of {per}s"
    yield from _drawn(row, row.quantity.title, "", panels, labels, row.quantity.axis, ylabel)


def _residuals(row: Row, per: str) -> Iterator[dict[str, str]]:
    panels = [Panel(name, (item.residuals,)) for name, item in row.classes.items() if item.residuals]
    axis = f"decoded - original {row.quantity.axis}"
    if row.relative:
        axis = f"(decoded - original) / original {row.quantity.axis.split(' [')[0]}"
    title = f"{row.quantity.title}: residuals"
    yield from _drawn(row, title, "-residuals", panels, ("decoded - original",), axis, f"share of {per}s")


def _drawn(
    row: Row, title: str, ending: str, panels: list[Panel], labels: tuple[str, ...], xlabel: str, ylabel: str
) -> Iterator[dict[str, str]]:
    if not panels:
        return
    figures = {theme: grid_of(panels, labels, xlabel=xlabel, ylabel=ylabel, theme=theme) for theme in THEMES}
    yield {**themed(title, f"{row.quantity.name}{ending}", figures), "of": row.quantity.title}
