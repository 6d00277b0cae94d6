"""The tables of a tokenizer's evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tokenizers.classifier import Classification
from hepfm.benchmarks.tokenizers.evaluation import Evaluation
from hepfm.benchmarks.tokenizers.measures import Measured, Rate, Row
from hepfm.benchmarks.tokenizers.sample import EVERYTHING
from hepfm.core.statistics import Estimate

NOT_COMPUTED = Cell("-")
CATEGORIES = "Categories decoded as another"
W1_NOTE = (
    "W1, below: Wasserstein-1 distance of decoded to original, its error from replicas that draw both sides of a"
    " {record} together; in brackets what chance gives two independent samples of this size (original against itself)."
)


def tables(found: Evaluation) -> list[Table]:
    """All tables, in the order of the page."""
    record = found.record_name
    tables = [rate_table(found.rate, found.point_name)]
    if found.records:
        tables.append(_widths(f"Residuals of {record}s", found.records, record))
        tables += [_details(row) for row in found.records]
    numbers = [row for row in found.features if not _is_category(row)]
    if numbers:
        tables.append(_widths(f"Residuals of {found.point_name}s", numbers, record))
        tables += [_details(row) for row in numbers]
    if categories := [row for row in found.features if _is_category(row)]:
        tables.append(_differing(categories, found.point_name))
    if found.classification:
        tables.append(classifier_table(found.classification))
    return tables


def _is_category(row: Row) -> bool:
    return row.classes[EVERYTHING].original is None and row.classes[EVERYTHING].differing is not None


def rate_table(rate: Rate, point: str) -> Table:
    """Use of the codes and bits."""
    rows = [
        (
            Cell(known.name or "ids"),
            Cell(f"{known.codes:,}"),
            Cell(f"{known.used:,}"),
            Cell(f"{known.used / known.codes:.2%}"),
            Cell(f"{known.perplexity:,.1f}"),
            Cell(f"{known.entropy_bits:.3f}"),
        )
        for known in rate.streams
    ]
    note = (
        f"{rate.bits:.3f} bits a {point} (log2 of the codes), {rate.entropy_bits:.3f} with an entropy coder that knows"
        f" how often each code occurs; of {rate.tokens:,} real {point}s, no padding."
    )
    if rate.left_out:
        note += f" {rate.left_out:,} further {point}s get no token; residuals of whole records count them as lost."
    return Table("Codes", ("id list", "codes", "used", "use", "perplexity", "entropy [bits]"), tuple(rows), note)


def _name(row: Row) -> str:
    unit = "relative" if row.relative else row.quantity.unit
    return f"{row.quantity.title} [{unit}]" if unit else row.quantity.title


def _widths(title: str, rows: Sequence[Row], record: str) -> Table:
    """Half widths of the residuals by class."""
    classes = list(rows[0].classes)
    header = ("class", *(_name(row) for row in rows))
    body = [(Cell(name), *(_width(row.classes[name]) for row in rows)) for name in classes]
    note = (
        f"Half the width of the central 68% of decoded minus original; errors: bootstrap over {record}s."
        f" {W1_NOTE.format(record=record)}"
    )
    return Table(f"{title}: half width", header, tuple(body), note)


def _width(item: Measured) -> Cell:
    return NOT_COMPUTED if item.residual is None else Cell(number(item.residual.half_width))


def _details(row: Row) -> Table:
    header = ("class", "values", "left out", "mean", "median", "half width", "W1")
    body = []
    for name, item in row.classes.items():
        counts = (Cell(name), Cell(f"{item.values:,}"), Cell(f"{item.left_out:,}"))
        if item.residual is None or item.distance is None or item.floor is None:
            body.append((*counts, *[NOT_COMPUTED] * 4))
            continue
        residual = item.residual
        shown = [Cell(number(known)) for known in (residual.mean, residual.median, residual.half_width)]
        floor = number(Estimate(item.floor.value, item.floor.error)).split(" ")[0]
        body.append((*counts, *shown, Cell(number(item.distance), chance=floor)))
    notes = ["Mean, median and half width are relative to the original."] if row.relative else []
    title = f"{row.quantity.title}{f' [{row.quantity.unit}]' if row.quantity.unit else ''}"
    if any(item.left_out for item in row.classes.values()):
        notes.append("Left out: undefined in the original or the decoded.")
    return Table(title, header, tuple(body), " ".join(notes))


def _differing(rows: Sequence[Row], point: str) -> Table:
    header = ("class", *(row.quantity.title for row in rows))
    body = []
    for name in rows[0].classes:
        shares = [row.classes[name].differing for row in rows]
        cells = (NOT_COMPUTED if share is None else Cell(_percent(share)) for share in shares)
        body.append((Cell(name), *cells))
    return Table(CATEGORIES, header, tuple(body), f"Share of the {point}s.")


def _percent(share: Estimate) -> str:
    return f"{number(Estimate(100 * share.value, 100 * share.error))} %"


def classifier_table(found: Classification) -> Table:
    """Scores of the classifier."""
    names = {
        "original": "original",
        "decoded": "decoded",
        "original on decoded": "trained on original, judging decoded",
    }
    rows = [
        (Cell(names[way]), Cell(_percent(score.accuracy)), Cell(number(score.auc)))
        for way, score in found.scores.items()
    ]
    rows.append((Cell("lost (original less decoded)"), Cell(_percent(found.lost)), Cell(number(found.lost_auc))))
    chance = f"{100 / len(found.classes):.0f} %"
    note = (
        f"Gradient-boosted trees on mass, substructure and the hardest constituents; {found.jets:,} jets of"
        f" {len(found.classes)} classes, each judged by trees that were trained on the other half with the same seed."
        f" Accuracy by chance: {chance}. Area: mean over classes of one against all others. Errors: bootstrap over"
        " jets, of the loss over the same jets on both sides."
    )
    return Table("One classifier, original and decoded jets", ("jets", "accuracy", "area (ROC)"), tuple(rows), note)
