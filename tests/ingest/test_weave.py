from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from derived import OTHER_SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from hepfm.ingest.corpus import Corpus
from hepfm.ingest.unite import Fit
from hepfm.ingest.weave import ROUND_BLOCKS, Strand, Weaving, stretch, woven_jobs


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any), st.integers(1, 64), st.integers(1, 2000))
def test_every_record_of_a_strand_is_read_once_in_order_and_in_proportion(
    sizes: list[int], block_records: int, shard_records: int
) -> None:
    strands = tuple(Strand(number, "train", size) for number, size in enumerate(sizes))
    jobs = woven_jobs(Weaving("train", strands, sum(sizes), expected=True), block_records, shard_records)
    assert [job.shard for job in jobs] == list(range(len(jobs)))
    rounds = [pieces for job in jobs for pieces in job.payload]
    for strand in strands:
        bounds = [(first, stop) for pieces in rounds for number, _, first, stop in pieces if number == strand.corpus]
        assert [first for first, _ in bounds] + [strand.records] == [0] + [stop for _, stop in bounds] or not bounds
        assert (not bounds) == (strand.records == 0)
    for job in jobs:
        taken = [sum(p[3] - p[2] for pieces in job.payload for p in pieces if p[0] == s.corpus) for s in strands]
        assert sum(taken) == job.expected == job.size
        for strand, records in zip(strands, taken, strict=True):
            assert abs(records - job.size * strand.records / sum(sizes)) <= 2 * len(strands)
    # No round holds much more than what it is meant to hold, and no shard is much larger than asked.
    assert max(sum(p[3] - p[2] for p in pieces) for pieces in rounds) <= 2 * ROUND_BLOCKS * block_records + len(sizes)
    assert max(job.size for job in jobs) <= shard_records + 2 * ROUND_BLOCKS * block_records + len(sizes)


def test_small_splits_still_give_work_to_several_processes() -> None:
    strand = Strand(0, "train", 1000)
    assert len(woven_jobs(Weaving("train", (strand,), 1000), 100, 10**6)) == 8
    assert len(woven_jobs(Weaving("train", (strand,), 1000), 1000, 10**6)) == 1
    assert len(woven_jobs(Weaving("train", (strand,), 0), 100, 10**6)) == 1


@pytest.mark.parametrize(("first", "stop"), [(0, 64), (10, 20), (60, 200), (64, 65), (0, 4800), (4799, 4800), (5, 5)])
def test_a_stretch_is_the_records_between_its_bounds(toy_corpus: Corpus, first: int, stop: int) -> None:
    split = toy_corpus.split("train")
    whole = np.concatenate([batch["source_entry"].to_numpy() for batch in split])
    found = [batch["source_entry"].to_numpy() for batch in stretch(split, first, stop)]
    assert np.concatenate([whole[:0], *found]).tolist() == whole[first:stop].tolist()
    starts = np.concatenate([[0], np.cumsum(split.block_records)])
    assert all(length > 0 for length in map(len, found))
    assert len(found) == sum(a < stop and b > first for a, b in pairwise(starts.tolist())) or first == stop


@pytest.mark.parametrize(("first", "length"), [(0, 64), (3, 20), (40, 0)])
def test_a_slice_is_fitted_like_its_records(toy_corpus: Corpus, first: int, length: int) -> None:
    names = {"label": ("zprime", "top", "qcd", "higgs")}
    schema = pa.schema([*OTHER_SCHEMA], metadata=OTHER_SCHEMA.metadata)
    batch = toy_corpus.split("train").read(0).slice(first, length)
    fitted = Fit(schema, names, 7)(batch)
    fitted.validate(full=True)
    kept = ("pt", "deta", "dphi")
    assert fitted.to_pylist() == [
        {
            "constituents": [{name: point[name] for name in kept} for point in row["constituents"]],
            "pt": row["pt"],
            "mass": None,
            "label": row["label"],
            "source_file": row["source_file"] + 7,
            "source_entry": row["source_entry"],
        }
        for row in batch.to_pylist()
    ]
