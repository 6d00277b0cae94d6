"""A token corpus mirrors its source, says what made it, and has the same bytes however it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.tokenize.apply import ApplyConfig, apply, main
from hepfm.tokenize.registry import load_tokenizer


@pytest.fixture(scope="module")
def tokens(run: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return apply(run, corpus.path, tmp_path_factory.mktemp("apply") / "tokens")


def whole(corpus: Corpus, split: str) -> pa.Table:
    return pa.Table.from_batches(list(corpus.split(split)))


def test_record_i_holds_the_tokens_of_record_i(tokens: Corpus, corpus: Corpus, run: Path) -> None:
    tokenizer = load_tokenizer(run)
    assert tokens.splits() == corpus.splits()
    assert len(corpus.manifest.splits["train"].shards) > 1
    for name in corpus.splits():
        made, source = whole(tokens, name), whole(corpus, name)
        for column in ("pt", "mass", "label", "source_file", "source_entry"):
            assert made.column(column).equals(source.column(column)), column
        expected = pa.concat_arrays(
            [tokenizer.encode(block).columns(tokenizer.streams)["tokens"] for block in corpus.split(name)]
        )
        assert made.column("tokens").combine_chunks().to_pylist() == expected.to_pylist()
        np.testing.assert_array_equal(
            [shard.records for shard in tokens.manifest.splits[name].shards],
            [shard.records for shard in corpus.manifest.splits[name].shards],
        )


def test_the_manifest_says_what_made_it(tokens: Corpus, corpus: Corpus, run: Path) -> None:
    tokenizer = load_tokenizer(run)
    known = tokens.manifest.tokens
    assert known is not None
    assert known["tokenizer"] == tokenizer.hash
    assert known["codes"] == 64
    assert known["source"] == corpus.digest
    assert (tokens.path / known["source_path"]).resolve() == corpus.path.resolve()
    assert tokens.manifest.kind == "tokens"
    assert tokens.manifest.labels == corpus.manifest.labels
    assert tokens.manifest.schema.field("tokens").type.value_type == pa.uint8()
    assert load_tokenizer(tokens.path / "tokenizer").hash == tokenizer.hash


def test_it_is_sound(tokens: Corpus) -> None:
    assert verify(tokens.path) == []


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_do_not_change_a_byte(tokens: Corpus, corpus: Corpus, run: Path, processes: int) -> None:
    parallel = apply(run, corpus.path, tokens.path.parent / f"by {processes}", processes=processes)
    assert parallel.digest == tokens.digest
    for split in tokens.splits():
        for mine, theirs in zip(*(made.manifest.splits[split].shards for made in (tokens, parallel)), strict=True):
            assert mine == theirs


def test_a_finished_corpus_is_left_as_it_is(
    tokens: Corpus, corpus: Corpus, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(ApplyConfig(run, corpus.path, tokens.path, processes=1))
    output = capsys.readouterr()
    assert "already built" in output.err
    assert output.out == f"{tokens.path}\n"


def test_another_tokenizer_needs_another_folder(
    tokens: Corpus, corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path
) -> None:
    from hepfm.tokenize.fit import main as fit

    fit(fit_config(corpus, tmp_path / "run", steps=1))
    with pytest.raises(HepfmError, match="holds another corpus"):
        apply(tmp_path / "run", corpus.path, tokens.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pt_scale": 1 / 700}, "'constituents.pt' has values of about"),
        ({"pt_scale": 1 / 700, "splits": (0, 0, 1)}, "'constituents.pt' has values of about"),
        ({"axis": "constituent_sum"}, "axis 'constituent_sum'"),
        ({"points": ("pt", "deta")}, "has no 'constituents.dphi'"),
    ],
)
def test_a_corpus_that_means_something_else_is_refused_before_anything_is_written(
    make_corpus: Callable[..., Corpus], run: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = make_corpus(100, **changes)
    with pytest.raises(HepfmError, match=rf"{other.path}: .*{message}"):
        apply(run, other.path, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_a_token_corpus_cannot_be_tokenized(tokens: Corpus, run: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="holds tokens, the tokenizer takes jets"):
        apply(run, tokens.path, tmp_path / "twice")


def test_a_corpus_without_a_train_split_is_fine(make_corpus: Callable[..., Corpus], run: Path, tmp_path: Path) -> None:
    assert apply(run, make_corpus(60, splits=(0, 0, 1)).path, tmp_path / "tokens").splits() == ["test"]
