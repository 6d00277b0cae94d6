"""The next-token loss: real tokens only, in nats, and it can be learnt."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.next_token import NextToken

CONFIG = BackboneConfig(codes=20, transformer=TransformerConfig(width=32, blocks=2, heads=4))


def test_is_the_sum_over_jets_taken_one_by_one(token_corpus: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    objective = NextToken(Backbone(CONFIG)).double()
    batch = TokenCorpora.open([token_corpus()]).batches("train", 8, 0).batch(0, 12)
    together = objective(batch).total
    offsets = batch.layout.offsets.tolist()
    alone = torch.zeros((), dtype=torch.float64)
    for first, last in pairwise(offsets):
        logits = objective.backbone(batch.inputs[first:last], Layout.of(np.array([last - first])))
        alone -= logits.log_softmax(-1).gather(1, batch.targets[first:last, None]).sum()
    torch.testing.assert_close(together, alone)


def test_gradients_do_not_depend_on_how_a_batch_is_split(token_corpus: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    objective = NextToken(Backbone(CONFIG)).double()
    batches = TokenCorpora.open([token_corpus()]).batches("train", 128, 0)
    whole = torch.autograd.grad(objective(batches.batch(0, 20)).total, list(objective.parameters()))
    parts = [objective(batches.batch(first, last)).total for first, last in ((0, 3), (3, 20))]
    split = torch.autograd.grad(sum(parts, torch.zeros(())), list(objective.parameters()))
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other)


def test_learns_what_can_be_learnt(token_corpus: Callable[..., Path]) -> None:
    """Each code but the first is one of two: the loss falls far below the ln 21 of guessing."""
    torch.manual_seed(0)
    objective = NextToken(Backbone(CONFIG))
    batches = TokenCorpora.open([token_corpus()]).batches("train", 128, 0)
    optimiser = torch.optim.AdamW(objective.parameters(), 3e-3)
    for step in range(60):
        optimiser.zero_grad()
        loss = objective(batches.batch(64 * step, 64 * step + 64)).total / batches.tokens(64 * step, 64 * step + 64)
        loss.backward()
        optimiser.step()
    assert loss.item() < 1.5 < np.log(21)
