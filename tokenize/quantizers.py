"""What turns a latent vector into ids: plain and residual vector quantisation, FSQ, LFQ.

They see packed points (T, D) only, so that every statistic is of real points. Ids are (T, Q): one column an id list.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, VectorQuantize

from hepfm.tokenize.codebook import CountedCodebook, near_ties, nearest
from hepfm.tokenize.settings import VQVAEConfig

KMEANS_STEPS = 15


class Learned(NamedTuple):
    """What training gets from a quantiser.

    Attributes:
        codes: (T, D) the codes, with a gradient to the latents.
        ids: (T, Q) int64.
        commitment: (T,) squared distance of each latent to its code (of LFQ a quarter of it, of FSQ 0).
        entropy: (T,) what drives the codes of LFQ to be used equally; else 0.
    """

    codes: Tensor
    ids: Tensor
    commitment: Tensor
    entropy: Tensor


class Quantizer(Protocol):
    """A module between encoder and decoder."""

    @property
    def streams(self) -> tuple[int, ...]:
        """Codes of each of the Q id lists."""
        ...

    def learn(self, latent: Tensor) -> Learned:
        """Quantise latents (T, D); in training mode a codebook learns from them."""
        ...

    def ids_of(self, latent: Tensor) -> Tensor:
        """Ids (T, Q) of latents (T, D)."""
        ...

    def codes_of(self, ids: Tensor) -> Tensor:
        """Codes (T, D) of ids (T, Q)."""
        ...

    def near(self, latent: Tensor, ids: Tensor, tolerance: float) -> Tensor:
        """Whether (T,) bool the ids are those of the latents, or tie with them to within ``tolerance``."""
        ...


def make_quantizer(config: VQVAEConfig, latent: int, synchronised: bool) -> Quantizer:
    """The quantiser that a configuration names, for latents of so many dimensions.

    Args:
        config: sizes.
        latent: dimensions D.
        synchronised: sum codebook statistics over the processes of a distributed training.
    """
    if config.quantizer == "fsq":
        return FiniteScalar(list(config.levels))
    if config.quantizer == "lfq":
        return LookupFree(codebook_size=config.codes, dim=latent)
    common: dict[str, Any] = {"kmeans_init": True, "commitment_weight": 0.0, "rotation_trick": config.rotation_trick}
    common |= {"codebook_size": config.codes, "dim": latent, "sync_codebook": synchronised}
    if config.quantizer == "residual":
        residual = ResidualCodebooks(num_quantizers=config.quantizers, **common)
        for layer in residual.layers:
            layer._codebook = _codebook(config, latent, synchronised)
        return residual
    plain = PlainCodebook(**common)
    plain._codebook = _codebook(config, latent, synchronised)
    return plain


def _codebook(config: VQVAEConfig, latent: int, synchronised: bool) -> CountedCodebook:
    threshold = 1.0 if config.dead_below is None else config.dead_below
    return CountedCodebook(
        latent,
        config.codes,
        kmeans_init=True,
        kmeans_iters=KMEANS_STEPS,
        decay=config.decay,
        threshold_ema_dead_code=threshold,
        # A code that replaces a dead one needs a few steps to find points of its own before it counts as dead again.
        reset_cluster_size=max(threshold, min(1.0, 10 * threshold)),
        use_ddp=synchronised,
        ema_update=True,
    )


class PlainCodebook(VectorQuantize):
    """One codebook (van den Oord et al., arXiv:1711.00937) that learns by running averages (their appendix A.1)."""

    @property
    def streams(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    def learn(self, latent: Tensor) -> Learned:
        codes, ids, _ = self(latent[None])
        commitment = (latent - codes[0].detach()).square().sum(dim=-1)
        return Learned(codes[0], ids[0, :, None], commitment, torch.zeros_like(commitment))

    def ids_of(self, latent: Tensor) -> Tensor:
        return nearest(latent, self.codebook)[:, None]

    def codes_of(self, ids: Tensor) -> Tensor:
        return self.codebook[ids[:, 0]]

    def near(self, latent: Tensor, ids: Tensor, tolerance: float) -> Tensor:
        return near_ties(latent, self.codebook, ids[:, 0]) <= tolerance


class ResidualCodebooks(ResidualVQ):
    """Codebooks one after another, each for what the ones before leave (Zeghidour et al., arXiv:2107.03312, alg. 1)."""

    @property
    def streams(self) -> tuple[int, ...]:
        return tuple(self.codebook_sizes)

    def learn(self, latent: Tensor) -> Learned:
        codes, ids, _ = self(latent[None])
        commitment = (latent - codes[0].detach()).square().sum(dim=-1)
        return Learned(codes[0], ids[0], commitment, torch.zeros_like(commitment))

    def ids_of(self, latent: Tensor) -> Tensor:
        found = []
        for codebook in self.codebooks:
            found.append(nearest(latent, codebook))
            latent = latent - codebook[found[-1]]
        return torch.stack(found, dim=1)

    def codes_of(self, ids: Tensor) -> Tensor:
        parts = [codebook[column] for codebook, column in zip(self.codebooks, ids.unbind(1), strict=True)]
        return torch.stack(parts).sum(dim=0)

    def near(self, latent: Tensor, ids: Tensor, tolerance: float) -> Tensor:
        near = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        for codebook, column in zip(self.codebooks, ids.unbind(1), strict=True):
            near &= near_ties(latent, codebook, column) <= tolerance
            latent = latent - codebook[column]
        return near


class FiniteScalar(FSQ):
    """Each latent dimension rounded to one of a few levels (Mentzer et al., arXiv:2309.15505): no codebook to learn."""

    @property
    def streams(self) -> tuple[int, ...]:
        return (int(self.codebook_size),)

    def learn(self, latent: Tensor) -> Learned:
        codes, ids = self(latent[None])
        zero = latent.new_zeros(len(latent))
        return Learned(codes[0], ids[0, :, None].long(), zero, zero)

    def ids_of(self, latent: Tensor) -> Tensor:
        return self.codes_to_indices(self.quantize(latent))[:, None].long()

    def codes_of(self, ids: Tensor) -> Tensor:
        return self.indices_to_codes(ids[None, :, 0])[0]

    def near(self, latent: Tensor, ids: Tensor, tolerance: float) -> Tensor:
        levels = self.indices_to_level_indices(ids[:, 0])
        below, above = (self._scale_and_shift(self.quantize(latent + step)).round() for step in (-tolerance, tolerance))
        return ((below <= levels) & (levels <= above)).all(dim=1)


class LookupFree(LFQ):
    """The signs of the latent dimensions as bits (Yu et al., MAGVIT-v2, arXiv:2310.05737).

    The entropy term rewards points that are sure of each bit, and codes that are used equally often. Groups of bits are
    taken for independent of one another, as MAGVIT-v2 does for large codebooks, so that no table of points by codes is
    larger than points by 2^GROUP_BITS.
    """

    # Of the probabilities of a bit: at a distance of 0.5 from the boundary a bit is 88% sure.
    SHARPNESS = 4.0
    # A latent far from the boundary is no error of the decoder's input: distances to the code count a quarter.
    COMMITMENT = 0.25
    GROUP_BITS = 10
    mask: Tensor

    @property
    def streams(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    def learn(self, latent: Tensor) -> Learned:
        ids = self.ids_of(latent)
        codes = self.codes_of(ids)
        commitment = self.COMMITMENT * (latent - codes).square().sum(dim=-1)
        logits = self.SHARPNESS * latent
        sure = (F.softplus(logits) - logits.sigmoid() * logits).sum(dim=1)
        equal = sum(_joint_entropy(part) for part in logits.split(self.GROUP_BITS, dim=1))
        return Learned(latent + (codes - latent).detach(), ids, commitment, sure - equal)

    def ids_of(self, latent: Tensor) -> Tensor:
        return ((latent > 0).long() * self.mask).sum(dim=1, keepdim=True)

    def codes_of(self, ids: Tensor) -> Tensor:
        return self.indices_to_codes(ids[None, :, 0])[0]

    def near(self, latent: Tensor, ids: Tensor, tolerance: float) -> Tensor:
        agree = (latent > 0) == (self.codes_of(ids) > 0)
        return (agree | (latent.abs() <= tolerance)).all(dim=1)


def _joint_entropy(logits: Tensor) -> Tensor:
    """Entropy [nats] of the mean over points of the probabilities of the codes that bits with logits (T, B) make."""
    bits = logits.shape[1]
    codes = (torch.arange(1 << bits, device=logits.device)[:, None] >> torch.arange(bits, device=logits.device)) & 1
    of_codes = logits @ codes.T.to(logits.dtype) - F.softplus(logits).sum(dim=1, keepdim=True)
    return torch.special.entr(of_codes.exp().mean(dim=0)).sum()
