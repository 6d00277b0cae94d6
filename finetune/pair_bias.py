"""Particle Transformer's bias of attention: four numbers of each pair of particles, embedded, one number a head.

Only pairs of real particles are computed, each once: the numbers are symmetric (Qu, Li, Qian, arXiv:2202.03772,
section 4). Buckets of similar length take them as rectangles.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.core.nn.attention import HALF
from hepfm.core.nn.batch_norm import BatchNorm, NormalisedLinear
from hepfm.core.nn.ragged import Bucket, Layout

PAIR_FEATURES = 4
SMALLEST = 1e-8  # argument of a logarithm, as in the published network


@dataclass(frozen=True)
class BucketPairs:
    """Pairs of the particles of a bucket's jets, as they lie in its rectangles.

    Attributes:
        places: (rows, length, length) int64, pair at each place: ``count`` where the second particle is padding,
            ``count + 1`` where only the first is.
        lower: (count,) int64, place of each pair with first >= second in a flattened (rows, length, length).
        count: pairs of real particles, a particle with itself among them.
    """

    places: torch.Tensor
    lower: torch.Tensor
    count: int


@dataclass(frozen=True)
class Pairs:
    """All pairs of a batch, bucket after bucket.

    Attributes:
        first, second: (P,) int64, tokens of each pair; the first stands at or after the second in its jet.
        buckets: where they lie.
    """

    first: torch.Tensor
    second: torch.Tensor
    buckets: tuple[BucketPairs, ...]

    @classmethod
    def of(cls, layout: Layout) -> Pairs:
        """The pairs of a layout's sequences."""
        made = [
            _bucket_pairs(bucket, tokens.view(bucket.rows, bucket.length))
            for bucket, tokens in zip(
                layout.buckets, layout.slots.split([b.slots for b in layout.buckets]), strict=True
            )
        ]
        first, second, buckets = zip(*made, strict=True)
        return cls(torch.cat(first), torch.cat(second), buckets)


def _bucket_pairs(bucket: Bucket, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, BucketPairs]:
    rows, length, device = bucket.rows, bucket.length, tokens.device
    real = torch.ones(rows, length, dtype=torch.bool, device=device) if bucket.real is None else bucket.real[:, 0, 0]
    lengths = real.sum(1)
    # Rows of a lower triangle one after another: that of n particles is the beginning of that of more.
    first, second = torch.tril_indices(length, length, device=device)
    inside = first < lengths[:, None]
    at = torch.arange(rows, device=device)[:, None] * length**2 + first * length + second
    counts = lengths * (lengths + 1) // 2
    count = int(counts.sum())
    position = torch.arange(length, device=device)
    high, low = torch.maximum(position[:, None], position), torch.minimum(position[:, None], position)
    places = (counts.cumsum(0) - counts)[:, None, None] + high * (high + 1) // 2 + low
    if bucket.real is not None:
        places = torch.where(real[:, :, None], places, count + 1)
        places = torch.where(real[:, None, :], places, count)
    return tokens[:, first][inside], tokens[:, second][inside], BucketPairs(places, at[inside], count)


def pair_features(vectors: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """ln kT, ln z, ln Delta R and ln m^2 (P, 4) of pairs of four-vectors (arXiv:2202.03772, eq. 3).

    Delta R is in rapidity and azimuth, kT = min(pt) Delta R, z = min(pt) / (pt + pt). Arguments of logarithms are at
    least 1e-8. The order of operations is that of the published code: m^2 is a small difference of large numbers.

    Args:
        vectors: (T, 4) px, py, pz, energy [GeV].
        pairs: of these tokens.
    """
    px, py, pz, energy = vectors.unbind(1)
    pt = (px.square() + py.square()).sqrt()
    rapidity = 0.5 * torch.log(1 + (2 * pz) / (energy - pz).clamp(min=1e-20))
    phi = torch.atan2(py, px)
    first, second = pairs.first, pairs.second
    turn = (phi[first] - phi[second] + math.pi) % (2 * math.pi) - math.pi
    distance = ((rapidity[first] - rapidity[second]).square() + turn.square()).sqrt()
    pt_first, pt_second = pt[first], pt[second]
    softer = torch.minimum(pt_first, pt_second)
    sums = [component[first] + component[second] for component in (px, py, pz, energy)]
    mass_squared = sums[3].square() - (sums[0].square() + sums[1].square() + sums[2].square())
    columns = (
        softer * distance,
        softer / (pt_first + pt_second).clamp(min=SMALLEST),
        distance,
        mass_squared,
    )
    return torch.stack(columns, 1).clamp_(min=SMALLEST).log_()


class PairBias(nn.Module):
    """Embeds the features of pairs: linear layers with batch norm and GELU between them, to one number a head.

    Args:
        widths: of the hidden layers.
        heads: numbers a pair.
        activation: whether a GELU follows the last batch norm, as in the published models of Particle Transformer.
    """

    def __init__(self, widths: tuple[int, ...], heads: int, activation: bool) -> None:
        super().__init__()
        sizes = (PAIR_FEATURES, *widths, heads)
        self.input_norm = BatchNorm(PAIR_FEATURES)
        self.layers = nn.ModuleList(NormalisedLinear(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = activation

    def forward(self, vectors: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, ...]:
        """Biases (rows, heads, length, length) of each bucket, -inf where the second particle is padding."""
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            pairs = Pairs.of(layout)
            x = pair_features(vectors.float(), pairs)
        for number, layer in enumerate(self.layers):
            x = layer(x if not number else F.gelu(x), None if number else self.input_norm)
        x = F.gelu(x) if self.activation else x
        return _Spread.apply(x.float() if x.dtype in HALF else x, pairs.buckets)  # attention takes no half precision


class _Spread(torch.autograd.Function):
    """Values (P, heads) of pairs to symmetric rectangles (rows, heads, length, length) of each bucket.

    A pair's gradient is the sum at its two places; both are read, nothing is scattered.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, buckets: tuple[BucketPairs, ...]) -> tuple[torch.Tensor, ...]:
        ctx.buckets = buckets
        padding = values.new_zeros(2, values.shape[1])
        padding[0] = -torch.inf
        parts = values.split([bucket.count for bucket in buckets])
        return tuple(
            torch.cat([part, padding])
            .index_select(0, bucket.places.flatten())
            .view(*bucket.places.shape, -1)
            .permute(0, 3, 1, 2)
            .contiguous()
            for part, bucket in zip(parts, buckets, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        parts = []
        for gradient, bucket in zip(gradients, ctx.buckets, strict=True):
            both = gradient + gradient.mT
            both.diagonal(dim1=-2, dim2=-1).mul_(0.5)
            parts.append(both.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1]).index_select(0, bucket.lower))
        return torch.cat(parts), None
