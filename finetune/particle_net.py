"""ParticleNet (Qu, Gouskos, arXiv:1902.08570) on packed jets: edges of real particles alone, no rectangle of padding.

The network is that of weaver-core's ``ParticleNet``: same outputs from the same weights, see
:mod:`hepfm.finetune.weaver_weights`. As there, the nearest of all particles, itself as a rule, is no neighbour, and a
jet with too few particles has neighbours at zero in their place. In training its batch norms see no other padding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.core.nn.batch_norm import BatchNorm, NormalisedLinear
from hepfm.core.nn.dropout import Dropout
from hepfm.core.nn.ragged import Layout
from hepfm.finetune.inputs import JetInputs


@dataclass(frozen=True)
class ParticleNetConfig:
    """What a ParticleNet is made of. The defaults are those of JetClass (arXiv:2202.03772): 370,000 parameters.

    Attributes:
        features: numbers of a particle; the last two are its angles, in which the first neighbours are found.
        classes: numbers of outputs.
        neighbours: of each particle.
        convolutions: widths of the layers of each edge convolution.
        head: width of the hidden layer of the head.
        dropout: after it.
    """

    features: int = 17
    classes: int = 10
    neighbours: int = 16
    convolutions: tuple[tuple[int, ...], ...] = ((64, 64, 64), (128, 128, 128), (256, 256, 256))
    head: int = 256
    dropout: float = 0.1


class EdgeConvolution(nn.Module):
    """Messages of the nearest neighbours, averaged, beside a shortcut.

    Args:
        inputs: channels of a particle.
        widths: of the layers that a message goes through.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Linear(2 * inputs, widths[0], bias=False), BatchNorm(widths[0])
        self.layers = nn.ModuleList(NormalisedLinear(a, b, bias=False) for a, b in itertools.pairwise(widths))
        self.shortcut = NormalisedLinear(inputs, widths[-1], bias=False) if inputs != widths[-1] else None

    def forward(self, x: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        """Particles (T, channels) whose neighbours (T, k) are given; T stands for one at zero."""
        own, other = self.first.weight.chunk(2, 1)
        # W (x_i, x_j - x_i) is a sum of two maps of particles: neither is made for each edge.
        of_other = F.pad(F.linear(x, other), (0, 0, 0, 1))
        messages = F.linear(x, own - other)[:, None] + of_other[neighbours]
        messages = F.relu(self.first_norm(messages.flatten(0, 1)))
        for layer in self.layers:
            messages = F.relu(layer(messages))
        mean = messages.unflatten(0, neighbours.shape).mean(1)
        return F.relu(mean + (x if self.shortcut is None else self.shortcut(x)))


class ParticleNet(nn.Module):
    """Jets to logits: ``network(inputs)`` gives (n, classes), ``network.embedding(inputs)`` (n, width)."""

    def __init__(self, config: ParticleNetConfig) -> None:
        super().__init__()
        self.config = config
        self.input_norm = BatchNorm(config.features)
        inputs = (config.features, *(widths[-1] for widths in config.convolutions))
        self.convolutions = nn.ModuleList(
            EdgeConvolution(size, widths) for size, widths in zip(inputs, config.convolutions, strict=False)
        )
        self.hidden = nn.Linear(inputs[-1], config.head)
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.head, config.classes)

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.config.head

    def embedding(self, inputs: JetInputs) -> torch.Tensor:
        """What is before the last layer (n, width)."""
        layout = inputs.layout
        x = self.input_norm(inputs.features)
        places = inputs.features[:, -2:]
        for convolution in self.convolutions:
            x = convolution(x, nearest(places, layout, self.config.neighbours))
            places = x
        mean = torch.segment_reduce(x.float(), "mean", lengths=layout.offsets.diff().long(), axis=0)
        return self.dropout(F.relu(self.hidden(mean)))

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of embeddings (n, width)."""
        return self.head(embedding)

    def forward(self, inputs: JetInputs) -> torch.Tensor:
        """Logits (n, classes)."""
        return self.classify(self.embedding(inputs))


@torch.no_grad()
def nearest(places: torch.Tensor, layout: Layout, neighbours: int) -> torch.Tensor:
    """The particles (T, neighbours) int64 next to each but the nearest; T where a jet has no more.

    Args:
        places: (T, k) coordinates.
        layout: which particle belongs to which jet.
        neighbours: how many.
    """
    absent = len(places)
    found = torch.full((absent, neighbours), absent, dtype=torch.int64, device=places.device)
    with torch.autocast(places.device.type, enabled=False):
        for bucket, tokens in zip(
            layout.buckets, layout.slots.split([bucket.slots for bucket in layout.buckets]), strict=True
        ):
            tokens = tokens.view(bucket.rows, bucket.length)
            distance = squared_distances(places.float()[tokens])
            if bucket.real is not None:
                distance = distance.masked_fill(~bucket.real[:, 0], torch.inf)
            count = min(neighbours + 1, bucket.length)
            least, order = distance.topk(count, largest=False, sorted=True)
            near = tokens.gather(1, order.flatten(1)).view_as(order)
            near = torch.where(least.isinf(), absent, near)[:, :, 1:]
            real = torch.ones_like(tokens, dtype=torch.bool) if bucket.real is None else bucket.real[:, 0, 0]
            found[tokens[real], : count - 1] = near[real]
    return found


def squared_distances(x: torch.Tensor) -> torch.Tensor:
    """Squares (n, P, P) of the distances of points (n, P, k), in the published order of operations."""
    inner = -2 * (x @ x.mT)
    squares = x.square().sum(2, keepdim=True)
    return (squares + inner + squares.mT).clamp(min=0)
