"""Ragged attention equals attention of each sequence by itself, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hepfm.core.nn.attention import Rotation, attend
from hepfm.core.nn.ragged import MAX_BUCKETS, Layout, tokens_by_length

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=24)


def plain(qkv: torch.Tensor, lengths: list[int], causal: bool) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v of one sequence after another, written out."""
    mixed = []
    for query, key, value in (part.unbind(1) for part in qkv.split(lengths)):
        scores = torch.einsum("qhd,khd->hqk", query, key) / qkv.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        mixed.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value))
    return torch.cat(mixed)


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, causal=st.booleans(), seed=st.integers(0, 1000))
def test_equals_a_loop_over_sequences(lengths: list[int], causal: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), 3, 2, 4)
    qkv = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn((shape[0], 2, 4), generator=generator, dtype=torch.float64)
    mixed = attend(qkv, Layout.of(np.array(lengths)), causal)
    expected = plain(qkv, lengths, causal)
    torch.testing.assert_close(mixed, expected)
    (gradient,) = torch.autograd.grad((mixed * weights).sum(), qkv)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), qkv)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("causal", [True, False])
def test_a_bad_number_stays_in_its_sequence(causal: bool) -> None:
    qkv = torch.randn(12, 3, 2, 4)
    qkv[0] = torch.nan
    mixed = attend(qkv, Layout.of(np.array([3, 4, 5])), causal)
    assert mixed[3:].isfinite().all()


@example(lengths=[1, 0])
@given(lengths=LENGTHS)
def test_layout_names_every_token_once(lengths: list[int]) -> None:
    layout = Layout.of(np.array(lengths))
    assert layout.tokens == sum(lengths)
    assert layout.sequences == len(lengths)
    assert layout.longest == max(lengths)
    assert layout.positions.tolist() == [position for length in lengths for position in range(length)]
    assert len(layout.buckets) <= MAX_BUCKETS or layout.in_place
    same = layout.slots.tolist() == list(range(layout.tokens))
    assert same or not layout.in_place
    if lengths == sorted(lengths):  # else it may come out so by chance: [1, 0]
        assert layout.in_place == same
    assert sum(bucket.slots for bucket in layout.buckets) == len(layout.slots)
    torch.testing.assert_close(layout.slots[layout.places], torch.arange(layout.tokens))


def test_padding_is_a_small_share_of_a_usual_batch() -> None:
    lengths = np.random.default_rng(1).normal(45, 18, 256).clip(1, 128).astype(int)
    layout = Layout.of(lengths)
    assert len(layout.slots) < 1.2 * layout.tokens


def test_many_distinct_lengths_are_bucketed_too() -> None:
    layout = Layout.of(np.arange(1700)[::-1])
    assert len(layout.buckets) == MAX_BUCKETS
    torch.testing.assert_close(layout.slots[layout.places], torch.arange(layout.tokens))


@given(lengths=LENGTHS)
def test_tokens_by_length_keep_sequences_whole(lengths: list[int]) -> None:
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    order = tokens_by_length(np.array(lengths))
    assert sorted(order.tolist()) == list(range(sum(lengths)))
    expected = [np.flatnonzero(sequence == index) for index in np.argsort(lengths, kind="stable")]
    np.testing.assert_array_equal(order, np.concatenate(expected))


@pytest.mark.parametrize("causal", [True, False])
def test_sequences_in_order_of_length_give_the_same_without_being_moved(causal: bool) -> None:
    lengths = np.random.default_rng(0).integers(0, 9, 400)
    plain = torch.randn(lengths.sum(), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    moved = Layout.of(lengths)
    mixed = attend(plain, moved, causal)
    weights = torch.randn_like(mixed)
    (gradient,) = torch.autograd.grad((mixed * weights).sum(), plain)
    order = torch.from_numpy(tokens_by_length(lengths))
    layout = Layout.of(np.sort(lengths))
    assert layout.in_place
    assert not moved.in_place
    ascending = attend(plain[order], layout, causal)
    (again,) = torch.autograd.grad((ascending * weights[order]).sum(), plain)
    torch.testing.assert_close(ascending, mixed[order])
    torch.testing.assert_close(again, gradient)


def test_rotary_scores_depend_on_distance_only() -> None:
    qkv = torch.randn(1, 3, 2, 8, dtype=torch.float64).expand(6, 3, 2, 8)
    near, far = (Rotation(torch.arange(6) + shift, 8)(qkv) for shift in (0, 17))
    scores = [torch.einsum("qhd,khd->hqk", turned[:, 0], turned[:, 1]) for turned in (near, far)]
    torch.testing.assert_close(scores[0], scores[1])
    assert not torch.allclose(scores[0][:, 0, 1], scores[0][:, 0, 2])
    torch.testing.assert_close(near[:, 2], qkv[:, 2])


def test_rotation_passes_gradients() -> None:
    qkv = torch.randn(5, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Rotation(torch.arange(5), 4), (qkv,))


def test_half_precision_is_close_to_single() -> None:
    lengths = np.array([5, 0, 1, 9])
    qkv = torch.randn(15, 3, 2, 8)
    layout, rotation = Layout.of(lengths), Rotation(Layout.of(lengths).positions, 8)
    half = attend(qkv.bfloat16(), layout, True, rotation)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend(qkv, layout, True, rotation), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_short_and_long_sequences_in_the_precision_of_training(
    causal: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    lengths = [1, 128, 0, 33, 2, 128, 40, 1]
    qkv = torch.randn(sum(lengths), 3, 2, 16).to(dtype).requires_grad_()
    slopes = torch.randn(sum(lengths), 2, 16).to(dtype)
    exact = qkv.detach().double().requires_grad_()
    mixed, expected = attend(qkv, Layout.of(np.array(lengths)), causal), plain(exact, lengths, causal)
    torch.testing.assert_close(mixed.double(), expected, atol=tolerance, rtol=tolerance)
    (gradient,) = torch.autograd.grad(mixed, qkv, slopes)
    (wanted,) = torch.autograd.grad(expected, exact, slopes.double())
    assert float((gradient - wanted).norm() / wanted.norm()) < tolerance
