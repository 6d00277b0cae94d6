"""Masks and packed views: as many as the length says, the same for a record always, and nothing lost or mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepfm.pretrain.masking import Gaps, View, draw_masks, masked_counts, side_by_side

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8).map(np.array)
FRACTIONS = st.floats(0.05, 0.95)


def keys_of(records: np.ndarray, epoch: int = 0) -> np.ndarray:
    return np.stack([np.full(len(records), epoch), records], axis=1)


@given(st.integers(0, 200), FRACTIONS)
def test_the_number_masked_is_the_stated_function_of_the_length(length: int, fraction: float) -> None:
    (count,) = masked_counts(np.array([length]), fraction)
    if length < 2:
        assert count == 0
    else:
        assert 1 <= count <= length - 1
        assert abs(count - fraction * length) <= 0.5 or count in (1, length - 1)


@given(LENGTHS, FRACTIONS, st.integers(0, 5))
def test_a_mask_depends_on_seed_epoch_and_record_alone(lengths: np.ndarray, fraction: float, epoch: int) -> None:
    """Not on the other jets of the batch, nor on their order: so not on ranks, accumulation or resuming."""
    keys = keys_of(np.arange(len(lengths)) + 7, epoch)
    together = np.split(draw_masks(lengths, keys, fraction, 3), np.cumsum(lengths)[:-1])
    for jet, mask in enumerate(together):
        alone = draw_masks(lengths[jet : jet + 1], keys[jet : jet + 1], fraction, 3)
        np.testing.assert_array_equal(mask, alone)
        assert mask.sum() == masked_counts(lengths[jet : jet + 1], fraction)[0]


def test_masks_differ_by_seed_epoch_and_record_and_are_uniform() -> None:
    lengths = np.full(4000, 10)
    masks = draw_masks(lengths, keys_of(np.arange(4000)), 0.4, 0).reshape(4000, 10)
    for other in (keys_of(np.arange(4000), epoch=1), keys_of(np.arange(4000) + 4000)):
        assert (draw_masks(lengths, other, 0.4, 0).reshape(4000, 10) != masks).any(axis=1).mean() > 0.95
    assert (draw_masks(lengths, keys_of(np.arange(4000)), 0.4, 1).reshape(4000, 10) != masks).any(axis=1).mean() > 0.95
    np.testing.assert_allclose(masks.mean(axis=0), 0.4, atol=5 * np.sqrt(0.24 / 4000))  # every place alike
    pairs = masks.T.astype(float) @ masks / 4000
    np.testing.assert_allclose(pairs[~np.eye(10, dtype=bool)], 0.4 * 3 / 9, atol=0.04)  # and every pair


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
def test_side_by_side_is_as_written_out(counts: list[tuple[int, int]]) -> None:
    first, second = (np.array(column) for column in zip(*counts, strict=True))
    items = [(0, jet, k) for jet, n in enumerate(first) for k in range(n)]
    items += [(1, jet, k) for jet, n in enumerate(second) for k in range(n)]
    expected: list[tuple[int, int, int]] = []
    for jet, (n, m) in enumerate(counts):
        expected += [(0, jet, k) for k in range(n)] + [(1, jet, k) for k in range(m)]
    assert [items[index] for index in side_by_side(first, second)] == expected


@given(LENGTHS, st.integers(0, 3), st.integers(0, 9))
def test_views_and_gaps_share_out_every_constituent(lengths: np.ndarray, registers: int, seed: int) -> None:
    hidden = draw_masks(lengths, keys_of(np.arange(len(lengths))), 0.4, seed)
    view, gaps = View.of(lengths, registers, hidden), Gaps.of(lengths, registers, hidden)
    assert sorted([*view.seen.tolist(), *gaps.which.tolist()]) == list(range(lengths.sum()))
    assert not hidden[view.seen.numpy()].any()
    names = [f"r{k}" for k in range(registers)]
    seen = [*names, *view.seen.tolist()]
    read = [seen[index] for index in view.index]
    encoded = [("encoded", name) for name in read]
    decoded = [[*encoded, *gaps.which.tolist()][index] for index in gaps.index]
    at = 0
    for jet, length in enumerate(lengths.tolist()):
        own = list(range(at, at + length))
        visible, masked = [c for c in own if not hidden[c]], [c for c in own if hidden[c]]
        first, last = view.layout.offsets[jet], view.layout.offsets[jet + 1]
        assert read[first:last] == [*names, *visible]
        first, last = gaps.layout.offsets[jet], gaps.layout.offsets[jet + 1]
        assert decoded[first:last] == [*[("encoded", name) for name in [*names, *visible]], *masked]
        at += length
    assert [decoded[query] for query in gaps.queries] == gaps.which.tolist()
    assert gaps.rank.tolist() == [rank for count in np.diff(_bounds(lengths, hidden)) for rank in range(count)]


def _bounds(lengths: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """How many are masked before each jet."""
    return np.concatenate([[0], np.cumsum(hidden)])[np.concatenate([[0], np.cumsum(lengths)])]


@pytest.mark.parametrize("lengths", [[0], [1], [0, 1, 0]])
def test_jets_without_anything_masked_are_seen_whole(lengths: list[int]) -> None:
    counts = np.array(lengths)
    hidden = draw_masks(counts, keys_of(np.arange(len(lengths))), 0.9, 0)
    assert not hidden.any()
    assert View.of(counts, 2, hidden).layout.tokens == counts.sum() + 2 * len(lengths)
    assert len(Gaps.of(counts, 2, hidden).which) == 0
