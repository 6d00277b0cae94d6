"""The profile of a record: how much energy and how many hits each layer has, drawn before the hits themselves.

A network that adds hit to hit has to hold the sum of a hundred of them to a few percent, which it learns late. Drawing
the layers' energies first, and the hits to given layers, is how most shower generators keep response and resolution
(CaloFlow, Krause and Shih, arXiv:2106.05285; L2LFlows, Diefenbacher et al., arXiv:2302.11594; CaloDREAM, Favaro et al.,
arXiv:2405.09629).

The total comes first, compared with the incident energy where that is told; then front to back the share that each
layer takes of what is left, so that the layers sum to the total (the layer fractions of CaloFlow, one after another);
then how many hits share it (:mod:`hepfm.pretrain.hit_counts`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.pretrain.hit_counts import HIDDEN, INITIAL_STD, CountHead, choice, described
from hepfm.pretrain.mixture import Mixture, draw, first_bias, log_density, mixture_of
from hepfm.pretrain.streams import Profile

SOME, EMPTY, REST = range(3)  # a layer has part of what is left, none of it, all of it
COMPONENTS = 8


def logarithms(energies: Tensor, scale: Tensor) -> Tensor:
    """ln(total / scale) and ln(energy / energy after) (n, 1 + L) of energies (n, L); not finite where one is 0."""
    after = energies.flip(-1).cumsum(-1).flip(-1) - energies
    # The difference of two sums leaves a rounding error where nothing comes after.
    later = F.pad((energies > 0).flip(-1).cumsum(-1).flip(-1)[:, 1:], (0, 1)) > 0
    after = torch.where(later, after, 0)
    return torch.cat([(energies.sum(-1) / scale).log()[:, None], energies.log() - after.log()], -1)


class ProfileHead(nn.Module):
    """The density of a profile: of its energies, an autoregressive network of 1 + L targets that each know those
    before, and of its numbers of hits.

    All targets share no weights: each has two layers of its own, run together (masks as in MADE, Germain et al.,
    arXiv:1502.03509), three logits (some, empty, rest) and a mixture.
    """

    def __init__(self, width: int, profile: Profile, least: float) -> None:
        super().__init__()
        self.profile = profile
        self.counts = CountHead(width, profile, least)
        targets = profile.parts + 1
        self.told = nn.Linear(width, targets * HIDDEN)
        self.seen = nn.Parameter(torch.randn(targets, 3, targets, HIDDEN) / math.sqrt(3 * targets))
        self.between = nn.Parameter(torch.randn(targets, HIDDEN, HIDDEN) / math.sqrt(HIDDEN))
        self.between_bias = nn.Parameter(torch.zeros(targets, HIDDEN))
        self.out = nn.Parameter(INITIAL_STD * torch.randn(targets, HIDDEN, 3 + 3 * COMPONENTS))
        bias = torch.zeros(targets, 3 + 3 * COMPONENTS)
        bias[:, 3:] = torch.stack(
            [first_bias(low, high, COMPONENTS) for low, high in zip(*self._bounds(), strict=True)]
        )
        self.out_bias = nn.Parameter(bias)

    def _bounds(self) -> tuple[list[float], list[float]]:
        """Standardised least and largest (1 + L,)."""
        known = self.profile
        lows = [(low - mean) / std for low, mean, std in zip(known.lows, known.means, known.stds, strict=True)]
        highs = [(high - mean) / std for high, mean, std in zip(known.highs, known.means, known.stds, strict=True)]
        return lows, highs

    def _found(self, told: Tensor, seen: Tensor) -> tuple[Tensor, Mixture]:
        """Logits (n, 1 + L, 3) and mixtures (n, 1 + L, K) by what is told (n, width) and seen (n, 1 + L, 3)."""
        targets = self.profile.parts + 1
        earlier = torch.ones(targets, targets, device=seen.device, dtype=seen.dtype).triu(1)  # [seen, target]
        weights = (self.seen * earlier[:, None, :, None]).flatten(2).flatten(0, 1)  # (3 (1 + L), (1 + L) H)
        x = F.silu((self.told(told) + seen.flatten(1) @ weights).unflatten(1, (targets, HIDDEN)))
        x = F.silu(torch.einsum("nth,thk->ntk", x, self.between) + self.between_bias)
        found = torch.einsum("nth,thk->ntk", x, self.out) + self.out_bias
        low, high = (found.new_tensor(bound)[:, None] for bound in self._bounds())
        return found[..., :3], mixture_of(found[..., 3:], low, high)

    def forward(self, told: Tensor, profile: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of -ln p [nats] of profiles (n, 2, L) and how many count: those with energy and a known scale (n,)."""
        energies, hits = profile.unbind(1)
        with torch.autocast(told.device.type, enabled=False):
            counted = (energies.sum(-1) > 0) & (scale > 0)
            energies, scale, hits = energies[counted].double(), scale[counted].double(), hits[counted]
            told = told[counted].to(self.between.dtype)
            raw = logarithms(energies, scale)
            mean, std = raw.new_tensor(self.profile.means), raw.new_tensor(self.profile.stds)
            low, high = map(raw.new_tensor, self._bounds())
            some = raw.isfinite()
            values = torch.where(some, (raw - mean) / std, 0).maximum(low).minimum(high).to(told.dtype)
            kinds = kinds_of(energies)
            logits, mixture = self._found(told, seen_of(values, kinds))
            flat = Mixture(*(part.flatten(0, 1) for part in mixture))
            bounds = (bound.to(values).repeat(len(values))[:, None] for bound in (low, high))
            density = log_density(flat, values.flatten(), *bounds).unflatten(0, values.shape) - std.log().to(values)
            chosen = F.cross_entropy(logits[:, 1:].flatten(0, 1), kinds.flatten(), reduction="none")
            open_ = still_open(energies)
            total = -(density * some).sum() + (chosen.unflatten(0, kinds.shape) * open_).sum()
            return total + self.counts(told, energies, hits), counted.sum()

    @torch.no_grad()
    def draw(self, told: Tensor, scale: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Profiles (n, 2, L) float64 of records that are told (n, width), by uniform numbers (n, 1 + L, 4).

        Logits are divided by the temperature, mixtures as in :func:`hepfm.pretrain.mixture.draw`.
        """
        rows, targets = len(told), self.profile.parts + 1
        seen = told.new_zeros(rows, targets, 3)
        energies = told.new_zeros(rows, self.profile.parts, dtype=torch.float64)
        low, high = self._bounds()
        left = scale.double()
        for target in range(targets):
            logits, mixture = self._found(told, seen)
            own = Mixture(*(part[:, target] for part in mixture))
            value = draw(own, uniform[:, target, 1:3], low[target], high[target], temperature)
            raw = value * self.profile.stds[target] + self.profile.means[target]
            seen[:, target, 0] = value.to(seen)
            if target == 0:
                left = left * raw.exp()
                continue
            kind = choice(logits[:, target].double(), uniform[:, target, 0], temperature)
            if target == self.profile.parts:
                kind = torch.full_like(kind, REST)
            kind = torch.where(left > 0, kind, EMPTY)
            share = torch.stack([raw.sigmoid(), torch.zeros_like(raw), torch.ones_like(raw)], -1)
            energies[:, target - 1] = left * share.gather(1, kind[:, None])[:, 0]
            left = torch.where(kind == SOME, left * (-raw).sigmoid(), torch.where(kind == EMPTY, left, 0))
            seen[:, target] = seen_of(value.to(seen)[:, None], kind[:, None])[:, -1]
        return torch.stack([energies, self.counts.draw(told, energies, uniform[:, 1:, 3], temperature)], 1)


def kinds_of(energies: Tensor) -> Tensor:
    """SOME, EMPTY or REST (n, L) of energies (n, L)."""
    later = F.pad((energies > 0).flip(-1).cumsum(-1).flip(-1)[:, 1:], (0, 1)) > 0
    return torch.where(energies > 0, torch.where(later, SOME, REST), EMPTY)


def still_open(energies: Tensor) -> Tensor:
    """Where (n, L) it is not certain what a layer has: something is left, and it is not the last."""
    left = (energies > 0).flip(-1).cumsum(-1).flip(-1) > 0
    left[:, -1] = False
    return left


def seen_of(values: Tensor, kinds: Tensor) -> Tensor:
    """What later targets see (n, t, 3) of standardised values (n, t) and the kinds of the last of them (n, L)."""
    kinds = F.pad(kinds, (values.shape[1] - kinds.shape[1], 0), value=SOME)
    return torch.stack([values * (kinds == SOME), (kinds == EMPTY).to(values), (kinds == REST).to(values)], -1)


class ProfileEmbedding(nn.Module):
    """Profiles (n, 2, L) for the positions that make hits of them: (n, width)."""

    def __init__(self, width: int, profile: Profile, hidden: int = 128) -> None:
        super().__init__()
        self.profile = profile
        self.up, self.down = nn.Linear(1 + 3 * profile.parts, hidden), nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.down.weight, std=INITIAL_STD)

    def forward(self, profile: Tensor) -> Tensor:
        energies, hits = profile.unbind(1)
        x = torch.cat([described(energies, self.profile), hits.log1p()], -1)
        return self.down(F.gelu(self.up(x.to(self.up.weight.dtype))))
