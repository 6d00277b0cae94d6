"""``hepfm evaluate jets``: samples of jets against real ones, as a table, JSON and a page."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from hepfm.benchmarks.report import one_digit
from hepfm.benchmarks.reports.classifying import Wanted
from hepfm.benchmarks.reports.inputs import check_command, named
from hepfm.benchmarks.reports.jets import Suite, check_all, evaluate_jets
from hepfm.benchmarks.reports.published_jets import jetnet_class
from hepfm.benchmarks.samples import read_sample
from hepfm.benchmarks.scores.classifiers import TRAININGS, Split
from hepfm.benchmarks.scores.jet_batches import protocol_of
from hepfm.core.config import command_line
from hepfm.core.observables import multiplicity
from hepfm.core.statistics import REPLICAS

Group = Literal["quantiled_kl", "batched", "distances", "manifolds", "transport"]
# Events of each class for classifiers of jets: no choice is published.
SPLIT = Split(30_000, 10_000, 10_000)


@dataclass(frozen=True)
class EvaluateJetsConfig:
    """Compare samples of jets with a reference: W1 and quantiled KL of pt, mass, multiplicity, tau21, tau32, D2, soft
    drop mass and constituents' pt, deta, dphi; W1M, W1P, W1EFP, FPD, KPD, COV, MMD, precision, recall, density,
    coverage; correlations; classifiers if asked for. A metric that needs more jets than there are says how many."""

    reference: Annotated[Positional[Path], tyro.conf.arg(metavar="REFERENCE")]
    """Real jets: a corpus (its test split), a JetClass ROOT file, or a Parquet file of jet records."""
    samples: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SAMPLES...")]
    """Jets to judge, any number of samples, in the same forms."""
    out: Path
    """Folder of the report (index.html, report.json); an earlier report there is replaced."""
    limit: int | None = None
    """Jets to take of each, at most."""
    split: str = "test"
    """Split of a corpus."""
    seed: int = 0
    """Seed of bootstrap replicas, splits and classifiers."""
    replicas: int = REPLICAS
    """Bootstrap replicas behind each error, and splits behind each floor."""
    protocol: Literal["jetnet", "epic-gan", "pc-jedi", "epic-fm"] = "jetnet"
    """Batches of W1M, W1P and W1EFP; values of different protocols do not compare."""
    without: tuple[Group, ...] = ()
    """Groups of metrics to leave out."""
    classifiers: tuple[Literal["high", "posterior"], ...] = ()
    """Classifiers to train: on the seven quantities (high), of all samples at once (posterior)."""
    events: tuple[int, int, int] | None = None
    """Events of each class for classifiers to train on, to choose the epoch by, to judge by; 30,000 10,000 10,000."""
    trainings: int = TRAININGS
    """Trainings of each classifier, whose mean and spread are told."""
    epochs: int = 50
    """Epochs of each training."""


def main(config: EvaluateJetsConfig) -> None:
    """Measure, write the report, print a table and the page's path."""
    check_command(config.out, config.limit, config.replicas)
    wanted = Wanted.of(config.classifiers, config.events, SPLIT, config.epochs, config.trainings)
    protocol_of(config.protocol)
    reference = read_sample(config.reference, config.limit, config.split)
    names = named(config.samples)
    samples = {name: read_sample(path, config.limit, config.split) for name, path in names.items()}
    jets = {name: sample.jets for name, sample in samples.items()}
    check_all(reference.jets, jets)
    longest = int(multiplicity(reference.jets).max())
    page = evaluate_jets(
        reference.jets,
        jets,
        config.out,
        provenance={
            "reference": reference.origin,
            **{name: sample.origin for name, sample in samples.items()},
            "command": command_line(),
        },
        suite=Suite(
            config.protocol,
            config.without,
            wanted if config.classifiers else None,
            jetnet_class(reference.source, reference.labels, longest),
        ),
        title=f"{', '.join(names)} against {config.reference.stem}",
        seed=config.seed,
        replicas=config.replicas,
    )
    print_table(config.out)
    sys.stdout.write(f"{page}\n")


def print_table(report: Path) -> None:
    """Show the distances of a report."""
    data = json.loads((report / "report.json").read_text())
    table = Table("Wasserstein-1 distance", "unit", *(name for name in data["jets"] if name != "reference"), "real")
    for name, item in data["observables"].items():
        cells = [_cell(sample["wasserstein_1"]) for sample in item["samples"].values()]
        floor = next(iter(item["samples"].values()))["floor"]
        table.add_row(name, item["unit"], *cells, _cell(floor))
    Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120).print(table)


def _cell(estimate: dict[str, float] | None) -> str:
    return "not computed" if estimate is None else f"{estimate['value']:.3g} ± {one_digit(estimate['error'])}"
