"""The VQ-VAE: encoder, codebook, decoder. It sees packed points only: padding does not exist here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import MLP, Transformer, TransformerConfig

# Elements of one table of distances between points and codes (64 MB).
DISTANCE_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class VQVAEConfig:
    """What a VQ-VAE tokenizer is made of."""

    codes: int = 512
    """Size of the codebook: number of token ids."""
    network: Literal["transformer", "mlp"] = "transformer"
    """transformer: tokens depend on all points of their record; mlp: on their own point alone."""
    width: int = 64
    """Channels of encoder and decoder."""
    blocks: int = 2
    """Blocks of the encoder, and of the decoder."""
    heads: int = 4
    """Attention heads (transformer)."""
    latent: int = 4
    """Dimensions of a code."""
    decay: float = 0.95
    """Share of the codebook's running averages that stays at each step."""
    dead_below: float = 1.0
    """A code with fewer points a step than this (running average) is replaced by a point."""

    def check(self, features: int) -> None:
        """Refuse sizes that cannot work.

        Raises:
            HepfmError: names the setting.
        """
        for name in ("width", "blocks", "heads"):
            if getattr(self, name) < 1:
                raise HepfmError(f"must be at least 1, is {getattr(self, name)}", f"--{name}")
        if self.codes < 2:
            raise HepfmError(f"must be at least 2, is {self.codes}", "--codes")
        if self.latent < features:
            raise HepfmError(f"must be at least {features}, the number of features, is {self.latent}", "--latent")
        if self.network == "transformer" and self.width % self.heads:
            raise HepfmError(f"{self.width} is no multiple of {self.heads} heads", "--width")
        if not 0 < self.decay < 1:
            raise HepfmError(f"must lie between 0 and 1, is {self.decay}", "--decay")


class Quantized(NamedTuple):
    """What the network makes of points.

    Attributes:
        features: (T, F) decoded.
        ids: (T,) int64.
        commitment: (T,) squared distance of each latent to its code.
    """

    features: Tensor
    ids: Tensor
    commitment: Tensor


class VQVAE(nn.Module):
    """Vector-quantised autoencoder (van den Oord et al., arXiv:1711.00937) with an EMA codebook (their appendix A.1).

    The codebook starts by k-means on the first training batch, codes that are hardly used are replaced by points, and
    gradients pass it by the rotation trick (Fifty et al., arXiv:2410.06424).

    Args:
        config: sizes.
        features: number of features of a point.
        synchronised: sum codebook statistics over the processes of a distributed training.
    """

    def __init__(self, config: VQVAEConfig, features: int, synchronised: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = Coder(config, features, config.latent)
        self.decoder = Coder(config, config.latent, features)
        self.quantizer = VectorQuantize(
            config.latent,
            config.codes,
            decay=config.decay,
            kmeans_init=True,
            kmeans_iters=15,
            threshold_ema_dead_code=config.dead_below,
            commitment_weight=0.0,
            rotation_trick=True,
            sync_codebook=synchronised,
        )

    @property
    def codebook(self) -> Tensor:
        """(codes, latent)."""
        return self.quantizer.codebook

    def forward(self, features: Tensor, layout: Layout) -> Quantized:
        """Encode, quantise and decode packed features (T, F); in training mode the codebook learns from them."""
        latent = self.encoder(features, layout)
        with torch.autocast(latent.device.type, enabled=False):  # running averages need all their digits
            latent = latent.float()
            quantized, ids, _ = self.quantizer(latent[None])
            commitment = (latent - quantized[0].detach()).square().sum(dim=-1)
        return Quantized(self.decoder(quantized[0], layout), ids[0], commitment)

    def encode(self, features: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and latents (T, latent) of packed features (T, F)."""
        latent = self.encoder(features, layout)
        return nearest(latent, self.codebook), latent

    def decode(self, ids: Tensor, layout: Layout) -> Tensor:
        """Features (T, F) of packed token ids (T,)."""
        return self.decoder(self.codebook[ids], layout)


class Coder(nn.Module):
    """Encoder or decoder: a linear map plus what a network adds to it.

    The network starts at zero, so a tokenizer starts as k-means on the features and only improves from there.
    """

    def __init__(self, config: VQVAEConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, outputs, bias=False)
        self.stem = nn.Linear(inputs, config.width)
        self.body = Transformer(_transformer(config)) if config.network == "transformer" else PointMLP(config)
        self.head = nn.Linear(config.width, outputs)
        nn.init.eye_(self.skip.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, inputs) to (T, outputs)."""
        return self.skip(x) + self.head(self.body(self.stem(x), layout))


class PointMLP(nn.Module):
    """Residual blocks that treat each point by itself."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        shape = _transformer(config)
        self.norms = nn.ModuleList(nn.RMSNorm(config.width, eps=1e-6) for _ in range(config.blocks + 1))
        self.blocks = nn.ModuleList(MLP(shape) for _ in range(config.blocks))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, width) to (T, width)."""
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + block(norm(x))
        return self.norms[-1](x)


def _transformer(config: VQVAEConfig) -> TransformerConfig:
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
        causal=False,
    )


def nearest(latent: Tensor, codebook: Tensor) -> Tensor:
    """Index (T,) of the code (codes, latent) nearest to each latent (T, latent), in bounded memory."""
    half_norms = codebook.square().sum(dim=1) / 2
    rows = max(1, DISTANCE_ELEMENTS // len(codebook))
    parts = [torch.addmm(half_norms, part, codebook.T, alpha=-1).argmin(dim=1) for part in latent.split(rows)]
    return torch.cat(parts) if parts else latent.new_empty(0, dtype=torch.long)


def near_ties(latent: Tensor, codebook: Tensor, ids: Tensor) -> Tensor:
    """How much farther (T,) the codes ``ids`` are from the latents than the nearest codes, in squared distance."""
    best = nearest(latent, codebook)
    distances = [(latent - codebook[chosen]).square().sum(dim=1) for chosen in (ids, best)]
    return distances[0] - distances[1]
