"""RMSNorm and the gated activation with gradients written out: half the passes over memory that autograd would make."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """torch's root-mean-square norm (Zhang and Sennrich, arXiv:1910.07467) over the last dimension.

    On a CPU torch puts it together from six operations, each with a gradient of its own; on a GPU it is one kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x (..., width), at least as precise as the gains: torch's kernels take both in one type."""
        x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        if x.device.type != "cpu" or torch.promote_types(x.dtype, torch.float32) != x.dtype:
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """y = x w / r with r^2 = mean(x^2) + eps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight, inverse = ctx.saved_tensors
        product = (gradient * x).view(-1, x.shape[-1])
        slope = inverse.view(-1) @ product
        pull = (product @ weight).view(inverse.shape).mul_(inverse.square()).div_(-x.shape[-1])
        dx = torch.mul(gradient, weight, out=product.view(x.shape)).addcmul_(x, pull).mul_(inverse)
        return dx, slope, None


def swiglu(hidden: Tensor) -> Tensor:
    """silu(gate) * value (T, H) of gate and value side by side (T, 2 H): Shazeer, arXiv:2002.05202, eq. 6."""
    return _SwiGLU.apply(hidden)


class _SwiGLU(torch.autograd.Function):
    """Writes both gradients into one tensor. silu(gate) is kept: its exponential costs more than its memory."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        gate, value = hidden.chunk(2, dim=-1)
        active = F.silu(gate)
        ctx.save_for_backward(hidden, active)
        return active * value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (hidden, active) = gradients, ctx.saved_tensors
        gate, value = hidden.chunk(2, dim=-1)
        both = torch.empty_like(hidden)
        of_gate, of_value = both.chunk(2, dim=-1)
        torch.mul(active, gradient, out=of_value)
        torch.ops.aten.silu_backward.grad_input(gradient * value, gate, grad_input=of_gate)
        return both
