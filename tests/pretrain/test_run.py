"""``hepfm pretrain`` from a token corpus to an artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hepfm.core.config import parse
from hepfm.core.engine.config import ParameterGroup, TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.runs import read_metrics
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.mixture import define, entry_of
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.run import PretrainConfig, main

TRAINING = TrainingConfig(steps=4, batch_records=32, warmup_steps=2, log_every=1, validate_every=4, checkpoint_every=4)


@pytest.fixture(scope="module")
def config(token_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A finished run on jets of which some are too long."""
    made = PretrainConfig((token_corpus(),), tmp_path_factory.mktemp("runs") / "run", max_length=8, training=TRAINING)
    main(made)
    return made


def test_writes_a_backbone_that_says_where_it_comes_from(config: PretrainConfig) -> None:
    backbone, artifact = load_backbone(config.out)
    assert backbone.config.codes == 20
    assert artifact.contract["max_length"] == 8
    assert artifact.contract["features"] == ["pt", "deta", "dphi"]
    assert artifact.provenance["tokenizer"]
    assert artifact.provenance["corpora"][0]["digest"] == Corpus.open(config.tokens[0]).digest
    assert artifact.provenance["lengths"]["cut_jets"] > 0
    assert artifact.metrics()["validation_loss"] > 0
    assert artifact.metrics()["steps"] == 4
    lines = read_metrics(config.out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert f"{artifact.provenance['lengths']['cut_jets']:,}" in (artifact.path / "README.md").read_text()


def test_a_finished_run_says_so(config: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    before = (config.out / "artifact/config.json").read_bytes()
    main(config)
    output = capsys.readouterr()
    assert "finished already" in output.err
    assert output.out.strip() == str(config.out / "artifact")
    assert (config.out / "artifact/config.json").read_bytes() == before


def test_tells_sizes_and_what_is_cut(
    token_corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = TrainingConfig(steps=1, batch_records=8, warmup_steps=0, validate_every=0)
    main(PretrainConfig((token_corpus(val=False),), tmp_path / "run", max_length=8, training=training))
    told = capsys.readouterr().err
    assert "parameters" in told
    assert "MFLOP per token" in told
    assert "jets have more than --max-length constituents" in told


def test_other_settings_need_another_folder(config: PretrainConfig) -> None:
    with pytest.raises(HepfmError, match="other settings: model"):
        main(PretrainConfig(config.tokens, config.out, model="small", max_length=8, training=TRAINING))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"ema": 1.5}, "--ema"),
        ({"patience": 2}, "needs a validation split"),
        ({"groups": (ParameterGroup("nothing", 0.1),)}, "matches no trained parameter"),
    ],
)
def test_settings_that_are_refused_leave_no_run(
    setting: dict[str, Any], told: str, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    """The mended command would be refused there: other settings."""
    training = dataclasses.replace(TRAINING, **setting)
    with pytest.raises(HepfmError, match=told):
        main(PretrainConfig((token_corpus(val=False),), tmp_path / "run", max_length=8, training=training))
    assert not (tmp_path / "run").exists()


GPU_TOLD = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB of which 1 is free."


@pytest.mark.parametrize("told", ["", GPU_TOLD])
def test_too_little_memory_is_one_line(
    told: str, token_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        if told:
            raise torch.OutOfMemoryError(told)
        torch.empty(10**17)

    monkeypatch.setattr("hepfm.core.engine.train.build", build)
    with pytest.raises(HepfmError, match=r"not enough memory: .*tried to allocate [0-9.]+ (bytes|GiB)") as error:
        main(PretrainConfig((token_corpus(),), tmp_path / "run", max_length=8, training=TRAINING))
    assert "--accumulation" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_on_a_mixture_names_it(token_corpus: Callable[..., Path], tmp_path: Path) -> None:
    entries = [entry_of(token_corpus(), 1, ()), entry_of(token_corpus(seed=2, records=300), 3, ())]
    mixture = define(entries, tmp_path / "mix.json", 500)
    main(PretrainConfig((mixture.path,), tmp_path / "run", max_length=8, training=TRAINING))
    artifact = load_backbone(tmp_path / "run")[1]
    assert artifact.provenance["mixture"] == mixture.summary()
    assert artifact.provenance["lengths"]["jets"] == 500
    assert mixture.digest in (artifact.path / "README.md").read_text()


def test_a_corpus_without_tokens_is_refused(toy_jets: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="holds jets, not tokens"):
        main(PretrainConfig((toy_jets,), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_command_line_sets_training_too() -> None:
    arguments = ["a", "b", "--out", "run", "--model", "small", "--steps", "7", "--precision", "bf16"]
    config = parse(PretrainConfig, arguments, "hepfm pretrain")
    assert config.tokens == (Path("a"), Path("b"))
    assert (config.model, config.training.steps, config.training.precision) == ("small", 7, "bf16")
