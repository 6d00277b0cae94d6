"""Batch norm over packed rows: statistics of real rows alone, over all processes, at the price of a matrix product.

The statistics of a linear layer's outputs follow from those of its inputs: mean(W x + b) = W mean(x) + b and
var(W x + b) = diag(W cov(x) W^T). So layer and norm become one linear map, whose outputs are written once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.nn.functional import all_reduce

MOMENTUM = 0.1
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Scale, shift and running statistics of ``channels`` (Ioffe and Szegedy, arXiv:1502.03167), defaults of torch."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise rows (T, channels)."""
        if self.training:
            rows, mean, covariance = moments(x)
            scale, shift = self.affine(mean, covariance.diagonal(), rows)
        else:
            scale, shift = self.affine(self.running_mean, self.running_var)
        return x * scale + shift

    def affine(
        self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift (channels,) that normalise and then scale and shift as learned.

        Args:
            mean: (channels,).
            variance: (channels,), biased.
            rows: how many rows they are of; given, the running statistics take them in.
        """
        if rows is not None:
            with torch.no_grad():
                unbiased = variance * (rows / (rows - 1).clamp(min=1))
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(unbiased, MOMENTUM)
        scale = self.weight * (variance.clamp(min=0) + EPSILON).rsqrt()
        return scale, self.bias - mean * scale


class NormalisedLinear(nn.Module):
    """A linear layer, with or without ``bias``, and the batch norm of its outputs: rows (T, inputs) to (T, outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=bias), BatchNorm(outputs)

    def forward(self, x: torch.Tensor, input_norm: BatchNorm | None = None) -> torch.Tensor:
        """With ``input_norm``, x is normalised by it first (in the same product)."""
        weight: torch.Tensor = self.linear.weight
        bias: torch.Tensor = weight.new_zeros(len(weight)) if self.linear.bias is None else self.linear.bias
        if not self.training:
            if input_norm is not None:
                weight, bias = _after(weight, bias, *input_norm.affine(input_norm.running_mean, input_norm.running_var))
            scale, shift = self.norm.affine(self.norm.running_mean, self.norm.running_var)
            return F.linear(x, weight * scale[:, None], bias * scale + shift)
        rows, mean, covariance = moments(x)
        if input_norm is not None:
            weight, bias = _after(weight, bias, *input_norm.affine(mean, covariance.diagonal(), rows))
        variance = ((weight @ covariance) * weight).sum(1)
        scale, shift = self.norm.affine(weight @ mean + bias, variance, rows)
        return F.linear(x, weight * scale[:, None], bias * scale + shift)


def _after(
    weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear map of ``x * scale + shift`` as one of x."""
    return weight * scale, bias + weight @ shift


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number, mean (C,) and biased covariance (C, C) of the rows (T, C) of all processes, in fp32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        channels = x.shape[1]
        rows, total, products = x.new_tensor(float(len(x))), x.sum(0), _Gram.apply(x)
        if dist.is_initialized() and dist.get_world_size() > 1:
            sums = all_reduce(torch.cat([rows[None], total, products.flatten()]))
            rows, total, products = sums[0], sums[1 : channels + 1], sums[channels + 1 :].view(channels, channels)
        mean = total / rows
        return rows.detach(), mean, products / rows - torch.outer(mean, mean)


class _Gram(torch.autograd.Function):
    """x^T x of rows x (T, C), with one product in its backward pass instead of two."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.mT @ x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return x @ (gradient + gradient.mT)
