"""Token corpora as batches: the right tokens in the right places, and nothing cut unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.errors import HepfmError
from hepfm.ingest.mixture import Mixture, define, entry_of
from hepfm.ingest.reader import Reader
from hepfm.pretrain.data import (
    TokenBatches,
    TokenCorpora,
    length_counts,
    length_statistics,
    pack,
    terms,
)

CODES, START, STOP = 20, 20, 21


@given(
    jets=st.lists(st.lists(st.integers(0, CODES - 1), max_size=9), min_size=1, max_size=8),
    max_length=st.integers(1, 10),
)
def test_inputs_and_targets_are_as_written_out(jets: list[list[int]], max_length: int) -> None:
    inputs, targets = [], []
    for jet in jets:
        whole = [START, *jet, STOP]
        stop = max_length + 1 if len(jet) > max_length else len(whole)
        inputs += whole[: stop - 1]
        targets += whole[1:stop]
    offsets = np.cumsum([0, *map(len, jets)])
    batch = pack(np.array([code for jet in jets for code in jet], dtype=np.uint16), offsets, CODES, max_length)
    assert batch.inputs.tolist() == inputs
    assert batch.targets.tolist() == targets
    assert batch.layout.tokens == terms(np.diff(offsets), max_length).sum()
    assert batch.layout.sequences == len(jets)


@pytest.mark.parametrize("max_length", [5, 128])
def test_batches_count_the_tokens_they_hold(token_corpus: Callable[..., Path], max_length: int) -> None:
    batches = TokenCorpora.open([token_corpus()]).batches("train", max_length, seed=0)
    for start, stop in ((0, 7), (590, 610), (1000, 1100)):
        batch = batches.batch(start, stop)
        assert len(batch.inputs) == len(batch.targets) == batches.tokens(start, stop)
        assert int((batch.inputs == START).sum()) == stop - start


def test_jets_that_are_cut_have_no_stop_and_are_counted(token_corpus: Callable[..., Path]) -> None:
    batches = TokenCorpora.open([token_corpus()]).batches("train", 5, seed=0)
    records = batches.reader.records
    lengths = batches.reader.lengths(0, records)
    statistics = length_statistics(length_counts(batches.reader), 5)
    assert statistics["jets"] == records
    assert statistics["longest"] == lengths.max() == 12
    assert statistics["mean"] == pytest.approx(lengths.mean())
    assert statistics["std"] == pytest.approx(lengths.std())
    assert statistics["cut_jets"] == (lengths > 5).sum() > 0
    assert statistics["cut_constituents"] == np.maximum(lengths - 5, 0).sum()
    assert statistics["terms"] == batches.tokens(0, records)
    assert int((batches.batch(0, records).targets == STOP).sum()) == records - statistics["cut_jets"]


def test_several_corpora_of_one_tokenizer_are_one_set(token_corpus: Callable[..., Path]) -> None:
    data = TokenCorpora.open([token_corpus(), token_corpus(seed=2, records=300)])
    assert data.batches("train", 128, 0).reader.records == 900
    assert len(data.digests) == 2


def test_a_corpus_named_twice_is_refused(token_corpus: Callable[..., Path]) -> None:
    with pytest.raises(HepfmError, match=r"holds the same records as .*hepfm corpus mix"):
        TokenCorpora.open([token_corpus(), token_corpus(seed=2, records=300), token_corpus()])


def test_corpora_of_two_tokenizers_are_refused(token_corpus: Callable[..., Path]) -> None:
    first, second = token_corpus(), token_corpus(tokenizer="b")
    with pytest.raises(HepfmError, match="was made by tokenizer") as error:
        TokenCorpora.open([first, second])
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


def test_a_token_beyond_the_vocabulary_is_named(token_corpus: Callable[..., Path]) -> None:
    batches = TokenCorpora.open([token_corpus()]).batches("train", 128, 0)
    with pytest.raises(HepfmError, match="tokenizer 19 codes"):
        TokenBatches(batches.reader, 19, 128).batch(0, 600)


def test_a_missing_split_is_named(token_corpus: Callable[..., Path]) -> None:
    with pytest.raises(HepfmError, match="no corpus has a split 'val'"):
        TokenCorpora.open([token_corpus(val=False)]).batches("val", 128, 0)


@pytest.fixture(scope="module")
def mixture(token_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Nine tenths of an epoch from 300 records, one tenth from 600."""
    entries = [entry_of(token_corpus(), 1, ()), entry_of(token_corpus(seed=2, records=300), 9, ())]
    return define(entries, tmp_path_factory.mktemp("mixture") / "mix.json", 1000)


def test_a_mixture_stands_for_its_corpora(mixture: Mixture, token_corpus: Callable[..., Path]) -> None:
    data = TokenCorpora.open([mixture.path])
    assert data.digests == [*(corpus.digest for corpus in data.corpora), mixture.digest]
    batches = data.batches("train", 128, seed=1)
    epochs = 10
    stop = sum(batches.reader.order.epoch_records(epoch) for epoch in range(epochs))
    second = batches.reader.take(0, stop).keys[:, 1] >= 600
    assert second.mean() == pytest.approx(0.9, abs=0.01)
    assert len(batches.batch(5, 40).inputs) == batches.tokens(5, 40)
    assert data.batches("val", 128, seed=0).reader.order.weights is None
    with pytest.raises(HepfmError, match="a mixture stands alone"):
        TokenCorpora.open([mixture.path, token_corpus()])
    with pytest.raises(HepfmError, match=r"missing\.json: no such file"):
        TokenCorpora.open([Path("missing.json")])


def test_statistics_are_those_of_a_mean_epoch(mixture: Mixture) -> None:
    batches = TokenCorpora.open([mixture.path]).batches("train", 5, seed=1)
    statistics = length_statistics(length_counts(batches.reader), 5)
    epochs = 60
    stop = sum(batches.reader.order.epoch_records(epoch) for epoch in range(epochs))
    lengths = batches.reader.lengths(0, stop)
    assert statistics["jets"] == 1000
    assert statistics["mean"] == pytest.approx(lengths.mean(), rel=0.01)
    assert statistics["std"] == pytest.approx(lengths.std(), rel=0.01)
    assert statistics["cut_jets"] == pytest.approx((lengths > 5).sum() / epochs, rel=0.01)
    assert statistics["terms"] == pytest.approx(terms(lengths, 5).sum() / epochs, rel=0.01)


def test_weights_of_single_records_count_too(mixture: Mixture) -> None:
    reader = mixture.reader("train", 0, ["tokens"])
    assert reader.order.weights is not None
    each = np.repeat(reader.order.weights, reader.order.block_records)
    assert len(each) == 900
    assert length_counts(Reader(reader.splits, 0, ["tokens"], weights=each)) == pytest.approx(length_counts(reader))


def test_a_mixture_of_jets_is_no_mixture_of_tokens(toy_jets: Path, tmp_path: Path) -> None:
    made = define([entry_of(toy_jets, 1, ())], tmp_path / "mix.json", 3)
    with pytest.raises(HepfmError, match="holds jets, not tokens"):
        TokenCorpora.open([made.path])
