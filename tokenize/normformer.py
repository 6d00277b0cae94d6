"""OmniJet-alpha's tokenizer network (Birk, Hallin, Kasieczka, arXiv:2403.05618), for weights trained elsewhere.

Encoder and decoder are NormFormer blocks over all points of a record, or layers that see one point alone; between them
lies a plain codebook. Points come packed: what their padded original masks does not exist here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from hepfm.core.config import from_dict
from hepfm.core.errors import HepfmError
from hepfm.core.nn.attention import attend
from hepfm.core.nn.empty import without_weights
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import MLP, Attention, TransformerConfig
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.codebook import near_ties, nearest
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fitting import FitConfig
from hepfm.tokenize.selection import SelectingContract
from hepfm.tokenize.tokens import Tokens
from hepfm.tokenize.vqvae import AGAIN, TIE_TOLERANCE, VQVAETokenizer


@dataclass(frozen=True)
class NormFormerConfig:
    """Sizes of the network.

    Attributes:
        codes: size of the codebook.
        latent: dimensions of a code.
        network: ``normformer``, or ``mlp`` (a point's token depends on that point alone).
        width: channels (normformer).
        blocks: blocks of the encoder, and of the decoder (normformer).
        heads: attention heads (normformer).
        mlp_width: hidden channels of a block's MLP (normformer).
        encoder_layers: hidden channels of the encoder's layers (mlp).
        decoder_layers: hidden channels of the decoder's layers (mlp).
    """

    codes: int
    latent: int
    network: Literal["normformer", "mlp"]
    width: int = 1
    blocks: int = 1
    heads: int = 1
    mlp_width: int = 1
    encoder_layers: tuple[int, ...] = ()
    decoder_layers: tuple[int, ...] = ()

    @property
    def streams(self) -> tuple[int, ...]:
        """Codes of each list of ids: there is one."""
        return (self.codes,)

    def latent_for(self, features: int) -> int:
        """Dimensions of a latent; they do not depend on the features."""
        return self.latent

    def check(self, where: object) -> None:
        """Refuse sizes that no network has.

        Raises:
            HepfmError: names the size.
        """
        for name in ("codes", "latent", "width", "blocks", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise HepfmError(f"'{name}' is {getattr(self, name)}, not positive", where, "get the file again")
        if self.width % self.heads:
            raise HepfmError(f"width {self.width} is no multiple of {self.heads} heads", where, "get the file again")

    @property
    def summary(self) -> str:
        """The sizes for people."""
        if self.network == "mlp":
            layers = "-".join(map(str, self.encoder_layers)) or "no"
            return f"{layers} hidden channels, {self.codes:,} codes of {self.latent} dimensions"
        return (
            f"width {self.width}, {self.blocks} blocks, {self.heads} heads, "
            f"{self.codes:,} codes of {self.latent} dimensions"
        )


class NormFormerVQ(nn.Module):
    """Encoder, codebook, decoder.

    Args:
        config: sizes.
        features: number of features of a point.

    Attributes:
        codebook: (codes, latent), a learned affine map already applied.
    """

    codebook: Tensor

    def __init__(self, config: NormFormerConfig, features: int) -> None:
        super().__init__()
        self.config, self.features = config, features
        if config.network == "normformer":
            self.encoder: nn.Module = NormFormer(config, features, config.latent)
            self.decoder: nn.Module = NormFormer(config, config.latent, features)
        else:
            self.encoder = PointLayers((features, *config.encoder_layers, config.latent))
            self.decoder = PointLayers((config.latent, *config.decoder_layers, features))
        self.register_buffer("codebook", torch.zeros(config.codes, config.latent))

    def encode(self, features: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Token ids (T, 1) and latents (T, latent) of packed features (T, F)."""
        latent = self.encoder(features, layout)
        return nearest(latent, self.codebook)[:, None], latent

    def decode(self, ids: Tensor, layout: Layout, conditions: None = None) -> Tensor:
        """Features (T, F) of packed token ids (T, 1); it is told nothing of the record."""
        return self.decoder(self.codebook[ids[:, 0]], layout)


class NormFormer(nn.Module):
    """Linear map, blocks, linear map."""

    def __init__(self, config: NormFormerConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(NormFormerBlock(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, outputs)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, inputs) to (T, outputs)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, layout)
        return self.head(x)


class NormFormerBlock(nn.Module):
    """r = x + norm(attention(norm(x))); r + linear(silu(linear(norm(r)))) (Shleifer et al., arXiv:2110.09456)."""

    def __init__(self, config: NormFormerConfig) -> None:
        super().__init__()
        shape = TransformerConfig(
            width=config.width,
            heads=config.heads,
            mlp="silu",
            mlp_ratio=config.mlp_width / config.width,
            positions="none",
            qkv_bias=True,
            bias=True,
            causal=False,
        )
        self.attention_norm, self.mixed_norm, self.mlp_norm = (nn.LayerNorm(config.width) for _ in range(3))
        self.attention, self.mlp = Attention(shape), MLP(shape)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, width) to (T, width)."""
        mixed = self.attention(self.attention_norm(x), lambda qkv: attend(qkv, layout, causal=False))
        x = x + self.mixed_norm(mixed)
        return x + self.mlp(self.mlp_norm(x))


class PointLayers(nn.Module):
    """Linear layers with ReLU between them, each point by itself."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, inputs) to (T, outputs)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class NormFormerTokenizer(VQVAETokenizer):
    """That network with its contract; see :class:`hepfm.tokenize.registry.Tokenizer`."""

    kind = "normformer"
    settings: ClassVar[type[FitConfig]] = FitConfig  # type: ignore[assignment]
    contract_type: ClassVar[type[FeatureContract]] = SelectingContract
    contract: SelectingContract
    network: NormFormerVQ

    @classmethod
    def fit(cls, config: FitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder) -> Any:
        """Such a network is not trained here.

        Raises:
            HepfmError: always.
        """
        raise HepfmError("is imported, not fitted", cls.kind, "hepfm models import PATH --out DIR; or take vqvae")

    def encode(self, batch: pa.RecordBatch) -> Tokens:
        """Token ids of the points that the contract's selection keeps; see :meth:`Tokenizer.encode`."""
        return super().encode(self.contract.kept(batch))

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, Tensor], where: object
    ) -> Self:
        config = from_dict(NormFormerConfig, architecture, where)
        config.check(where)
        if config.blocks > len(weights):
            raise HepfmError(f"'blocks' is {config.blocks:,}, it has {len(weights)} weights", where, AGAIN)
        with without_weights():  # nothing is allocated before the shapes are known to fit
            network = NormFormerVQ(config, contract.width)
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise HepfmError(f"its weights are not those of its architecture: {error}", where, AGAIN) from error
        return cls(network, contract)

    def differing(self, features: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> int:
        """Points whose tokens are not ``ids``, those aside that tie to rounding."""
        _, latents = self.encode_latents(features, offsets)
        stored = torch.from_numpy(ids.astype(np.int64))
        return int((near_ties(torch.from_numpy(latents), self.network.codebook, stored) > TIE_TOLERANCE).sum())
