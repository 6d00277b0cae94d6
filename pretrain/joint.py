"""Next token and masked constituents at once (Birk et al., arXiv:2512.04149): one transformer, read in two ways.

A causal pass over [start, c1, ..., cn] predicts each next token; a bidirectional pass over the visible constituents and
registers, with the decoder of :mod:`hepfm.pretrain.masked`, predicts the masked ones. A next token has weight 1, a
masked constituent ``masked_weight``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hepfm.core.engine.batches import Losses
from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.backbone import Backbone, BackboneConfig, products_of
from hepfm.pretrain.data import TokenBatch, terms
from hepfm.pretrain.masked import Decoder, Jets, encoder_flops, masked_jets, masked_terms, whole_jets
from hepfm.pretrain.masking import moved
from hepfm.pretrain.objectives import (
    Objective,
    ObjectiveConfig,
    Setting,
    constituents_of,
    network_flops,
    set_transformer,
)


@dataclass(frozen=True)
class JointBatch:
    """The same jets for both passes.

    Attributes:
        tokens: for the causal pass.
        index: (T,) int64 into [begin, constituents]: what is read in place of each input token.
        jets: for the bidirectional pass.
    """

    tokens: TokenBatch
    index: Tensor
    jets: Jets

    def to(self, device: torch.device | str) -> JointBatch:
        """The same on another device."""
        return moved(self, device)


class Joint(Objective):
    """Cross entropy of next tokens, and the weighted loss of masked constituents."""

    reads = ("features", "tokens")
    targets = ("tokens", "regression")
    mask_fraction = 0.4

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__()
        self.backbone, self.setting = backbone, setting
        self.decoder = Decoder(backbone.config.transformer, backbone.config.codes, setting)

    @classmethod
    def backbone_config(cls, preset: BackboneConfig, config: ObjectiveConfig, columns: int) -> BackboneConfig:
        return set_transformer(preset, config, columns)

    @staticmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """One for each next token and one for each masked constituent, whatever their weights."""
        return terms(lengths, setting.max_length) + masked_terms(lengths, setting)

    def prepare(self, batch: TokenBatch) -> JointBatch:
        _, lengths = constituents_of(batch, self.backbone.stop)
        counts = np.diff(batch.layout.offsets.numpy())
        first = np.repeat(np.cumsum(lengths) - lengths, counts)  # of the constituents of each token's jet
        position = batch.layout.positions
        index = torch.where(position == 0, 0, position + torch.from_numpy(first))
        return JointBatch(batch, index, masked_jets(batch, self.backbone.config, self.setting))

    def whole(self, batch: TokenBatch) -> Jets:
        return whole_jets(batch, self.backbone.config)

    def forward(self, batch: JointBatch) -> Losses:
        backbone, jets, tokens = self.backbone, batch.jets, batch.tokens
        following = backbone.head(self._causal(batch), tokens.targets)
        masked = self.decoder(backbone.encode(jets.view, jets.codes, jets.features), jets)
        assert jets.gaps is not None
        figures = {
            "next_token_loss": _pair(following, len(tokens.targets)),
            "masked_loss": _pair(masked, len(jets.gaps.which)),
        }
        return Losses(following + self.setting.config.masked_weight * masked, figures)

    def _causal(self, batch: JointBatch) -> Tensor:
        """Features (T, width) before each next token."""
        tokens = batch.tokens
        if not self.backbone.config.features:
            return self.backbone.hidden(tokens.inputs, tokens.layout, tokens.conditions)
        seen = self.backbone.embed(batch.jets.codes, tokens.features)
        # Not [index]: all jets share the first row, and threads would add their gradients in any order.
        read = torch.cat([self.backbone.begin.to(seen.dtype), seen]).index_select(0, batch.index)
        return self.backbone.read(read, tokens.layout, tokens.conditions)

    def represent(self, whole: Jets) -> tuple[Tensor, Layout]:
        return self.backbone.encode(whole.view, whole.codes, whole.features), whole.view.layout

    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Both passes."""
        config, backbone = self.backbone.config, self.backbone
        kept = np.minimum(lengths, self.setting.max_length)
        products = products_of(backbone.transformer) + backbone.head.weight.numel()
        causal = network_flops(config.transformer, products, terms(lengths, self.setting.max_length))
        causal = causal + 6.0 * config.features * config.transformer.width * kept
        masked = masked_terms(lengths, self.setting)
        encoded = kept - masked
        return causal + encoder_flops(backbone, encoded) + self.decoder.flops(encoded + config.registers, masked)


def _pair(total: Tensor, count: int) -> Tensor:
    """A figure with a count of its own."""
    return torch.stack([total.detach().float(), total.new_tensor(count, dtype=torch.float32)])
