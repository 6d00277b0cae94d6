"""``hepfm evaluate tagging``: a tagger on labelled jets, as tables like the published ones, JSON and a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.benchmarks.report import sections
from hepfm.benchmarks.tagging.pictures import pictures
from hepfm.benchmarks.tagging.published import Benchmark, benchmark_of
from hepfm.benchmarks.tagging.sculpting import (
    default_discriminants,
    measure_sculpting,
    roc_picture,
    sculpting_pictures,
    sculpting_table,
)
from hepfm.benchmarks.tagging.tables import discriminant_table, result_table
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.statistics import REPLICAS
from hepfm.core.versions import versions
from hepfm.finetune.discriminants import Discriminant, measure_discriminant
from hepfm.finetune.tagger import load_tagger
from hepfm.finetune.tagging_metrics import EFFICIENCIES, Measured, Scored, measure
from hepfm.ingest.corpus import Corpus

REPORT, PAGE = "report.json", "index.html"
PAIR_EFFICIENCIES = (0.3, 0.5)  # quoted where there is one signal


@dataclass(frozen=True)
class EvaluateTaggingConfig:
    """Judge labelled jets with a tagger: accuracy, AUC, background rejection at the field's working points,
    calibration, all with bootstrap errors, in the layout of the published tables."""

    tagger: Annotated[Positional[str], tyro.conf.arg(metavar="TAGGER")]
    """The tagger: a run, an artifact folder, a hub id or a URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Labelled jets; what it was trained on must not be among them."""
    also: tuple[str, ...] = ()
    """Further taggers of the same classes, judged on the same jets, each a row of the table."""
    out: Path | None = None
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    split: str = "test"
    """Split that is judged."""
    background: str = ""
    """Class that the others are told apart from; by default QCD, or gluon jets for quarks."""
    discriminants: tuple[str, ...] = ()
    """Further taggers, as SIGNAL+...:BACKGROUND+... of labels or Sophon's groups: X_bb:QCD, X_bb+X_cc:QCD."""
    sculpting: bool = True
    """Tell how cuts on the discriminants (by default each class against the background) shape the background's
    spectra of soft-drop mass and pt."""
    replicas: int = REPLICAS
    """Replicas of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(config: EvaluateTaggingConfig) -> None:
    """Judge, print tables, write the report."""
    if config.replicas < 2:
        raise HepfmError(f"must be at least 2, is {config.replicas}", "--replicas")
    check_out(config.out)
    tagger, artifact = load_tagger(config.tagger)
    asked = [Discriminant.parse(text, tagger.classes) for text in config.discriminants]
    corpus = Corpus.open(config.corpus)
    split = corpus.split(config.split)
    scored = tagger.judge(split)
    benchmark = benchmark_of(scored.classes)
    measured = _measure(config, scored, benchmark)
    found = [measure_discriminant(each, scored, key=config.seed, replicas=config.replicas) for each in asked]
    wanted = (asked or default_discriminants(measured)) if config.sculpting else []
    sculpted = measure_sculpting(tagger, split, scored, wanted, config.seed, config.replicas)
    name = str(artifact.architecture.get("network", "tagger"))
    others = _others(config, name, tagger.classes, corpus, benchmark)
    tables = [result_table(name, measured, benchmark, {label: item.measured for label, item in others.items()})]
    if found:
        tables.append(discriminant_table(found))
    if sculpted:
        tables.append(sculpting_table(sculpted))
    sys.stdout.write("\n".join(table.markdown() for table in tables))
    if config.out is None:
        return
    provenance = {
        "tagger": {"hash": artifact.hash, "network": name},
        **{label: {"hash": item.hash} for label, item in others.items()},
        "corpus": {"digest": corpus.digest, "split": config.split, "jets judged": measured.jets},
        "command": command_line(),
        "versions": versions(),
    }
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    data = {
        "date": date,
        "provenance": provenance,
        **as_data(measured),
        "discriminants": [asdict(item) for item in found],
        "sculpting": [{"discriminant": item.name, **asdict(cut)} for item in sculpted for cut in item.cuts],
        "also": {label: as_data(item.measured) for label, item in others.items()},
    }
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / REPORT, finite(data))
    part = {
        "title": f"{measured.jets:,} jets of {len(scored.classes)} classes",
        "text": "Errors are standard deviations over bootstrap replicas of the jets.",
        "notes": [],
        "tables": tables,
        "wide": [],
        "plots": [*pictures(scored, measured), *roc_picture(scored, asked), *sculpting_pictures(sculpted)],
    }
    further = [
        {**part, "title": label, "text": "", "tables": [], "plots": pictures(item.scored, item.measured, f"{number}-")}
        for number, (label, item) in enumerate(others.items())
    ]
    write_text(config.out / PAGE, sections("Tagging", date, [part, *further], (), provenance))
    sys.stdout.write(f"\n{config.out / PAGE}\n")


@dataclass(frozen=True)
class _Other:
    """A further tagger's scores of the same jets."""

    hash: str
    scored: Scored
    measured: Measured


def _others(
    config: EvaluateTaggingConfig, first: str, classes: Sequence[str], corpus: Corpus, benchmark: Benchmark | None
) -> dict[str, _Other]:
    """Further taggers by name: their network's, told apart by number where these agree."""
    found: dict[str, _Other] = {}
    for name in config.also:
        tagger, artifact = load_tagger(name)
        if tuple(tagger.classes) != tuple(classes):
            raise HepfmError(
                f"has other classes: {', '.join(tagger.classes)}", name, f"those of {config.tagger} are needed"
            )
        network = label = str(artifact.architecture.get("network", "tagger"))
        number = 1
        while label in found or label == first:
            number += 1
            label = f"{network} ({number})"
        scored = tagger.judge(corpus.split(config.split))
        found[label] = _Other(artifact.hash, scored, _measure(config, scored, benchmark))
    return found


def check_out(out: Path | None) -> None:
    """Refuse a folder that holds anything but an earlier report."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if any(out.iterdir()) and not (out / REPORT).exists():
        raise HepfmError("holds something that is no report", out, "name another --out")


def _measure(config: EvaluateTaggingConfig, scored: Scored, benchmark: Benchmark | None) -> Measured:
    background = config.background or (benchmark.background if benchmark else None)
    efficiencies: Any = EFFICIENCIES
    if len(scored.classes) == 2:
        efficiencies = PAIR_EFFICIENCIES
    return measure(scored, background or None, efficiencies, key=config.seed, replicas=config.replicas)


def as_data(measured: Measured) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return {
        "jets": measured.jets,
        "accuracy": asdict(measured.accuracy),
        "auc": {**asdict(measured.auc), "kind": measured.auc_kind},
        "rejections": [asdict(item) for item in measured.rejections],
        "calibration_error": asdict(measured.calibration_error),
        "reliability": {name: values.tolist() for name, values in vars(measured.reliability).items()},
    }


def finite(value: Any) -> Any:
    """The data with null for what is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
