"""The reference of the tokenizer benchmark: OmniJet-alpha's NormFormer-VQ, its statistics over padding included.

Birk, Hallin, Kasieczka, arXiv:2403.05618, as their configuration of 2,048 codes trains it: jets padded to 128 slots,
latents of padding set to 0, and padding counted in the k-means start, the commitment and codebook losses, the use of
the codes, the latents that replace unused codes, and the mean over slots that is the error of reconstruction.

Masked attention never looks at padding, and latents and decoder inputs of padding are constants, so encoder and decoder
run on packed points here: what the padded original computes is the same, to rounding, at a third of the cost.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.config import from_dict
from hepfm.core.nn.attention import attend
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import MLP, Attention, TransformerConfig
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.codebook import nearest
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.tokens import Stream, Tokens
from hepfm.tokenize.vqvae import groups, reproducibly

SLOTS = 128
# Of the quantiser: share of the codebook term, weight of both terms, learning rate of the affine map of the codebook.
CODEBOOK_SHARE, QUANTISER_WEIGHT, AFFINE_RATE = 0.9, 10.0, 2.0
REPLACEMENT_NOISE = 0.01
KMEANS_STEPS = 15


@dataclass(frozen=True)
class NormFormerConfig:
    """Sizes of the reference.

    Attributes:
        codes: size of the codebook.
        latent: dimensions of a code.
        width: channels.
        blocks: of the encoder, and of the decoder.
        heads: attention heads.
        mlp_ratio: hidden channels of a block's MLP over ``width``.
        dropout: of attention weights' output and of the MLP's hidden channels, in training.
        patience: updates without use after which a code is replaced.
    """

    codes: int
    latent: int = 4
    width: int = 64
    blocks: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    dropout: float = 0.1
    patience: int = 40


class Losses(NamedTuple):
    """Of a batch: what is minimised, the mean squared error over slots; latents (S, latent) and ids (S,) of all slots,
    those of points first."""

    total: Tensor
    reconstruction: Tensor
    slots: Tensor
    ids: Tensor


class NormFormerVQ(nn.Module):
    """Encoder, codebook with a learned affine map, decoder."""

    counter: Tensor

    def __init__(self, config: NormFormerConfig, features: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = NormFormer(config, features, config.latent)
        self.decoder = NormFormer(config, config.latent, features)
        self.codebook = nn.Parameter(torch.randn(config.codes, config.latent))
        self.scale, self.bias = (nn.Parameter(torch.zeros(1, config.latent)) for _ in range(2))
        self.register_buffer("counter", torch.full((config.codes,), config.patience))

    @property
    def codes(self) -> Tensor:
        """The codebook (codes, latent) after its affine map."""
        return (1 + AFFINE_RATE * self.scale) * self.codebook + AFFINE_RATE * self.bias

    def losses(self, features: Tensor, layout: Layout) -> Losses:
        """Of packed features (T, F) of jets that are padded to SLOTS each."""
        padding = layout.sequences * SLOTS - layout.tokens
        latent = self.encoder(features, layout)
        slots = torch.cat([latent, latent.new_zeros(padding, self.config.latent)])
        codes = self.codes
        ids = _nearest_of_slots(slots.detach(), layout.tokens, codes.detach())
        chosen = codes[ids]
        commitment = (slots - chosen.detach()).square().mean()
        codebook = (slots.detach() - chosen).square().mean()
        # Straight through to the latents, and (their sync_nu of 1) to the codes as well.
        passed = slots + (chosen - slots).detach() + (chosen - chosen.detach())
        decoded = self.decoder(passed[: layout.tokens], layout)
        squares = (decoded - features).square().sum() + padding * self.decoder.head.bias.square().sum()
        reconstruction = squares / (layout.sequences * SLOTS * features.shape[1])
        quantiser = (1 - CODEBOOK_SHARE) * commitment + CODEBOOK_SHARE * codebook
        total = reconstruction + QUANTISER_WEIGHT * quantiser
        return Losses(total, reconstruction, slots.detach(), ids)

    @torch.no_grad()
    def start(self, features: Tensor, layout: Layout) -> None:
        """Codes by k-means on the latents of a batch, padding included, from latents drawn at random."""
        latent = self.encoder(features, layout)
        slots = torch.cat([latent, latent.new_zeros(layout.sequences * SLOTS - layout.tokens, self.config.latent)])
        means = slots[torch.randint(len(slots), (self.config.codes,))]
        for _ in range(KMEANS_STEPS):
            ids = _nearest_of_slots(slots, layout.tokens, means)
            counts = torch.bincount(ids, minlength=len(means))[:, None]
            sums = torch.zeros_like(means).index_add_(0, ids, slots)
            means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
        self.codebook.copy_(means)

    @torch.no_grad()
    def replace(self, slots: Tensor, ids: Tensor) -> None:
        """After an update: codes without use for ``patience`` of them become latents of the batch, padding included."""
        self.counter -= 1
        self.counter[ids] = self.config.patience
        dead = torch.nonzero(self.counter <= 0)[:, 0]
        if not len(dead):
            return
        donors = slots[torch.randint(len(slots), (len(dead),))]
        donors = donors * (1 + REPLACEMENT_NOISE * torch.randn_like(donors))
        # Through the inverse of the affine map, so that the code is the latent.
        self.codebook[dead] = (donors - AFFINE_RATE * self.bias) / (1 + AFFINE_RATE * self.scale)
        self.counter[dead] = self.config.patience


def _nearest_of_slots(slots: Tensor, tokens: int, codes: Tensor) -> Tensor:
    """Index (S,) of the code nearest to each slot; those after the first ``tokens`` are all alike: padding."""
    ids = nearest(slots[: tokens + 1], codes)
    return torch.cat([ids[:tokens], ids[tokens:].expand(len(slots) - tokens)])


class NormFormer(nn.Module):
    """Linear map, blocks, linear map."""

    def __init__(self, config: NormFormerConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(inputs, config.width), nn.Linear(config.width, outputs)
        self.blocks = nn.ModuleList(NormFormerBlock(config) for _ in range(config.blocks))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, inputs) to (T, outputs)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, layout)
        return self.head(x)


class NormFormerBlock(nn.Module):
    """r = x + norm(attention(norm(x))); r + linear(silu(linear(norm(r)))) (Shleifer et al., arXiv:2110.09456).

    The first norm's scale and the last linear map's weight start at 0.
    """

    def __init__(self, config: NormFormerConfig) -> None:
        super().__init__()
        shape = TransformerConfig(
            width=config.width,
            heads=config.heads,
            mlp="silu",
            mlp_ratio=config.mlp_ratio,
            positions="none",
            qkv_bias=True,
            bias=True,
            causal=False,
        )
        self.before, self.after, self.norm = (nn.LayerNorm(config.width) for _ in range(3))
        self.attention, self.mlp, self.dropout = Attention(shape), MLP(shape), config.dropout
        nn.init.zeros_(self.before.weight)
        nn.init.zeros_(self.mlp.down.weight)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed (T, width) to (T, width)."""
        mixed = self.attention(self.before(x), lambda qkv: attend(qkv, layout, causal=False))
        x = x + self.after(F.dropout(mixed, self.dropout, self.training))
        hidden = F.dropout(F.silu(self.mlp.up(self.norm(x))), self.dropout, self.training)
        return x + self.mlp.down(hidden)


class NormFormerReference(FeatureTokenizer):
    """The fitted network with its contract; see :class:`hepfm.tokenize.registry.Tokenizer`."""

    kind = "normformer-reference"

    def __init__(self, network: NormFormerVQ, contract: FeatureContract, hash: str = "") -> None:
        self.network = network.cpu().eval()
        super().__init__(contract, (Stream("", network.config.codes),), hash)

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Ids (T, 1) of features (T, F) of records ``offsets``."""
        parts = [np.zeros((0, 1), dtype=np.int64)]
        with reproducibly():
            for first, stop in groups(offsets):
                part = torch.from_numpy(features[offsets[first] : offsets[stop]]).clone()
                latent = self.network.encoder(part, Layout.of(np.diff(offsets[first : stop + 1])))
                parts.append(nearest(latent, self.network.codes)[:, None].numpy())
        return np.concatenate(parts)

    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """Features (T, F) of ids (T, 1)."""
        parts = [np.zeros((0, self.contract.width), dtype=np.float32)]
        with reproducibly():
            for first, stop in groups(tokens.offsets):
                ids = torch.from_numpy(tokens.ids[tokens.offsets[first] : tokens.offsets[stop], 0])
                layout = Layout.of(np.diff(tokens.offsets[first : stop + 1]))
                parts.append(self.network.decoder(self.network.codes[ids], layout).numpy())
        return np.concatenate(parts)

    def architecture(self) -> dict[str, Any]:
        return asdict(self.network.config)

    def weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, Tensor], where: object
    ) -> Self:
        network = NormFormerVQ(from_dict(NormFormerConfig, architecture, where), contract.width)
        network.load_state_dict(weights)
        return cls(network, contract)
