from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_source import ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest import reader as reader_module
from hepfm.ingest.build import build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader
from hepfm.ingest.selection import JetSelection


def rows(corpus: Corpus, *names: str) -> list[dict[str, Any]]:
    """All records of splits, one after another, as stored."""
    return [row for name in names for batch in corpus.split(name) for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def stored(toy_corpus: Corpus) -> list[dict[str, Any]]:
    return rows(toy_corpus, "train", "val")


@pytest.fixture(scope="module", params=["whole windows", "gathered"])
def reader(request: pytest.FixtureRequest, toy_corpus: Corpus) -> Reader:
    splits = [toy_corpus.split("train"), toy_corpus.split("val")]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gathered":
            patch.setattr(reader_module, "JOINED_BYTES", 0)
        return Reader(splits, seed=3)


@settings(max_examples=30)
@given(st.integers(0, 12_000), st.integers(0, 1500))
def test_records_come_as_the_order_says(reader: Reader, stored: list[dict[str, Any]], start: int, count: int) -> None:
    taken = reader.take(start, start + count)
    assert taken.keys.shape == (count, 2)
    assert taken.batch.to_pylist() == [stored[record] for record in taken.keys[:, 1]]
    epoch, block, row = reader.order.locate(start, start + count)
    assert (taken.keys[:, 0] == epoch).all()
    assert (taken.keys[:, 1] == reader.order.block_starts[block] + row).all()
    assert (reader.lengths(start, start + count) == lengths_of(taken.batch["constituents"])).all()
    assert len(points_of(taken.batch, "pt")) == reader.lengths(start, start + count).sum()


def test_an_epoch_reads_every_record_once(reader: Reader) -> None:
    keys = np.concatenate([reader.take(at, min(at + 256, 5400)).keys for at in range(0, 5400, 256)])
    assert sorted(keys[:, 1].tolist()) == list(range(reader.records))
    assert set(keys[:, 0]) == {0}


def test_batches_mix_classes_and_files(reader: Reader) -> None:
    batch = reader.take(0, 256).batch
    assert len(set(batch["label"].to_pylist())) == 3
    assert len(set(batch["source_file"].to_pylist())) == 4


def test_only_the_columns_asked_for_are_read(toy_corpus: Corpus, stored: list[dict[str, Any]]) -> None:
    reader = Reader([toy_corpus.split("train")], 3, columns=["label", "constituents.deta", "constituents.pt"])
    taken = reader.take(100, 200)
    assert taken.batch.schema.names == ["label", "constituents"]
    expected = [stored[record] for record in taken.keys[:, 1]]
    assert taken.batch["label"].to_pylist() == [row["label"] for row in expected]
    assert taken.batch["constituents"].to_pylist() == [
        [{"deta": point["deta"], "pt": point["pt"]} for point in row["constituents"]] for row in expected
    ]
    assert taken.batch.schema.field("constituents").type.value_type.field("pt").metadata[b"unit"] == b"GeV"
    assert (reader.lengths(100, 200) == lengths_of(taken.batch["constituents"])).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["weight"], "has no column 'weight'"), (["constituents.px"], "has no quantity 'constituents.px'.*deta")],
)
def test_a_column_that_is_not_there_is_named(toy_corpus: Corpus, columns: list[str], message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        Reader([toy_corpus.split("train")], 3, columns=columns)


def test_two_threads_may_read_at_once(toy_corpus: Corpus) -> None:
    reader = Reader([toy_corpus.split("train")], 3, window=4)
    alone = Reader([toy_corpus.split("train")], 3, window=4)
    starts = list(range(0, 9600, 150))
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda at: reader.take(at, at + 150).batch, starts))
        lengths = list(pool.map(lambda at: reader.lengths(at, at + 150), reversed(starts)))
    for at, batch, length in zip(starts, batches, reversed(lengths), strict=True):
        assert batch.equals(alone.take(at, at + 150).batch)
        assert (length == alone.lengths(at, at + 150)).all()


def test_corpora_are_mixed_by_weight_and_labels_are_united(tmp_path: Path, toy_options: Callable[..., Any]) -> None:
    def corpus(name: str, labels: tuple[str, ...], sizes: tuple[int, ...]) -> Corpus:
        files = write_files(tmp_path / name / "raw", sizes)
        return build(ToySource(), files, tmp_path / name / "c", toy_options(), JetSelection(labels=labels))

    one, two = corpus("one", ("qcd",), (1000,)), corpus("two", ("top", "higgs"), (600, 600, 600))
    reader = Reader([one.split("train"), two.split("train")], 1, weights=[0.5, 2.0])
    n = reader.order.epoch_records(0)
    taken = reader.take(0, n)
    of_one = taken.keys[:, 1] < one.split("train").records
    assert abs(of_one.sum() - 0.5 * one.split("train").records) < 80
    assert (~of_one).sum() == 2 * two.split("train").records
    assert {label for label, first in zip(taken.batch["label"].to_pylist(), of_one, strict=True) if first} == {"qcd"}


def test_label_indices_refer_to_one_list_for_all_corpora(toy_corpus: Corpus) -> None:
    from hepfm.ingest.columns import relabel

    batch = toy_corpus.split("train").read(0)
    labels = ("z", "higgs", "top", "qcd")
    renamed = relabel(batch, labels)
    assert renamed["label"].to_pylist() == batch["label"].to_pylist()
    assert renamed["label"].dictionary.to_pylist() == list(labels)
    assert renamed["label"].type == batch["label"].type
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int16()), pa.array(["a", "b"]))
    column = relabel(pa.RecordBatch.from_arrays([nulls], names=["label"]), ("b", "a"))["label"]
    assert column.to_pylist() == ["a", None, "b"]


def test_nothing_to_read_is_an_error() -> None:
    with pytest.raises(HepfmError, match="nothing to read"):
        Reader([], 0)


def test_a_forked_process_reads_on_while_threads_of_its_parent_are_at_work(
    toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "threads", lambda: 2)
    monkeypatch.setattr(reader_module, "in_background", lambda call: Future())  # never done, as seen from a child
    split = toy_corpus.split("train")
    reader = Reader([split], seed=3, window=1)
    expected = Reader([split], seed=3, window=1).take(5, reader.records).batch
    reader.take(0, 5)
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sent.send(reader.take(5, reader.records).batch.to_pylist()), daemon=True)
    with reader._lock, reader.order._lock, split._lock:
        child.start()
    try:
        assert received.poll(30), "the child waits for a thread that it does not have"
        assert received.recv() == expected.to_pylist()
    finally:
        child.kill()
