"""RMSNorm and SwiGLU with written-out gradients equal their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hepfm.core.nn.fused import RMSNorm, swiglu

SHAPES = [(0, 6), (1, 6), (128, 6), (5, 7, 6)]


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * weight / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_swiglu(hidden: torch.Tensor) -> torch.Tensor:
    gate, value = hidden.chunk(2, dim=-1)
    return gate / (1 + (-gate).exp()) * value


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_norm_and_its_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = RMSNorm(shape[-1], eps=1e-6).to(dtype)
    nn.init.normal_(layer.weight)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    slopes = torch.randn(shape, dtype=dtype)
    given, expected = layer(x), plain_norm(x, layer.weight)
    torch.testing.assert_close(given, expected)
    inputs = (x, layer.weight)
    pairs = zip(torch.autograd.grad(given, inputs, slopes), torch.autograd.grad(expected, inputs, slopes), strict=True)
    for gradient, expected_gradient in pairs:
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_norm_is_torchs_own_in_value_and_name() -> None:
    ours, theirs = RMSNorm(6, eps=1e-6), nn.RMSNorm(6, eps=1e-6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(9, 6, dtype=dtype)
        torch.testing.assert_close(ours.to(dtype)(x), theirs.to(dtype)(x))
    assert torch.equal(ours.float()(torch.zeros(2, 6)), torch.zeros(2, 6))


def test_norm_of_a_slice_and_a_gradient_that_is_spread() -> None:
    layer = RMSNorm(6, eps=1e-6).double()
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x[:, ::2]).sum(), x)
    (expected,) = torch.autograd.grad(plain_norm(x[:, ::2], layer.weight).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("rows", [0, 1, 128])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_swiglu_and_its_gradient(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 10).to(dtype).requires_grad_()
    slopes = torch.randn(rows, 5).to(dtype)
    exact = hidden.detach().double().requires_grad_()
    given, expected = swiglu(hidden), plain_swiglu(exact)
    assert given.dtype == dtype
    torch.testing.assert_close(given.double(), expected, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(given, hidden, slopes)
    (expected_gradient,) = torch.autograd.grad(expected, exact, slopes.double())
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("error")
def test_a_norm_takes_less_precise_numbers_than_its_gains() -> None:
    norm = RMSNorm(8, eps=1e-6)
    x = torch.randn(5, 8, dtype=torch.bfloat16, requires_grad=True)
    found = norm(x)
    assert torch.equal(found, norm(x.float()))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
