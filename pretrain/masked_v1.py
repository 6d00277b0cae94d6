"""Masked particle modelling as in MPM v1 (Golling et al., arXiv:2401.13537): a learned vector for what is masked.

The encoder reads all constituents as a set, the masked ones replaced by one vector. Only the prediction head knows the
order: it adds a learned embedding of each constituent's place in the jet (falling pt) to the encoder's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hepfm.core.engine.batches import Losses
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import Transformer, TransformerConfig
from hepfm.pretrain.backbone import INITIAL_STD, Backbone, BackboneConfig, products_of
from hepfm.pretrain.data import TokenBatch
from hepfm.pretrain.masked import Jets, drawn, encoder_flops, masked_terms, target_of, whole_jets
from hepfm.pretrain.masking import moved
from hepfm.pretrain.objectives import (
    Objective,
    ObjectiveConfig,
    Setting,
    constituents_of,
    network_flops,
    set_transformer,
)

HEAD_BLOCKS, HEAD_WIDTH = 2, 256


@dataclass(frozen=True)
class CoveredJets:
    """Whole jets, and which constituents are masked.

    Attributes:
        jets: all constituents.
        hidden: (C, 1) bool, whether each is masked.
        which: (M,) int64, the masked ones.
    """

    jets: Jets
    hidden: Tensor
    which: Tensor

    def to(self, device: torch.device | str) -> CoveredJets:
        """The same on another device."""
        return moved(self, device)


class OrderedHead(nn.Module):
    """Two blocks, 256 wide at most, over the encoder's output with the place in the jet added."""

    def __init__(self, encoder: TransformerConfig, codes: int, setting: Setting) -> None:
        super().__init__()
        heads = max(1, min(HEAD_WIDTH, encoder.width) // encoder.channels)
        width = heads * encoder.channels
        self.config = replace(encoder, width=width, heads=heads, blocks=HEAD_BLOCKS, positions="none", causal=False)
        self.place = nn.Embedding(setting.max_length, encoder.width)
        self.project = nn.Linear(encoder.width, width, bias=False)
        self.transformer = Transformer(self.config)
        self.transformer.initialise(INITIAL_STD)
        for layer in (self.project, self.place):
            nn.init.normal_(layer.weight, std=INITIAL_STD)
        self.target = target_of(setting, width, codes)

    def forward(self, encoded: Tensor, batch: CoveredJets) -> Tensor:
        """Loss summed over the masked constituents of jets that were encoded (C, width)."""
        jets, which = batch.jets, batch.which
        ordered = self.project(encoded + self.place(jets.view.layout.positions))
        found = self.transformer(ordered, jets.view.layout)[which]
        return self.target(found, jets.codes[which], None if jets.features is None else jets.features[which])

    def flops(self, lengths: np.ndarray, masked: np.ndarray) -> np.ndarray:
        """FLOPs (n,) of jets with so many constituents, so many of them masked."""
        blocks = network_flops(self.config, products_of(self.transformer), lengths)
        return blocks + 6.0 * (self.project.weight.numel() * lengths + self.target.products * masked)


class MaskedParticlesV1(Objective):
    """The loss of masked constituents, where the encoder sees that, and how many, there are."""

    reads = ("features", "tokens")
    targets = ("tokens", "regression")
    mask_fraction = 0.3

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__()
        self.backbone, self.setting = backbone, setting
        self.mask = nn.Parameter(INITIAL_STD * torch.randn(backbone.config.transformer.width))
        self.head = OrderedHead(backbone.config.transformer, backbone.config.codes, setting)

    @classmethod
    def backbone_config(cls, preset: BackboneConfig, config: ObjectiveConfig, columns: int) -> BackboneConfig:
        return set_transformer(preset, replace(config, registers=0), columns, causal=False)

    @staticmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """One for each masked constituent."""
        return masked_terms(lengths, setting)

    def prepare(self, batch: TokenBatch) -> CoveredJets:
        _, lengths = constituents_of(batch, self.backbone.stop)
        hidden = torch.from_numpy(drawn(batch, lengths, self.setting))
        return CoveredJets(self.whole(batch), hidden[:, None], torch.nonzero(hidden)[:, 0])

    def whole(self, batch: TokenBatch) -> Jets:
        return whole_jets(batch, self.backbone.config)

    def forward(self, batch: CoveredJets) -> Losses:
        jets = batch.jets
        seen = self.backbone.embed(jets.codes, jets.features)
        covered = torch.where(batch.hidden, self.mask.to(seen.dtype), seen)
        encoded = self.backbone.transformer(covered, jets.view.layout)
        return Losses(self.head(encoded, batch), {})

    def represent(self, whole: Jets) -> tuple[Tensor, Layout]:
        return self.backbone.encode(whole.view, whole.codes, whole.features), whole.view.layout

    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Encoder and head on all constituents."""
        lengths = np.minimum(lengths, self.setting.max_length)
        return encoder_flops(self.backbone, lengths) + self.head.flops(lengths, masked_terms(lengths, self.setting))
