"""The chunked linear cross entropy equals the plain one: value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hepfm.core.nn import head
from hepfm.core.nn.head import Head, linear_cross_entropy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_equals_plain_cross_entropy(bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", chunk)
    torch.manual_seed(0)
    x = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(17, 8, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(17, dtype=torch.float64, requires_grad=True) if bias else None
    targets = torch.randint(0, 17, (23,))
    inputs = [x, weight, *([offset] if offset is not None else [])]
    given = linear_cross_entropy(x, weight, offset, targets)
    expected = F.cross_entropy(F.linear(x, weight, offset), targets, reduction="sum")
    torch.testing.assert_close(given, expected)
    pairs = zip(torch.autograd.grad(3 * given, inputs), torch.autograd.grad(3 * expected, inputs), strict=True)
    for gradient, expected_gradient in pairs:
        torch.testing.assert_close(gradient, expected_gradient)


def test_no_tokens_cost_nothing() -> None:
    layer = Head(8, 5, bias=True)
    loss = layer(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() == 0


def test_without_gradients_the_value_is_the_same() -> None:
    layer = Head(8, 5, bias=False)
    x, targets = torch.randn(9, 8), torch.randint(0, 5, (9,))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, targets), F.cross_entropy(layer(x), targets, reduction="sum"))


def test_bf16_autocast_sums_in_single_precision() -> None:
    layer = Head(64, 50, bias=True)
    x, targets = torch.randn(300, 64, requires_grad=True), torch.randint(0, 50, (300,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = layer(x, targets)
    assert loss.dtype == torch.float32
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(loss, layer(x, targets), rtol=0.01, atol=0)


@pytest.mark.parametrize("classes", [1, 16, 17, 32, 500])
def test_padding_of_the_vocabulary_is_not_seen(classes: int) -> None:
    torch.manual_seed(0)
    layer = Head(8, classes, bias=True)
    x, targets = torch.randn(9, 8, requires_grad=True), torch.randint(0, classes, (9,))
    loss, expected = layer(x, targets), F.cross_entropy(layer(x), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert layer.bias is not None
    inputs = (x, layer.weight, layer.bias)
    for given, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-4)


def test_a_target_thought_impossible_has_its_loss() -> None:
    x, weight = torch.ones(3, 1), torch.tensor([[300.0], [0.0], [-300.0]], requires_grad=True)
    loss = linear_cross_entropy(x, weight, None, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, torch.tensor(900.0))
    loss.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[2.0], [-1.0], [-1.0]]))


def test_bf16_gradients_are_close_and_the_bias_is_summed_exactly() -> None:
    torch.manual_seed(0)
    layer = Head(64, 50, bias=True)
    x, targets = torch.randn(3000, 64, requires_grad=True), torch.randint(0, 50, (3000,))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, targets)
    assert layer.bias is not None
    inputs = (x, layer.weight, layer.bias)
    given = torch.autograd.grad(half, inputs)
    expected = torch.autograd.grad(F.cross_entropy(layer(x), targets, reduction="sum"), inputs)
    for mine, wanted in zip(given, expected, strict=True):
        assert float((mine - wanted).norm() / wanted.norm()) < 0.02
