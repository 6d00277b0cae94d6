"""``hepfm evaluate jets``: samples of jets against real ones, as a table, JSON and a page."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from hepfm.benchmarks.report import evaluate_jets
from hepfm.benchmarks.samples import read_sample
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError


@dataclass(frozen=True)
class EvaluateJetsConfig:
    """Compare samples of jets with a reference: pt, mass, multiplicity, tau21, and constituents' pt, deta, dphi."""

    reference: Annotated[Positional[Path], tyro.conf.arg(metavar="REFERENCE")]
    """Real jets: a corpus (its test split), a JetClass ROOT file, or a Parquet file of jet records."""
    samples: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SAMPLES...")]
    """Jets to judge, in the same forms."""
    out: Path
    """Folder of the report; an earlier report there is replaced."""
    limit: int | None = None
    """Jets to take of each, at most."""
    split: str = "test"
    """Split of a corpus."""
    seed: int = 0
    """Seed of bootstrap replicas."""


def main(config: EvaluateJetsConfig) -> None:
    """Measure, write the report, print a table and the page's path."""
    if config.limit is not None and config.limit < 1:
        raise HepfmError(f"must be at least 1, is {config.limit}", "--limit")
    if config.out.exists() and not config.out.is_dir():
        raise HepfmError("is a file, not a folder", config.out, "name another --out")
    if config.out.exists() and any(config.out.iterdir()) and not (config.out / "report.json").exists():
        raise HepfmError("holds something that is no report", config.out, "name another --out")
    reference = read_sample(config.reference, config.limit, config.split)
    names = _names(config.samples)
    samples = {name: read_sample(path, config.limit, config.split) for name, path in names.items()}
    page = evaluate_jets(
        reference.jets,
        {name: sample.jets for name, sample in samples.items()},
        config.out,
        provenance={
            "reference": reference.origin,
            **{name: sample.origin for name, sample in samples.items()},
            "command": command_line(),
        },
        title=f"{', '.join(names)} against {config.reference.stem}",
        seed=config.seed,
    )
    print_table(config.out)
    sys.stdout.write(f"{page}\n")


def _names(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Samples by the names of their files, told apart by number where these agree."""
    named: dict[str, Path] = {}
    for path in paths:
        name = path.stem if path.stem not in named else f"{path.stem} ({len(named) + 1})"
        named[name] = path
    return named


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
    return "not computed" if estimate is None else f"{estimate['value']:.3g} ± {estimate['error']:.1g}"
