"""The usual way, as a reference: every jet padded to one length, padding hidden by masks, and a tokenizer's weights.

Whatever the network does it does in all slots: linear layers, attention (scaled dot products with a key mask) and the
search for the nearest code. Masks keep padding out of attention, of the codebook's statistics and of the loss.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.engine.batches import Losses
from hepfm.core.nn.ragged import Bucket, Layout
from hepfm.core.nn.transformer import Attention, Transformer
from hepfm.tokenize.codebook import CountedCodebook, nearest
from hepfm.tokenize.data import PackedPoints
from hepfm.tokenize.network import VQVAE, Coder, Quantized
from hepfm.tokenize.objective import Objective

LONGEST = 128  # slots of a jet, as JetClass stores it


def padded(features: np.ndarray, lengths: np.ndarray) -> PackedPoints:
    """Packed features (T, F) of jets in slots (n * LONGEST, F), zero where there is no point.

    The layout has one bucket of all jets, and ``places`` are the slots of real points.
    """
    real = np.arange(LONGEST) < lengths[:, None]
    places = np.flatnonzero(real)
    slots = np.zeros((real.size, features.shape[1]), dtype=np.float32)
    slots[places] = features
    layout = Layout(
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        positions=torch.from_numpy(places % LONGEST),
        slots=torch.arange(0),
        places=torch.from_numpy(places),
        buckets=(Bucket(len(lengths), LONGEST, torch.from_numpy(real[:, None, None, :])),),
        longest=LONGEST,
        in_place=False,
    )
    return PackedPoints(torch.from_numpy(slots), layout)


def mask_of(layout: Layout) -> Tensor:
    """Whether (n, 1, 1, LONGEST) each slot holds a point."""
    (bucket,) = layout.buckets
    assert bucket.real is not None
    return bucket.real


class PaddedVQVAE(VQVAE):
    """A copy of a VQ-VAE of the same weights that works on slots."""

    @classmethod
    def of(cls, network: VQVAE) -> PaddedVQVAE:
        """The reference for a transformer with one codebook."""
        copied = copy.deepcopy(network)
        copied.__class__ = cls
        copied.quantizer._codebook.__class__ = MaskedCodebook  # type: ignore[attr-defined]
        return copied  # type: ignore[return-value]

    def forward(self, features: Tensor, layout: Layout, conditions: Tensor | None = None) -> Quantized:
        """Decoded features, codes, ids and commitment of all slots."""
        latent = _in_slots(self.encoder, features, layout)
        self.quantizer._codebook.places = layout.places  # type: ignore[attr-defined]
        learned = self.quantizer.learn(latent)
        return Quantized(_in_slots(self.decoder, learned.codes, layout), learned)

    def encode(self, features: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Ids (S, Q) and latents of all slots."""
        latent = _in_slots(self.encoder, features, layout)
        return self.quantizer.ids_of(latent), latent


def _in_slots(coder: Coder, x: Tensor, layout: Layout) -> Tensor:
    body = coder.body
    assert isinstance(body, Transformer)
    hidden = coder.stem(x)
    for block in body.blocks:
        hidden = block(hidden, partial(attend_masked, mask=mask_of(layout)))
    return coder.skip(x) + coder.head(body.final_norm(hidden))


def attend_masked(qkv: Tensor, mask: Tensor) -> Tensor:
    """Masked attention (S, heads, d) of the slots' queries, keys and values (S, 3, heads, d); none of it is copied."""
    query, key, value = qkv.unflatten(0, (-1, LONGEST)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(0, 1)


class MaskedCodebook(CountedCodebook):
    """Looks for the nearest code in all slots, and learns from those in ``places``."""

    places: Tensor

    def forward(self, x: Tensor, **_: object) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (1, S, D) and their indices (1, S)."""
        points = x.detach()
        real = points.index_select(1, self.places)
        self.init_embed_(real)
        embed = self.embed[0]
        ids = nearest(points[0], embed)
        quantized = embed[ids][None]
        if self.training:
            self.learn(real, ids[self.places])
        return quantized, ids[None], points.new_empty(0)


class PaddedObjective(Objective):
    """The tokenizer's objective, summed over slots with a mask."""

    def forward(self, batch: PackedPoints) -> Losses:
        target, layout = batch.features, batch.layout
        real = mask_of(layout).view(-1)
        output = self.network(target, layout)
        squares = (output.features - target).square() * real[:, None]
        commitment = (output.learned.commitment * real).sum()
        jets = self._jet_errors(output.features, target, layout)
        total = (squares.sum(dim=1) * self._weights(target)).sum() + self.config.commitment * commitment
        figures = {f"error_{name}": squares[:, self.contract.place(name)].sum() for name in self.contract.names}
        perplexity = self._perplexity(output.learned.ids[layout.places])
        figures |= {"error_jet": jets, "commitment": commitment, "perplexity": perplexity}
        return Losses(total + self.config.jet * jets, figures)

    def _sums(self, vectors: Tensor, layout: Layout) -> Tensor:
        return (vectors * mask_of(layout).view(-1, 1)).unflatten(0, (-1, LONGEST)).sum(dim=1)


def flops(network: VQVAE, lengths: np.ndarray, training: bool) -> float:
    """Floating-point operations on jets of these lengths (real ones, or LONGEST each).

    Two for each weight of a linear layer and point; 4 d L^2 for attention of width d over a jet of L points (scores and
    sums, no causal half); both threefold in training (the gradients of inputs and of weights); two for each dimension
    of each code and point, once. Encoding has no decoder.
    """
    coders = (network.encoder, network.decoder) if training else (network.encoder,)
    modules = [module for coder in coders for module in coder.modules()]
    weights = sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))
    widths = sum(module.config.width for module in modules if isinstance(module, Attention))
    search = network.encoder.skip.out_features * network.config.codes
    points, squares = float(lengths.sum()), float(np.square(lengths, dtype=np.float64).sum())
    passes = 3 if training else 1
    return 2 * points * (passes * weights + search) + passes * 4 * widths * squares


def flop_bound(network: VQVAE, lengths: np.ndarray, training: bool) -> float:
    """Operations of padded jets over those of real ones."""
    return flops(network, np.full_like(lengths, LONGEST), training) / flops(network, lengths, training)
