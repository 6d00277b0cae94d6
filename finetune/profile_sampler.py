"""Showers from a backbone with a profile: energies and hits of the layers are drawn, then the hits themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.engine import launch
from hepfm.finetune.sampler import Sampled
from hepfm.finetune.stream_sampler import generate_streams
from hepfm.pretrain.budget import matched
from hepfm.pretrain.conditions import ConditionValues
from hepfm.pretrain.stream_backbone import StreamBackbone

TOGETHER = 256  # rows that go through a network together: always so many, so that a row does not depend on its company


def generate_showers(
    backbone: StreamBackbone, n: int, seed: int, told: ConditionValues | None, settings: dict[str, Any]
) -> Sampled:
    """Generate ``n`` showers; the energies of each layer's hits are scaled to the energy that was drawn for the layer.

    Args:
        backbone: with a profile, in evaluation mode.
        n: how many.
        seed: another seed, other showers.
        told: what the backbone is told of each.
        settings: of :func:`hepfm.finetune.stream_sampler.generate_streams`.
    """
    streams, drawing, first = backbone.streams, settings["drawing"], settings["first"]
    assert streams.profile is not None
    key, targets = key_of("profile", seed), np.arange(1 + streams.profile.parts)
    numbers = first + np.arange(n)
    uniform = hashed_uniform(key, numbers[:, None, None], targets[None, :, None], np.arange(4)[None, None])

    def profiles(told: ConditionValues | None, rows: int, uniform: torch.Tensor) -> torch.Tensor:
        return backbone.draw_profile(told, uniform, drawing.temperature)

    profile = together(profiles, n, told, torch.from_numpy(uniform))
    begin = together(lambda told, rows, known: backbone.told_of(told, rows, known), n, told, profile.float())
    known = profile.cpu().numpy()
    sampled = generate_streams(backbone, n, seed, begin=begin, profile=known, **settings)
    assert sampled.continuous is not None
    layers = sampled.tokens[:, 0].astype(np.int64)
    energy = np.exp(sampled.continuous.astype(np.float64))
    scaled = matched(energy, layers, sampled.offsets, known[:, 0], streams.least_energy)
    return sampled._replace(continuous=np.log(scaled).astype(np.float32))


@torch.no_grad()
def together(
    of: Callable[..., torch.Tensor | None], n: int, told: ConditionValues | None, *rows: torch.Tensor
) -> torch.Tensor:
    """What a network makes (n, ...) of what n records are told and of further rows (n, ...), some hundred at a time.

    Args:
        of: called with what is told, the number of rows and the further rows.
        n: records.
        told: None where nothing is told.
        rows: further inputs.
    """
    parts, device = [], launch.device()
    for first in range(0, n, TOGETHER):
        here = np.minimum(first + np.arange(TOGETHER), n - 1)  # the last row is repeated
        place = torch.from_numpy(here)
        known = None if told is None else ConditionValues(told.names[place], told.numbers[place]).to(device)
        found = of(known, TOGETHER, *(values[place].to(device) for values in rows))
        assert found is not None
        parts.append(found[: min(TOGETHER, n - first)])
    return torch.cat(parts)
