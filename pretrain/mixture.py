"""The density of a number: a mixture of normal distributions on the range that training has, and draws from it.

A threshold cuts energies off, and a plain mixture leaks below it. Here each component is a normal distribution cut to
[low, high] and normalised there; its centre lies in that range, so that a good part of it does too, and no logarithm of
a small difference is ever taken. (Mixtures as outputs: Bishop, NCRG/94/004; for energies of hits: SPADE,
arXiv:2606.11304.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hepfm.pretrain.streams import Number

CHUNK = 1 << 16  # numbers whose mixtures are held at a time
WIDTHS = (0.01, 4.0)  # of a component, in standard deviations of the number
FIRST_WIDTH = 0.6
INITIAL_STD = 0.02


class Mixture(NamedTuple):
    """Mixtures (N, K) of standardised numbers: logarithms of the weights, centres, widths."""

    log_weights: Tensor
    centres: Tensor
    widths: Tensor


class MixtureHead(nn.Module):
    """From features (N, width) to mixtures, or with numbers (N,) to the sum of -ln density [nats, per their unit]."""

    def __init__(self, width: int, number: Number) -> None:
        super().__init__()
        self.number = number
        self.low, self.high = ((bound - number.mean) / number.std for bound in (number.low, number.high))
        self.out = nn.Linear(width, 3 * number.components)
        nn.init.normal_(self.out.weight, std=INITIAL_STD)
        with torch.no_grad():
            self.out.bias.copy_(first_bias(self.low, self.high, number.components))

    def forward(self, x: Tensor, values: Tensor | None = None) -> Mixture | Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.out.weight.dtype)
            if values is None:
                return self._mixture(self.out(x))
            values = ((values - self.number.mean) / self.number.std).clamp(self.low, self.high)
            found = self.out(x)
            total = found.new_zeros((), dtype=torch.promote_types(found.dtype, torch.float32))
            several = len(values) > CHUNK and torch.is_grad_enabled()
            for part, known in zip(found.split(CHUNK), values.split(CHUNK), strict=True):
                summed = checkpoint(self._surprise, part, known, use_reentrant=False) if several else None
                total = total + (self._surprise(part, known) if summed is None else summed)
            return total + len(values) * math.log(self.number.std)

    def _mixture(self, found: Tensor) -> Mixture:
        return mixture_of(found, self.low, self.high)

    def _surprise(self, found: Tensor, values: Tensor) -> Tensor:
        return -log_density(self._mixture(found), values, self.low, self.high).sum()


def first_bias(low: float, high: float, components: int) -> Tensor:
    """Outputs (3 components,) of a head that has not learned: equal weights, centres spread over the middle."""
    place = (FIRST_WIDTH - WIDTHS[0]) / (WIDTHS[1] - WIDTHS[0])
    centres = torch.linspace(low, high, components + 2)[1:-1].clamp(-2, 2)
    return torch.cat([torch.zeros(components), centres, torch.full((components,), math.log(place / (1 - place)))])


def mixture_of(found: Tensor, low: float | Tensor, high: float | Tensor) -> Mixture:
    """Mixtures (..., K) of outputs (..., 3 K) of a head; bounds as numbers, or with a last dimension of 1."""
    weights, centres, widths = found.to(torch.promote_types(found.dtype, torch.float32)).chunk(3, -1)
    least, most = WIDTHS
    return Mixture(
        weights.log_softmax(-1),
        _Bounded.apply(centres, low, high),
        least + (most - least) * widths.sigmoid(),
    )


def log_density(mixture: Mixture, values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """ln density (N,) of standardised numbers (N,) in [low, high]; bounds as numbers or (N, 1)."""
    log_weights, centres, widths = mixture
    below, above = (low - centres) / widths, (high - centres) / widths
    kept = torch.special.ndtr(above) - torch.special.ndtr(below)
    z = (values.to(widths.dtype)[:, None] - centres) / widths
    logs = log_weights - 0.5 * z**2 - widths.log() - 0.5 * math.log(2 * math.pi) - kept.log()
    return logs.logsumexp(-1)


def draw(mixture: Mixture, uniform: Tensor, low: float, high: float, temperature: float) -> Tensor:
    """A standardised number (N,) of each mixture, by two uniform numbers (N, 2) in [0, 1): component, and place in it.

    Logarithms of weights are divided by the temperature, squares of widths multiplied by it; at 0 it is the centre of
    the most probable component.
    """
    log_weights, centres, widths = (part.double() for part in mixture)
    if temperature == 0:
        return centres.gather(1, log_weights.argmax(-1, keepdim=True))[:, 0]
    shares = (log_weights / temperature).softmax(-1).cumsum(-1)
    place = (shares < uniform[:, :1] * shares[:, -1:]).sum(-1, keepdim=True).clamp(max=shares.shape[1] - 1)
    centre, width = centres.gather(1, place)[:, 0], widths.gather(1, place)[:, 0] * math.sqrt(temperature)
    below, above = (torch.special.ndtr((bound - centre) / width) for bound in (low, high))
    return (centre + width * torch.special.ndtri(below + uniform[:, 1] * (above - below))).clamp(low, high)


class _Bounded(torch.autograd.Function):
    """Clamp, through which no gradient passes that would push further out; one that pulls back in does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return torch.clamp(x, low, high)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        outward = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(outward, 0), None, None


class NumberEmbedding(nn.Module):
    """Embeddings (T, width) of numbers (T,), a smooth function of them; NaN, which is nothing, has its own vector."""

    def __init__(self, width: int, number: Number, hidden: int = 64) -> None:
        super().__init__()
        self.number = number
        self.up, self.down = nn.Linear(1, hidden), nn.Linear(hidden, width, bias=False)
        self.nothing = nn.Embedding(1, width)
        nn.init.normal_(self.up.weight)
        nn.init.normal_(self.up.bias)
        nn.init.normal_(self.down.weight, std=INITIAL_STD)
        nn.init.normal_(self.nothing.weight, std=INITIAL_STD)

    def forward(self, values: Tensor) -> Tensor:
        known = values.isfinite()
        number = ((values.nan_to_num() - self.number.mean) / self.number.std)[:, None].to(self.up.weight.dtype)
        nothing = self.nothing(torch.zeros_like(known, dtype=torch.int64))
        return torch.where(known[:, None], self.down(F.gelu(self.up(number))), nothing)
