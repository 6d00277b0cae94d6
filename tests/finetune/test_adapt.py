"""``hepfm finetune generate``: goes on from a pretrained backbone, and only with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.runs import read_metrics
from hepfm.finetune.adapt import AdaptConfig, main
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.run import PretrainConfig
from hepfm.pretrain.run import main as pretrain

TRAINING = TrainingConfig(steps=40, batch_records=64, warmup_steps=5, learning_rate=3e-3, validate_every=0, log_every=1)


@pytest.fixture(scope="module")
def parent(token_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("parent") / "run"
    pretrain(PretrainConfig((token_corpus(),), run, max_length=12, training=TRAINING))
    return run


def test_goes_on_where_the_parent_stopped(parent: Path, token_corpus: Callable[..., Path], tmp_path: Path) -> None:
    training = TrainingConfig(steps=2, batch_records=64, warmup_steps=0, learning_rate=1e-4, log_every=1)
    main(AdaptConfig((token_corpus(seed=9, records=300),), str(parent), tmp_path / "run", training=training))
    before, after = (read_metrics(run / "metrics.jsonl") for run in (parent, tmp_path / "run"))
    assert after[0]["loss"] == pytest.approx(before[-1]["loss"], rel=0.1)
    assert after[0]["loss"] < 0.7 * before[0]["loss"]
    artifact = load_backbone(tmp_path / "run")[1]
    assert artifact.provenance["parent"] == load_backbone(parent)[1].hash
    assert artifact.contract["max_length"] == 12


def test_another_tokenizer_is_refused(parent: Path, token_corpus: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="the backbone reads tokenizer"):
        main(AdaptConfig((token_corpus(tokenizer="b"),), str(parent), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
