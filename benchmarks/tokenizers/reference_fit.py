"""Training the reference of the tokenizer benchmark with the data, order, updates and schedule of the default."""

from __future__ import annotations

import math

import numpy as np
import torch

from hepfm.benchmarks.tokenizers.normformer import SLOTS, NormFormerConfig, NormFormerReference, NormFormerVQ
from hepfm.core.draws import key_of
from hepfm.core.engine.batches import prefetch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.schedule import learning_rate
from hepfm.core.nn.ragged import Layout
from hepfm.core.progress import progress
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PackedPoints, PointBatches
from hepfm.tokenize.settings import VQVAEConfig

# As published: AdamW's peak rate, the largest gradient, and replacement after 10 updates of 512 jets.
LEARNING_RATE, CLIP, PATIENCE_JETS = 1e-3, 5.0, 10 * 512
BETAS = (0.9, 0.999)


def sizes_like(network: VQVAEConfig, features: int, batch_records: int) -> NormFormerConfig:
    """The reference with the codes, latent space, width, blocks and heads of a network."""
    return NormFormerConfig(
        codes=network.codes,
        latent=network.latent_for(features),
        width=network.width,
        blocks=network.blocks,
        heads=network.heads,
        patience=math.ceil(PATIENCE_JETS / batch_records),
    )


def fit_reference(
    corpus: Corpus, contract: FeatureContract, config: NormFormerConfig, training: TrainingConfig
) -> NormFormerReference:
    """The reference after as many updates as ``training`` has, on the same jets in the same order."""
    torch.manual_seed(key_of("reference weights", training.seed))
    network = NormFormerVQ(config, contract.width).train()
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, BETAS, weight_decay=training.weight_decay)
    batches = PointBatches(corpus.split("train"), contract, training.seed)
    records = training.batch_records
    jobs = (lambda at=step * records: batches.batch(at, at + records) for step in range(training.steps))
    with progress("fit the reference", training.steps, "steps") as task:
        for step, batch in enumerate(prefetch(jobs)):
            features, layout = _cut(batch)
            if step == 0:
                network.start(features, layout)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, training) * LEARNING_RATE / training.learning_rate
            losses = network.losses(features, layout)
            optimiser.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            network.replace(losses.slots, losses.ids)
            task.note(f"error {float(losses.reconstruction.detach()):.4f}")
            task.advance()
    return NormFormerReference(network, contract)


def _cut(batch: PackedPoints) -> tuple[torch.Tensor, Layout]:
    """The first SLOTS points of each record."""
    if batch.layout.longest <= SLOTS:
        return batch.features, batch.layout
    lengths = np.minimum(batch.layout.offsets.diff().numpy(), SLOTS)
    return batch.features[batch.layout.positions < SLOTS], Layout.of(lengths)
