"""Fitting a VQ-VAE tokenizer: a training run that continues after any interruption."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from hepfm.core.config import to_dict
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.train import check, train
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PointBatches
from hepfm.tokenize.feature_sets import contract_for
from hepfm.tokenize.fitting import FitConfig, check_codes, claim
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.objective import LossConfig, Objective
from hepfm.tokenize.settings import VQVAEConfig


@dataclass(frozen=True)
class TokenizerFitConfig(FitConfig):
    """Fit a tokenizer to a corpus: a VQ-VAE. Run again after an interruption, it continues to the same weights."""

    network: VQVAEConfig = field(default_factory=VQVAEConfig)
    conditions: tuple[str, ...] = ()
    """What decoding is told of each record: columns of the corpus (jets: pt, eta, mass; showers: incident_energy)."""
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

    def contract(self, corpus: Corpus) -> FeatureContract:
        return contract_for(self.features, corpus.manifest, corpus.path, self.conditions)


def fit_network(
    config: TokenizerFitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder
) -> tuple[VQVAE, dict[str, float]]:
    """A trained network and the last figures of its training.

    Raises:
        HepfmError: settings that cannot work, or more codes than points.
    """
    config.network.check(contract.width)
    config.loss.check()
    check_codes(max(config.network.streams), corpus, "--levels" if config.network.quantizer == "fsq" else "--codes")
    launch.setup()
    torch.manual_seed(key_of("weights", config.training.seed))
    split = corpus.split("train")
    points = config.training.batch_records * split.points / split.records
    sizes = config.network.resolved(contract.width, points)
    network = VQVAE(sizes, contract.width, len(contract.conditions), synchronised=launch.world() > 1)
    validation, training = _validation(corpus, contract, config.training)
    objective = Objective(network, contract, config.loss)
    check(objective, validation, training)
    claim(run, config)
    batches = PointBatches(split, contract, training.seed)
    network.start(batches.batch(0, min(training.batch_records, split.records)).features)
    figures = train(
        objective,
        batches,
        validation,
        training,
        run,
        _identity(config, corpus),
    )
    return network, figures


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
        "features": config.features,
        "conditions": list(config.conditions),
        "corpus": corpus.digest,
    }
