"""The vocabulary head: logits, and the cross entropy without ever holding all logits at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Logits held at a time: what fits a cache on a CPU, what fills a GPU.
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}


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
        exact = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=x.device)
        wanted = any(ctx.needs_input_grad)
        if wanted:
            dx = torch.empty_like(x)
            dweight = torch.zeros_like(weight, dtype=exact)
            dbias = None if bias is None else torch.zeros_like(bias, dtype=exact)
        tokens = max(1, CHUNK_LOGITS.get(x.device.type, 1 << 22) // len(weight))
        for begin in range(0, len(x), tokens):
            chunk = slice(begin, begin + tokens)
            logs = F.linear(x[chunk], weight, bias).to(exact).log_softmax(-1)
            target = targets[chunk, None]
            total -= logs.gather(1, target).sum()
            if wanted:
                slope = logs.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=exact))
                if dbias is not None:
                    dbias += slope.sum(0)
                slope = slope.to(x.dtype)
                dx[chunk] = slope @ weight
                dweight += slope.T @ x[chunk]
        if wanted:
            ctx.save_for_backward(dx, dweight.to(weight.dtype), None if dbias is None else dbias.to(x.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (scale,) = gradients
        return *(None if saved is None else saved * scale for saved in ctx.saved_tensors), None
