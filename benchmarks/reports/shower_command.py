"""``hepfm evaluate showers``: samples of showers against real ones, as a table, JSON and a page."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from hepfm.benchmarks.report import one_digit
from hepfm.benchmarks.reports.classifying import Wanted
from hepfm.benchmarks.reports.inputs import check_command, named
from hepfm.benchmarks.reports.published_tables import data_set_of
from hepfm.benchmarks.reports.showers import evaluate_showers
from hepfm.benchmarks.scores.classifiers import SPLITS, TRAININGS
from hepfm.benchmarks.scores.showers import read_showers
from hepfm.core.config import command_line
from hepfm.core.statistics import REPLICAS

Group = Literal["separation", "correlation", "distances", "manifolds", "ild"]


@dataclass(frozen=True)
class EvaluateShowersConfig:
    """Compare samples of showers with a reference in the same cells: all histograms of CaloChallenge with separation
    powers, FPD, KPD, precision, recall, density, coverage, layer correlations, response by incident energy, for grids
    the ILD set; classifiers if asked for. They are read in chunks. A metric that needs more showers says how many."""

    reference: Annotated[Positional[Path], tyro.conf.arg(metavar="REFERENCE")]
    """Real showers: a corpus (its test split), or a file of a known format (CaloChallenge, ILD, showerdata)."""
    samples: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SAMPLES...")]
    """Showers to judge, any number of samples, in the same forms; made at the reference's incident energies."""
    out: Path
    """Folder of the report (index.html, report.json); an earlier report there is replaced."""
    limit: int | None = None
    """Showers to take of each, at most."""
    split: str = "test"
    """Split of a corpus."""
    seed: int = 0
    """Seed of bootstrap replicas, splits and classifiers."""
    replicas: int = REPLICAS
    """Bootstrap replicas behind each error, and splits behind each floor."""
    without: tuple[Group, ...] = ()
    """Groups of metrics to leave out; distances (FPD, KPD) and manifolds (precision, ...) take longest."""
    classifiers: tuple[Literal["low", "low-normed", "high", "resnet", "posterior"], ...] = ()
    """Classifiers to train: CaloChallenge's network on voxels, on voxels over their layer's energy, on high-level
    features, its 3-D ResNet, and one of all samples at once on voxels (posterior)."""
    events: tuple[int, int, int] | None = None
    """Showers of each class for classifiers to train on, to choose the epoch by, to judge by; as CaloChallenge does by
    default (60,000 20,000 20,000)."""
    trainings: int = TRAININGS
    """Trainings of each classifier, whose mean and spread are told."""
    epochs: int = 50
    """Epochs of each training."""


def main(config: EvaluateShowersConfig) -> None:
    """Measure, write the report, print the page's path."""
    check_command(config.out, config.limit, config.replicas)
    names = named(config.samples)
    reference = read_showers(config.reference, config.split, config.limit)
    published = SPLITS[data_set_of(reference.geometry) or "2"]
    wanted = Wanted.of(config.classifiers, config.events, published, config.epochs, config.trainings)
    samples = {name: replace(read_showers(path, config.split, config.limit), name=name) for name, path in names.items()}
    page = evaluate_showers(
        reference,
        samples,
        config.out,
        provenance={
            "reference": reference.origin,
            **{name: sample.origin for name, sample in samples.items()},
            "command": command_line(),
        },
        without=config.without,
        classifiers=wanted if config.classifiers else None,
        title=f"{', '.join(names)} against {config.reference.stem}",
        seed=config.seed,
        replicas=config.replicas,
    )
    print_table(config.out)
    sys.stdout.write(f"{page}\n")


def print_table(report: Path) -> None:
    """Show the metrics of a report that are one number, each with its floor."""
    data = json.loads((report / "report.json").read_text())
    scores = data["scores"]
    table = Table("metric", *(part for name in scores for part in (name, "floor")))
    first = next(iter(scores.values()))
    for group in ("means", "distances", "manifolds", "ild"):
        for metric in first[group]:
            title = f"separation power, {metric}" if group == "means" else metric
            table.add_row(title, *_cells([each[group].get(metric) for each in scores.values()]))
    for name, told in ((data["classifiers"] or {}).get("scores") or {}).items():
        table.add_row(f"AUC, {name}", *_cells([told["auc"].get(sample) for sample in scores]))
    Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120).print(table)


def _cells(outcomes: list[dict[str, Any] | None]) -> list[str]:
    return [_cell(outcome, part) for outcome in outcomes for part in ("value", "floor")]


def _cell(outcome: dict[str, Any] | None, part: str) -> str:
    found = None if outcome is None else outcome[part]
    return "not computed" if found is None else f"{found['value']:.3g} ± {one_digit(found['error'] or math.nan)}"
