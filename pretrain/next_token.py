"""Next-token prediction: how surprised is the backbone by each token, given those before it?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hepfm.core.engine.batches import Losses
from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.backbone import Backbone, products_of
from hepfm.pretrain.data import TokenBatch, terms
from hepfm.pretrain.objectives import Objective, Setting, network_flops


class NextToken(Objective):
    """The cross entropy of the next token [nats], summed over all real tokens."""

    reads = ("tokens",)

    def __init__(self, backbone: Backbone, setting: Setting | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.max_length = setting.max_length if setting else None
        if backbone.config.registers:  # of a joint backbone that goes on with this alone, where nothing reads them
            backbone.registers.requires_grad_(False)

    @staticmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """One for each constituent that is kept and one for the stop; see :func:`hepfm.pretrain.data.terms`."""
        return terms(lengths, setting.max_length)

    def prepare(self, batch: TokenBatch) -> TokenBatch:
        return batch

    def whole(self, batch: TokenBatch) -> TokenBatch:
        return batch

    def forward(self, batch: TokenBatch) -> Losses:
        return Losses(self.backbone.loss(batch.inputs, batch.targets, batch.layout, batch.conditions), {})

    def represent(self, whole: TokenBatch) -> tuple[Tensor, Layout]:
        return self.backbone.hidden(whole.inputs, whole.layout), whole.layout

    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Blocks and head see the start token and all constituents but the last one (which a stop follows: all)."""
        tokens = lengths + 1 if self.max_length is None else terms(lengths, self.max_length)
        products = products_of(self.backbone.transformer) + self.backbone.head_products
        return network_flops(self.backbone.config.transformer, products, tokens)
