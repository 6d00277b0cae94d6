"""What objectives ask of batches beside tokens belongs to the right record, and is cut where the tokens are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from physics_tokens import LABELS, jet_corpus, jets, tokens_of

from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain.continuous import Continuous
from hepfm.pretrain.data import TokenCorpora
from hepfm.tokenize.apply import apply


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """Tokens and their source."""
    folder = tmp_path_factory.mktemp("columns")
    corpus = jet_corpus(folder / "sim")
    return tokens_of(corpus, folder), corpus


@pytest.mark.parametrize("max_length", [4, 128])
def test_labels_and_features_are_those_of_the_record(made: tuple[Path, Corpus], max_length: int) -> None:
    tokens, corpus = made
    data = TokenCorpora.open([tokens])
    continuous = Continuous.of(data, [corpus.path], max_length)
    batches = data.batches("train", max_length, seed=3, labels=True, features=continuous.of_splits)
    source = jets(400, 1 + len("train"))
    features, offsets = continuous.tokenizer.contract.encode(source), offsets_of(source.column("constituents"))
    label = values_of(source.column("label"))
    for start, stop in ((0, 37), (390, 420)):
        batch = batches.batch(start, stop)
        assert batch.keys is not None
        assert batch.labels is not None
        assert batch.features is not None
        record = batch.keys[:, 1]
        assert batch.labels.tolist() == label[record].tolist()
        expected = [features[offsets[r] : min(offsets[r] + max_length, offsets[r + 1])] for r in record]
        np.testing.assert_array_equal(batch.features.numpy(), np.concatenate(expected))
    assert batches.reader.labels == LABELS


def test_a_column_that_a_corpus_lacks_is_unknown_there(made: tuple[Path, Corpus], tmp_path: Path) -> None:
    """Simulation beside real collisions, which have no labels."""
    tokens, _ = made
    turned = jet_corpus(tmp_path / "turned", seed=5, labels=("Tbqq", "QCD"))
    real = jet_corpus(tmp_path / "real", seed=6, labels=())
    others = [
        apply(tokens / "tokenizer", corpus.path, tmp_path / f"{corpus.path.name}-tokens").path
        for corpus in (turned, real)
    ]
    reader = TokenCorpora.open([tokens, *others]).reader("train", 0, ("tokens", "label", "pt"))
    taken = reader.take(0, 1200)
    corpus = taken.keys[:, 1] // 400
    many = (np.diff(offsets_of(taken.batch.column("tokens"))) >= 5).astype(int)
    label = values_of(taken.batch.column("label"))
    assert reader.labels == LABELS
    assert label[corpus == 0].tolist() == many[corpus == 0].tolist()
    assert label[corpus == 1].tolist() == (1 - many[corpus == 1]).tolist()  # its 0 is Tbqq, of few constituents
    assert set(label[corpus == 2].tolist()) == {-1}


def test_labels_that_a_corpus_lacks_are_missed(made: tuple[Path, Corpus], tmp_path: Path) -> None:
    real = jet_corpus(tmp_path / "real", seed=6, labels=())
    tokens = apply(made[0] / "tokenizer", real.path, tmp_path / "tokens").path
    with pytest.raises(HepfmError, match="has no labels"):
        TokenCorpora.open([tokens]).batches("train", 128, 0, labels=True)
