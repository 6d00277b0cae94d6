"""``hepfm pretrain``: a backbone from scratch on token corpora; and the recipe that all backbone training shares."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from hepfm.core.config import settings_of
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.engine.train import train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.pretrain.backbone import Backbone, save_backbone
from hepfm.pretrain.card import card
from hepfm.pretrain.data import TokenBatches, TokenCorpora, length_counts, length_statistics
from hepfm.pretrain.next_token import NextToken
from hepfm.pretrain.presets import PresetName, preset

FREE = FREE_SETTINGS | {"nproc", "gpus"}


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a backbone on token corpora. Run again after an interruption, it continues to the same weights.

    ``hepfm pretrain --plan`` tells beforehand what it will need and take (--help there too).
    """

    tokens: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")]
    """Token corpora, all of one tokenizer; several are mixed as one set. Or one mixture (hepfm corpus mix)."""
    out: Path
    """Folder of the run."""
    model: PresetName = "tiny"
    """Size of the backbone: 1M (tiny), 6.6M (omnijet-alpha), 25M, 110M, 350M, 1.3G parameters."""
    max_length: int = 128
    """Constituents that are kept of a jet, the leading ones; how many jets this cuts is counted and told."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    gpus: int = 0
    """GPUs that each machine must have; 0: train on what there is, be it the CPU."""
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class Beginning:
    """What a training starts from.

    Attributes:
        backbone: the network.
        max_length: constituents that are kept of a jet.
        parent: hash of the backbone artifact that it continues, if any.
    """

    backbone: Backbone
    max_length: int
    parent: str = ""


def main(config: PretrainConfig) -> None:
    """Pretrain and write the artifact."""

    def begin(data: TokenCorpora) -> Beginning:
        torch.manual_seed(key_of("weights", config.training.seed))
        return Beginning(Backbone(preset(config.model, data.codes)), config.max_length)

    if config.max_length < 1:
        raise HepfmError(f"must be at least 1, is {config.max_length}", "--max-length")
    run_training(config, begin)


def run_training(config: Any, begin: Callable[[TokenCorpora], Beginning]) -> None:
    """Train a backbone as a command was told: claim the run's folder, train or continue, write the artifact.

    Args:
        config: the command's settings, with ``tokens``, ``out``, ``nproc`` and ``training``.
        begin: what to start from, given the data.
    """
    launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        _done(run, "is finished already")
        return
    data = TokenCorpora.open(config.tokens)
    start = begin(data)
    launch.setup({"settings": settings_of(config, without=("nproc", "gpus"))}, getattr(config, "gpus", 0))
    launch.on_main(lambda: run.claim(config, FREE))
    lengths = launch.on_main(lambda: _lengths(data, start.max_length))
    _announce(start.backbone, lengths, config.training)
    validation, training = _validation(data, start.max_length, config.training)
    figures = train(
        NextToken(start.backbone),
        data.batches("train", start.max_length, training.seed),
        validation,
        training,
        run,
        _identity(data, start),
        start.backbone.flops_per_token(lengths["mean_sequence"]),
    )
    if launch.is_main():
        _write(run, start, data, config, lengths, figures)
        _done(run, "finished")


def _identity(data: TokenCorpora, start: Beginning) -> dict[str, Any]:
    """What has to be the same for a run to be continued."""
    return {
        "objective": "next token",
        "architecture": asdict(start.backbone.config),
        "corpora": data.digests,
        "tokenizer": data.tokenizer.hash,
        "max_length": start.max_length,
        "parent": start.parent,
    }


def _lengths(data: TokenCorpora, max_length: int) -> dict[str, float]:
    return length_statistics(length_counts(data.batches("train", max_length, 0).reader), max_length)


def _validation(
    data: TokenCorpora, max_length: int, training: TrainingConfig
) -> tuple[TokenBatches | None, TrainingConfig]:
    """Validation batches (None without such a split), and the settings with no more records than there are.

    A mixture's weights do not apply to them, see :mod:`hepfm.ingest.mixture`.
    """
    if not any("val" in corpus.splits() for corpus in data.corpora):
        return None, training
    batches = data.batches("val", max_length, 0)
    records = min(training.validation_records, batches.reader.order.epoch_records(0))
    return batches, dataclasses.replace(training, validation_records=records)


def _announce(backbone: Backbone, lengths: dict[str, float], training: TrainingConfig) -> None:
    if not launch.is_main():
        return
    flops = backbone.flops_per_token(lengths["mean_sequence"])
    epochs = training.steps * training.batch_records / lengths["jets"]
    say(
        f"backbone: {backbone.parameters_count:,} parameters, {backbone.config.codes:,} codes, "
        f"{flops / 1e6:,.1f} MFLOP per token (forward and backward)"
    )
    say(
        f"data: {lengths['jets']:,} jets, {lengths['mean']:.1f} constituents on average, at most "
        f"{lengths['longest']}; {training.steps:,} steps are {epochs:.2g} epochs"
    )
    if lengths["cut_jets"]:
        say(
            f"cut: {lengths['cut_jets']:,} jets have more than --max-length constituents; their softest "
            f"{lengths['cut_constituents']:,} are left out, and these jets have no stop"
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
    metrics = {
        **figures,
        "steps": config.training.steps,
        "parameters": backbone.parameters_count,
        "flops_per_token": backbone.flops_per_token(lengths["mean_sequence"]),
    }
    provenance = {
        "config": settings_of(config, without=("tokens", "backbone", "out", "nproc", "gpus")),
        "corpora": [{"digest": corpus.digest, "records": corpus.split("train").records} for corpus in data.corpora],
        "mixture": data.mixture.summary() if data.mixture else None,
        "tokenizer": data.tokenizer.hash,
        "max_length": start.max_length,
        "lengths": lengths,
        "parent": start.parent,
    }
    save_backbone(
        run.artifact,
        backbone.cpu(),
        contract={**data.tokenizer.contract, "codes": data.codes, "max_length": start.max_length},
        provenance=provenance,
        metrics=metrics,
        card=card(backbone, provenance, metrics),
        tokenizer=data.tokenizer.path,
    )


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
