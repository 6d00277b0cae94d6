"""The VQ-VAE: encoder, codebook, decoder. It sees packed points only: padding does not exist here."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepfm.core.nn.fused import RMSNorm
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import MLP, Transformer, TransformerConfig
from hepfm.tokenize.quantizers import Learned, make_quantizer
from hepfm.tokenize.settings import VQVAEConfig

LEAST_SPREAD = 0.25


class Quantized(NamedTuple):
    """What the network makes of points in training.

    Attributes:
        features: (T, F) decoded.
        learned: what the quantiser gave: codes, ids (T, Q), commitment.
    """

    features: Tensor
    learned: Learned


class VQVAE(nn.Module):
    """Vector-quantised autoencoder (van den Oord et al., arXiv:1711.00937) with one of several quantisers.

    A codebook starts by k-means on the first training batch and learns by running averages (their appendix A.1), codes
    that are hardly used are replaced by points, and gradients pass by the rotation trick (Fifty et al.,
    arXiv:2410.06424).

    Args:
        config: sizes.
        features: number of features of a point.
        conditions: numbers that the decoder is told of each record.
        synchronised: sum codebook statistics over the processes of a distributed training.
    """

    def __init__(self, config: VQVAEConfig, features: int, conditions: int = 0, synchronised: bool = False) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_for(features)
        self.encoder = Coder(config, features, latent)
        self.decoder = Coder(config, latent, features, conditions, causal=config.causal_decoder)
        self.quantizer = make_quantizer(config, latent, synchronised)
        if config.quantizer == "lfq":
            self._start_with_planes()
        if config.quantizer == "fsq" and latent > features:
            self._start_with_every_dimension()

    def _start_with_planes(self) -> None:
        """Let each bit say on which side of a random plane a point lies: a bit that starts as 0 stays unused."""
        planes, offsets = self.encoder.skip.weight, self.encoder.head.bias
        nn.init.normal_(planes)
        planes.data /= planes.data.norm(dim=1, keepdim=True)
        nn.init.uniform_(offsets, -1.0, 1.0)
        # The sum over L random unit vectors w in F dimensions of w (w.x) is L / F times x on average.
        self.decoder.skip.weight.data.copy_(planes.data.T * planes.shape[1] / len(planes))

    def _start_with_every_dimension(self) -> None:
        """Let each latent dimension say something of a point: one that starts as 0 has one level of its own."""
        turned = nn.init.orthogonal_(torch.empty_like(self.encoder.skip.weight))
        self.encoder.skip.weight.data.copy_(turned)
        self.decoder.skip.weight.data.copy_(turned.T)

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Fit the start to points (T, F) where levels and signs are fixed (fsq, lfq): a codebook moves by itself.

        Columns reach the latent space standardised: of numbers that lie far from 0 (ln(energy) + 1 of large deposits)
        all would begin at the outermost level, or on one side of every plane, and most stay there.
        """
        if self.config.quantizer not in ("fsq", "lfq"):
            return
        # A rare category varies little: it is no reason to make much of it.
        mean, spread = features.mean(dim=0), features.std(dim=0).clamp(min=LEAST_SPREAD)
        encoder, decoder = self.encoder, self.decoder
        encoder.skip.weight.div_(spread)
        encoder.head.bias.sub_(encoder.skip.weight @ mean)
        decoder.skip.weight.mul_(spread[:, None])
        decoder.head.bias.add_(mean)

    def forward(self, features: Tensor, layout: Layout, conditions: Tensor | None = None) -> Quantized:
        """Encode, quantise and decode packed features (T, F); in training mode the codebook learns from them.

        ``conditions`` (n, C) are those of each record.
        """
        latent = self.encoder(features, layout)
        with torch.autocast(latent.device.type, enabled=False):  # running averages need all their digits
            learned = self.quantizer.learn(latent.float())
        return Quantized(self.decoder(learned.codes, layout, conditions), learned)

    def encode(self, features: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Token ids (T, Q) and latents (T, latent) of packed features (T, F)."""
        latent = self.encoder(features, layout)
        return self.quantizer.ids_of(latent), latent

    def decode(self, ids: Tensor, layout: Layout, conditions: Tensor | None = None) -> Tensor:
        """Features (T, F) of packed token ids (T, Q) of records with ``conditions`` (n, C)."""
        return self.decoder(self.quantizer.codes_of(ids), layout, conditions)


class Coder(nn.Module):
    """Encoder or decoder: a linear map plus what a network adds to it.

    The network starts at zero, so a tokenizer starts as k-means on the features and only improves from there.
    """

    def __init__(
        self, config: VQVAEConfig, inputs: int, outputs: int, conditions: int = 0, causal: bool = False
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, outputs, bias=False)
        self.stem = nn.Linear(inputs, config.width)
        self.told = nn.Linear(conditions, config.width, bias=False) if conditions else None
        self.body = Transformer(_transformer(config, causal)) if config.network == "transformer" else PointMLP(config)
        self.head = nn.Linear(config.width, outputs)
        nn.init.eye_(self.skip.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, layout: Layout, conditions: Tensor | None = None) -> Tensor:
        """Packed (T, inputs) to (T, outputs); every point of a record is told its ``conditions`` (n, C)."""
        hidden = self.stem(x)
        if self.told is not None and conditions is not None:
            lengths = layout.offsets.diff().long()
            hidden = hidden + self.told(conditions).repeat_interleave(lengths, dim=0, output_size=layout.tokens)
        return self.skip(x) + self.head(self.body(hidden, layout))


class PointMLP(nn.Module):
    """Residual blocks that treat each point by itself."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        shape = _transformer(config)
        self.norms = nn.ModuleList(RMSNorm(config.width, eps=1e-6) for _ in range(config.blocks + 1))
        self.blocks = nn.ModuleList(MLP(shape) for _ in range(config.blocks))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, width) to (T, width)."""
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + block(norm(x))
        return self.norms[-1](x)


def _transformer(config: VQVAEConfig, causal: bool = False) -> TransformerConfig:
    heads = config.heads if config.network == "transformer" else 1
    return TransformerConfig(
        width=config.width,
        blocks=config.blocks,
        heads=heads,
        mlp="gelu",
        mlp_ratio=2.0,
        norm="rmsnorm",
        positions="none",
        bias=True,
        causal=causal,
    )
