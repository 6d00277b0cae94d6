"""``hepfm bench generation-transfer``: a generator of one domain adapted to another with more and more of its records,
against training from scratch."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.benchmarks.transfer.law import fitted
from hepfm.benchmarks.transfer.page import SCRATCH, Curve, gain, picture, table
from hepfm.benchmarks.transfer.samples import KEPT_BACK, Quantities, generated, held_out, held_out_split, subset
from hepfm.benchmarks.transfer.scores import MEAN, Score, floors_of, kept_score, over_seeds
from hepfm.benchmarks.workload import machine
from hepfm.core.artifacts import read_artifact
from hepfm.core.config import settings_of
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_bytes, write_json
from hepfm.core.plots import to_svg
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.core.versions import versions
from hepfm.finetune import adapt
from hepfm.finetune.adapt import AdaptConfig
from hepfm.finetune.protocols import ProtocolConfig, ProtocolName
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain.backbone import load_generator
from hepfm.pretrain.data import TokenCorpora, vocabulary_of

VALIDATIONS = 40  # of a training at most
PATIENCE = 8
PUBLISHED = {
    "gamma": {"low": 0.2, "high": 0.45, "source": "AspenOpenJets, arXiv:2412.10504: for many jet observables"},
    "nearer_than_scratch_at_100_showers": {"value": 0.44, "source": "CaloTransfer, arXiv:2512.00187"},
}


@dataclass(frozen=True)
class GenerationTransferConfig:
    """Adapt a pretrained generator to a target domain with more and more of its records, and train the same network
    from scratch on the same records; measure what each generates against held-out records, for several seeds. A table,
    a plot, and the exponent of (distance - floor) ~ N^-gamma. Jets or showers. Run again after an interruption, it
    continues; what is finished in --out is used.

    Of N records every fifth is kept back for early stopping: N is all that a training sees.
    """

    tokens: Annotated[Positional[Path], tyro.conf.arg(metavar="TOKENS")]
    """Token corpus of the target domain, by the backbone's tokenizer, with a test or val split to measure on."""
    backbone: str
    """Generator pretrained on another domain: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """Folder of the runs and results."""
    counts: tuple[int, ...] = (100, 1_000, 10_000)
    """Numbers of target records to train on."""
    protocols: tuple[ProtocolName, ...] = ("full", "scratch")
    """How the backbone is adapted; scratch is the control."""
    seeds: int = 3
    """Repetitions, each with other records, weights and samples."""
    condition: tuple[str, ...] = ()
    """What the backbone is told besides what it is told already; see hepfm pretrain."""
    steps: int = 2_000
    """Updates of each training at most; it ends earlier where validation has not improved for a fifth of them."""
    batch_records: int = 256
    """Records in one update, at most those that are trained on."""
    learning_rate: float = 3e-4
    """Peak learning rate of adaptation."""
    scratch_learning_rate: float = 1e-3
    """Peak learning rate from scratch."""
    judged: int = 10_000
    """Records to generate and to compare with, at most."""
    json: Path | None = None
    """File for the result, beside OUT/result.json."""


def main(config: GenerationTransferConfig) -> None:
    """Train, generate, compare, tell."""
    corpus = _checked(config)
    RunFolder(config.out).claim(config, free={"json"})
    reference = held_out(corpus, config.judged)
    floors = floors_of(reference)
    scores: dict[ProtocolName, list[list[Score]]] = {protocol: [] for protocol in config.protocols}
    for count in config.counts:
        for protocol in config.protocols:
            made = [_score(config, corpus, reference, protocol, count, seed) for seed in range(config.seeds)]
            scores[protocol].append(made)
    curves = [_curve(protocol, config.counts, found, floors) for protocol, found in scores.items()]
    result = _result(config, corpus, reference, curves, scores, floors)
    write_json(config.out / "result.json", result)
    if config.json:
        write_json(config.json, result)
    write_bytes(config.out / "transfer.svg", to_svg(picture(curves, floors[MEAN], reference.kind)))
    told = table(curves, floors[MEAN], reference.kind, config.seeds, reference.records)
    sys.stdout.write(told.markdown())
    sys.stdout.write(f"\n{config.out / 'transfer.svg'}\n")


def _checked(config: GenerationTransferConfig) -> Corpus:
    """The target corpus, before any work.

    Raises:
        HepfmError: settings, a corpus or a backbone that cannot work.
    """
    for name in ("seeds", "steps", "batch_records"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name.replace('_', '-')}")
    if not config.counts or min(config.counts) < 2 * KEPT_BACK or list(config.counts) != sorted(set(config.counts)):
        raise HepfmError(f"must rise, from {2 * KEPT_BACK} on, are {' '.join(map(str, config.counts))}", "--counts")
    if not config.protocols or len(set(config.protocols)) < len(config.protocols):
        raise HepfmError("names no protocol, or one twice", "--protocols")
    if config.judged < 50:
        raise HepfmError(f"must be at least 50, is {config.judged}", "--judged")
    data = TokenCorpora.open([config.tokens])
    corpus = data.corpora[0]
    held_out_split(corpus)
    backbone, artifact = load_generator(config.backbone)
    data.in_vocabulary_of(vocabulary_of(artifact, backbone.config.codes))
    if (there := corpus.split("train").records) < config.counts[-1]:
        raise HepfmError(
            f"its training split has {there:,} records, not {config.counts[-1]:,}", corpus.path, "--counts"
        )
    return corpus


def _score(
    config: GenerationTransferConfig,
    corpus: Corpus,
    reference: Quantities,
    protocol: ProtocolName,
    count: int,
    seed: int,
) -> Score:
    """Train (or continue, or find) one backbone and judge it; a score that was written for it is read."""
    folder = f"{protocol}-{count}-{seed}"
    run = RunFolder(config.out / "runs" / folder)
    if not run.finished:
        say(f"{protocol}, {count:,} {reference.kind}, seed {seed}")
        tokens = subset(corpus, count, seed, config.out / "subsets" / f"{count}-{seed}" / corpus.path.name)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells the artifact's path
            adapt.main(_adaptation(config, protocol, count, seed, tokens, run.path))
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # a finished run needs none
    kept = config.out / "scores" / f"{folder}.json"
    judged = {"backbone": read_artifact(run.artifact).hash, "judged": reference.records, "corpus": corpus.digest}
    return kept_score(kept, judged, reference, lambda: generated(run.path, reference.records, seed))


def _adaptation(
    config: GenerationTransferConfig, protocol: ProtocolName, count: int, seed: int, tokens: Path, out: Path
) -> AdaptConfig:
    kept = count // KEPT_BACK
    every = max(1, config.steps // VALIDATIONS)
    records = min(config.batch_records, count - kept)
    training = TrainingConfig(
        steps=config.steps,
        batch_records=records,
        learning_rate=config.scratch_learning_rate if protocol == SCRATCH else config.learning_rate,
        warmup_steps=min(100, config.steps // 10),
        schedule="cosine",
        validate_every=every,
        validation_records=min(kept, 2_048, max(128, every * records)),  # no more than are trained on meanwhile
        patience=PATIENCE,
        checkpoint_every=max(every, 100),
        keep_checkpoints=1,
        log_every=every,
        seed=seed,
    )
    return AdaptConfig(
        (tokens,), config.backbone, out, config.condition, protocol=ProtocolConfig(protocol), training=training
    )


def _curve(protocol: ProtocolName, counts: Sequence[int], scores: list[list[Score]], floors: dict[str, float]) -> Curve:
    found = {name: [over_seeds([score.of(name) for score in made]) for made in scores] for name in floors}
    laws = {name: fitted(counts, estimates, floors[name]) for name, estimates in found.items()}
    return Curve(protocol, tuple(counts), found, laws)


def _result(
    config: GenerationTransferConfig,
    corpus: Corpus,
    reference: Quantities,
    curves: list[Curve],
    scores: dict[ProtocolName, list[list[Score]]],
    floors: dict[str, float],
) -> dict[str, Any]:
    control = next((curve for curve in curves if curve.protocol == SCRATCH), None)
    others = [curve for curve in curves if curve is not control]
    gains = {
        f"{curve.protocol}.{count}": asdict(gain(curve, control, place))
        for curve in others
        for place, count in enumerate(config.counts)
        if control
    }
    first = (others or curves)[0]
    return {
        "name": "generation-transfer",
        "value": first.found[MEAN][0].value,
        "unit": f"W1 over standard deviation, mean of quantities, {first.name}, {config.counts[0]:,} {reference.kind}",
        "ratios": {f"scratch_over_{name}": 1 / (1 - one["value"]) for name, one in gains.items()},
        "nearer_than_scratch": gains,
        "distances": {
            curve.protocol: {name: [asdict(one) for one in found] for name, found in curve.found.items()}
            for curve in curves
        },
        "exponents": {
            curve.protocol: {name: law and asdict(law) for name, law in curve.laws.items()} for curve in curves
        },
        "published": PUBLISHED,
        "floors": floors,
        "counts": list(config.counts),
        "seeds": {
            protocol: [[asdict(score) for score in made] for made in found] for protocol, found in scores.items()
        },
        "measured_on": {"corpus": corpus.digest, "split": held_out_split(corpus), "records": reference.records},
        "settings": settings_of(config, without=("out", "json")),
        "machine": machine(),
        "versions": versions(),
    }
