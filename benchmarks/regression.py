"""``hepfm evaluate regression``: estimates of a quantity against its true values: response and resolution by bins."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from tyro.conf import Positional

from hepfm.benchmarks.report import number, sections, themed
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.plots import EDGE, HEIGHT_IN, STYLES, WIDTH_IN, Theme, settings
from hepfm.core.statistics import REPLICAS
from hepfm.core.versions import versions
from hepfm.finetune.regression import Response, Target, load_regressor
from hepfm.ingest.corpus import Corpus

REPORT, PAGE = "report.json", "index.html"
THEMES: tuple[Theme, ...] = ("light", "dark")
BINS = 5
FEWEST = 10  # records of a bin


@dataclass(frozen=True)
class EvaluateRegressionConfig:
    """Compare a regressor's estimates with the true values: median response and resolution, of all records and in bins
    of the true value, with bootstrap errors, beside those of the one best constant."""

    regressor: Annotated[Positional[str], tyro.conf.arg(metavar="REGRESSOR")]
    """The regressor (hepfm finetune tag --target): a run, an artifact folder, a hub id or a URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Records with the quantity; what it was trained on must not be among them."""
    out: Path | None = None
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    split: str = "test"
    """Split that is judged."""
    replicas: int = REPLICAS
    """Replicas of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Row:
    """The response of records whose true value lies in [low, high]."""

    name: str
    low: float
    high: float
    response: Response


def main(config: EvaluateRegressionConfig) -> None:
    """Judge, print the table, write the report."""
    if config.replicas < 2:
        raise HepfmError(f"must be at least 2, is {config.replicas}", "--replicas")
    _check_out(config.out)
    regressor, artifact = load_regressor(config.regressor)
    corpus = Corpus.open(config.corpus)
    found, true = regressor.judge(corpus.split(config.split))
    rows = measured(found, true, regressor.target, config.seed, config.replicas)
    text = table(rows, regressor.target)
    sys.stdout.write(text.markdown())
    if config.out is None:
        return
    provenance = {
        "regressor": {"hash": artifact.hash, "network": artifact.architecture.get("network")},
        "corpus": {"digest": corpus.digest, "split": config.split, "records judged": len(true)},
        "command": command_line(),
        "versions": versions(),
    }
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = {"target": asdict(regressor.target), "rows": [asdict(row) for row in rows]}
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / REPORT, {"date": date, "provenance": provenance, **told})
    figures = {theme: picture(rows, regressor.target, theme) for theme in THEMES}
    part: dict[str, Any] = {
        "title": regressor.target.name,
        "text": "Errors are standard deviations over bootstrap replicas of the records.",
        "notes": [],
        "tables": [text],
        "wide": [],
        "plots": [themed("Response by true value", "response", figures)],
    }
    write_text(config.out / PAGE, sections("Regression", date, [part], (), provenance))
    sys.stdout.write(f"\n{config.out / PAGE}\n")


def _check_out(out: Path | None) -> None:
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if any(out.iterdir()) and not (out / REPORT).exists():
        raise HepfmError("holds something that is no report", out, "name another --out")


def measured(found: np.ndarray, true: np.ndarray, target: Target, seed: int, replicas: int) -> list[Row]:
    """All records, the best constant (the median of the true values), and bins of as many records each."""
    relative = target.is_relative
    constant = np.full_like(true, np.median(true[true > 0] if relative and (true > 0).any() else true))

    def row(name: str, estimates: np.ndarray, values: np.ndarray) -> Row:
        response = Response.of(estimates, values, relative, key=(seed, name), replicas=replicas)
        return Row(name, float(values.min()), float(values.max()), response)

    rows = [row("all", found, true), row("constant", constant, true)]
    usable = np.flatnonzero(true > 0) if relative else np.arange(len(true))
    parts = np.array_split(usable[np.argsort(true[usable], kind="stable")], BINS)
    bins = [row(f"bin {n}", found[part], true[part]) for n, part in enumerate(parts, 1) if len(part) >= FEWEST]
    return rows + bins


def table(rows: list[Row], target: Target) -> Table:
    """One line a row."""
    unit = "" if target.is_relative else f" [{target.unit}]"
    names = ("response" + unit, "resolution" + unit)
    lines = [
        tuple(
            map(
                Cell,
                (
                    row.name,
                    f"{row.low:.4g} to {row.high:.4g}",
                    f"{row.response.records:,}",
                    number(row.response.median),
                    number(row.response.resolution),
                ),
            )
        )
        for row in rows
    ]
    what = "estimate / true" if target.is_relative else "estimate - true"
    left = rows[0].response.left_out
    over = " over the median" if target.is_relative else ""
    note = (
        f"Response: {what}, its median; resolution: half the width of its central 68.27%{over}. The constant is the "
        f"median of the true values. {left:,} records whose true value is not positive are left out."
    )
    header = ("records", f"true [{target.unit}]", "number", *names)
    return Table(f"{target.name} [{target.unit}]", header, tuple(lines), note)


def picture(rows: list[Row], target: Target, theme: Theme) -> Figure:
    """Median response, and its width as bars, by bins of the true value."""
    with matplotlib.rc_context(settings(theme)):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
        axes = figure.subplots()
        bins = [row for row in rows if row.name.startswith("bin")]
        middle = [(row.low + row.high) / 2 for row in bins]
        half = [(row.high - row.low) / 2 for row in bins]
        medians = np.array([row.response.median.value for row in bins])
        ends = np.array([row.response.central for row in bins])
        colour = STYLES[0][0 if theme == "light" else 1]
        axes.errorbar(
            middle,
            medians,
            (medians - ends[:, 0], ends[:, 1] - medians),
            half,
            fmt="o",
            color=colour,
            markersize=4,
            capsize=2,
            label="median, and the central 68%",
        )
        axes.axhline(1.0 if target.is_relative else 0.0, color=EDGE[theme], linewidth=0.8)
        what = "estimate / true value" if target.is_relative else f"estimate - true value [{target.unit}]"
        axes.set(xlabel=f"true {target.name} [{target.unit}]", ylabel=what)
        axes.legend(frameon=False)
    return figure
