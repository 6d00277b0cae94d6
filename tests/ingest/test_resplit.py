from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from derived import OPTIONS, batch_corpus, content, origins, raw_files, rows, showers, token_corpus, toy
from hypothesis import given
from hypothesis import strategies as st
from toy_source import ToySource

from hepfm.core import records
from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest import shards, tools
from hepfm.ingest.build import build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.merge import merge
from hepfm.ingest.resplit import SplitOptions, _owners, _short_files, deal_groups, dealt, split_corpus
from hepfm.ingest.tally import Tally
from hepfm.ingest.verify import verify

EVENT_SCHEMA = records.schema("jets", ("pt", "deta", "dphi", "d0", "species"), ("pt", "eta", "label", "event_id"))
HALVES = SplitOptions((0.5, 0.25, 0.25), seed=3, run_entries=50)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy(tmp_path_factory.mktemp("split"), (1500, 1000, 1500), 1)


@pytest.fixture(scope="module")
def halves(parent: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return split_corpus(parent, HALVES, tmp_path_factory.mktemp("halves") / "corpus")


def split_of_records(corpus: Corpus) -> dict[tuple[int, int], str]:
    return {origin: name for name in corpus.splits() for origin in origins(corpus, name)}


def test_every_record_is_there_once_and_unchanged(parent: Corpus, halves: Corpus) -> None:
    def key(row: dict) -> tuple[int, int]:
        return row["source_file"], row["source_entry"]

    assert sorted(rows(halves), key=key) == sorted(rows(parent), key=key)
    assert verify(halves.path) == []
    assert halves.manifest.provenance["parents"][0]["digest"] == parent.digest


def test_the_fractions_are_right_in_all_and_in_each_file(halves: Corpus) -> None:
    counts = {name: split.records for name, split in halves.manifest.splits.items()}
    assert counts == pytest.approx({"train": 2000, "val": 1000, "test": 1000}, abs=50)
    per_file = {name: Counter(file for file, _ in origins(halves, name)) for name in halves.splits()}
    for file, entries in enumerate((1500, 1000, 1500)):
        assert per_file["train"][file] == pytest.approx(entries / 2, abs=100)
        assert per_file["val"][file] == pytest.approx(entries / 4, abs=100)


def test_neighbours_stay_together(halves: Corpus) -> None:
    split_of = split_of_records(halves)
    runs = {(file, entry // 50): set[str]() for file, entry in split_of}
    for (file, entry), name in split_of.items():
        runs[file, entry // 50].add(name)
    assert {len(names) for names in runs.values()} == {1}


def test_runs_are_a_thousand_entries_unless_asked_otherwise(parent: Corpus, tmp_path: Path) -> None:
    corpus = split_corpus(parent, SplitOptions((0.5, 0.5, 0.0)), tmp_path / "c")
    assert corpus.manifest.provenance["split"]["run_entries"] == 1000
    assert corpus.splits() == ["train", "val"]
    for (file, entry), name in (split_of := split_of_records(corpus)).items():
        assert split_of[file, entry // 1000 * 1000] == name


def test_what_is_left_over_belongs_to_the_last_run_of_a_file(parent: Corpus, tmp_path: Path) -> None:
    """1,500 entries are one run of at least 1,000, not one of 1,000 and one of 500; 1,000 are two of 500."""
    for run_entries, expected in ((1000, {0: 1, 1: 1, 2: 1}), (400, {0: 3, 1: 2, 2: 3}), (500, {0: 3, 1: 2, 2: 3})):
        deal, kept = dealt(parent, SplitOptions((0.5, 0.5, 0.0), run_entries=run_entries), 1)
        groups = _owners(deal.keys, _short_files(parent, run_entries))
        assert Counter((deal.keys[np.unique(groups)] >> 40).tolist()) == expected
        assert sum(kept.values()) == 4000
    corpus = split_corpus(parent, SplitOptions((0.5, 0.5, 0.0), run_entries=400), tmp_path / "c")
    split_of = split_of_records(corpus)
    for file, entries in enumerate((1500, 1000, 1500)):
        first = (entries // 400 - 1) * 400
        assert len({split_of[file, entry] for entry in range(first, entries)}) == 1


def test_blocks_mix_files_and_former_splits(parent: Corpus, halves: Corpus) -> None:
    former = split_of_records(parent)
    batch = halves.split("train").read(0)
    pairs = zip(batch["source_file"].to_pylist(), batch["source_entry"].to_pylist(), strict=True)
    found = list(pairs)
    assert {file for file, _ in found} == {0, 1, 2}
    assert len({former[pair] for pair in found}) == 3


def test_bytes_depend_neither_on_processes_nor_on_an_interruption(
    parent: Corpus, halves: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert content(split_corpus(parent, HALVES, tmp_path / "two", processes=2).path) == content(halves.path)
    encode, calls = shards.encode, []

    def failing(batch: pa.RecordBatch) -> pa.Buffer:
        calls.append(batch)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return encode(batch)

    monkeypatch.setattr(shards, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        split_corpus(parent, HALVES, tmp_path / "c")
    assert list((tmp_path / "c").rglob("*.tar"))
    assert content(split_corpus(parent, HALVES, tmp_path / "c").path) == content(halves.path)


def test_another_seed_deals_otherwise(parent: Corpus, halves: Corpus, tmp_path: Path) -> None:
    other = split_corpus(parent, SplitOptions((0.5, 0.25, 0.25), seed=4, run_entries=50), tmp_path / "c")
    mine, theirs = split_of_records(other), split_of_records(halves)
    assert 0.4 < np.mean([mine[origin] != theirs[origin] for origin in mine]) < 0.8


def test_smaller_subsets_are_contained_in_larger_ones(parent: Corpus, halves: Corpus, tmp_path: Path) -> None:
    wider = split_of_records(halves)
    for number in (1200, 100, 10):  # val and test have 1,000
        options = SplitOptions((0.5, 0.25, 0.25), seed=3, records=number, run_entries=50)
        corpus = split_corpus(parent, options, tmp_path / str(number))
        found = split_of_records(corpus)
        full = {name: split.records for name, split in halves.manifest.splits.items()}
        counts = {name: split.records for name, split in corpus.manifest.splits.items()}
        assert counts == {name: min(number, records) for name, records in full.items()}
        assert found.items() <= wider.items()
        assert verify(corpus.path) == []
        wider = found
    # Single records are taken, not whole runs.
    assert len({(file, entry // 50) for file, entry in wider}) > 12


@dataclass(frozen=True)
class EventSource(ToySource):
    """Toy jets of which three in a row are of one collision."""

    schema: pa.Schema = EVENT_SCHEMA

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        batch = ToySource().read(path, start, stop, tally)
        at = batch.schema.get_field_index("source_file")
        field = self.schema.field("event_id")
        batch = batch.add_column(at, field, pa.array(np.arange(start, stop) // 3, pa.int64()))
        return batch.replace_schema_metadata(self.schema.metadata)


def test_jets_of_a_collision_stay_together(tmp_path: Path) -> None:
    parent = build(EventSource(), raw_files(tmp_path / "raw", (900, 900), 1), tmp_path / "p", OPTIONS)
    corpus = split_corpus(parent, SplitOptions((0.6, 0.2, 0.2)), tmp_path / "c")
    split_of: dict[tuple[int, int], set[str]] = {}
    for name in corpus.splits():
        for row in rows(corpus, name):
            split_of.setdefault((row["source_file"], row["event_id"]), set()).add(name)
    assert {len(names) for names in split_of.values()} == {1}
    counts = {name: split.records for name, split in corpus.manifest.splits.items()}
    assert counts == pytest.approx({"train": 1080, "val": 360, "test": 360}, abs=10)
    # Collisions are dealt one by one, so neighbouring ones are in different splits.
    names = [next(iter(split_of[0, event])) for event in range(300)]
    assert sum(a != b for a, b in pairwise(names)) > 100


def test_collisions_and_runs_may_stand_side_by_side(tmp_path: Path) -> None:
    """Of a merged corpus some records name their collision and others do not."""
    events = build(EventSource(), raw_files(tmp_path / "raw", (900,), 1), tmp_path / "e", OPTIONS)
    plain = toy(tmp_path / "plain", (1000,), 2)
    parent = merge([events, plain], tmp_path / "m")
    corpus = split_corpus(parent, SplitOptions((0.5, 0.25, 0.25), run_entries=50), tmp_path / "c")
    split_of: dict[tuple[int, int], set[str]] = {}
    for name in corpus.splits():
        for row in rows(corpus, name):
            group = row["source_entry"] // 50 if row["event_id"] is None else row["event_id"]
            split_of.setdefault((row["source_file"], group), set()).add(name)
    assert len(split_of) == 300 + 20
    assert {len(names) for names in split_of.values()} == {1}
    assert verify(corpus.path) == []


def test_a_recorded_collision_in_two_files_stays_together(tmp_path: Path) -> None:
    schema = records.schema("jets", ("pt",), ("run", "lumi", "event"))
    n = 600
    item = schema.field("constituents").type
    points = pa.StructArray.from_arrays([pa.array(np.ones(n), pa.float32())], fields=list(item.value_type))
    event = np.arange(n) % 300
    arrays = [pa.ListArray.from_arrays(pa.array(np.arange(n + 1), pa.int32()), points, type=item)]
    arrays += [pa.array(np.full(n, 7)), pa.array(event // 10), pa.array(event)]
    arrays += [pa.array(np.arange(n) // 300, pa.int32()), pa.array(np.arange(n) % 300)]
    parent = batch_corpus(tmp_path / "p", pa.RecordBatch.from_arrays(arrays, schema=schema), [300, 301])
    corpus = split_corpus(parent, SplitOptions((0.5, 0.5, 0.0)), tmp_path / "c")
    split_of = split_of_records(corpus)
    assert len(split_of) == 600
    assert all(split_of[0, entry] == split_of[1, entry] for entry in range(300))
    assert set(split_of.values()) == {"train", "val"}


def test_a_token_corpus_that_lists_its_files_is_dealt_like_its_source(
    parent: Corpus, halves: Corpus, tmp_path: Path
) -> None:
    tokens = token_corpus(parent, tmp_path, files=parent.manifest.provenance["files"])
    corpus = split_corpus(tokens, HALVES, tmp_path / "c")
    assert split_of_records(corpus) == split_of_records(halves)
    assert corpus.manifest.tokens == {"tokenizer": "a" * 64, "codes": 8}
    assert list(corpus.manifest.files) == ["tokenizer/config.json"]
    assert verify(corpus.path) == []


def test_a_token_corpus_that_does_not_is_dealt_in_whole_runs_too(parent: Corpus, tmp_path: Path) -> None:
    corpus = split_corpus(token_corpus(parent, tmp_path), HALVES, tmp_path / "c")
    split_of = split_of_records(corpus)
    assert len(split_of) == 4000
    assert all(split_of[file, entry // 50 * 50] == name for (file, entry), name in split_of.items())
    # Whether the last run of a file is a whole one is not known, so it goes with the one before.
    assert all(split_of[file, entries - 1] == split_of[file, entries - 100] for file, entries in ((0, 1500), (1, 1000)))


def test_what_cannot_be_split_is_refused(parent: Corpus, tmp_path: Path) -> None:
    few = batch_corpus(tmp_path / "few", showers([1.0] * 30, [1] * 30), [30])
    with pytest.raises(HepfmError, match=r"holds 1 of the groups of records .*too few for 3 splits"):
        split_corpus(few, SplitOptions(), tmp_path / "c")
    for options, message in (
        (SplitOptions((0.0, 0.0, 0.0)), "--fractions: .* are no fractions of a whole"),
        (SplitOptions((-1.0, 1.0, 1.0)), "--fractions"),
        (SplitOptions(records=0), "--records: must be at least 1"),
    ):
        with pytest.raises(HepfmError, match=message):
            split_corpus(parent, options, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
    st.integers(0, 5),
)
def test_every_split_is_within_a_group_of_its_share(
    files: list[tuple[int, int]], fractions: list[float], seed: int
) -> None:
    keys = np.concatenate([number * (1 << 40) + np.arange(groups) for number, (groups, _) in enumerate(files)])
    counts = np.concatenate([np.full(groups, size) for groups, size in files])
    wanted = dict(zip(("train", "val", "test"), fractions, strict=False))
    if len(keys) < len(wanted):
        return
    dealt = np.bincount(deal_groups(keys, counts, wanted, seed), weights=counts, minlength=len(wanted))
    assert (dealt > 0).all()
    assert dealt.sum() == counts.sum()
    share = np.array(fractions) / sum(fractions) * counts.sum()
    # An interval is cut at the middle of a group at either end; one that would be empty takes a group from another.
    assert (np.abs(dealt - share) <= 2 * counts.max()).all()


def test_the_command_splits(parent: Corpus, halves: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(parent.path), "--out", str(tmp_path / "c"), "--fractions", "0.5", "0.25", "0.25", "--seed", "3"]
    words += ["--run-entries", "50", "--processes", "1"]
    tools.split_records(parse(tools.SplitConfig, words, "hepfm corpus split"))
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'c'}\n"
    assert "train: 2,0" in told.err
    assert Corpus.open(tmp_path / "c").digest == halves.digest
