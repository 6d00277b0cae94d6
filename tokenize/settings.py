"""What a VQ-VAE tokenizer is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from hepfm.core.errors import HepfmError

# A code is dead below a tenth of an equal share of a step's points, but never above one point: with 512 codes and 5,000
# points a step the two agree; with more codes than points a threshold of one point would replace every code each step.
DEAD_SHARE = 0.1
# Tables of all codes, which every quantiser here has, must fit into memory.
MOST_CODES = 1 << 24


@dataclass(frozen=True)
class VQVAEConfig:
    """What a VQ-VAE tokenizer is made of."""

    codes: int = 512
    """Size of a codebook: number of token ids (of each list, for residual). A power of two for lfq; fsq has the product
    of its --levels instead."""
    quantizer: Literal["vq", "residual", "fsq", "lfq"] = "vq"
    """vq: one codebook; residual: --quantizers codebooks one after another, one id list each; fsq: each latent
    dimension rounded to one of its --levels; lfq: the signs of log2(codes) latent dimensions."""
    quantizers: int = 2
    """Codebooks (residual)."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels of each latent dimension (fsq), at least 3."""
    rotation_trick: bool = True
    """Gradients pass the codebook by rotation; otherwise straight through (vq, residual)."""
    network: Literal["transformer", "mlp"] = "transformer"
    """transformer: tokens depend on all points of their record; mlp: on their own point alone."""
    causal_decoder: bool = False
    """A record's first tokens decode without those that follow (transformer)."""
    width: int = 64
    """Channels of encoder and decoder."""
    blocks: int = 2
    """Blocks of the encoder, and of the decoder."""
    heads: int = 4
    """Attention heads (transformer)."""
    latent: int | None = None
    """Dimensions of a code (vq, residual); default 4, or the number of features if that is more."""
    decay: float = 0.95
    """Share of the codebook's running averages that stays at each step."""
    dead_below: float | None = None
    """A code with fewer points a step than this (running average) is replaced by a point; default 1, or a tenth of an
    equal share of a step's points if that is less."""

    def resolved(self, features: int, points: float) -> VQVAEConfig:
        """These settings with their defaults filled in.

        Args:
            features: feature columns of a point.
            points: points of a training step.
        """
        dead_below = min(1.0, DEAD_SHARE * points / self.codes) if self.dead_below is None else self.dead_below
        return replace(self, latent=self.latent_for(features), dead_below=dead_below)

    def latent_for(self, features: int) -> int:
        """Dimensions of the latent space for points of so many feature columns."""
        if self.quantizer == "fsq":
            return len(self.levels)
        if self.quantizer == "lfq":
            return (self.codes - 1).bit_length()
        return max(4, features) if self.latent is None else self.latent

    @property
    def streams(self) -> tuple[int, ...]:
        """Codes of each id list."""
        if self.quantizer == "residual":
            return (self.codes,) * self.quantizers
        return (math.prod(self.levels) if self.quantizer == "fsq" else self.codes,)

    def check(self, features: int) -> None:
        """Refuse sizes that cannot work.

        Raises:
            HepfmError: names the setting.
        """
        for name in ("width", "blocks", "heads", "quantizers"):
            if getattr(self, name) < 1:
                raise HepfmError(f"must be at least 1, is {getattr(self, name)}", f"--{name}")
        if self.codes < 2:
            raise HepfmError(f"must be at least 2, is {self.codes}", "--codes")
        if max(self.streams) > MOST_CODES:
            option = "--levels" if self.quantizer == "fsq" else "--codes"
            raise HepfmError(f"make {max(self.streams):,} codes, more than {MOST_CODES:,}", option)
        if self.quantizer == "lfq" and self.codes & (self.codes - 1):
            raise HepfmError(f"must be a power of two for lfq, is {self.codes}", "--codes")
        if self.quantizer == "fsq" and (not self.levels or min(self.levels) < 3):
            raise HepfmError(f"must be at least 3 each, are {' '.join(map(str, self.levels))}", "--levels")
        if self.quantizer in ("vq", "residual") and self.latent_for(features) < features:
            raise HepfmError(f"must be at least {features}, the number of features, is {self.latent}", "--latent")
        if self.network == "transformer" and self.width % self.heads:
            raise HepfmError(f"{self.width} is no multiple of {self.heads} heads", "--width")
        if not 0 < self.decay < 1:
            raise HepfmError(f"must lie between 0 and 1, is {self.decay}", "--decay")
