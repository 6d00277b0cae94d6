"""Masked particle modelling as in MPM v2 (Leigh et al., arXiv:2409.12589): the encoder sees what is not masked, only.

The encoder reads the visible constituents and registers, as a set. A smaller decoder reads what it gives, and a null
token for each masked constituent; these are distinct only in their order among the masked ones of the jet.
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
from hepfm.pretrain.masking import Gaps, View, draw_masks, masked_counts, moved
from hepfm.pretrain.objectives import (
    Objective,
    ObjectiveConfig,
    Setting,
    constituents_of,
    network_flops,
    set_transformer,
)
from hepfm.pretrain.targets import RegressionTarget, TokenTarget


@dataclass(frozen=True)
class Jets:
    """Constituents of jets, and which of them an encoder and a decoder read.

    Attributes:
        codes: (C,) int64, tokens of all constituents.
        features: (C, F) float32, if they are used.
        view: what the encoder reads.
        gaps: what is masked; None where nothing is.
    """

    codes: Tensor
    features: Tensor | None
    view: View
    gaps: Gaps | None = None

    def to(self, device: torch.device | str) -> Jets:
        """The same on another device."""
        return moved(self, device)


def whole_jets(batch: TokenBatch, config: BackboneConfig) -> Jets:
    """All constituents of a batch for :meth:`Backbone.encode`."""
    codes, lengths = constituents_of(batch, config.codes + 1)
    return Jets(codes, batch.features, View.of(lengths, config.registers))


def masked_jets(batch: TokenBatch, config: BackboneConfig, setting: Setting) -> Jets:
    """The constituents of a batch with some masked: those are not in the view."""
    codes, lengths = constituents_of(batch, config.codes + 1)
    hidden = drawn(batch, lengths, setting)
    gaps = Gaps.of(lengths, config.registers, hidden)
    return Jets(codes, batch.features, View.of(lengths, config.registers, hidden), gaps)


def drawn(batch: TokenBatch, lengths: np.ndarray, setting: Setting) -> np.ndarray:
    """Which constituents (C,) of a batch are masked."""
    assert batch.keys is not None
    assert setting.config.mask_fraction is not None
    return draw_masks(lengths, batch.keys, setting.config.mask_fraction, setting.seed)


def masked_terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
    """Masked constituents (n,) of jets with so many, of which the leading ``max_length`` are kept."""
    assert setting.config.mask_fraction is not None
    return masked_counts(np.minimum(lengths, setting.max_length), setting.config.mask_fraction)


def target_of(setting: Setting, width: int, codes: int) -> TokenTarget | RegressionTarget:
    """What the settings ask to predict, from features of this width."""
    if setting.config.target == "tokens":
        return TokenTarget(width, codes)
    assert setting.statistics is not None
    return RegressionTarget(width, setting.statistics)


class Decoder(nn.Module):
    """Null tokens behind the encoder's output, and what is predicted from them.

    It is half as wide as the encoder, with half its heads and half its blocks.
    """

    def __init__(self, encoder: TransformerConfig, codes: int, setting: Setting) -> None:
        super().__init__()
        heads = max(1, encoder.heads // 2)
        blocks = -(-encoder.blocks // 2)
        width = heads * encoder.channels
        self.config = replace(encoder, width=width, heads=heads, blocks=blocks, positions="none", causal=False)
        self.project = nn.Linear(encoder.width, width, bias=False)
        self.order = nn.Embedding(setting.max_length, width)
        self.null = nn.Parameter(INITIAL_STD * torch.randn(width))
        self.transformer = Transformer(self.config)
        self.transformer.initialise(INITIAL_STD)
        for layer in (self.project, self.order):
            nn.init.normal_(layer.weight, std=INITIAL_STD)
        self.target = target_of(setting, width, codes)

    def forward(self, encoded: Tensor, jets: Jets) -> Tensor:
        """Loss summed over the masked constituents of jets that were encoded (T, width)."""
        assert jets.gaps is not None
        gaps = jets.gaps
        known = self.project(encoded)
        empty = (self.null + self.order(gaps.rank)).to(known.dtype)
        decoded = self.transformer(torch.cat([known, empty])[gaps.index], gaps.layout)[gaps.queries]
        return self.target(
            decoded, jets.codes[gaps.which], None if jets.features is None else jets.features[gaps.which]
        )

    def flops(self, encoded: np.ndarray, masked: np.ndarray) -> np.ndarray:
        """FLOPs (n,) of jets with so many encoded tokens and masked constituents."""
        blocks = network_flops(self.config, products_of(self.transformer), encoded + masked)
        return blocks + 6.0 * (self.project.weight.numel() * encoded + self.target.products * masked)


def encoder_flops(backbone: Backbone, constituents: np.ndarray) -> np.ndarray:
    """FLOPs (n,) of encoding so many constituents and the registers of a jet."""
    config = backbone.config
    blocks = network_flops(config.transformer, products_of(backbone.transformer), constituents + config.registers)
    return blocks + 6.0 * config.features * config.transformer.width * constituents


class MaskedParticles(Objective):
    """The loss of masked constituents, given the others."""

    reads = ("features", "tokens")
    targets = ("tokens", "regression")
    mask_fraction = 0.4

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__()
        self.backbone, self.setting = backbone, setting
        self.decoder = Decoder(backbone.config.transformer, backbone.config.codes, setting)

    @classmethod
    def backbone_config(cls, preset: BackboneConfig, config: ObjectiveConfig, columns: int) -> BackboneConfig:
        return set_transformer(preset, config, columns, causal=False)

    @staticmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """One for each masked constituent."""
        return masked_terms(lengths, setting)

    def prepare(self, batch: TokenBatch) -> Jets:
        return masked_jets(batch, self.backbone.config, self.setting)

    def whole(self, batch: TokenBatch) -> Jets:
        return whole_jets(batch, self.backbone.config)

    def forward(self, jets: Jets) -> Losses:
        return Losses(self.decoder(self.backbone.encode(jets.view, jets.codes, jets.features), jets), {})

    def represent(self, whole: Jets) -> tuple[Tensor, Layout]:
        return self.backbone.encode(whole.view, whole.codes, whole.features), whole.view.layout

    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Encoder on visible constituents and registers, decoder on these and the masked ones."""
        lengths = np.minimum(lengths, self.setting.max_length)
        masked = masked_terms(lengths, self.setting)
        visible = lengths - masked
        return encoder_flops(self.backbone, visible) + self.decoder.flops(
            visible + self.backbone.config.registers, masked
        )
