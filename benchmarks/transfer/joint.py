"""``hepfm bench generation-joint``: one backbone for several domains against one for each, by what they generate."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from hepfm.benchmarks.transfer.joint_page import JOINT, Domain, picture, table
from hepfm.benchmarks.transfer.page import nearer
from hepfm.benchmarks.transfer.samples import INCIDENT, Quantities, generated, held_out, held_out_split, subset
from hepfm.benchmarks.transfer.scores import MEAN, Score, floors_of, kept_score, over_seeds
from hepfm.benchmarks.workload import machine
from hepfm.core.artifacts import read_artifact
from hepfm.core.config import settings_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_bytes, write_json
from hepfm.core.plots import to_svg
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.core.statistics import Estimate
from hepfm.core.versions import versions
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain import run as pretraining
from hepfm.pretrain.backbone import load_generator
from hepfm.pretrain.data import TokenCorpora, vocabulary_of
from hepfm.pretrain.presets import PresetName
from hepfm.pretrain.run import PretrainConfig, usual_length
from hepfm.pretrain.survey import columns_of, usual_conditions

LOSS_RECORDS = 256  # read together for the held-out loss


@dataclass(frozen=True)
class GenerationJointConfig:
    """Pretrain one backbone on the token corpora of several tokenizers, such as jets and showers, told which data set a
    record is of, and one backbone on each of them alone; compare what they generate, and their loss, on held-out
    records of each. A table, a plot and data. Run again after an interruption, it continues.

    All see the same records of a corpus equally often: that of K corpora trains K times as many updates.
    """

    tokens: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")]
    """Token corpora with one id a point, each with a test or val split to measure on; their folders' names are those of
    the data sets."""
    out: Path
    """Folder of the runs and results."""
    model: PresetName = "tiny"
    """Size of the backbones."""
    records: int = 0
    """Records of each corpus to train on; 0: as many as the smallest has."""
    condition: tuple[str, ...] = ()
    """What the backbones are told of a record besides the data set, those of them that its corpus has; see hepfm
    pretrain. Default: of showers incident_energy, direction and particle where their corpora have them."""
    seeds: int = 3
    """Repetitions, each with other records, weights and samples."""
    steps: int = 2_000
    """Updates of a backbone of one corpus."""
    batch_records: int = 256
    """Records in one update."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    judged: int = 10_000
    """Records of each to generate and to compare with, at most those that are held out."""
    json: Path | None = None
    """File for the result, beside OUT/result.json."""


@dataclass(frozen=True)
class Study:
    """What is compared, looked at before any work.

    Attributes:
        corpora: by name of the data set.
        conditions: by that name, what is told of its records.
        records: of each that are trained on.
        max_length: points that are kept of a record.
    """

    corpora: dict[str, Corpus]
    conditions: dict[str, tuple[str, ...]]
    records: int
    max_length: int


def main(config: GenerationJointConfig) -> None:
    """Train, generate, compare, tell."""
    study = _checked(config)
    RunFolder(config.out).claim(config, free={"json"})
    domains = {name: held_out(corpus, config.judged) for name, corpus in study.corpora.items()}
    floors = {name: floors_of(reference) for name, reference in domains.items()}
    found: dict[str, dict[str, list[tuple[Score, float]]]] = {name: {name: [], JOINT: []} for name in domains}
    for seed in range(config.seeds):
        parts = {
            name: subset(corpus, study.records, seed, config.out / "subsets" / str(seed) / name, kept_back=0)
            for name, corpus in study.corpora.items()
        }
        for backbone, names in {**{name: (name,) for name in parts}, JOINT: tuple(parts)}.items():
            run = _trained(config, study, backbone, [parts[name] for name in names], seed)
            for name in names:
                score = _score(config, study.corpora[name], domains[name], run, name, seed)
                found[name][backbone].append((score, _held_out_loss(study.corpora[name], run, config.judged)))
    rows = [_domain(name, reference, found[name], floors[name]) for name, reference in domains.items()]
    result = _result(config, study, rows, domains, found)
    write_json(config.out / "result.json", result)
    if config.json:
        write_json(config.json, result)
    write_bytes(config.out / "joint.svg", to_svg(picture(rows)))
    sys.stdout.write(table(rows, config.seeds).markdown())
    sys.stdout.write(f"\n{config.out / 'joint.svg'}\n")


def _checked(config: GenerationJointConfig) -> Study:
    """The study, before any work.

    Raises:
        HepfmError: settings or corpora that cannot work.
    """
    for name in ("seeds", "steps", "batch_records"):
        if getattr(config, name) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, name)}", f"--{name.replace('_', '-')}")
    if config.judged < 50:
        raise HepfmError(f"must be at least 50, is {config.judged}", "--judged")
    data = TokenCorpora.open(config.tokens, "joined")
    if data.mixture or len(data.tokenizers) < 2:
        told = "are of one tokenizer" if not data.mixture else "is a mixture"
        where = ", ".join(map(str, config.tokens))
        raise HepfmError(told, where, "name token corpora of several tokenizers, of jets and of showers")
    corpora = {corpus.path.name: corpus for corpus in data.corpora}
    if len(corpora) < len(data.corpora) or JOINT in corpora:
        names = ", ".join(corpus.path.name for corpus in data.corpora)
        raise HepfmError(f"data sets need names of their own (not {JOINT}), these are {names}", "", "rename a folder")
    conditions = {name: _conditions(config, corpus) for name, corpus in corpora.items()}
    for wanted in config.condition:
        if not any(wanted in known for known in conditions.values()):
            raise HepfmError(f"no corpus has what --condition {wanted} names", ", ".join(map(str, config.tokens)))
    for name, corpus in corpora.items():
        held_out_split(corpus)
        showers = TokenCorpora.open([corpus.path]).kind == "showers"
        if showers and INCIDENT.name not in conditions[name]:
            raise HepfmError("of showers the incident energy has to be told", "--condition", f"add {INCIDENT.name}")
    least = min(corpora.values(), key=lambda corpus: corpus.split("train").records)
    most = least.split("train").records
    if not 0 <= config.records <= most:
        raise HepfmError(f"must lie between 0 and {most:,}, which {least.path} has, is {config.records:,}", "--records")
    return Study(corpora, conditions, config.records or most, usual_length(data))


def _conditions(config: GenerationJointConfig, corpus: Corpus) -> tuple[str, ...]:
    """What is told of the records of a corpus, besides the data set."""
    if not config.condition:
        return usual_conditions(TokenCorpora.open([corpus.path]), "next-token")
    provided = set(corpus.manifest.schema.names)
    return tuple(name for name in dict.fromkeys(config.condition) if provided.issuperset(columns_of(name)))


def _trained(config: GenerationJointConfig, study: Study, backbone: str, tokens: list[Path], seed: int) -> RunFolder:
    """Train (or continue, or find) one backbone."""
    run = RunFolder(config.out / "runs" / f"{backbone}-{seed}")
    if not run.finished:
        say(f"{backbone}, seed {seed}")
        steps = config.steps * len(tokens)
        training = TrainingConfig(
            steps=steps,
            batch_records=config.batch_records,
            learning_rate=config.learning_rate,
            warmup_steps=min(100, steps // 10),
            schedule="cosine",
            validate_every=0,
            checkpoint_every=max(1, steps // 10),
            keep_checkpoints=1,
            log_every=max(1, steps // 20),
            seed=seed,
        )
        told = dict.fromkeys(one for path in tokens for one in study.conditions[path.name])
        pretrain = PretrainConfig(
            tuple(tokens),
            run.path,
            model=config.model,
            max_length=study.max_length,
            condition=(*told, *(("data_set",) if len(tokens) > 1 else ())),
            vocabulary="joined" if len(tokens) > 1 else "one",
            training=training,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it tells the artifact's path
            pretraining.main(pretrain)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # a finished run needs none
    return run


def _score(
    config: GenerationJointConfig, corpus: Corpus, reference: Quantities, run: RunFolder, name: str, seed: int
) -> Score:
    """What a backbone generates of a data set; a score that was written for it is read."""
    joint = run.path.name == f"{JOINT}-{seed}"
    kept = config.out / "scores" / f"{run.path.name}-{name}.json"
    judged = {"backbone": read_artifact(run.artifact).hash, "judged": reference.records, "corpus": corpus.digest}
    return kept_score(
        kept, judged, reference, lambda: generated(run.path, reference.records, seed, name if joint else "")
    )


@torch.no_grad()
def _held_out_loss(corpus: Corpus, run: RunFolder, most: int) -> float:
    """-ln p of held-out tokens and stops [nats each], told what is known of the records."""
    backbone, artifact = load_generator(run.path)
    backbone = backbone.to(launch.device())
    data = TokenCorpora.open([corpus.path]).in_vocabulary_of(vocabulary_of(artifact, backbone.config.codes))
    split, told = held_out_split(corpus), backbone.config.conditions
    batches = data.batches(split, int(artifact.contract["max_length"]), seed=0, conditions=told)
    records, total, count = min(most, corpus.split(split).records), 0.0, 0
    for first in range(0, records, LOSS_RECORDS):
        batch = batches.batch(first, min(first + LOSS_RECORDS, records)).to(launch.device())
        total += float(backbone.loss(batch.inputs, batch.targets, batch.layout, batch.conditions))
        count += len(batch.targets)
    return total / count


def _domain(
    name: str, reference: Quantities, found: dict[str, list[tuple[Score, float]]], floors: dict[str, float]
) -> Domain:
    """The scores of a data set over the seeds."""

    def distances(backbone: str) -> dict[str, Estimate]:
        return {one: over_seeds([score.of(one) for score, _ in found[backbone]]) for one in floors}

    def loss(backbone: str) -> Estimate:
        return over_seeds([Estimate(value, 0.0) for _, value in found[backbone]])

    return Domain(
        name, reference.kind, reference.records, distances(name), distances(JOINT), floors, loss(name), loss(JOINT)
    )


def _result(
    config: GenerationJointConfig,
    study: Study,
    rows: list[Domain],
    references: dict[str, Quantities],
    found: dict[str, dict[str, list[tuple[Score, float]]]],
) -> dict[str, Any]:
    gains = {row.name: nearer(row.joint[MEAN], row.alone[MEAN]) for row in rows}
    return {
        "name": "generation-joint",
        "value": rows[0].joint[MEAN].value,
        "unit": f"W1 over standard deviation, mean of quantities, {rows[0].name}, one backbone for all data sets",
        "ratios": {f"alone_over_joint.{name}": 1 / (1 - gain.value) for name, gain in gains.items()},
        "nearer_than_alone": {name: asdict(gain) for name, gain in gains.items()},
        "data_sets": {row.name: asdict(row) for row in rows},
        "seeds": {
            name: {
                "joint" if backbone == JOINT else "alone": [
                    {"distances": {one: asdict(value) for one, value in score.distances.items()}, "loss": loss}
                    for score, loss in made
                ]
                for backbone, made in backbones.items()
            }
            for name, backbones in found.items()
        },
        "trained_on": {
            "records": study.records,
            "corpora": {name: corpus.digest for name, corpus in study.corpora.items()},
            "conditions": {name: list(told) for name, told in study.conditions.items()},
            "max_length": study.max_length,
        },
        "judged": {name: reference.records for name, reference in references.items()},
        "settings": settings_of(config, without=("out", "json")),
        "machine": machine(),
        "versions": versions(),
    }
