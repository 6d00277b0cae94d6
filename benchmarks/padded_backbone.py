"""The usual way of pretraining, as a reference: sequences padded to one length, and a backbone's weights.

Whatever the network does it does in all slots: linear layers, attention (scaled dot products, causal, with a key mask)
and the cross entropy over the vocabulary. Padding is kept out of attention and of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hepfm.benchmarks.padded import LONGEST, attend_masked
from hepfm.core.engine.batches import Losses
from hepfm.core.nn.attention import HALF, Rotation
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.data import TokenBatch


@dataclass(frozen=True)
class PaddedTokens:
    """Sequences of token ids in slots.

    Attributes:
        inputs: (n * LONGEST,) int64, what is read; code 0 in padding.
        targets: (n * LONGEST,) int64, what comes next; code 0 in padding.
        real: (n * LONGEST, 1) whether there is a token, 1 or 0.
        seen: (n, 1, LONGEST, LONGEST) bool, whether a slot (third axis) sees another one (fourth).
    """

    inputs: Tensor
    targets: Tensor
    real: Tensor
    seen: Tensor

    @classmethod
    def of(cls, batch: TokenBatch) -> PaddedTokens:
        """The same sequences, none longer than LONGEST."""
        lengths = batch.layout.offsets.diff().long()
        real = torch.arange(LONGEST) < lengths[:, None]
        places = real.view(-1).nonzero()[:, 0]
        inputs, targets = (
            torch.zeros(real.numel(), dtype=ids.dtype).index_copy_(0, places, ids)
            for ids in (batch.inputs, batch.targets)
        )
        before = torch.ones(LONGEST, LONGEST, dtype=torch.bool).tril()
        return cls(inputs, targets, real.view(-1, 1).float(), before & real[:, None, None, :])

    def to(self, device: torch.device | str) -> PaddedTokens:
        """The same on another device."""
        return PaddedTokens(*(part.to(device) for part in (self.inputs, self.targets, self.real, self.seen)))


class PaddedNextToken(nn.Module):
    """Next-token prediction over slots, summed over the real ones."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: PaddedTokens) -> Losses:
        backbone = self.backbone
        transformer, width = backbone.transformer, backbone.config.transformer.width
        rotation = None
        if transformer.config.positions == "rope":
            positions = torch.arange(LONGEST, device=batch.inputs.device).repeat(len(batch.seen))
            rotation = Rotation(positions, transformer.config.channels)
        mix = partial(_attend, seen=batch.seen, rotation=rotation)
        hidden = backbone.embedding(batch.inputs)
        for block in transformer.blocks:
            hidden = block(hidden, mix)
        hidden = transformer.final_norm(hidden) * batch.real
        # What padding adds to the sum is what features of zero give: it is taken off again, its gradient as well.
        nothing = backbone.head(hidden.new_zeros(1, width), batch.targets.new_zeros(1))
        padding = len(batch.real) - batch.real.sum()
        return Losses(backbone.head(hidden, batch.targets) - padding * nothing, {})


def _attend(qkv: Tensor, seen: Tensor, rotation: Rotation | None) -> Tensor:
    # As ours: in half precision its gradient is slow on a CPU.
    exact = qkv.float() if qkv.dtype in HALF and not qkv.is_cuda else qkv
    with torch.autocast(qkv.device.type, enabled=False):
        return attend_masked(rotation(exact) if rotation else exact, seen).to(qkv.dtype)


def flop_bound(backbone: Backbone, lengths: Tensor) -> float:
    """Operations (:meth:`Backbone.flops_per_token`) of padded sequences over those of these lengths."""
    tokens = float(lengths.sum())
    real = backbone.flops_per_token(mean_length(lengths)) * tokens
    return backbone.flops_per_token(LONGEST) * LONGEST * len(lengths) / real


def mean_length(lengths: Tensor) -> float:
    """Length of a token's sequence, averaged over all tokens: what the operations of attention go by."""
    return float(lengths.double().square().sum() / lengths.sum())
