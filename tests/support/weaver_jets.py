"""Random jets, packed and padded, and weaver-core's Particle Transformer with weights far from its first ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hepfm.core.nn.ragged import Layout
from hepfm.finetune.inputs import JetInputs

SMALL = {"embed_dims": [16, 32, 16], "pair_embed_dims": [8, 8], "num_heads": 4, "num_layers": 2, "num_cls_layers": 1}


def weaver_network(seed: int = 0, **settings: Any) -> nn.Module:
    """A network in eval mode; by default with a GELU after the pairs' embedding, as published."""
    from weaver.nn.model.ParticleTransformer import ParticleTransformer

    logging.getLogger("weaver").setLevel(logging.ERROR)
    torch.manual_seed(seed)
    network = ParticleTransformer(**{"input_dim": 17, "num_classes": 10, "use_pre_activation_pair": False, **settings})
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network.eval()


def random_inputs(lengths: Sequence[int], features: int = 17, seed: int = 1) -> JetInputs:
    """Jets of these lengths: massless particles and pions about an axis."""
    draws = np.random.default_rng(seed)
    count = int(sum(lengths))
    pt = draws.lognormal(1.5, 1.2, count) + 0.3
    eta, phi = draws.normal(0.7, 0.2, count), draws.normal(3.0, 0.2, count)  # across the seam of azimuth
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    energy = np.sqrt((momentum**2).sum(0) + draws.choice([0.0, 0.14], count) ** 2)
    vectors = np.concatenate([momentum, energy[None]]).T.astype(np.float32)
    columns = draws.normal(size=(count, features)).astype(np.float32)
    return JetInputs(torch.from_numpy(columns), torch.from_numpy(vectors), Layout.of(np.array(lengths)))


def padded(inputs: JetInputs, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, vectors and mask (n, k, length), as weaver-core takes them."""
    lengths = inputs.layout.offsets.diff().tolist()
    found = []
    for values in (inputs.features, inputs.vectors, torch.ones(len(inputs.features), 1)):
        rows = torch.zeros(len(lengths), length, values.shape[1])
        for row, part in zip(rows, values.split(lengths), strict=True):
            row[: len(part)] = part
        found.append(rows.mT)
    return found[0], found[1], found[2]


def saved(network: nn.Module, path: Path, prefix: str = "mod.") -> Path:
    """Its weights as the published networks are saved."""
    torch.save({f"{prefix}{name}": value for name, value in network.state_dict().items()}, path)
    return path
