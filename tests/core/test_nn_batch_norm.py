"""Batch norm folded into linear layers is batch norm after them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hepfm.core.nn.batch_norm import BatchNorm, NormalisedLinear, moments
from hepfm.core.nn.dropout import Dropout


def theirs(layer: NormalisedLinear, first: BatchNorm | None) -> nn.Sequential:
    """torch's layers with the same weights."""
    norms = [nn.BatchNorm1d(norm.weight.numel()) for norm in ([first] if first else []) + [layer.norm]]
    for norm, own in zip(norms, ([first] if first else []) + [layer.norm], strict=True):
        norm.load_state_dict(own.state_dict() | {"num_batches_tracked": torch.tensor(0)})
    linear = nn.Linear(layer.linear.in_features, layer.linear.out_features)
    linear.load_state_dict(layer.linear.state_dict())
    return nn.Sequential(*norms[:-1], linear, norms[-1])


@pytest.mark.parametrize("with_input_norm", [False, True])
def test_outputs_gradients_and_running_statistics_are_those_of_torch(with_input_norm: bool) -> None:
    torch.manual_seed(0)
    layer, first = NormalisedLinear(5, 7), BatchNorm(5) if with_input_norm else None
    for parameter in [*layer.parameters(), *(first.parameters() if first else [])]:
        nn.init.normal_(parameter)
    layer, first = layer.double(), first.double() if first else None
    reference = theirs(layer, first).double()
    x = torch.randn(50, 5, dtype=torch.float64) * 3 + 2
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    slope = torch.randn(50, 7, dtype=torch.float64)
    for _ in range(2):
        ours = layer(mine, first)
        expected = reference(other)
        torch.testing.assert_close(ours, expected)
    (ours * slope).sum().backward()
    (expected * slope).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad)
    torch.testing.assert_close(layer.linear.weight.grad, reference[-2].weight.grad)
    torch.testing.assert_close(layer.norm.weight.grad, reference[-1].weight.grad)
    torch.testing.assert_close(layer.norm.running_var, reference[-1].running_var)
    torch.testing.assert_close(layer.norm.running_mean, reference[-1].running_mean)
    layer.eval(), reference.eval(), first.eval() if first else None
    torch.testing.assert_close(layer(x, first), reference(x))


def test_a_norm_alone_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(4), nn.BatchNorm1d(4)
    x = torch.randn(30, 4) * 2 - 1
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_moments_are_numpys() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    rows, mean, covariance = moments(x)
    assert rows == 40
    np.testing.assert_allclose(mean, x.numpy().mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.numpy().T, bias=True))


def test_dropout_drops_its_share_keeps_the_mean_and_follows_the_seed() -> None:
    dropout = Dropout(0.1)
    x = torch.ones(1000, 333)
    torch.manual_seed(3)
    dropped = dropout(x)
    share = float((dropped == 0).float().mean())
    expected = round(0.1 * 256) / 256
    assert abs(share - expected) < 5 * (expected * (1 - expected) / x.numel()) ** 0.5
    assert torch.unique(dropped).tolist() == pytest.approx([0.0, 1 / (1 - expected)])
    torch.manual_seed(3)
    assert torch.equal(dropout(x), dropped)
    assert not torch.equal(dropout(x), dropped)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_gives_gradients_to_what_it_kept() -> None:
    x = torch.randn(64, requires_grad=True)
    kept = Dropout(0.5)(x)
    kept.sum().backward()
    assert torch.equal(x.grad != 0, kept != 0)


@pytest.mark.slow
def test_two_processes_share_their_statistics_and_gradients(tmp_path: Path) -> None:
    script = Path(__file__).with_name("batch_norm_process.py")
    started = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank), str(world)])
        for world in (1, 2)
        for rank in range(world)
    ]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    whole, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name])
    for name in ("weight", "scale"):
        torch.testing.assert_close(first[name] + second[name], whole[name])
    for name in ("mean", "variance"):
        torch.testing.assert_close(first[name], whole[name])
        assert torch.equal(first[name], second[name])
