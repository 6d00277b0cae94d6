from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.core.errors import HepfmError
from hepfm.ingest.order import Order

blocks = st.lists(st.integers(1, 9), min_size=1, max_size=30).map(np.array)
seeds = st.integers(0, 1000)
windows = st.integers(1, 20)


def records(order: Order, start: int, stop: int) -> list[tuple[int, int]]:
    """(epoch, record number) at positions [start, stop)."""
    epoch, block, row = order.locate(start, stop)
    assert (row < order.block_records[block]).all()
    return list(zip(epoch.tolist(), (order.block_starts[block] + row).tolist(), strict=True))


@given(blocks, seeds, windows)
def test_an_epoch_holds_each_record_once(sizes: np.ndarray, seed: int, window: int) -> None:
    order = Order(sizes, seed, window)
    total = int(sizes.sum())
    for epoch in range(3):
        found = records(order, epoch * total, (epoch + 1) * total)
        assert sorted(found) == [(epoch, record) for record in range(total)]
        assert order.epoch_records(epoch) == total


@given(blocks, seeds, windows, st.data())
def test_any_stretch_read_afresh_is_that_part_of_the_whole(
    sizes: np.ndarray, seed: int, window: int, data: st.DataObject
) -> None:
    total = 3 * int(sizes.sum())
    whole = records(Order(sizes, seed, window), 0, total)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    assert records(Order(sizes, seed, window), start, stop) == whole[start:stop]


@given(blocks, seeds, st.integers(1, 4), st.integers(1, 4), st.data())
def test_the_world_may_change_its_size(
    sizes: np.ndarray, seed: int, before: int, after: int, data: st.DataObject
) -> None:
    """Ranks take equal slices of a global batch; together they read the same, however many there are."""
    batch = 12
    steps = data.draw(st.integers(1, 6))
    change = data.draw(st.integers(0, steps))
    whole = records(Order(sizes, seed), 0, steps * batch)
    read = []
    for step in range(steps):
        ranks = before if step < change else after
        for rank in range(ranks):
            first = step * batch + rank * batch // ranks
            read += records(Order(sizes, seed), first, step * batch + (rank + 1) * batch // ranks)
    assert read == whole


# Of blocks of one record each only the order of blocks can change, of one block only that of its records.
@pytest.mark.parametrize("sizes", [np.full(40, 25), np.full(40, 1), np.full(1, 40)])
def test_seed_epoch_and_corpus_each_change_the_order(sizes: np.ndarray) -> None:
    def read(seed: int, identity: str = "", epoch: int = 0) -> list[int]:
        total = int(sizes.sum())
        found = records(Order(sizes, seed, window=1, identity=identity), epoch * total, (epoch + 1) * total)
        return [record for _, record in found]

    first = read(1)
    assert read(1) == first
    assert all(other != first for other in (read(2), read(1, "other"), read(1, epoch=1)))


def test_each_window_is_permuted_in_its_own_way() -> None:
    _, _, row = Order(np.full(2, 100), 1, window=1).locate(0, 200)
    assert row[:100].tolist() != row[100:].tolist()


def test_records_of_many_blocks_are_mixed() -> None:
    _, block, row = Order(np.full(160, 100), 3).locate(0, 256)
    assert len(np.unique(block)) == 16
    assert len(np.unique(row)) > 70


@settings(max_examples=25)
@given(blocks, seeds, st.data())
def test_a_weight_is_the_mean_number_of_times_a_record_comes(sizes: np.ndarray, seed: int, data: st.DataObject) -> None:
    total = int(sizes.sum())
    weights = np.array(data.draw(st.lists(st.floats(0, 3), min_size=total, max_size=total)))
    weights[0] += 1
    order = Order(sizes, seed, 4, weights)
    counts = []
    at = 0
    for epoch in range(3):
        stop = at + order.epoch_records(epoch)
        found = records(order, at, stop)
        assert {found_epoch for found_epoch, _ in found} <= {epoch}
        counts.append(np.bincount([record for _, record in found], minlength=total))
        at = stop
    for count in counts:
        assert ((count == np.floor(weights)) | (count == np.floor(weights) + 1)).all()


def test_weights_hold_on_average() -> None:
    weights = np.tile([0.25, 1.0, 1.5, 0.0], 5000)
    order = Order(np.full(20, 1000), 5, weights=weights)
    found = np.array([record for _, record in records(order, 0, order.epoch_records(0))])
    counts = np.bincount(found, minlength=len(weights)).reshape(-1, 4).mean(axis=0)
    assert np.abs(counts - [0.25, 1.0, 1.5, 0.0]).max() < 0.03
    assert counts[1] == 1.0
    assert counts[3] == 0.0
    again = np.array([record for _, record in records(order, len(found), len(found) + order.epoch_records(1))])
    assert set(again) != set(found)  # drawn anew in each epoch


@given(blocks, seeds, st.data())
def test_weighted_reading_resumes_exactly(sizes: np.ndarray, seed: int, data: st.DataObject) -> None:
    weights = np.linspace(1.0, 2.5, int(sizes.sum()))
    total = sum(Order(sizes, seed, 3, weights).epoch_records(epoch) for epoch in range(2))
    whole = records(Order(sizes, seed, 3, weights), 0, total)
    start = data.draw(st.integers(0, total))
    assert records(Order(sizes, seed, 3, weights), start, total) == whole[start:]


def test_a_weight_for_each_block_is_one_for_each_of_its_records() -> None:
    sizes = np.array([3, 4, 5])
    of_blocks = np.array([0.5, 2.0, 1.2])
    by_block = Order(sizes, 1, weights=of_blocks)
    by_record = Order(sizes, 1, weights=np.repeat(of_blocks, sizes))
    assert records(by_block, 0, 60) == records(by_record, 0, 60)


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [np.nan, 1.0], [0.1, 0.1]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(HepfmError, match="weight"):
        Order(np.array([2, 2]), 0, weights=np.array(weights))
