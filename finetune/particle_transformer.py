"""Particle Transformer (Qu, Li, Qian, arXiv:2202.03772) on packed jets: no operation on padding but in attention.

The network is that of weaver-core's ``ParticleTransformer`` (version 1): same outputs from the same weights, see
:mod:`hepfm.finetune.weaver_weights`. In training its batch norms and dropout see real particles alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.core.nn.attention import attend_from, attend_with_bias
from hepfm.core.nn.batch_norm import BatchNorm
from hepfm.core.nn.dropout import Dropout
from hepfm.core.nn.ragged import Layout
from hepfm.finetune.inputs import JetInputs
from hepfm.finetune.pair_bias import PairBias


@dataclass(frozen=True)
class ParticleTransformerConfig:
    """What a Particle Transformer is made of. The defaults are those of JetClass: 2,143,486 parameters.

    Attributes:
        features: numbers of a particle.
        classes: numbers of outputs.
        embed: widths of the particles' embedding, the last one that of the network.
        pair_embed: widths of the pairs' embedding; empty for the plain network without pair bias.
        heads: attention heads.
        blocks: of particles attending to each other.
        class_blocks: of the class token attending to the particles.
        mlp_ratio: hidden width of the MLP over the width.
        head: widths of hidden layers between the class token and the outputs (Sophon: 512).
        pair_activation: whether a GELU follows the pairs' embedding; the published models have it, weaver-core's
            default has not.
        dropout: share of attention weights, hidden activations and outputs of the particle blocks and of the head's
            hidden layers.
    """

    features: int = 17
    classes: int = 10
    embed: tuple[int, ...] = (128, 512, 128)
    pair_embed: tuple[int, ...] = (64, 64, 64)
    heads: int = 8
    blocks: int = 8
    class_blocks: int = 2
    mlp_ratio: int = 4
    head: tuple[int, ...] = ()
    pair_activation: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.embed or self.width % self.heads:
            raise ValueError(f"width {self.embed[-1:]} is no multiple of heads {self.heads}")

    @property
    def width(self) -> int:
        """Channels of a particle."""
        return self.embed[-1]


class Block(nn.Module):
    """Attention and MLP with norms before and after (NormFormer, Shleifer et al., arXiv:2110.09456)."""

    def __init__(self, config: ParticleTransformerConfig, dropout: float) -> None:
        super().__init__()
        width, hidden = config.width, config.width * config.mlp_ratio
        self.heads, self.channels = config.heads, width // config.heads
        self.attention_norm, self.attention_out_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head_scale = nn.Parameter(torch.ones(config.heads))
        self.residual_scale = nn.Parameter(torch.ones(width))
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, layout: Layout, biases: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Particles (T, width) that attend to each other."""
        qkv = self.qkv(self.attention_norm(x)).view(-1, 3, self.heads, self.channels)
        mixed = attend_with_bias(qkv, layout, biases, self.dropout if self.training and self.dropout.share else None)
        return self.after_attention(x, mixed.flatten(1))

    def attend_from(self, token: torch.Tensor, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """A class token (n, width) of each jet that attends to itself and to the jet's particles (T, width).

        Class attention as in CaiT (Touvron et al., arXiv:2103.17239).
        """
        width = token.shape[1]
        (query, others), (query_bias, others_bias) = (
            part.split([width, 2 * width]) for part in (self.qkv.weight, self.qkv.bias)
        )
        of_token = F.linear(self.attention_norm(token), others, others_bias)
        of_particles = F.linear(self.attention_norm(x), others, others_bias)
        # As in the published network, the token asks as it is; what is asked is normalised.
        own = torch.cat([F.linear(token, query, query_bias), of_token], 1).view(-1, 3, self.heads, self.channels)
        mixed = attend_from(own, of_particles.view(-1, 2, self.heads, self.channels), layout)
        return self.after_attention(token, mixed.flatten(1))

    def after_attention(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What attention found (T, width), added to x (T, width), and the MLP."""
        scale = self.head_scale.repeat_interleave(self.channels)
        found = F.linear(mixed, self.out.weight * scale[:, None], self.out.bias * scale)
        x = x + self.dropout(self.attention_out_norm(found))
        hidden = self.dropout(F.gelu(self.up(self.mlp_norm(x))))
        return torch.addcmul(self.dropout(self.down(self.hidden_norm(hidden))), x, self.residual_scale)


class ParticleTransformer(nn.Module):
    """Jets to logits: ``network(inputs)`` gives (n, classes), ``network.embedding(inputs)`` (n, width)."""

    def __init__(self, config: ParticleTransformerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.features, *config.embed)
        self.input_norm = BatchNorm(config.features)
        self.embed = nn.Sequential(
            *(nn.Sequential(nn.LayerNorm(a), nn.Linear(a, b), nn.GELU()) for a, b in itertools.pairwise(sizes))
        )
        self.pair_bias = (
            PairBias(config.pair_embed, config.heads, config.pair_activation) if config.pair_embed else None
        )
        self.blocks = nn.ModuleList(Block(config, config.dropout) for _ in range(config.blocks))
        self.class_blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.class_blocks))
        self.token = nn.Parameter(torch.zeros(config.width))
        self.final_norm = nn.LayerNorm(config.width)
        widths = (config.width, *config.head)
        self.head_layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head_dropout = Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], config.classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights as the published network does: Xavier-uniform, biases 0, later blocks add less."""
        for module in self.modules():
            if isinstance(module, Block):
                width = module.out.in_features
                bound = math.sqrt(6 / (2 * width))  # queries, keys and values each by themselves
                nn.init.uniform_(module.qkv.weight, -bound, bound)
                linears = (module.out, module.up, module.down)
                nn.init.zeros_(module.qkv.bias)
            elif isinstance(module, nn.Linear) and module in (self.head, *self.head_layers):
                linears = (module,)  # type: ignore[assignment]
            elif isinstance(module, nn.Sequential):
                linears = tuple(child for child in module if isinstance(child, nn.Linear))  # type: ignore[assignment]
            else:
                continue
            for linear in linears:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
        nn.init.trunc_normal_(self.token, std=0.02)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, 1):
                assert isinstance(block, Block)
                block.out.weight.div_(math.sqrt(2 * number))
                block.down.weight.div_(math.sqrt(2 * number))

    def particles(self, inputs: JetInputs) -> torch.Tensor:
        """Particles (T, width) after all particle blocks."""
        layout = inputs.layout
        x = self.embed(self.input_norm(inputs.features))
        if self.pair_bias is not None:
            biases = self.pair_bias(inputs.vectors, layout)
        else:
            biases = tuple(
                x.new_zeros(bucket.rows, self.config.heads, bucket.length, bucket.length)
                if bucket.real is None
                else x.new_zeros(bucket.real.shape)
                .masked_fill(~bucket.real, -torch.inf)
                .expand(-1, self.config.heads, bucket.length, -1)
                for bucket in layout.buckets
            )
        for block in self.blocks:
            x = block(x, layout, biases)
        return x

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.config.width

    def embedding(self, inputs: JetInputs) -> torch.Tensor:
        """What the class token found (n, width): what is before the head."""
        x = self.particles(inputs)
        token = self.token.expand(inputs.layout.sequences, -1)
        for block in self.class_blocks:
            assert isinstance(block, Block)
            token = block.attend_from(token, x, inputs.layout)
        return self.final_norm(token)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of embeddings (n, width)."""
        for layer in self.head_layers:
            embedding = self.head_dropout(F.relu(layer(embedding)))
        return self.head(embedding)

    def forward(self, inputs: JetInputs) -> torch.Tensor:
        """Logits (n, classes)."""
        return self.classify(self.embedding(inputs))
