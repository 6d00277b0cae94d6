"""``hepfm tokenizer fit``: a VQ-VAE tokenizer from a corpus of jets."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from hepfm.core.config import settings_of, to_dict
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.engine.train import train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.card import card
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PointBatches
from hepfm.tokenize.network import VQVAE, VQVAEConfig
from hepfm.tokenize.objective import LossConfig, Objective
from hepfm.tokenize.quality import measure
from hepfm.tokenize.vqvae import VQVAETokenizer

FREE = FREE_SETTINGS | {"nproc"}
EXAMPLES = 16
COLLAPSED = 0.5


@dataclass(frozen=True)
class TokenizerFitConfig:
    """Fit a tokenizer to a corpus. Run again after an interruption, it continues to the same weights."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Corpus of jets; the tokenizer learns from its train split."""
    out: Path
    """Folder of the run."""
    network: VQVAEConfig = field(default_factory=VQVAEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=1000,
            batch_records=128,
            learning_rate=2e-3,
            warmup_steps=50,
            betas=(0.9, 0.99),
            min_learning_rate_fraction=0.05,
            checkpoint_every=250,
            validate_every=250,
        )
    )


def main(config: TokenizerFitConfig) -> None:
    """Fit, measure, and write the artifact."""
    launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        _done(run, "is finished already")
        return
    corpus = Corpus.open(config.corpus)
    contract = FeatureContract().fitted(corpus.manifest, corpus.path)
    _check(config, corpus, contract)
    launch.setup()
    launch.on_main(lambda: run.claim(config, FREE))
    torch.manual_seed(key_of("weights", config.training.seed))
    network = VQVAE(config.network, len(contract.features), synchronised=launch.world() > 1)
    validation, training = _validation(corpus, contract, config.training)
    figures = train(
        Objective(network, contract, config.loss),
        PointBatches(corpus.split("train"), contract, training.seed),
        validation,
        training,
        run,
        _identity(config, corpus),
    )
    if launch.is_main():
        _write(run, VQVAETokenizer(network, contract), corpus, config, figures)
        _done(run, "finished")


def _check(config: TokenizerFitConfig, corpus: Corpus, contract: FeatureContract) -> None:
    config.network.check(len(contract.features))
    points = corpus.split("train").points
    if config.network.codes > points:
        raise HepfmError(
            f"{config.network.codes:,} codes are more than the {points:,} points of the train split",
            corpus.path,
            "take fewer --codes, or a larger corpus",
        )


def _validation(
    corpus: Corpus, contract: FeatureContract, training: TrainingConfig
) -> tuple[PointBatches | None, TrainingConfig]:
    """Validation batches (None without such a split), and the settings with no more records than there are."""
    if "val" not in corpus.splits():
        return None, training
    batches = PointBatches(corpus.split("val"), contract, 0)
    records = min(training.validation_records, batches.reader.records)
    return batches, dataclasses.replace(training, validation_records=records)


def _identity(config: TokenizerFitConfig, corpus: Corpus) -> dict[str, Any]:
    """What has to be the same for a run to be continued."""
    return {
        "objective": "vqvae",
        "architecture": to_dict(config.network),
        "loss": to_dict(config.loss),
        "corpus": corpus.digest,
    }


def _write(
    run: RunFolder,
    tokenizer: VQVAETokenizer,
    corpus: Corpus,
    config: TokenizerFitConfig,
    figures: dict[str, float],
) -> None:
    split = corpus.split("val" if "val" in corpus.splits() else "train")
    quality = measure(tokenizer, split)
    if quality["codebook_use"] < COLLAPSED:
        say(
            f"warning: only {quality['codebook_use']:.0%} of {tokenizer.codes:,} codes are used, the codebook "
            "collapsed: fit longer (--steps), with a lower --learning-rate, or fewer --codes"
        )
    metrics = {**figures, **quality, "measured_on": split.name}
    provenance = {
        "config": settings_of(config, without=("corpus", "out", "nproc")),
        "corpus": {"digest": corpus.digest, "records": corpus.split("train").records},
    }
    tokenizer.save(
        run.artifact,
        examples=corpus.split("train").read(0).slice(0, EXAMPLES),
        provenance=provenance,
        metrics=metrics,
        card=card(tokenizer, provenance, metrics),
    )
    say(
        f"on {split.name}: {quality['codebook_use']:.1%} of {tokenizer.codes:,} codes used "
        f"(perplexity {quality['codebook_perplexity']:.0f}), jet mass W1 {quality['jet_mass_w1_gev']:.2f} GeV, "
        f"residual {quality['jet_mass_residual_gev']:.2f} GeV"
    )


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
