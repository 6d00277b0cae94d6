from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.ingest.splits import (
    LANES,
    Run,
    assign_splits,
    cut_runs,
    default_run_entries,
    interleave,
    rounds_of,
    shards_of,
)

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
file_sizes = st.lists(st.integers(0, 30_000), min_size=1, max_size=12)


def test_runs_are_never_shorter_than_a_thousand_entries() -> None:
    assert default_run_entries(5_000) == 1000
    assert default_run_entries(400_000) == 2000
    assert default_run_entries(100_000_000) == 4096
    assert [len(run) for run in cut_runs([3_999], 1000)[0]] == [1000, 1000, 1999]
    assert [len(run) for run in cut_runs([300], 1000)[0]] == [300]


@given(file_sizes, st.integers(1, 5_000))
def test_runs_cover_every_entry_once(entries: list[int], run_entries: int) -> None:
    for file, (total, runs) in enumerate(zip(entries, cut_runs(entries, run_entries), strict=True)):
        at = 0
        for run in runs:
            assert (run.file, run.start) == (file, at)
            at = run.stop
        assert at == total
        assert all(len(run) >= min(run_entries, total) for run in runs)


@given(file_sizes, st.integers(0, 5))
def test_every_run_goes_to_one_split_in_proportion(entries: list[int], seed: int) -> None:
    runs = cut_runs(entries, 1000)
    everything = [run for file in runs for run in file]
    dealt = assign_splits(runs, FRACTIONS, seed)
    assert Counter(run for members in dealt.values() for run in members) == Counter(everything)
    if len(everything) >= 3:
        assert set(dealt) == set(FRACTIONS)
        total = sum(entries)
        for name, members in dealt.items():
            off = abs(sum(map(len, members)) - FRACTIONS[name] * total)
            assert off <= 2 * max(map(len, everything))
    elif everything:
        assert set(dealt) == {"train"}


def test_each_file_is_spread_over_the_splits_in_proportion() -> None:
    dealt = assign_splits(cut_runs([100_000] * 10, 1000), FRACTIONS, 7)
    for file in range(10):
        counts = {name: sum(run.file == file for run in members) for name, members in dealt.items()}
        assert abs(counts["train"] - 80) <= 2
        assert abs(counts["val"] - 10) <= 2
        assert abs(counts["test"] - 10) <= 2


def test_the_seed_decides_the_split() -> None:
    runs = cut_runs([50_000], 1000)
    assert assign_splits(runs, FRACTIONS, 1) == assign_splits(runs, FRACTIONS, 1)
    assert assign_splits(runs, FRACTIONS, 1)["test"] != assign_splits(runs, FRACTIONS, 2)["test"]


def test_a_split_that_is_not_wanted_gets_nothing() -> None:
    runs = cut_runs([5_000], 1000)
    assert set(assign_splits(runs, {"train": 1.0, "val": 0.0, "test": 0.0}, 0)) == {"train"}


@pytest.mark.parametrize("sizes", [[40] * 10, [100, 50, 25], [64, 8]])
def test_neighbouring_runs_come_from_different_files(sizes: list[int]) -> None:
    runs = [Run(file, i * 10, i * 10 + 10) for file, count in enumerate(sizes) for i in range(count)]
    order = interleave(runs)
    assert sorted(order, key=lambda run: (run.file, run.start)) == runs
    for file, count in enumerate(sizes):
        places = [at for at, run in enumerate(order) if run.file == file]
        assert [order[at].start for at in places] == sorted(order[at].start for at in places)
        even = len(runs) / count
        assert all(abs(at - (j + 0.5) * even) <= even + len(sizes) for j, at in enumerate(places))


@settings(max_examples=50)
@given(st.integers(1, 400), st.integers(1, 200_000))
def test_shards_hold_every_run_in_groups_of_lanes(count: int, shard_entries: int) -> None:
    runs = [Run(0, i, i + 1) for i in range(count)]
    shards = shards_of(runs, 1000, shard_entries)
    assert [run for shard in shards for group in shard for run in group] == runs
    assert all(1 <= len(group) <= LANES for shard in shards for group in shard)
    assert len(shards) >= min(8, -(-count // LANES))


def test_rounds_read_the_runs_side_by_side() -> None:
    rounds = rounds_of([Run(0, 0, 10), Run(1, 5, 12)], 4)
    assert rounds == [
        [Run(0, 0, 4), Run(1, 5, 9)],
        [Run(0, 4, 8), Run(1, 9, 12)],
        [Run(0, 8, 10)],
    ]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_classes_whose_files_follow_each_other_are_spread_in_proportion(seed: int, files_per_class: int) -> None:
    files = cut_runs([5000] * (2 * files_per_class), 1000)
    dealt = assign_splits(files, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    for runs in dealt.values():
        first, second = (sum(run.file // files_per_class == label for run in runs) for label in (0, 1))
        assert abs(first - second) <= 2
