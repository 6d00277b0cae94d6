"""Next-token prediction: how surprised is the backbone by each token, given those before it?"""

from __future__ import annotations

from torch import nn

from hepfm.core.engine.batches import Losses
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.data import TokenBatch


class NextToken(nn.Module):
    """The cross entropy of the next token [nats], summed over all real tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: TokenBatch) -> Losses:
        return Losses(self.backbone.loss(batch.inputs, batch.targets, batch.layout, batch.conditions), {})
