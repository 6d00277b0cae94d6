"""What objectives ask of batches beside tokens belongs to the right record, and is cut where the tokens are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from physics_tokens import LABELS, jet_corpus, jets, tokens_of

from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain.corpora import TokenCorpora
from hepfm.pretrain.data import Extras
from hepfm.tokenize.apply import apply
from hepfm.tokenize.registry import load_tokenizer

ALL = Extras(labels=True, points=True, features=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """Tokens and their source."""
    folder = tmp_path_factory.mktemp("columns")
    corpus = jet_corpus(folder / "sim")
    return tokens_of(corpus, folder), corpus


@pytest.mark.parametrize("max_length", [4, 128])
def test_labels_and_features_are_those_of_the_record(made: tuple[Path, Corpus], max_length: int) -> None:
    tokens, corpus = made
    data = TokenCorpora.open([tokens], sources=[corpus.path])
    batches = data.batches("train", max_length, seed=3, extras=ALL)
    source = jets(400, 1 + len("train"))
    contract = load_tokenizer(tokens / "tokenizer").contract
    features, offsets = contract.encode(source), offsets_of(source.column("constituents"))
    label = values_of(source.column("label"))
    for start, stop in ((0, 37), (390, 420)):
        batch = batches.batch(start, stop)
        assert batch.keys is not None
        assert batch.labels is not None
        assert batch.points is not None
        assert batch.points.features is not None
        record = batch.keys[:, 1].numpy()
        assert batch.labels.tolist() == label[record].tolist()
        expected = [features[offsets[r] : min(offsets[r] + max_length, offsets[r + 1])] for r in record]
        np.testing.assert_array_equal(batch.points.features.numpy(), np.concatenate(expected))
        kept = [len(rows) for rows in expected]
        assert batch.points.layout.offsets.diff().tolist() == kept
        assert batch.points.ids.tolist() == batch.targets[batch.targets != batches.codes + 1].tolist()
    assert data.labels == LABELS


def test_without_the_source_features_are_what_the_tokens_decode_to(made: tuple[Path, Corpus]) -> None:
    tokens, _ = made
    batch = TokenCorpora.open([tokens]).batches("train", 128, seed=3, extras=ALL).batch(0, 30)
    assert batch.points is not None
    assert batch.points.features is not None
    tokenizer = load_tokenizer(tokens / "tokenizer")
    decoded = tokenizer.decode(batch.points.ids.numpy(), batch.points.layout.offsets.numpy())
    np.testing.assert_allclose(batch.points.features.numpy(), tokenizer.contract.encode_values(decoded))


def test_labels_keep_their_meaning_across_corpora(made: tuple[Path, Corpus], tmp_path: Path) -> None:
    """Of corpora with the names in another order, or without labels."""
    tokens, _ = made
    turned = jet_corpus(tmp_path / "turned", seed=5, labels=("Tbqq", "QCD"))
    real = jet_corpus(tmp_path / "real", seed=6, labels=())
    others = [
        apply(tokens / "tokenizer", corpus.path, tmp_path / corpus.path.stem / "tokens").path
        for corpus in (turned, real)
    ]
    batches = TokenCorpora.open([tokens, *others]).batches("train", 128, 0, extras=ALL)
    batch = batches.batch(0, 1200)
    assert batch.keys is not None
    assert batch.labels is not None
    corpus = batch.keys[:, 1].numpy() // 400
    lengths = batch.layout.offsets.diff().numpy() - 1
    many = (lengths >= 5).astype(int)
    labels = batch.labels.numpy()
    assert labels[corpus == 0].tolist() == many[corpus == 0].tolist()
    assert labels[corpus == 1].tolist() == (1 - many[corpus == 1]).tolist()  # its 0 is Tbqq, of few constituents
    assert set(labels[corpus == 2].tolist()) == {-1}


def test_a_source_that_is_not_theirs_is_refused(made: tuple[Path, Corpus], tmp_path: Path) -> None:
    other = jet_corpus(tmp_path / "other", seed=9)
    with pytest.raises(HepfmError, match="which is none of those given"):
        TokenCorpora.open([made[0]], sources=[other.path])


def test_labels_that_no_corpus_has_are_missed(made: tuple[Path, Corpus], tmp_path: Path) -> None:
    real = jet_corpus(tmp_path / "real", seed=6, labels=())
    tokens = apply(made[0] / "tokenizer", real.path, tmp_path / "tokens").path
    with pytest.raises(HepfmError, match="has no labels"):
        TokenCorpora.open([tokens]).batches("train", 128, 0, extras=ALL)
