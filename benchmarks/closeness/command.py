"""``hepfm evaluate simulation``: how close simulated jets are to real ones, as tables, JSON and a page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.benchmarks.closeness.classes import compare_classes
from hepfm.benchmarks.closeness.page import as_data, page
from hepfm.benchmarks.closeness.samples import read_real_jetclass, read_real_jetclass2, read_simulated
from hepfm.benchmarks.closeness.tables import class_tables, track_tables
from hepfm.benchmarks.closeness.tracks import compare_tracks
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.progress import say
from hepfm.core.versions import versions


@dataclass(frozen=True)
class EvaluateSimulationConfig:
    """Compare simulated jets with real JetClass jets (by class) and JetClass-II jets (tracks, species).

    Tables of distances, with what chance gives, on stdout, in Markdown.
    """

    samples: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SAMPLES...")]
    """Simulated jets, taken together: corpora (all splits), JetClass ROOT or JetClass-II files, other raw files."""
    jetclass: Path | None = None
    """Folder of real JetClass jets: *_pfVectors.npy, *_pfMask.npy and *_labels.npy."""
    jetclass2: Path | None = None
    """File of real JetClass-II jets, Parquet or ROOT."""
    out: Path | None = None
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    json: Path | None = None
    """File to write the numbers to as JSON."""
    limit: int = 1_000
    """Jets of each class to take at most, the first ones."""
    seed: int = 0
    """Seed of bootstrap replicas."""


def main(config: EvaluateSimulationConfig) -> None:
    """Measure, print tables, write what was asked for."""
    _check(config)
    provenance: dict[str, Any] = {}
    real = real2 = None
    if config.jetclass:
        real, provenance["real JetClass jets"] = read_real_jetclass(config.jetclass)
    if config.jetclass2:
        real2, provenance["real JetClass-II jets"] = read_real_jetclass2(config.jetclass2)
    simulated, provenance["simulated jets"] = read_simulated(config.samples, config.limit)
    by_class = compare_classes(real, simulated, seed=config.seed) if real else None
    by_track = compare_tracks(real2, simulated, seed=config.seed) if real2 else None
    for report in (by_class, by_track):
        for note in report.notes if report else ():
            say(note)
    tables = (class_tables(by_class) if by_class else []) + (track_tables(by_track) if by_track else [])
    sys.stdout.write("\n".join(table.markdown() for table in tables))
    sys.stdout.flush()
    provenance |= {"command": command_line(), "versions": versions(), "seed": config.seed}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    data = {"date": date, "provenance": provenance, **as_data(by_class, by_track)}
    if config.json:
        write_json(config.json, data)
    if config.out:
        write_json(config.out / "report.json", data)
        write_text(config.out / "index.html", page(by_class, by_track, _title(len(simulated)), date, provenance))
        sys.stdout.write(f"\n{config.out / 'index.html'}\n")


def _check(config: EvaluateSimulationConfig) -> None:
    if config.limit < 1:
        raise HepfmError(f"must be at least 1, is {config.limit}", "--limit")
    if not config.jetclass and not config.jetclass2:
        raise HepfmError("no real jets to compare with", "evaluate simulation", "give --jetclass, --jetclass2 or both")
    out = config.out
    if out and out.exists() and not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if out and out.exists() and any(out.iterdir()) and not (out / "report.json").exists():
        raise HepfmError("holds something that is no report", out, "name another --out")


def _title(jets: int) -> str:
    return f"{jets:,} simulated jets against real ones"
