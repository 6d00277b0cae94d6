"""Networks without weights: shapes, no memory, no draws."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from hepfm.core.nn.empty import without_weights


def test_nothing_is_allocated_or_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with without_weights():
        network = nn.Sequential(nn.Linear(1 << 20, 1 << 20), nn.Embedding(5, 3), nn.LayerNorm(3))
        nn.init.normal_(network[1].weight, std=2.0)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network[0].weight.shape == (1 << 20, 1 << 20)
    assert torch.equal(torch.get_rng_state(), before)
    assert nn.Linear(3, 3).weight.device.type == "cpu"


def test_the_compiler_is_not_imported() -> None:
    made = "with without_weights(): nn.Sequential(nn.Linear(3, 3), nn.Embedding(5, 3), nn.LayerNorm(3))"
    code = f"import sys; from torch import nn; from hepfm.core.nn.empty import without_weights\n{made}\n"
    code += "assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
