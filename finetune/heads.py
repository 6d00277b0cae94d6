"""Heads: what a task puts on the features of a pretrained backbone. A new one is one class and one line in HEADS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.nn.ragged import Layout
from hepfm.finetune.particle_transformer import Block, ParticleTransformerConfig

HeadName = Literal["class-attention", "pool", "linear"]
ATTENTION_WIDTH, ATTENTION_BLOCKS, ATTENTION_HEADS = 128, 2, 8
TYPICAL_LENGTH = 40.0  # tokens: what a sum over a record's tokens is divided by


class Head(nn.Module, ABC):
    """Features (T, width) of a record's tokens to outputs (n, k), by way of one vector a record.

    Attributes:
        vector_width: numbers of that vector.
        out: the last layer.
    """

    vector_width: int
    out: nn.Linear

    def __init__(self, width: int, outputs: int, vector_width: int) -> None:
        super().__init__()
        self.vector_width = vector_width
        self.out = nn.Linear(vector_width, outputs)
        nn.init.zeros_(self.out.weight)  # begins without an opinion
        nn.init.zeros_(self.out.bias)

    @abstractmethod
    def vector(self, features: Tensor, layout: Layout) -> Tensor:
        """What is before the last layer (n, vector_width)."""


class LinearHead(Head):
    """The mean over a record's tokens, then linear: a linear probe."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs, width)

    def vector(self, features: Tensor, layout: Layout) -> Tensor:
        # Without weights of its own: what is to be told apart is in the features, only their scale is set.
        return _sum(F.layer_norm(features.float(), features.shape[-1:]), layout) / _counts(layout)


class PoolHead(Head):
    """A layer for each token, mean and sum over a record's tokens, and an MLP (as OmniJet-alpha's ``summation``)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs, width)
        self.norm = nn.LayerNorm(width)
        self.each = nn.Linear(width, width)
        self.hidden = nn.Linear(2 * width, width)

    def vector(self, features: Tensor, layout: Layout) -> Tensor:
        total = _sum(F.gelu(self.each(self.norm(features.float()))).float(), layout)
        return F.gelu(self.hidden(torch.cat([total / _counts(layout), total / TYPICAL_LENGTH], 1)))


class ClassAttentionHead(Head):
    """A learned token that attends to a record's tokens in two blocks (CaiT, Touvron et al., arXiv:2103.17239; the
    blocks are Particle Transformer's), 128 wide at most."""

    def __init__(self, width: int, outputs: int) -> None:
        own = min(width, ATTENTION_WIDTH)
        heads = next(heads for heads in range(min(ATTENTION_HEADS, own), 0, -1) if own % heads == 0)
        super().__init__(width, outputs, own)
        sizes = ParticleTransformerConfig(embed=(own,), heads=heads)
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, own)
        self.token = nn.Parameter(torch.empty(own))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.blocks = nn.ModuleList(Block(sizes, 0.0) for _ in range(ATTENTION_BLOCKS))
        self.final_norm = nn.LayerNorm(own)

    def vector(self, features: Tensor, layout: Layout) -> Tensor:
        seen = self.project(self.norm(features.float()))
        token = self.token.expand(layout.sequences, -1)
        for block in self.blocks:
            assert isinstance(block, Block)
            token = block.attend_from(token, seen, layout)
        return self.final_norm(token)


HEADS: dict[HeadName, type[LinearHead] | type[PoolHead] | type[ClassAttentionHead]] = {
    "class-attention": ClassAttentionHead,
    "pool": PoolHead,
    "linear": LinearHead,
}


def _sum(values: Tensor, layout: Layout) -> Tensor:
    """Sums (n, width) over the tokens (T, width) of each record, in single precision."""
    return torch.segment_reduce(values, "sum", lengths=layout.offsets.diff().long(), axis=0)


def _counts(layout: Layout) -> Tensor:
    """Tokens (n, 1) of each record, 1 where there is none."""
    return layout.offsets.diff().clamp(min=1)[:, None]
