"""One transformer for tokenizers and backbones: packed ragged input, options for published variants, a KV cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from hepfm.core.nn.attention import Rotation, attend
from hepfm.core.nn.cache import Cache
from hepfm.core.nn.fused import RMSNorm, swiglu
from hepfm.core.nn.ragged import Layout

Mix = Callable[[torch.Tensor], torch.Tensor]  # (T, 3, heads, d) -> (T, heads, d)

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": swiglu,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class TransformerConfig:
    """What a transformer is made of. The defaults are today's usual block.

    Attributes:
        width: channels of a token.
        blocks: number of blocks.
        heads: attention heads; ``width / heads`` channels each.
        mlp: activation; ``swiglu`` is the gated form of Shazeer, arXiv:2002.05202, eq. 6.
        mlp_ratio: hidden width of the MLP over ``width`` (for swiglu rounded to a multiple of 32).
        norm: ``rmsnorm`` (Zhang and Sennrich, arXiv:1910.07467) or ``layernorm``.
        norm_position: ``pre`` (before attention and MLP) or ``post`` (after their sums with the input).
        final_norm: whether the output is normalised.
        positions: ``rope`` (rotary) or ``none``.
        qkv_bias: whether queries, keys and values have a bias.
        bias: whether all other linear layers have one.
        dropout: share of the output of attention and MLP dropped in training.
        causal: whether a token sees only itself and those before it.
    """

    width: int = 256
    blocks: int = 4
    heads: int = 8
    mlp: Literal["swiglu", "gelu", "relu", "silu"] = "swiglu"
    mlp_ratio: float = 8 / 3
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    final_norm: bool = True
    positions: Literal["rope", "none"] = "rope"
    qkv_bias: bool = False
    bias: bool = False
    dropout: float = 0.0
    causal: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.positions == "rope" and self.channels % 2:
            raise ValueError(f"rotary positions need an even number of channels a head, not {self.channels}")

    @property
    def channels(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        hidden = self.width * self.mlp_ratio
        return max(32, 32 * round(hidden / 32)) if self.mlp == "swiglu" else round(hidden)


class Attention(nn.Module):
    """Projections around the mixing of tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        qkv = self.qkv(x).view(-1, 3, self.config.heads, self.config.channels)
        return self.out(mix(qkv).reshape(-1, self.config.width))


class MLP(nn.Module):
    """Two linear layers with an activation between them, each token by itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        self.up = nn.Linear(config.width, config.hidden * (2 if config.mlp == "swiglu" else 1), bias=config.bias)
        self.down = nn.Linear(config.hidden, config.width, bias=config.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each added to its input, with the norm before (pre) or after the sum (post)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.post = config.norm_position == "post"
        self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        self.attention, self.mlp = Attention(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        if self.post:
            x = self.attention_norm(x + self.dropout(self.attention(x, mix)))
            return self.mlp_norm(x + self.dropout(self.mlp(x)))
        x = x + self.dropout(self.attention(self.attention_norm(x), mix))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A stack of blocks over packed tokens.

    ``transformer(x, layout)`` takes the packed tokens (T, width) of any number of sequences and returns (T, width).
    ``step(x, cache)`` takes one new token of each row and gives what ``transformer`` would give for it.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.final_norm = _norm(config) if config.final_norm else nn.Identity()
        self.recompute = False  # keep only the blocks' inputs for the backward pass; set by the engine
        self.initialise()

    def initialise(self, std: float | None = None) -> None:
        """Draw new weights: normal, biases 0.

        Args:
            std: standard deviation; 1/sqrt(inputs) of each layer by default. The layers that add to the residual
                stream have 1/sqrt(2 blocks) of it (Radford et al., GPT-2, section 2.3).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                residual = name.endswith(("attention.out", "mlp.down"))
                scale = 1 / math.sqrt(2 * self.config.blocks) if residual else 1.0
                nn.init.normal_(module.weight, std=scale * (std or module.in_features**-0.5))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor, layout: Layout, causal: bool | None = None) -> torch.Tensor:
        """Packed tokens (T, width) to (T, width); ``causal`` for this pass, by default as configured."""
        rotation = self._rotation(layout.positions)
        ahead_hidden = self.config.causal if causal is None else causal

        def mix(qkv: torch.Tensor) -> torch.Tensor:
            return attend(qkv, layout, ahead_hidden, rotation)

        for block in self.blocks:
            again = self.recompute and torch.is_grad_enabled()
            x = checkpoint(block, x, mix, use_reentrant=False) if again else block(x, mix)
        return self.final_norm(x)

    def new_cache(self, rows: int, max_length: int) -> Cache:
        """An empty cache for ``rows`` sequences of at most ``max_length`` tokens."""
        weight = next(self.parameters())
        shape = (self.config.blocks, rows, self.config.heads, max_length, self.config.channels)
        return Cache(shape, weight.dtype, weight.device)

    def step(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        """The next token of each row (rows, width) to (rows, width), whatever position each row is at.

        Raises:
            ValueError: the network is not causal, or a row of the cache is full.
        """
        if not self.config.causal:
            raise ValueError("only a causal transformer can be run token by token")
        rotation = self._rotation(cache.lengths)
        visible = cache.open()
        for index, block in enumerate(self.blocks):

            def mix(qkv: torch.Tensor, index: int = index) -> torch.Tensor:
                return cache.attend(index, rotation(qkv) if rotation else qkv, visible)

            x = block(x, mix)
        cache.close()
        return self.final_norm(x)

    def _rotation(self, positions: torch.Tensor) -> Rotation | None:
        return Rotation(positions, self.config.channels) if self.config.positions == "rope" else None


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, eps=1e-6)
    return nn.LayerNorm(config.width, eps=1e-5)
