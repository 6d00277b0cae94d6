"""``hepfm bench pretraining-pays``: backbones of several objectives at one token budget, probed frozen."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from tyro.conf import Positional

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.workload import machine
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, read_json, write_bytes, write_json
from hepfm.core.plots import STYLES, settings, to_svg
from hepfm.core.progress import progress
from hepfm.core.runs import RunFolder
from hepfm.core.statistics import Estimate
from hepfm.core.versions import versions
from hepfm.pretrain import run as pretraining
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.objectives import Objective, ObjectiveBatches, ObjectiveConfig, ObjectiveName, ProbedBatch
from hepfm.pretrain.presets import PresetName
from hepfm.pretrain.probe import Probe, ProbeName, Probes
from hepfm.pretrain.run import Beginning, PretrainConfig, Work

PROBES: tuple[ProbeName, ...] = ("linear", "class-attention")
RANDOM = "random weights"


@dataclass(frozen=True)
class PretrainingPaysConfig:
    """Pretrain a backbone by each objective on the same jets in the same order, then classify jets from its frozen
    features by the same probes; a backbone of random weights of each kind is the control. Repeated for several seeds.
    Run again after an interruption, it continues; what is finished in --out is used."""

    tokens: Annotated[Positional[Path], tyro.conf.arg(metavar="TOKENS")]
    """Token corpus of labelled jets with a train split, and a test or val split to measure on."""
    out: Path
    """Folder of the runs and results."""
    source: tuple[Path, ...] = ()
    """Corpus that the tokens were made from, for objectives that read continuous features; default: decoded ones."""
    objectives: tuple[ObjectiveName, ...] = ("next-token", "masked", "joint")
    """What to compare."""
    same_input: bool = False
    """Let all objectives read tokens, as next-token does; otherwise each reads what it does by default."""
    model: PresetName = "tiny"
    """Size of the backbones."""
    max_length: int = 128
    """Constituents that are kept of a jet."""
    steps: int = 2000
    """Updates of each pretraining."""
    batch_records: int = 256
    """Jets in one update."""
    learning_rate: float = 1e-3
    """Peak learning rate of pretraining."""
    seeds: int = 3
    """Repetitions, each with other weights, masks, order and probes."""
    probe_jets: int = 20_000
    """Labelled jets that probes learn from, the same for all."""
    probe_epochs: int = 10
    """How often they see them."""
    probe_learning_rate: float = 3e-3
    """Peak learning rate of the probes' Adam, which falls to 0 by a cosine."""
    test_jets: int = 20_000
    """Jets to measure on at most."""
    json: Path | None = None
    """File for the result, beside OUT/result.json."""


@dataclass(frozen=True)
class Scores:
    """What a probe reaches on one backbone: share of right answers, cross entropy [nats per jet], jets measured on."""

    accuracy: float
    cross_entropy: float
    jets: int


@dataclass(frozen=True)
class Row:
    """One kind of backbone.

    Attributes:
        objective: what it is pretrained on.
        pretrained: or random weights.
        flops: of the whole pretraining, forward and backward.
        scores: by probe, one a seed.
    """

    objective: ObjectiveName
    pretrained: bool
    flops: float
    scores: dict[str, list[Scores]]

    @property
    def name(self) -> str:
        return self.objective if self.pretrained else f"{RANDOM} ({self.objective})"

    def accuracy(self, probe: str) -> Estimate:
        """Mean over seeds; the error is that of the mean, or with one seed the binomial one of the test jets."""
        values = np.array([score.accuracy for score in self.scores[probe]])
        mean = float(values.mean())
        if len(values) > 1:
            return Estimate(mean, float(values.std(ddof=1) / math.sqrt(len(values))))
        return Estimate(mean, math.sqrt(mean * (1 - mean) / self.scores[probe][0].jets))


def main(config: PretrainingPaysConfig) -> None:
    """Pretrain, probe, tell."""
    for name in ("seeds", "probe_jets", "probe_epochs", "test_jets", "steps", "batch_records"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name.replace('_', '-')}")
    if not config.objectives:
        raise HepfmError("names no objective", "--objectives")
    data = TokenCorpora.open([config.tokens])
    split = _measured_on(data)
    data.batches(split, config.max_length, 0, labels=True)  # refuses what has no labels, before any work
    RunFolder(config.out).claim(config, free={"json"})
    rows = [row for objective in config.objectives for row in _rows(config, objective, data, split)]
    result = _result(config, data, split, rows)
    write_json(config.out / "result.json", result)
    if config.json:
        write_json(config.json, result)
    write_bytes(config.out / "accuracy.svg", to_svg(picture(rows)))
    sys.stdout.write(table(rows, result["constituents_read"]).markdown())
    sys.stdout.write(f"\n{config.out / 'accuracy.svg'}\n")


def _measured_on(data: TokenCorpora) -> str:
    """The split to measure on."""
    for split in ("test", "val"):
        if all(split in corpus.splits() for corpus in data.corpora):
            return split
    raise HepfmError(
        "has neither a test nor a val split", data.corpora[0].path, "hepfm corpus split deals records anew"
    )


def _rows(config: PretrainingPaysConfig, objective: ObjectiveName, data: TokenCorpora, split: str) -> Iterator[Row]:
    """An objective pretrained, and as it begins."""
    scores: dict[bool, dict[str, list[Scores]]] = {True: {}, False: {}}
    flops = 0.0
    for seed in range(config.seeds):
        asked = _pretrain_config(config, objective, seed)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells the artifact's path
            pretraining.main(asked)
        flops = _flops(asked.out, config)
        for pretrained in (True, False):
            for probe, found in _probed(config, asked, data, split, pretrained, seed).items():
                scores[pretrained].setdefault(probe, []).append(found)
    yield Row(objective, True, flops, scores[True])
    yield Row(objective, False, 0.0, scores[False])


def _pretrain_config(config: PretrainingPaysConfig, objective: ObjectiveName, seed: int) -> PretrainConfig:
    task = ObjectiveConfig(objective, input="tokens" if config.same_input else "default")
    training = TrainingConfig(
        steps=config.steps,
        batch_records=config.batch_records,
        learning_rate=config.learning_rate,
        warmup_steps=min(100, config.steps // 10),
        validate_every=0,
        seed=seed,
    )
    return PretrainConfig(
        (config.tokens,),
        config.out / f"{objective}-{seed}",
        source=config.source if task.resolved().wants_features else (),
        model=config.model,
        max_length=config.max_length,
        task=task,
        training=training,
    )


def _flops(run: Path, config: PretrainingPaysConfig) -> float:
    """Of the whole pretraining."""
    provenance = load_backbone(run)[1].provenance
    lengths = provenance["lengths"]
    return lengths["flops_per_token"] * lengths["terms"] / lengths["jets"] * config.steps * config.batch_records


def _probed(
    config: PretrainingPaysConfig, asked: PretrainConfig, data: TokenCorpora, split: str, pretrained: bool, seed: int
) -> dict[str, Scores]:
    """Scores by probe; those that were written for the same settings are read."""
    start = pretraining.from_scratch(asked, data)
    identity: dict[str, Any] = {"settings": {**asdict(config), "json": None, "out": None}, "random": not pretrained}
    if pretrained:
        backbone, artifact = load_backbone(asked.out)
        start, identity["backbone"] = replace(start, backbone=backbone), artifact.hash
    key = digest_of(_plain(identity))
    kept = config.out / "probes" / f"{asked.task.objective}-{'pretrained' if pretrained else 'random'}-{seed}.json"
    if kept.is_file():
        known = read_json(kept)
        if known.get("key") == key:
            return {probe: Scores(**score) for probe, score in known["scores"].items()}
    found = probe_backbone(config, start, data, split, asked.training, seed)
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, {"key": key, "scores": {probe: asdict(score) for probe, score in found.items()}})
    return found


def _plain(value: Any) -> Any:
    """With paths as text and tuples as lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else str(value)


def probe_backbone(
    config: PretrainingPaysConfig,
    start: Beginning,
    data: TokenCorpora,
    split: str,
    training: TrainingConfig,
    seed: int,
) -> dict[str, Scores]:
    """Fit probes on the frozen features of labelled training jets, and measure them on others."""
    labelled = replace(start, task=replace(start.task, probe=PROBES))
    work = Work.of(data, labelled, replace(training, seed=0))  # seed 0: the same jets for all
    objective = work.objective.to(launch.device()).eval()
    features = start.continuous.of_splits if start.continuous else None
    tokens = data.batches(split, start.max_length, 0, True, features)
    test = ObjectiveBatches(tokens, objective, work.setting, work.batches.classes)
    width = start.backbone.config.transformer.width
    probes = Probes(PROBES, width, len(work.batches.classes), config.probe_learning_rate, seed).to(launch.device())
    _learn(config, objective, work.batches, probes)
    jets = min(config.test_jets, tokens.reader.order.epoch_records(0))
    return _measure(objective, test, probes.eval(), jets, config.batch_records)


def _learn(config: PretrainingPaysConfig, objective: Objective, batches: ObjectiveBatches, probes: Probes) -> None:
    jets = min(config.probe_jets, batches.batches.reader.order.epoch_records(0))
    starts = range(0, jets, config.batch_records)
    updates = config.probe_epochs * len(starts)
    with progress("probe", updates, "updates") as task:
        for update in range(updates + 1):  # what the last one learned is applied when another begins
            for probe in probes.each.values():
                assert isinstance(probe, Probe)
                probe.learning_rate = config.probe_learning_rate * (1 + math.cos(math.pi * update / updates)) / 2
            begin = starts[update % len(starts)]
            _judged(objective, batches.batch(begin, min(begin + config.batch_records, jets)), probes, update)
            task.advance()


def _measure(
    objective: Objective, batches: ObjectiveBatches, probes: Probes, jets: int, batch_records: int
) -> dict[str, Scores]:
    sums: dict[str, np.ndarray] = {}
    for begin in range(0, jets, batch_records):
        figures = _judged(objective, batches.batch(begin, min(begin + batch_records, jets)), probes, 0)
        for name, pair in figures.items():
            sums[name] = sums.get(name, np.zeros(2)) + pair.double().cpu().numpy()
    scores: dict[str, Scores] = {}
    for label, probe in zip(probes.each, PROBES, strict=True):
        (right, count), (loss, _) = sums[f"probe_{label}_accuracy"], sums[f"probe_{label}_loss"]
        scores[probe] = Scores(right / count, loss / count, int(count))
    return scores


def _judged(objective: Objective, batch: ProbedBatch, probes: Probes, update: int) -> dict[str, torch.Tensor]:
    batch = batch.to(launch.device())
    with torch.no_grad():
        features, layout = objective.represent(batch.whole)
    figures: dict[str, torch.Tensor] = probes(features, layout, batch.labels, update)
    return figures


def _result(config: PretrainingPaysConfig, data: TokenCorpora, split: str, rows: list[Row]) -> dict[str, Any]:
    lengths = load_backbone(config.out / f"{config.objectives[0]}-0")[1].provenance["lengths"]
    constituents = lengths["mean"] - lengths["cut_constituents"] / lengths["jets"]
    accuracy = {row.name: {probe: asdict(row.accuracy(probe)) for probe in PROBES} for row in rows}
    best = max((row for row in rows if row.pretrained), key=lambda row: row.accuracy(PROBES[-1]).value)
    control = {row.objective: row.accuracy(PROBES[-1]).value for row in rows if not row.pretrained}
    return {
        "name": "pretraining-pays",
        "value": best.accuracy(PROBES[-1]).value,
        "unit": f"accuracy of the {PROBES[-1]} probe, best objective",
        "ratios": {
            f"errors_over_random.{row.objective}": (1 - row.accuracy(PROBES[-1]).value)
            / max(1 - control[row.objective], 1e-9)
            for row in rows
            if row.pretrained
        },
        "accuracy": accuracy,
        "ordering": sorted(accuracy, key=lambda name: -accuracy[name][PROBES[-1]]["value"]),
        "seeds": {row.name: {probe: [asdict(s) for s in found] for probe, found in row.scores.items()} for row in rows},
        "flops": {row.name: row.flops for row in rows},
        "constituents_read": round(constituents * config.steps * config.batch_records),
        "measured_on": {"split": split, "corpus": data.corpora[0].digest},
        "settings": _plain({**asdict(config), "out": None, "json": None}),
        "machine": machine(),
        "versions": versions(),
    }


def table(rows: list[Row], constituents: int) -> Table:
    """One line a kind of backbone."""
    lines = []
    for row in rows:
        accuracies = [Cell(number(row.accuracy(probe))) for probe in PROBES]
        entropy = np.mean([score.cross_entropy for score in row.scores[PROBES[-1]]])
        lines.append(
            (Cell(row.name), *accuracies, Cell(f"{entropy:.3f}"), Cell(f"{row.flops:.2g}" if row.pretrained else "0"))
        )
    seeds = len(rows[0].scores[PROBES[0]])
    jets = rows[0].scores[PROBES[0]][0].jets
    errors = f"of the mean over {seeds} seeds" if seeds > 1 else "binomial, of one seed"
    note = (
        f"Accuracy of probes on frozen features, on {jets:,} held-out jets; errors: {errors}. Every objective read "
        f"{constituents:,} constituents of the same jets in the same order; FLOPs (forward and backward) differ. "
        f"Cross entropy of the {PROBES[-1]} probe in nats per jet."
    )
    header = ("backbone", *(f"{probe} probe" for probe in PROBES), "cross entropy", "pretraining FLOPs")
    return Table("Does pretraining pay?", header, tuple(lines), note)


def picture(rows: list[Row]) -> Figure:
    """Accuracy of both probes on every kind of backbone, with errors."""
    with matplotlib.rc_context({**settings("light"), "ytick.minor.visible": False}):
        figure = Figure(figsize=(5.6, 1.1 + 0.42 * len(rows)), layout="constrained", facecolor="none")
        axes = figure.subplots()
        for offset, probe, (colour, _, _) in zip((-0.1, 0.1), PROBES, STYLES, strict=False):
            found = [row.accuracy(probe) for row in rows]
            places = np.arange(len(rows)) + offset
            values, errors = [item.value for item in found], [item.error for item in found]
            axes.errorbar(values, places, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2, label=probe)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy of a probe on frozen features")
        axes.legend(frameon=False)
    return figure
