"""The vocabulary head: logits, and the cross entropy without ever holding all logits at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Logits held at a time: what fits a cache on a CPU, what fills a GPU.
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
LINE = 16  # numbers in a cache line, in single precision


class Head(nn.Module):
    """Linear map to a vocabulary; with ``targets`` the summed cross entropy instead of the logits.

    Args:
        width: channels of a token.
        vocabulary: number of classes.
        bias: whether it has a bias.
        tied: an embedding's weight (vocabulary, width) to share.
    """

    def __init__(self, width: int, vocabulary: int, bias: bool, tied: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width)) if tied is None else tied
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if bias else None
        if tied is None:
            nn.init.normal_(self.weight, std=0.02)  # as good as no opinion: the loss begins at ln(vocabulary)

    def forward(self, x: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (T, vocabulary) of x (T, width); or, given targets (T,), the sum of -ln p(target) [nats]."""
        if targets is None:
            return F.linear(x, self.weight, self.bias)
        return linear_cross_entropy(x, self.weight, self.bias, targets)


def linear_cross_entropy(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Sum over tokens of the cross entropy [nats] of ``x @ weight.T + bias`` with ``targets``.

    Works through the tokens in chunks and forms the gradients in the same pass, so memory does not grow with
    tokens x vocabulary and no product is computed twice. Softmax and sum are in single precision at least.

    Args:
        x: (T, width).
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        targets: (T,) int64.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _LinearCrossEntropy.apply(x, weight, bias, targets)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            total, gradients = _summed(x, weight, bias, targets, wanted=any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (scale,) = gradients
        return *(None if saved is None else saved * scale for saved in ctx.saved_tensors), None


def _summed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, wanted: bool
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """The summed cross entropy and, if ``wanted``, its gradients by x, weight and bias (None without one).

    One chunk's logits, their softmax and its difference to the targets follow one another in the same memory.
    """
    exact, classes = torch.promote_types(x.dtype, torch.float32), len(weight)
    columns = _columns(classes)
    weight = F.pad(weight, (0, 0, 0, columns - classes))
    offsets = weight.new_full((columns,), -torch.inf)  # padding gets no probability
    offsets[:classes] = 0 if bias is None else bias
    size = max(1, CHUNK_LOGITS.get(x.device.type, 1 << 22) // columns)
    logits = x.new_empty(min(size, len(x)), columns)
    chances = logits if x.dtype == exact else torch.empty_like(logits, dtype=exact)
    total, ones = x.new_zeros((), dtype=exact), x.new_ones(len(logits), dtype=exact)
    dx = torch.empty_like(x)
    dweight, doffsets = torch.zeros_like(weight, dtype=exact), torch.zeros_like(offsets, dtype=exact)
    for begin in range(0, len(x), size):
        chunk = slice(begin, begin + size)
        part, target = x[chunk], targets[chunk, None]
        slope, p = logits[: len(part)], chances[: len(part)]
        torch.addmm(offsets, part, weight.T, out=slope)
        if p.dtype != slope.dtype:
            p.copy_(slope)
        of_target, top = p.gather(1, target), p.amax(1, keepdim=True)
        torch.softmax(p, -1, out=p)
        total += (
            top - p.amax(1, keepdim=True).log() - of_target
        ).sum()  # ln of the sum of exponentials, - the target's
        if wanted:
            p.scatter_add_(1, target, -torch.ones_like(of_target))
            doffsets.addmv_(p.T, ones[: len(part)])
            if p.dtype != slope.dtype:
                slope.copy_(p)
            torch.mm(slope, weight, out=dx[chunk])
            if slope.dtype == exact:
                dweight.addmm_(slope.T, part)
            else:
                dweight += slope.T @ part
    if not wanted:
        return total, ()
    dbias = None if bias is None else doffsets[:classes].to(bias.dtype)
    return total, (dx, dweight[:classes].to(weight.dtype), dbias)


def _columns(classes: int) -> int:
    """Columns of the table of logits: rows that begin at a cache line are a quarter faster to multiply into; an odd
    number of lines, because rows a power of two apart share their places in a cache."""
    lines = -(-classes // LINE)
    return LINE * (lines | 1)
