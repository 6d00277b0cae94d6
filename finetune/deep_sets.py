"""Deep sets, also known as Particle Flow Network: each particle embedded, their sum classified.

Komiske, Metodiev, Thaler, arXiv:1810.05165, eq. 2.4.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn

from hepfm.core.nn.batch_norm import BatchNorm
from hepfm.core.nn.dropout import Dropout
from hepfm.finetune.inputs import JetInputs


@dataclass(frozen=True)
class DeepSetsConfig:
    """What the network is made of. The defaults are those of the baseline in arXiv:2202.03772.

    Attributes:
        features: numbers of a particle.
        classes: numbers of outputs.
        particle: widths of the layers that each particle goes through.
        jet: widths of the layers that the sum goes through.
        dropout: after each of the latter.
    """

    features: int = 17
    classes: int = 10
    particle: tuple[int, ...] = (100, 100, 128)
    jet: tuple[int, ...] = (128, 128, 128)
    dropout: float = 0.0


class DeepSets(nn.Module):
    """Jets to logits (n, classes)."""

    def __init__(self, config: DeepSetsConfig) -> None:
        super().__init__()
        self.config = config
        self.input_norm = BatchNorm(config.features)
        self.particle = _layers((config.features, *config.particle), 0.0)
        self.jet = _layers((config.particle[-1], *config.jet), config.dropout)
        self.head = nn.Linear(config.jet[-1], config.classes)

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.config.jet[-1]

    def embedding(self, inputs: JetInputs) -> torch.Tensor:
        """What is before the head (n, width)."""
        particles = self.particle(self.input_norm(inputs.features))
        lengths = inputs.layout.offsets.diff().long()
        # In single precision, whatever the layers run in: sums of many numbers.
        total = torch.segment_reduce(particles.float(), "sum", lengths=lengths, axis=0)
        return self.jet(total)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of embeddings (n, width)."""
        return self.head(embedding)

    def forward(self, inputs: JetInputs) -> torch.Tensor:
        """Logits (n, classes)."""
        return self.classify(self.embedding(inputs))


def _layers(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)
