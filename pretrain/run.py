"""``hepfm pretrain``: a backbone from scratch on token corpora; and the recipe that all backbone training shares."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
from torch import nn
from tyro.conf import Positional

from hepfm.core.config import settings_of, to_dict
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.engine.stopping import enough_memory
from hepfm.core.engine.train import check, train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.pretrain.backbone import Backbone, build, save_backbone
from hepfm.pretrain.card import card, ids_of
from hepfm.pretrain.conditions import ConditionValues
from hepfm.pretrain.continuous import Continuous
from hepfm.pretrain.data import TokenCorpora, VocabularyName, length_counts, length_statistics
from hepfm.pretrain.energy_profile_counts import profiled
from hepfm.pretrain.features import FeatureEmbedding
from hepfm.pretrain.objectives import (
    Objective,
    ObjectiveBatches,
    ObjectiveConfig,
    Probed,
    Setting,
    objective_class,
)
from hepfm.pretrain.presets import PresetName, preset
from hepfm.pretrain.probe import Probes
from hepfm.pretrain.stream_batches import counted
from hepfm.pretrain.survey import surveyed, usual_conditions

FREE = FREE_SETTINGS | {"nproc", "gpus"}
JET_LENGTH = 128
LONGEST = 1_000_000  # constituents: decoders and caches hold a row for each


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a backbone on token corpora. Run again after an interruption, it continues to the same weights.

    ``hepfm pretrain --plan`` tells beforehand what it will need and take (--help there too).
    """

    command: ClassVar[str] = "hepfm pretrain"

    tokens: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")]
    """Token corpora; several are mixed as one set. Or one mixture (hepfm corpus mix)."""
    out: Path
    """Folder of the run."""
    source: tuple[Path, ...] = ()
    """Corpora that the token corpora were made from, where continuous features are read; default: decoded ones."""
    model: PresetName = "tiny"
    """Size of the backbone: 1M (tiny), 6.6M (omnijet-alpha), 25M, 110M, 350M, 1.3G parameters."""
    max_length: int | None = None
    """Constituents that are kept of a jet, the leading ones; how many jets this cuts is counted and told. Default: 128,
    of showers the hits of the longest, of jets and showers those of the longest record, at least 128."""
    condition: tuple[str, ...] = ()
    """What the backbone is told of each record: label, data_set, jet_pt, jet_mass, jet_eta, jet_softdrop_mass,
    incident_energy, direction, particle, or any other number of a record by its column. Default: nothing, of showers
    incident_energy, direction and particle where the corpora have them."""
    condition_dropout: float = 0.1
    """How often all conditions of a record are left unknown, and each of the others by itself, so that the backbone
    also works without them."""
    vocabulary: VocabularyName = "one"
    """one: all corpora are of one tokenizer. joined: the ids of several tokenizers stand side by side, and the backbone
    is told the data set."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    gpus: int = 0
    """GPUs that each machine must have; 0: train on what there is, be it the CPU."""
    task: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class Beginning:
    """What a training starts from.

    Attributes:
        backbone: the network.
        max_length: constituents that are kept of a jet.
        parent: hash of the backbone artifact that it continues, if any.
        task: what it is trained on, resolved.
        continuous: where continuous features come from, if they are used.
        dropout: how often conditions are left unknown.
        sample: what some records are told, if the backbone is told anything.
        data: the corpora in the backbone's vocabulary, where that is larger than theirs.
        data_sets: what the backbone knew before, see :meth:`hepfm.pretrain.data.TokenCorpora.data_sets`.
        training: settings in place of the command's, where parameters have their own learning rates.
        finish: done to the trained backbone before it is written.
    """

    backbone: Backbone
    max_length: int
    parent: str = ""
    task: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig().resolved())
    continuous: Continuous | None = None
    dropout: float = 0.0
    sample: ConditionValues | None = None
    data: TokenCorpora | None = None
    data_sets: tuple[dict[str, Any], ...] = ()
    training: TrainingConfig | None = None
    finish: Callable[[nn.Module], object] = lambda backbone: None


def main(config: PretrainConfig) -> None:
    """Pretrain and write the artifact."""
    if config.max_length is not None and not 1 <= config.max_length <= LONGEST:
        raise HepfmError(f"must lie between 1 and {LONGEST:,}, is {config.max_length:,}", "--max-length")
    if not 0 <= config.condition_dropout < 1:
        raise HepfmError(f"must lie in [0, 1), is {config.condition_dropout}", "--condition-dropout")
    if config.gpus < 0:
        raise HepfmError(f"must not be negative, is {config.gpus}", "--gpus")
    run_training(config, lambda data: from_scratch(config, data), config.vocabulary)


def from_scratch(config: PretrainConfig, data: TokenCorpora) -> Beginning:
    """A backbone of random weights for an objective and its data.

    Raises:
        HepfmError: the objective does not take these settings, or the corpora do not have what it needs.
    """
    task = config.task.of_streams(data.streams is not None).resolved()
    max_length = config.max_length or usual_length(data)
    if task.mask_fraction and max_length < 2:
        raise HepfmError(
            f"{task.objective} masks constituents of jets with two or more, this keeps one", "--max-length", "raise it"
        )
    if config.source and not task.wants_features:
        raise HepfmError(
            f"{task.objective} reads tokens and predicts tokens", "--source", "leave it out, or set --input features"
        )
    continuous = Continuous.of(data, config.source, max_length) if task.wants_features else None
    told = surveyed(data, config.condition or usual_conditions(data, task.objective), task.objective)
    streams = data.streams and counted(data, data.streams.delayed(task.delays))
    streams = streams and profiled(data, streams, told.conditions if told else ())
    torch.manual_seed(key_of("weights", config.training.seed))
    columns = continuous.statistics.columns if continuous else 0
    sized = objective_class(task.objective).backbone_config(preset(config.model, data.codes), task, columns)
    conditions = told.conditions if told else ()
    sized = dataclasses.replace(sized, objective=task.objective, conditions=conditions, streams=streams)
    backbone = build(sized)
    if continuous and isinstance(backbone.embedding, FeatureEmbedding):
        backbone.embedding.set_statistics(continuous.statistics)
    return Beginning(
        backbone,
        max_length,
        task=task,
        continuous=continuous,
        dropout=config.condition_dropout,
        sample=told.sample if told else None,
    )


def usual_length(data: TokenCorpora) -> int:
    """Points that are kept of a record where nothing else is asked for."""
    if data.kind == "jets":
        return JET_LENGTH
    launch.setup()
    least = 1 if data.kind == "showers" else JET_LENGTH
    return int(launch.on_main(lambda: max(least, len(length_counts(data.batches("train", 1, 0).reader)) - 1)))


@enough_memory()
def run_training(config: Any, begin: Callable[[TokenCorpora], Beginning], vocabulary: VocabularyName = "one") -> None:
    """Train a backbone as a command was told: claim the run's folder, train or continue, write the artifact.

    Args:
        config: the command's settings, with ``tokens``, ``out``, ``nproc`` and ``training``.
        begin: what to start from, given the data.
        vocabulary: whether the corpora may be of several tokenizers.
    """
    launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        _done(run, "is finished already")
        return
    data = TokenCorpora.open(config.tokens, vocabulary)
    launch.setup({"settings": settings_of(config, without=("nproc", "gpus"))}, getattr(config, "gpus", 0))
    start = begin(data)
    data = start.data or data
    work = Work.of(data, start, start.training or config.training)
    check(work.module, work.validation, work.training)
    lengths = launch.on_main(lambda: work.lengths(data))
    launch.on_main(lambda: run.claim(config, FREE))
    _announce(work, lengths, config.training, data.kind)
    figures = train(
        work.module,
        work.batches,
        work.validation,
        work.training,
        run,
        _identity(data, start),
        lengths["flops_per_token"],
    )
    if launch.is_main():
        start.finish(start.backbone)
        _write(run, start, data, config, lengths, figures)
        _done(run, "finished")


@dataclass(frozen=True)
class Work:
    """What the engine is given.

    Attributes:
        objective: with the backbone in it.
        module: the objective, or with probes around it.
        setting: of the objective.
        batches, validation: of the splits; no validation without such a split.
        training: settings, with no more validation records than there are.
    """

    objective: Objective
    module: nn.Module
    setting: Setting
    batches: ObjectiveBatches
    validation: ObjectiveBatches | None
    training: TrainingConfig

    @classmethod
    def of(cls, data: TokenCorpora, start: Beginning, training: TrainingConfig) -> Work:
        """Objective and batches for what a training starts from.

        Raises:
            HepfmError: the corpora do not have what these need.
        """
        task, continuous = start.task, start.continuous
        setting = Setting(task, start.max_length, training.seed, continuous.statistics if continuous else None)
        torch.manual_seed(key_of("objective", training.seed))
        objective = objective_class(task.objective)(start.backbone, setting)
        features = continuous.of_splits if continuous else None
        told, several = start.backbone.config.conditions, start.backbone.config.streams
        tokens = data.batches(
            "train", start.max_length, training.seed, bool(task.probe), features, told, start.dropout, several
        )
        classes = tokens.reader.labels if task.probe else ()
        module: nn.Module = objective
        if task.probe:
            if len(classes) < 2:
                raise HepfmError(
                    f"has {len(classes)} classes, a probe needs two", data.corpora[0].path, "leave --probe out"
                )
            width = start.backbone.config.transformer.width
            probes = Probes(task.probe, width, len(classes), task.probe_learning_rate, training.seed)
            module = Probed(objective, probes, task.probe_every)
        batches = ObjectiveBatches(tokens, objective, setting, classes, training.batch_records)
        if not any("val" in corpus.splits() for corpus in data.corpora):
            return cls(objective, module, setting, batches, None, training)
        # A mixture's weights do not apply here, see hepfm.ingest.mixture.
        kept_back = data.batches("val", start.max_length, 0, bool(task.probe), features, told, streams=several)
        records = min(training.validation_records, kept_back.reader.order.epoch_records(0))
        validation = ObjectiveBatches(kept_back, objective, setting, classes, training.batch_records)
        training = dataclasses.replace(training, validation_records=records)
        return cls(objective, module, setting, batches, validation, training)

    def lengths(self, data: TokenCorpora) -> dict[str, float]:
        """Statistics of constituents per jet, terms of the loss in an epoch, and what a term and a constituent cost."""
        counts = length_counts(data.batches("train", self.setting.max_length, 0).reader)
        statistics = length_statistics(counts, self.setting.max_length)
        lengths = np.arange(len(counts))
        terms = float((counts * self.objective.terms(lengths, self.setting)).sum())
        if not terms:
            raise HepfmError(
                f"no record has two points, so {self.setting.config.objective} has nothing to mask",
                ", ".join(str(corpus.path) for corpus in data.corpora),
                "take --objective next-token",
            )
        flops = float((counts * self.objective.flops(lengths)).sum())
        kept = float((counts * np.minimum(lengths, self.setting.max_length)).sum())
        per = {"flops_per_token": flops / terms, "flops_per_constituent": flops / max(kept, 1)}
        return {**statistics, "terms": round(terms), **per}


def _identity(data: TokenCorpora, start: Beginning) -> dict[str, Any]:
    """What has to be the same for a run to be continued, as JSON gives it back (no tuples)."""
    return {
        "objective": to_dict(start.task),
        "architecture": to_dict(start.backbone.config),
        "corpora": data.digests,
        "sources": [source.digest for source in start.continuous.sources] if start.continuous else [],
        "tokenizer": [tokenizer.hash for tokenizer in data.tokenizers],
        "max_length": start.max_length,
        "condition_dropout": start.dropout,
        "parent": start.parent,
    }


def _announce(work: Work, lengths: dict[str, float], training: TrainingConfig, kind: str) -> None:
    if not launch.is_main():
        return
    backbone, task = work.objective.backbone, work.setting.config
    beside = sum(parameter.numel() for parameter in work.objective.parameters()) - backbone.parameters_count
    added = f"; {beside:,} parameters beside it in the objective" if beside else ""
    say(f"backbone: {backbone.parameters_count:,} parameters, {ids_of(backbone.config)}{added}")
    masks, each = "", ""
    if task.mask_fraction:
        masks = f", {task.mask_fraction:.0%} masked"
        each = f", {lengths['flops_per_constituent'] / 1e6:,.1f} per constituent"
    say(
        f"objective: {task.objective}, reads {task.input}, predicts {task.target}{masks}; "
        f"{lengths['flops_per_token'] / 1e6:,.1f} MFLOP per token of the loss{each} "
        "(forward and backward: 6 N tokens + 12 blocks width tokens^2)"
    )
    epochs = training.steps * training.batch_records / lengths["jets"]
    named = {"jets": ("constituents", "softest"), "showers": ("hits", "last")}
    records, (points, last) = kind, named.get(kind, ("points", "last"))
    say(
        f"data: {lengths['jets']:,} {records}, {lengths['mean']:.1f} {points} on average, at most "
        f"{lengths['longest']}; {training.steps:,} steps are {epochs:.2g} epochs"
    )
    if lengths["cut_jets"]:
        say(
            f"cut: {lengths['cut_jets']:,} {records} have more than --max-length {points}; their {last} "
            f"{lengths['cut_constituents']:,} are left out, and these {records} have no stop"
        )


def _write(
    run: RunFolder,
    start: Beginning,
    data: TokenCorpora,
    config: Any,
    lengths: dict[str, float],
    figures: dict[str, float],
) -> None:
    backbone = start.backbone
    own = data.data_sets()
    names = {entry["name"] for entry in own}
    earlier = [entry for entry in start.data_sets if entry["name"] not in names]
    metrics = {
        **figures,
        "steps": config.training.steps,
        "parameters": backbone.parameters_count,
        "flops_per_token": lengths["flops_per_token"],
    }
    provenance = {
        "command": config.command,
        "config": settings_of(config, without=("tokens", "source", "backbone", "out", "nproc", "gpus")),
        "objective": to_dict(start.task),
        "sources": [source.digest for source in start.continuous.sources] if start.continuous else [],
        "corpora": [{"digest": corpus.digest, "records": corpus.split("train").records} for corpus in data.corpora],
        "mixture": data.mixture.summary() if data.mixture else None,
        "tokenizer": data.tokenizer.hash,
        "tokenizers": [tokenizer.hash for tokenizer in data.tokenizers],
        "conditions": [to_dict(known) for known in backbone.config.conditions],
        "max_length": start.max_length,
        "records": data.kind,
        "lengths": lengths,
        "parent": start.parent,
    }
    save_backbone(
        run.artifact,
        backbone.cpu(),
        contract={
            **data.tokenizer.contract,
            "codes": data.codes,
            "max_length": start.max_length,
            "data_sets": [*own, *earlier],
        },
        provenance=provenance,
        metrics=metrics,
        card=card(backbone, provenance, metrics),
        tokenizer=data.tokenizer.path,
        further=[tokenizer.path for tokenizer in data.tokenizers[1:]],
        sample=start.sample,
    )


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
