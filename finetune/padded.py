"""Networks of jets on padded rectangles, for graphs of fixed operations (ONNX): same weights and outputs as packed.

A network here takes features (n, P, F), four-vectors (n, P, 4) [GeV] and a mask (n, P), True for particles, and gives
its embedding (n, width); padding may hold anything finite. Only evaluation: neither dropout nor batch statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.finetune.deep_sets import DeepSets
from hepfm.finetune.pair_bias import SMALLEST, PairBias
from hepfm.finetune.particle_net import EdgeConvolution, ParticleNet, squared_distances
from hepfm.finetune.particle_transformer import Block, ParticleTransformer

FAR = 1e30  # square of a distance to what is no particle
HIDDEN = -1e30  # a score of what is not attended to: finite, so that a jet without particles gives numbers


class PaddedParticleTransformer(nn.Module):
    """:class:`~hepfm.finetune.particle_transformer.ParticleTransformer` on rectangles."""

    def __init__(self, network: ParticleTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network = self.network
        x = network.embed(network.input_norm(features))
        hidden = torch.where(mask, 0.0, HIDDEN)[:, None, None, :]
        bias = hidden if network.pair_bias is None else _pair_bias(network.pair_bias, vectors) + hidden
        for block in network.blocks:
            assert isinstance(block, Block)
            query, key, value = _heads(block.qkv(block.attention_norm(x)), block, 3)
            x = block.after_attention(x, _attended(query, key, value, bias))
        token = network.token.expand(features.shape[0], 1, -1)
        seen = F.pad(hidden, (1, 0))
        for block in network.class_blocks:
            assert isinstance(block, Block)
            width = token.shape[2]
            weights, biases = (part.split([width, 2 * width]) for part in (block.qkv.weight, block.qkv.bias))
            (query,) = _heads(F.linear(token, weights[0], biases[0]), block, 1)
            everything = block.attention_norm(torch.cat([token, x], 1))
            key, value = _heads(F.linear(everything, weights[1], biases[1]), block, 2)
            token = block.after_attention(token, _attended(query, key, value, seen))
        return network.final_norm(token[:, 0])


def _heads(x: torch.Tensor, block: Block, parts: int) -> tuple[torch.Tensor, ...]:
    """Parts (n, heads, P, d) of (n, P, parts * heads * d)."""
    split = x.unflatten(2, (parts, block.heads, block.channels))
    return tuple(split[:, :, part].transpose(1, 2) for part in range(parts))


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What queries (n, heads, Q, d) find, (n, Q, heads * d)."""
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + bias
    return (scores.softmax(3) @ value).transpose(1, 2).flatten(2)


def _pair_bias(pair_bias: PairBias, vectors: torch.Tensor) -> torch.Tensor:
    """Bias (n, heads, P, P): the formulas of :func:`hepfm.finetune.pair_bias.pair_features`, in their order."""
    px, py, pz, energy = vectors.unbind(2)
    pt = (px.square() + py.square()).sqrt()
    # In double precision and rounded: the logarithm of a small angle shows the last digit of each rapidity and azimuth.
    ratio = (1 + (2 * pz) / (energy - pz).clamp(min=1e-20)).double()
    rapidity, phi = 0.5 * ratio.log().float(), _azimuth(px, py)

    def pairs(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values[:, :, None], values[:, None, :]

    (y_first, y_second), (phi_first, phi_second) = pairs(rapidity), pairs(phi)
    turn = phi_first - phi_second
    turn = torch.where(turn >= math.pi, turn - 2 * math.pi, torch.where(turn < -math.pi, turn + 2 * math.pi, turn))
    distance = ((y_first - y_second).square() + turn.square()).sqrt()
    pt_first, pt_second = pairs(pt)
    softer = torch.minimum(pt_first, pt_second)
    sums = [first + second for first, second in map(pairs, (px, py, pz, energy))]
    mass_squared = sums[3].square() - (sums[0].square() + sums[1].square() + sums[2].square())
    columns = (softer * distance, softer / (pt_first + pt_second).clamp(min=SMALLEST), distance, mass_squared)
    x = torch.stack(columns, 3).clamp(min=SMALLEST).log()
    for number, layer in enumerate(pair_bias.layers):
        x = layer(x if not number else F.gelu(x), None if number else pair_bias.input_norm)
    return (F.gelu(x) if pair_bias.activation else x).permute(0, 3, 1, 2)


def _azimuth(px: torch.Tensor, py: torch.Tensor) -> torch.Tensor:
    """The azimuth, correctly rounded by a step of Newton's: ONNX Runtime has no arctangent in double precision."""
    rough = torch.atan2(py, px).double()
    sine, cosine, x, y = rough.sin(), rough.cos(), px.double(), py.double()
    return (rough + (y * cosine - x * sine) / (x * cosine + y * sine).clamp(min=1e-20)).float()


class PaddedDeepSets(nn.Module):
    """:class:`~hepfm.finetune.deep_sets.DeepSets` on rectangles."""

    def __init__(self, network: DeepSets) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network = self.network
        particles = network.particle(network.input_norm(features))
        return network.jet(torch.where(mask[:, :, None], particles, 0.0).sum(1))


class PaddedParticleNet(nn.Module):
    """:class:`~hepfm.finetune.particle_net.ParticleNet` on rectangles."""

    def __init__(self, network: ParticleNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network, neighbours = self.network, self.network.config.neighbours
        # Points at zero, far from all, behind each jet: there are always as many neighbours as are asked for.
        real = F.pad(mask, (0, neighbours + 1))
        x = torch.where(real[:, :, None], F.pad(network.input_norm(features), (0, 0, 0, neighbours + 1)), 0.0)
        places = F.pad(features[:, :, -2:], (0, 0, 0, neighbours + 1))
        for convolution in network.convolutions:
            assert isinstance(convolution, EdgeConvolution)
            distance = squared_distances(places) + torch.where(real, 0.0, FAR)[:, None, :]
            near = distance.topk(neighbours + 1, largest=False, sorted=True)[1][:, :, 1:]
            x = torch.where(real[:, :, None], _edges(convolution, x, near), 0.0)
            places = x
        mean = x.sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        return F.relu(network.hidden(mean))


def _edges(convolution: EdgeConvolution, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """What an edge convolution makes of particles (n, P, C) with neighbours (n, P, k)."""
    own, other = convolution.first.weight.chunk(2, 1)
    jets, particles, neighbours = near.shape
    of_other = F.linear(x, other)
    index = near.flatten(1)[:, :, None].expand(-1, -1, of_other.shape[2])
    of_near = of_other.gather(1, index).reshape(jets, particles, neighbours, -1)
    messages = F.relu(convolution.first_norm(F.linear(x, own - other)[:, :, None] + of_near))
    for layer in convolution.layers:
        messages = F.relu(layer(messages))
    return F.relu(messages.mean(2) + (x if convolution.shortcut is None else convolution.shortcut(x)))


PADDED: dict[str, Callable[..., nn.Module]] = {
    "particle-transformer": PaddedParticleTransformer,
    "particle-net": PaddedParticleNet,
    "deep-sets": PaddedDeepSets,
}
