"""A causal decoder decodes a prefix by itself; a conditional one is told what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.data import PointBatches
from hepfm.tokenize.fit import main
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.settings import VQVAEConfig

SMALL = VQVAEConfig(codes=64, width=16, blocks=2, heads=2)


@cache
def network(causal: bool, conditions: int = 0) -> VQVAE:
    """One whose heads do something: they start at zero. Tests leave it as it is."""
    torch.manual_seed(0)
    made = VQVAE(replace(SMALL, causal_decoder=causal), 3, conditions)
    made.train()(torch.randn(200, 3), Layout.of(np.array([120, 80])), torch.randn(2, conditions))
    for coder in (made.encoder, made.decoder):
        torch.nn.init.normal_(coder.head.weight)
    return made.eval()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.data())
def test_a_prefix_decodes_independently_of_what_follows(lengths: list[int], data: st.DataObject) -> None:
    causal = network(True)
    ids = torch.from_numpy(np.random.default_rng(sum(lengths)).integers(0, 64, (sum(lengths), 1)))
    with torch.inference_mode():
        whole = causal.decode(ids, Layout.of(np.array(lengths)))
    first = np.cumsum([0, *lengths[:-1]])
    kept = [data.draw(st.integers(1, length)) for length in lengths]
    at = torch.from_numpy(np.concatenate([np.arange(f, f + k) for f, k in zip(first, kept, strict=True)]))
    with torch.inference_mode():
        part = causal.decode(ids[at], Layout.of(np.array(kept)))
    torch.testing.assert_close(part, whole[at], rtol=1e-4, atol=1e-4)


def test_otherwise_later_tokens_matter_and_the_encoder_always_sees_all() -> None:
    ids = torch.arange(10)[:, None]
    layout, prefix = Layout.of(np.array([10])), Layout.of(np.array([5]))
    with torch.inference_mode():
        for causal in (True, False):
            made = network(causal)
            same = torch.allclose(made.decode(ids, layout)[:5], made.decode(ids[:5], prefix), atol=1e-3)
            assert same == causal
            points = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
            latents = [made.encode(points[:count], Layout.of(np.array([count])))[1][:5] for count in (10, 5)]
            assert not torch.allclose(*latents, atol=1e-3)


def test_conditions_reach_the_points_of_their_own_record() -> None:
    made = network(True, conditions=2)
    ids, layout = torch.arange(9)[:, None], Layout.of(np.array([4, 0, 5]))
    conditions = torch.randn(3, 2)
    with torch.inference_mode():
        before = made.decode(ids, layout, conditions)
        conditions[2] += 1
        after = made.decode(ids, layout, conditions)
    assert torch.equal(before[:4], after[:4])
    assert not torch.isclose(before[4:], after[4:]).any()


@pytest.fixture(scope="module")
def conditional(corpus: Corpus, fit_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("conditional") / "run"
    config = fit_config(corpus, out)
    main(replace(config, conditions=("mass",), network=replace(config.network, causal_decoder=True)))
    return out


def test_it_comes_back_from_its_artifact(conditional: Path, corpus: Corpus) -> None:
    artifact = read_artifact(conditional / "artifact")
    assert artifact.architecture["causal_decoder"] is True
    assert [condition["name"] for condition in artifact.contract["conditions"]] == ["mass"]
    assert "Decoding is told mass of each record." in (artifact.path / "README.md").read_text()
    tokenizer = load_tokenizer(conditional)
    batch = corpus.split("val").read(0)
    tokens = tokenizer.encode(batch)
    told = tokenizer.contract.conditions_of(batch)
    np.testing.assert_array_equal(told["mass"], batch.column("mass").to_numpy())
    first = tokenizer.decode(tokens.ids, tokens.offsets, conditions=told)
    other = tokenizer.decode(tokens.ids, tokens.offsets, conditions={"mass": told["mass"] + 100})
    assert not np.allclose(first["pt"], other["pt"])


def test_what_decoding_is_told_is_checked(conditional: Path, corpus: Corpus) -> None:
    tokenizer = load_tokenizer(conditional)
    ids, offsets = np.zeros(3, np.int64), np.array([0, 1, 3])
    for conditions, message in (
        (None, r"decodes with mass \[GeV\] of each record"),
        ({"pt": np.ones(2)}, "decodes with mass"),
        ({"mass": np.ones(3)}, "3 values of mass for 2 records"),
        ({"mass": np.array([1.0, np.nan])}, "mass is nan GeV"),
    ):
        with pytest.raises(HepfmError, match=message):
            tokenizer.decode(ids, offsets, conditions=conditions)


@pytest.mark.parametrize("name", ["tau1", "label", "source_entry"])
def test_what_a_corpus_does_not_have_as_a_number_is_refused(
    corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    config = replace(fit_config(corpus, tmp_path / "run"), conditions=(name,))
    with pytest.raises(HepfmError, match=f"has no number '{name}' of each record.*it has: pt, mass"):
        main(config)
    assert not (tmp_path / "run").exists()


def test_a_constant_condition_is_refused(corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path) -> None:
    """All toy jets have a pt of 700 GeV."""
    with pytest.raises(HepfmError, match="'pt' is 700"):
        main(replace(fit_config(corpus, tmp_path / "run"), conditions=("pt",)))


def test_batches_carry_the_conditions_of_their_records(corpus: Corpus, conditional: Path) -> None:
    contract = load_tokenizer(conditional).contract
    batches = PointBatches(corpus.split("train"), contract, seed=3)
    batch = batches.batch(10, 30)
    assert batch.conditions is not None
    taken = batches.reader.take(10, 30).batch.column("mass").to_numpy()
    known = corpus.manifest.statistics["mass"]
    np.testing.assert_allclose(batch.conditions[:, 0], (taken - known["mean"]) / known["std"], rtol=1e-4, atol=1e-5)
