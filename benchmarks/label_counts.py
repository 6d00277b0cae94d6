"""``hepfm bench label-counts``: how many labels pretraining saves: label counts x seeds x protocols, one harness."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from tyro.conf import Positional

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.workload import machine
from hepfm.core.config import to_dict
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, read_json, write_bytes, write_json
from hepfm.core.plots import EDGE, STYLES, settings, to_svg
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.core.statistics import Estimate
from hepfm.core.versions import versions
from hepfm.finetune import tag
from hepfm.finetune.backbone_tagger import ReadingAsked
from hepfm.finetune.heads import HeadName
from hepfm.finetune.labelled import TRAIN, LabelledCorpora
from hepfm.finetune.protocols import ProtocolConfig, ProtocolName
from hepfm.finetune.tag import TagConfig
from hepfm.finetune.tagger import load_tagger
from hepfm.finetune.tagging_metrics import measure
from hepfm.pretrain.backbone import load_backbone

CONTROL: ProtocolName = "scratch"
# JetClass, accuracy of ten classes by labels: what the field has (joint and masked pretraining of 100 M jets).
ANCHORS = {
    "random start, JetClass": {1_000: 0.48, 10_000: 0.60, 100_000: 0.76},
    "masked pretraining, JetClass": {1_000: 0.68, 10_000: 0.75, 100_000: 0.82},
}


@dataclass(frozen=True)
class LabelCountsConfig:
    """Train the same head on a pretrained backbone with few and with many labels, by several protocols and seeds, one
    of them from random weights, and judge all on the same jets. Run again after an interruption, it continues; what is
    finished in --out is used."""

    corpora: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CORPUS...")]
    """Labelled corpora, of the backbone's tokens or of what its tokenizer takes, with a test split in the first."""
    backbone: str
    """Pretrained backbone: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """Folder of the runs and results."""
    counts: tuple[int, ...] = (100, 1_000, 10_000)
    """Training jets, as many of each class; the fewer are among the more."""
    protocols: tuple[ProtocolName, ...] = (CONTROL, "full")
    """What to compare; scratch, random weights, is the control. For their settings see hepfm finetune tag."""
    seeds: int = 3
    """Repetitions, each with other labelled jets, another head and order, the same for all protocols."""
    head: HeadName = "class-attention"
    """See hepfm finetune tag."""
    reading: ReadingAsked = "default"
    """See hepfm finetune tag."""
    labels: tuple[str, ...] = ()
    """Labels to tell apart; by default all of the corpus."""
    test_jets: int = 10_000
    """Jets of the test split to judge at most."""
    last_blocks: int = 1
    """Blocks that last-blocks trains."""
    rank: int = 8
    """Rank of the adapters of low-rank."""
    backbone_rate: float = 1.0
    """Learning rate of what is pretrained, as a share of --learning-rate; scratch has the whole."""
    json: Path | None = None
    """File for the result, beside OUT/result.json."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=400, batch_records=100, warmup_steps=20, validate_every=40, patience=4, betas=(0.9, 0.99)
        )
    )


@dataclass(frozen=True)
class Point:
    """One protocol at one count.

    Attributes:
        protocol: its name.
        count: labelled training jets.
        accuracy, auc: one a seed.
    """

    protocol: ProtocolName
    count: int
    accuracy: tuple[float, ...]
    auc: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Accuracy, mean over seeds."""
        return float(np.mean(self.accuracy))

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy over seeds; NaN of one."""
        return float(np.std(self.accuracy, ddof=1)) if len(self.accuracy) > 1 else math.nan


def main(config: LabelCountsConfig) -> None:
    """Train, judge, tell."""
    _check(config)
    RunFolder(config.out).claim(config, free={"json"})
    points = [_point(config, protocol, count) for count in config.counts for protocol in config.protocols]
    result = _result(config, points)
    write_json(config.out / "result.json", result)
    if config.json:
        write_json(config.json, result)
    write_bytes(config.out / "accuracy.svg", to_svg(picture(points)))
    sys.stdout.write(table(points).markdown())
    sys.stdout.write(f"\n{config.out / 'accuracy.svg'}\n")


def _check(config: LabelCountsConfig) -> None:
    """Refuse what would fail in the middle of the study."""
    for name in ("seeds", "test_jets"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name.replace('_', '-')}")
    for name in ("counts", "protocols"):
        given = getattr(config, name)
        if not given or len(set(given)) < len(given):
            raise HepfmError("names nothing" if not given else "names something twice", f"--{name}")
    config.training.check(1)
    data = LabelledCorpora.open(config.corpora)
    if "test" not in data.corpora[0].splits():
        raise HepfmError("has no test split", data.corpora[0].path, "hepfm corpus split deals records anew")
    classes = data.classes(config.labels)
    if min(config.counts) < len(classes.names):
        raise HepfmError(
            f"{min(config.counts)} jets are less than one of each of {len(classes.names)} classes", "--counts"
        )
    backbone, _ = load_backbone(config.backbone)
    blocks = backbone.config.transformer.blocks
    for protocol in config.protocols:
        _protocol(config, protocol).resolved(config.training, blocks)
    first = _asked(config, config.protocols[0], max(config.counts), 0)
    features = tag.begin(first, len(classes.names), data)[0].features
    data.batches(TRAIN, classes, features, 0, max(config.counts))  # refuses counts that there are not


def _protocol(config: LabelCountsConfig, name: ProtocolName) -> ProtocolConfig:
    rate = 1.0 if name == CONTROL else config.backbone_rate
    return ProtocolConfig(name, last_blocks=config.last_blocks, rank=config.rank, backbone_rate=rate)


def _asked(config: LabelCountsConfig, protocol: ProtocolName, count: int, seed: int) -> TagConfig:
    training = replace(config.training, seed=config.training.seed + seed)
    return TagConfig(
        config.corpora,
        config.out / f"{protocol}-{count}-{seed}",
        backbone=config.backbone,
        head=config.head,
        reading=config.reading,
        protocol=_protocol(config, protocol),
        labels=config.labels,
        jets=count,
        training=training,
    )


def _point(config: LabelCountsConfig, protocol: ProtocolName, count: int) -> Point:
    found = []
    for seed in range(config.seeds):
        asked = _asked(config, protocol, count, seed)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells the artifact's path
            tag.main(asked)
        found.append(_judged(config, asked))
        say(f"{protocol}, {count:,} labels, seed {seed}: accuracy {found[-1]['accuracy']:.4f}")
    accuracy, auc = (tuple(each[name] for each in found) for name in ("accuracy", "auc"))
    return Point(protocol, count, accuracy, auc)


def _judged(config: LabelCountsConfig, asked: TagConfig) -> dict[str, float]:
    """Accuracy and AUC of a finished run; those that were written for the same tagger are read."""
    tagger, artifact = load_tagger(asked.out)
    corpus = LabelledCorpora.open(config.corpora).corpora[0]
    key = digest_of({"tagger": artifact.hash, "corpus": corpus.digest, "jets": config.test_jets})
    kept = config.out / "scores" / f"{asked.out.name}.json"
    if kept.is_file():
        known = read_json(kept)
        if known.get("key") == key:
            return {name: float(known[name]) for name in ("accuracy", "auc")}
    measured = measure(tagger.judge(corpus.split("test"), config.test_jets), replicas=2)
    found = {"accuracy": measured.accuracy.value, "auc": measured.auc.value}
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, {"key": key, **found})
    return found


def compared(points: list[Point]) -> Iterator[tuple[Point, float, float]]:
    """Each point that is no control, its gain over the control at the same count, and that over the seed spread: the
    larger one of the two."""
    control = {point.count: point for point in points if point.protocol == CONTROL}
    for point in points:
        if point.protocol != CONTROL and point.count in control:
            other = control[point.count]
            gain, spread = point.mean - other.mean, max(point.spread, other.spread)
            yield point, gain, gain / spread if spread > 0 else math.nan


def _result(config: LabelCountsConfig, points: list[Point]) -> dict[str, Any]:
    gains = list(compared(points))
    best = max(gains, key=lambda item: item[1], default=None)
    return {
        "name": "label-counts",
        "value": best[1] if best else None,
        "unit": "accuracy, largest gain over random start",
        "ratios": {
            f"gain_over_spread.{point.protocol}.{point.count}": ratio
            for point, _, ratio in gains
            if math.isfinite(ratio)
        },
        "accuracy": [
            {**asdict(point), "mean": point.mean, "spread": None if math.isnan(point.spread) else point.spread}
            for point in points
        ],
        "anchors": {name: {str(count): value for count, value in rows.items()} for name, rows in ANCHORS.items()},
        "settings": {name: value for name, value in to_dict(config).items() if name not in ("out", "json")},
        "backbone": load_backbone(config.backbone)[1].hash,
        "machine": machine(),
        "versions": versions(),
    }


def table(points: list[Point]) -> Table:
    """One line a count and protocol, the field's figures below."""
    gains = {(point.protocol, point.count): (gain, ratio) for point, gain, ratio in compared(points)}
    rows = []
    for point in points:
        gain = gains.get((point.protocol, point.count))
        spread = 0.0 if math.isnan(point.spread) else point.spread
        cells = (
            f"{point.count:,}",
            point.protocol,
            number(Estimate(point.mean, spread)),
            f"{np.mean(point.auc):.4f}",
            "" if gain is None else f"{gain[0]:+.3f}",
            "" if gain is None or math.isnan(gain[1]) else f"{gain[1]:.1f}",
        )
        rows.append(tuple(map(Cell, cells)))
    for name, known in ANCHORS.items():
        rows += [tuple(map(Cell, (f"{count:,}", name, f"{value:.2f}", "", "", ""))) for count, value in known.items()]
    seeds = len(points[0].accuracy)
    note = (
        f"Mean and standard deviation over {seeds} seeds; the gain over scratch is divided by the larger of the two "
        "standard deviations. JetClass rows are the field's, on other jets and backbones, for orientation. Early "
        "stopping looks at the validation split, whose labels are not counted."
    )
    return Table(
        "How many labels does pretraining save?",
        ("labels", "protocol", "accuracy", "AUC", "gain", "gain/spread"),
        tuple(rows),
        note,
    )


def picture(points: list[Point]) -> Figure:
    """Accuracy by label count, a line a protocol, the field's anchors as open markers."""
    with matplotlib.rc_context(settings("light")):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained", facecolor="none")
        axes = figure.subplots()
        for protocol, (colour, _, dashes) in zip(dict.fromkeys(p.protocol for p in points), STYLES * 2, strict=False):
            own = [point for point in points if point.protocol == protocol]
            counts, means = [point.count for point in own], [point.mean for point in own]
            spreads = [0.0 if math.isnan(point.spread) else point.spread for point in own]
            axes.errorbar(
                counts, means, spreads, fmt="o", color=colour, linestyle=dashes, markersize=5, capsize=2, label=protocol
            )
        for (name, known), marker in zip(ANCHORS.items(), ("s", "^"), strict=True):
            axes.plot(
                list(known), list(known.values()), marker, color=EDGE["light"], markerfacecolor="none", label=name
            )
        axes.set(xscale="log", xlabel="labelled training jets", ylabel="accuracy")
        axes.legend(frameon=False, fontsize=8)
    return figure
