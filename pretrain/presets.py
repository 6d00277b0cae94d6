"""Backbones by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import BackboneConfig

PresetName = Literal["omnijet-alpha", "tiny", "small", "base", "large", "xl"]


@dataclass(frozen=True)
class Preset:
    """A backbone up to the number of codes."""

    transformer: TransformerConfig
    head_bias: bool = False


# Parameters with 8,192 codes (tiny: 512): 6.57 M (omnijet-alpha), 0.94 M (tiny), 25.8 M, 112 M, 343 M, 1.29 G (xl).
PRESETS: dict[PresetName, Preset] = {
    # Birk, Hallin, Kasieczka, arXiv:2403.05618: post-norm, no positions, no bias for queries, keys and values.
    "omnijet-alpha": Preset(
        TransformerConfig(
            width=256,
            blocks=3,
            heads=8,
            mlp="relu",
            mlp_ratio=4.0,
            norm="layernorm",
            norm_position="post",
            final_norm=False,
            positions="none",
            bias=True,
        ),
        head_bias=True,
    ),
    "tiny": Preset(TransformerConfig(width=128, blocks=4, heads=4)),
    "small": Preset(TransformerConfig(width=384, blocks=11, heads=6)),
    "base": Preset(TransformerConfig(width=768, blocks=14, heads=12)),
    "large": Preset(TransformerConfig(width=1024, blocks=26, heads=16)),
    "xl": Preset(TransformerConfig(width=2048, blocks=25, heads=16)),
}


def preset(name: PresetName, codes: int) -> BackboneConfig:
    """The backbone called ``name`` for a tokenizer of ``codes`` codes."""
    found = PRESETS[name]
    return BackboneConfig(codes=codes, transformer=found.transformer, head_bias=found.head_bias)
