"""Fitting ends in an artifact that says how good it is, and refuses early what cannot work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_jets import RealJets

from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.runs import read_metrics
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PackedPoints, PointBatches
from hepfm.tokenize.fit import main
from hepfm.tokenize.fitting import _tell_collapsed
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.objective import LossConfig, Objective
from hepfm.tokenize.quality import measure, perplexity
from hepfm.tokenize.quantizers import PlainCodebook
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.settings import VQVAEConfig
from hepfm.tokenize.vqvae import VQVAETokenizer

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_ends_in_an_artifact_with_its_quality(run: Path, corpus: Corpus) -> None:
    artifact = read_artifact(run / "artifact", "tokenizer")
    metrics = artifact.metrics()
    assert metrics["measured_on"] == "val"
    assert metrics["records"] == corpus.split("val").records
    assert metrics["points"] == corpus.split("val").points
    assert metrics["codebook_use"] > 0.9
    assert 0 < metrics["jet_mass_w1_gev"] < 20
    assert metrics["pt_error"] < 0.5
    assert {"jet_mass_residual_gev", "jet_pt_w1_gev", "deta_error", "dphi_error", "validation_loss"} <= set(metrics)
    assert artifact.provenance["corpus"]["digest"] == corpus.digest
    assert "| pt | GeV |" in (run / "artifact" / "README.md").read_text()


def test_training_improves_on_its_start(corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path) -> None:
    main(fit_config(corpus, tmp_path / "run", steps=150))
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(losses[-40:]) < np.mean(losses[:40])


def test_a_finished_run_is_left_as_it_is(
    run: Path, corpus: Corpus, fit_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "artifact" / "config.json").stat().st_mtime_ns
    main(fit_config(corpus, run))
    assert (run / "artifact" / "config.json").stat().st_mtime_ns == before
    assert "is finished already" in capsys.readouterr().err


def test_other_settings_need_another_folder(run: Path, corpus: Corpus, fit_config: Callable[..., Any]) -> None:
    with pytest.raises(HepfmError, match="holds a run with other settings: network"):
        main(fit_config(corpus, run, codes=32))


def test_a_corpus_with_a_train_split_only_is_enough(
    make_corpus: Callable[..., Corpus], fit_config: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = make_corpus(120, splits=(1, 0, 0))
    main(fit_config(tiny, tmp_path / "run", steps=3))
    assert json.loads((tmp_path / "run" / "artifact" / "metrics.json").read_text())["measured_on"] == "train"


def test_five_hundred_real_jets_are_enough(fit_config: Callable[..., Any], tmp_path: Path) -> None:
    file = ROOT / "../shared/data/jetclass/jetclass_500_pfVectors.npy"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    real = build(RealJets(), [file], tmp_path / "corpus", BuildOptions(block_records=128))
    assert real.splits() == ["train"]
    main(fit_config(real, tmp_path / "run", steps=30, codes=256))
    metrics = read_artifact(tmp_path / "run" / "artifact").metrics()
    assert metrics["codebook_use"] > 0.95
    assert metrics["jet_mass_w1_gev"] < 10
    assert metrics["pt_error"] < 0.25


def test_more_codes_than_points_are_refused_before_anything_is_written(
    make_corpus: Callable[..., Corpus], fit_config: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = make_corpus(60, splits=(1, 0, 0))
    with pytest.raises(HepfmError, match=r"100,000 codes are more than the .* points of the train split"):
        main(fit_config(tiny, tmp_path / "run", codes=100_000))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "--steps"),
        ({"batch_records": 1, "accumulation": 2}, "--batch-records"),
        ({"patience": 2}, "--patience"),
    ],
)
def test_training_that_cannot_work_is_refused_before_anything_is_written(
    make_corpus: Callable[..., Corpus],
    fit_config: Callable[..., Any],
    tmp_path: Path,
    change: dict[str, int],
    told: str,
) -> None:
    config = fit_config(make_corpus(60, splits=(1, 0, 0)), tmp_path / "run")
    with pytest.raises(HepfmError, match=told):
        main(replace(config, training=replace(config.training, **change)))
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_a_train_split_is_refused(
    make_corpus: Callable[..., Corpus], fit_config: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(HepfmError, match="train split"):
        main(fit_config(make_corpus(60, splits=(0, 0, 1)), tmp_path / "run"))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 15}, "--width: 15 is no multiple of 2 heads"),
        ({"latent": 2}, "--latent"),
        ({"blocks": 0}, "--blocks"),
    ],
)
def test_sizes_that_cannot_work_are_named(
    corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path, sizes: dict[str, int], message: str
) -> None:
    config = fit_config(corpus, tmp_path / "run")
    with pytest.raises(HepfmError, match=message):
        main(replace(config, network=replace(config.network, **sizes)))


def test_a_collapsed_codebook_is_told_with_its_cure(
    corpus: Corpus,
    fit_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def to_one_code(network: VQVAE, x: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x), 1, dtype=torch.long), network.encoder(x, layout)

    monkeypatch.setattr(VQVAE, "encode", to_one_code)
    monkeypatch.setattr(PlainCodebook, "near", lambda self, latent, ids, _: torch.ones(len(ids), dtype=torch.bool))
    main(fit_config(corpus, tmp_path / "run", steps=2))
    assert "codebook collapsed: fit longer (--steps), with a lower --learning-rate" in capsys.readouterr().err


def test_a_collapsed_list_is_told_though_the_others_are_used(
    corpus: Corpus, fit_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fit_config(corpus, tmp_path / "run", steps=2)
    main(replace(config, network=replace(config.network, quantizer="residual")))
    tokenizer, split = load_tokenizer(tmp_path / "run"), corpus.split("val")
    quality = measure(tokenizer, split)
    assert quality["codebook_use"] == (quality["codebook_use_0"] + quality["codebook_use_1"]) / 2
    capsys.readouterr()
    _tell_collapsed(tokenizer, {**quality, "codebook_use": 0.508, "codebook_use_0": 1.0, "codebook_use_1": 1 / 64})
    assert "only 2% of 64 codes of id list '1' are used, the codebook collapsed" in capsys.readouterr().err
    _tell_collapsed(tokenizer, quality)
    assert not capsys.readouterr().err


def test_a_network_that_decodes_to_no_numbers_is_told(run: Path, corpus: Corpus) -> None:
    """The weights of a training that went astray can be finite, and what they give beyond all numbers."""
    tokenizer = load_tokenizer(run)
    assert isinstance(tokenizer, VQVAETokenizer)
    tokenizer.network.decoder.head.bias.data.fill_(500.0)
    with pytest.raises(HepfmError, match=r"decodes to a pt that is not finite .*lower --learning-rate"):
        measure(tokenizer, corpus.split("val"))


def test_batches_count_their_points(corpus: Corpus, contract: FeatureContract) -> None:
    batches = PointBatches(corpus.split("train"), contract, seed=3)
    start, stop = 1500, 1750  # across the end of an epoch
    batch = batches.batch(start, stop)
    assert batch.layout.sequences == stop - start
    assert batches.tokens(start, stop) == len(batch.features) == batch.layout.tokens


def test_the_loss_is_a_sum_over_points(contract: FeatureContract, corpus: Corpus, small: VQVAEConfig) -> None:
    """However records are shared out, the parts add up."""
    batches = PointBatches(corpus.split("train"), contract, seed=3)
    network = VQVAE(small, 3)
    network(*_both(batches.batch(0, 64)))
    objective = Objective(network.eval(), contract, LossConfig())
    whole = objective(batches.batch(0, 60))
    parts = [objective(batches.batch(*piece)) for piece in ((0, 11), (11, 12), (12, 60))]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=1e-4, atol=0)
    for name in set(whole.figures) - {"perplexity"}:
        total = sum(part.figures[name] for part in parts)
        torch.testing.assert_close(total, whole.figures[name], rtol=1e-4, atol=1e-4)


def test_jet_errors_vanish_for_a_perfect_reconstruction(contract: FeatureContract, corpus: Corpus) -> None:
    batch = PointBatches(corpus.split("train"), contract, seed=3).batch(0, 20)
    objective = Objective(VQVAE(VQVAEConfig(codes=8), 3), contract, LossConfig())
    assert float(objective._jet_errors(batch.features, batch.features, batch.layout)) == 0
    heavier = batch.features + torch.tensor([0.1, 0, 0])  # every pt, so px and mass too, 10.5% larger
    light = float(objective._jet_errors(heavier, batch.features, batch.layout)) / batch.layout.tokens
    assert light == pytest.approx(0.0110, rel=0.2)


def test_jets_of_one_or_no_constituent_give_finite_gradients(contract: FeatureContract) -> None:
    features = torch.randn(3, 3) * 0.1
    layout = Layout.of(np.array([1, 0, 2]))
    network = VQVAE(VQVAEConfig(codes=2, width=16, heads=2), 3).train()
    losses = Objective(network, contract, LossConfig())(PackedPoints(features, layout))
    losses.total.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_perplexity_is_the_effective_number_of_codes() -> None:
    assert perplexity(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert perplexity(np.array([7, 0, 0])) == pytest.approx(1)


def test_quality_of_some_records_only(run: Path, corpus: Corpus) -> None:
    figures = measure(load_tokenizer(run), corpus.split("train"), max_records=100)
    assert figures["records"] == 100


def _both(batch: PackedPoints) -> tuple[torch.Tensor, Layout]:
    return batch.features, batch.layout
