"""How many hits each layer has, given the energies of the layers: drawn after them, before the hits themselves.

Sums of many choices to stop are learned late, like sums of energies; point counts drawn first keep them (CaloClouds,
Buhmann et al., arXiv:2305.04847, which draws hits per layer from a flow).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.pretrain.streams import Profile

HIDDEN = 96
INITIAL_STD = 0.02
LEAST_SHARE = 1e-5  # of the total, that a layer is told apart from less by the hits
ROUNDING = 1e-6  # by which a sum of energies in single precision may miss the least that its hits have


def described(energies: Tensor, profile: Profile) -> Tensor:
    """Energies [MeV] of layers (n, L) as networks read them (n, 1 + 2 L): total, shares, which have some."""
    total = energies.sum(-1, keepdim=True).clamp(min=1e-9)
    share = (energies / total).clamp(min=LEAST_SHARE).log() / -math.log(LEAST_SHARE)
    size = (total.log() - profile.total_mean) / profile.total_std
    return torch.cat([size, share, (energies > 0).to(share)], -1)


class CountHead(nn.Module):
    """p(hits of a layer), 1 to the most that training has, one layer after another; a layer without energy has none.

    Two layers of weights for each part, as in :class:`hepfm.pretrain.energy_profile.ProfileHead`. More hits than the
    layer's energy pays for at the least energy of a hit have no probability.

    Args:
        width: of what a record is told.
        profile: what is known of the layers.
        least: energy [MeV] of a hit.
    """

    def __init__(self, width: int, profile: Profile, least: float) -> None:
        super().__init__()
        self.profile, self.least = profile, least
        parts, most = profile.parts, profile.most_hits
        self.told = nn.Linear(width + 1 + 2 * parts, parts * HIDDEN)
        self.seen = nn.Parameter(torch.randn(parts, parts, HIDDEN) / math.sqrt(parts))
        self.between = nn.Parameter(torch.randn(parts, HIDDEN, HIDDEN) / math.sqrt(HIDDEN))
        self.between_bias = nn.Parameter(torch.zeros(parts, HIDDEN))
        self.out = nn.Parameter(INITIAL_STD * torch.randn(parts, HIDDEN, most))
        self.out_bias = nn.Parameter(torch.zeros(parts, most))

    def _logits(self, told: Tensor, energies: Tensor, hits: Tensor) -> Tensor:
        """Logits (n, L, most) of what is told (n, width), energies (n, L) and the hits of the layers before (n, L)."""
        parts = self.profile.parts
        earlier = torch.ones(parts, parts, device=told.device, dtype=told.dtype).triu(1)  # [seen, target]
        weights = (self.seen * earlier[..., None]).flatten(1)  # (L, L H)
        known = torch.cat([told, described(energies, self.profile).to(told.dtype)], -1)
        x = self.told(known) + hits.to(told.dtype).log1p() @ weights
        x = F.silu(x.unflatten(1, (parts, HIDDEN)))
        x = F.silu(torch.einsum("nth,thk->ntk", x, self.between) + self.between_bias)
        logits = torch.einsum("nth,thk->ntk", x, self.out) + self.out_bias
        numbers = torch.arange(1, self.profile.most_hits + 1, device=told.device)
        return logits.masked_fill(numbers > self._paid(energies)[..., None], -torch.inf)

    def _paid(self, energies: Tensor) -> Tensor:
        """The most hits (n, L) that layers with these energies can have."""
        return (energies / self.least * (1 + ROUNDING)).floor().clamp(1, self.profile.most_hits)

    def forward(self, told: Tensor, energies: Tensor, hits: Tensor) -> Tensor:
        """Sum of -ln p [nats] of hits (n, L) of layers with energies (n, L); more than there can be are the most."""
        hits, some = torch.minimum(hits.double(), self._paid(energies)), energies > 0
        logits = self._logits(told, energies, hits)
        return F.cross_entropy(logits[some], hits[some].long() - 1, reduction="sum")

    @torch.no_grad()
    def draw(self, told: Tensor, energies: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Numbers of hits (n, L) of layers with energies (n, L), by uniform numbers (n, L)."""
        hits = torch.zeros_like(energies)
        for part in range(self.profile.parts):
            logits = self._logits(told, energies, hits)[:, part].double()
            found = 1 + choice(logits, uniform[:, part], temperature)
            hits[:, part] = torch.where(energies[:, part] > 0, found, 0).to(hits)
        return hits


def choice(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Which of the logits (n, k) by uniform numbers (n,); the largest at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits / temperature).softmax(-1).cumsum(-1)
    return (shares[:, :-1] <= uniform[:, None] * shares[:, -1:]).sum(-1)
