"""Self-attention over ragged sequences: one interface, the kernel chosen by device and dtype.

On a GPU in half precision torch's variable-length attention takes the packed tokens as they are. Everywhere else the
sequences are sorted into buckets of similar length and each bucket is one scaled-dot-product attention; what padding
is left is hidden by causality or by a key mask and never influences a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hepfm.core.nn.ragged import Layout

HALF = (torch.bfloat16, torch.float16)
ROPE_BASE = 10_000.0
Dropout = Callable[[torch.Tensor], torch.Tensor]


def attend(qkv: torch.Tensor, layout: Layout, causal: bool, rotation: Rotation | None = None) -> torch.Tensor:
    """Attention of each sequence over itself, scaled by 1/sqrt(d).

    Args:
        qkv: (T, 3, heads, d) queries, keys and values of the packed tokens.
        layout: which token belongs to which sequence.
        causal: whether a token sees only itself and those before it.
        rotation: rotary positions of the packed tokens, if any.

    Returns:
        (T, heads, d).
    """
    if layout.tokens == 0:
        return qkv[:, 0]
    if qkv.is_cuda and qkv.dtype in HALF and qkv.shape[-1] % 8 == 0:
        return _attend_packed(rotation(qkv) if rotation else qkv, layout, causal)
    # In half precision the backward pass of this kernel is seven times slower on a CPU than in single precision.
    exact = qkv.float() if qkv.dtype in HALF else qkv
    with torch.autocast(qkv.device.type, enabled=False):
        mixed = _attend_buckets(rotation(exact) if rotation else exact, layout, causal)
    return mixed.to(qkv.dtype)


def _attend_packed(qkv: torch.Tensor, layout: Layout, causal: bool) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # takes a second and a half to import, and is for GPUs alone

    query, key, value = qkv.unbind(1)
    window = (-1, 0) if causal else (-1, -1)
    offsets, longest = layout.offsets, layout.longest
    mixed = varlen_attn(query, key, value, offsets, offsets, longest, longest, window_size=window)
    assert isinstance(mixed, torch.Tensor)
    return mixed


def _attend_buckets(qkv: torch.Tensor, layout: Layout, causal: bool) -> torch.Tensor:
    parts = _Split.apply(qkv, layout)
    mixed = [
        # With padding on the right, causality alone keeps real tokens from seeing it.
        F.scaled_dot_product_attention(query, key, value, None if causal else bucket.real, is_causal=causal)
        for bucket, query, key, value in zip(layout.buckets, parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
    return _Join.apply(layout, *mixed)


def _rectangles(padded: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """Views (rows, length, ...) of the padded tensor (S, ...), one a bucket."""
    parts = padded.split([bucket.slots for bucket in layout.buckets])
    return [part.unflatten(0, (bucket.rows, bucket.length)) for part, bucket in zip(parts, layout.buckets, strict=True)]


class _Split(torch.autograd.Function):
    """Packed (T, 3, heads, d) to query, key and value (rows, heads, length, d) of each bucket.

    The gradient of padding is zero, because nothing reads what padding gives; so only the places of real tokens are
    read back.
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, ...]:
        ctx.layout, ctx.shape = layout, qkv.shape[1:]
        rectangles = _rectangles(qkv if layout.in_place else qkv.index_select(0, layout.slots), layout)
        return tuple(part.transpose(1, 2) for rectangle in rectangles for part in rectangle.unbind(2))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        layout = ctx.layout
        padded = gradients[0].new_empty(len(layout.slots), *ctx.shape)
        parts = (part for rectangle in _rectangles(padded, layout) for part in rectangle.unbind(2))
        for part, gradient in zip(parts, gradients, strict=True):
            part.copy_(gradient.transpose(1, 2))
        return padded if layout.in_place else padded.index_select(0, layout.places), None


class _Join(torch.autograd.Function):
    """Mixed values (rows, heads, length, d) of each bucket to packed (T, heads, d)."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *mixed: torch.Tensor) -> torch.Tensor:
        ctx.layout = layout
        padded = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in mixed])
        return padded if layout.in_place else padded.index_select(0, layout.places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (padded,), layout = gradients, ctx.layout
        if not layout.in_place:
            gradient = padded
            padded = gradient.new_zeros(len(layout.slots), *gradient.shape[1:])
            padded.index_copy_(0, layout.places, gradient)
        return None, *(part.transpose(1, 2) for part in _rectangles(padded, layout))


class Rotation:
    """Rotary positions (Su et al., arXiv:2104.09864, eq. 34): neighbouring pairs of channels turn with the position.

    Only the difference of two positions enters attention. Computed in single precision at least.
    """

    def __init__(self, positions: torch.Tensor, channels: int) -> None:
        powers = torch.arange(channels // 2, device=positions.device, dtype=torch.float64) / (channels // 2)
        angles = positions[:, None] * ROPE_BASE**-powers
        self.turn = torch.polar(torch.ones_like(angles), angles)[:, None, None]  # (T, 1, 1, d/2)
        self.turn_single = self.turn.to(torch.complex64)

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """Turn queries and keys of (T, 3, heads, d); values stay."""
        turn = self.turn if qkv.dtype == torch.float64 else self.turn_single
        return _Rotate.apply(qkv, turn)


class _Rotate(torch.autograd.Function):
    """A rotation is linear and orthogonal: its gradient turns the other way, and no activation is stored."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(turn)
        return _turned(qkv, turn)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (turn,) = ctx.saved_tensors
        return _turned(gradients[0], turn.conj()), None


def _turned(qkv: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    turned = qkv.clone()
    exact = turned[:, :2].float() if qkv.dtype in HALF else turned[:, :2]
    torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(turn)
    if qkv.dtype in HALF:
        turned[:, :2] = exact
    return turned


def attend_with_bias(
    qkv: torch.Tensor, layout: Layout, biases: Sequence[torch.Tensor], dropout: Dropout | None = None
) -> torch.Tensor:
    """Attention of each sequence over itself, scaled by 1/sqrt(d), with a bias on the scores of every pair of tokens.

    Args:
        qkv: (T, 3, heads, d) queries, keys and values of the packed tokens.
        layout: which token belongs to which sequence.
        biases: (rows, heads, length, length) of each bucket, -inf where the key is padding.
        dropout: of the attention weights, if any.

    Returns:
        (T, heads, d).
    """
    exact = qkv.float() if qkv.dtype in HALF else qkv
    with torch.autocast(qkv.device.type, enabled=False):
        parts = _Split.apply(exact, layout)
        mixed = [
            _mixed(query, key, value, bias, dropout)
            for query, key, value, bias in zip(parts[::3], parts[1::3], parts[2::3], biases, strict=True)
        ]
        return _Join.apply(layout, *mixed).to(qkv.dtype)


def _mixed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, dropout: Dropout | None
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, bias)
    # With a bias that learns, torch's fused kernels do not apply; this is a pass less than its plain form.
    rows, heads, length, channels = query.shape
    query, key, value = (part.reshape(rows * heads, length, channels) for part in (query, key, value))
    scores = torch.baddbmm(bias.reshape(rows * heads, length, length), query, key.mT, alpha=channels**-0.5)
    weights = scores.softmax(-1)
    mixed = torch.bmm(weights if dropout is None else dropout(weights), value)
    return mixed.view(rows, heads, length, channels)


def attend_from(own: torch.Tensor, seen: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Attention of one further token a sequence over itself and the sequence's tokens, scaled by 1/sqrt(d).

    Args:
        own: (n, 3, heads, d) query, key and value of the further tokens.
        seen: (T, 2, heads, d) keys and values of the packed tokens.
        layout: which token belongs to which sequence.

    Returns:
        (n, heads, d); of a sequence without tokens the further token's own value.
    """
    mixed = own[:, 2]
    if not layout.buckets:
        return mixed
    parts = _Split.apply(seen, layout)
    slots = layout.slots.split([bucket.slots for bucket in layout.buckets])
    offsets = layout.offsets.long()
    sequences = [
        torch.searchsorted(offsets, tokens[:: bucket.length].contiguous(), right=True) - 1
        for bucket, tokens in zip(layout.buckets, slots, strict=True)
    ]
    found = []
    for bucket, mine, key, value in zip(layout.buckets, sequences, parts[::2], parts[1::2], strict=True):
        query, own_key, own_value = own.index_select(0, mine)[:, :, :, None].unbind(1)
        real = None if bucket.real is None else F.pad(bucket.real, (1, 0), value=True)
        keys, values = torch.cat([own_key, key], 2), torch.cat([own_value, value], 2)
        found.append(F.scaled_dot_product_attention(query, keys, values, real)[:, :, 0])
    return mixed.index_copy(0, torch.cat(sequences), torch.cat(found))
