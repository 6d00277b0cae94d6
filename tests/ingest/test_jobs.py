"""Token corpora and others that do not come from raw files go through the same machinery."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of
from hepfm.ingest import shards
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan, mirror_jobs
from hepfm.ingest.verify import verify


@dataclass(frozen=True)
class Tokenise:
    """A made-up tokenizer: the token of a constituent is its rank."""

    corpus: Corpus
    lose: int = 0

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        for block in range(*job.payload):
            batch = self.corpus.split(job.split).read(block)
            column = batch["constituents"]
            values = [rank for length in lengths_of(column) for rank in range(length)]
            tokens = pa.ListArray.from_arrays(column.offsets, pa.array(values, pa.uint16()))
            columns = [tokens, batch["label"], batch["source_file"], batch["source_entry"]]
            names = ["tokens", "label", "source_file", "source_entry"]
            yield pa.RecordBatch.from_arrays(columns, names=names).slice(self.lose)


def token_plan(corpus: Corpus) -> Plan:
    schema = next(iter(Tokenise(corpus)(mirror_jobs(corpus)[0]))).schema.with_metadata({"kind": "tokens"})
    tokens = {"tokenizer": "0" * 64, "codes": 8, "source": corpus.digest, "source_path": "corpus"}
    return Plan(
        identity=tokens,
        jobs=mirror_jobs(corpus),
        kind="tokens",
        schema=schema,
        labels=corpus.manifest.labels,
        axis=corpus.manifest.axis,
        block_records=128,
        provenance={},
        tokens=tokens,
    )


def test_a_token_corpus_is_aligned_with_its_source(toy_corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    (tokenizer / "inner").mkdir(parents=True)
    (tokenizer / "config.json").write_text("{}")
    (tokenizer / "inner" / "weights").write_text("weights")
    out = tmp_path / "tokens"
    corpus = write_corpus(out, token_plan(toy_corpus), Tokenise(toy_corpus), attached={"tokenizer": tokenizer})
    assert corpus.manifest.tokens is not None
    assert corpus.manifest.tokens["source"] == toy_corpus.digest
    for name in toy_corpus.splits():
        ours, source = ([row for batch in c.split(name) for row in batch.to_pylist()] for c in (corpus, toy_corpus))
        assert [(row["source_file"], row["source_entry"]) for row in ours] == [
            (row["source_file"], row["source_entry"]) for row in source
        ]
        assert [len(row["tokens"]) for row in ours] == [len(row["constituents"]) for row in source]
        mine, theirs = corpus.manifest.splits[name], toy_corpus.manifest.splits[name]
        assert [(s.name, s.records) for s in mine.shards] == [(s.name, s.records) for s in theirs.shards]
        assert mine.labels == theirs.labels
    assert corpus.split("train").block_records.max() == 128
    assert sorted(corpus.manifest.files) == ["tokenizer/config.json", "tokenizer/inner/weights"]
    assert verify(out) == []
    (out / "tokenizer" / "config.json").write_text("[]")
    assert verify(out) == [f"{out / 'tokenizer' / 'config.json'}: was altered (sha256)"]


def test_a_token_that_is_no_code_is_found(toy_corpus: Corpus, tmp_path: Path) -> None:
    plan = token_plan(toy_corpus)
    assert plan.tokens is not None
    plan.tokens["codes"] = 7
    corpus = write_corpus(tmp_path / "tokens", plan, Tokenise(toy_corpus))
    assert "holds token 7, but the tokenizer has 7 codes" in verify(corpus.path)[0]


def test_records_that_got_lost_are_noticed(toy_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"train/000000.tar: got \d+ records, expected \d+"):
        write_corpus(tmp_path / "tokens", token_plan(toy_corpus), Tokenise(toy_corpus, lose=1))


def test_a_full_disk_leaves_a_corpus_that_continues(
    toy_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = shards.encode, []

    def full(batch: pa.RecordBatch) -> pa.Buffer:
        calls.append(batch)
        if len(calls) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(batch)

    monkeypatch.setattr(shards, "encode", full)
    with pytest.raises(HepfmError, match=r"the disk is full.*run again: it continues"):
        write_corpus(tmp_path / "tokens", token_plan(toy_corpus), Tokenise(toy_corpus))
    assert not list(tmp_path.rglob("*.partial-*"))
    done = len(list(tmp_path.rglob("*.tar")))
    assert done > 1
    continued = write_corpus(tmp_path / "tokens", token_plan(toy_corpus), Tokenise(toy_corpus))
    whole = write_corpus(tmp_path / "whole", token_plan(toy_corpus), Tokenise(toy_corpus))
    assert continued.digest == whole.digest
