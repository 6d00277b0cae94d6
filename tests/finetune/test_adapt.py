"""``hepfm finetune generate``: goes on from a pretrained backbone, and only with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from kills import assert_same_run, finish, kill
from physics_tokens import jet_corpus, tokens_of

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.runs import read_metrics
from hepfm.finetune.adapt import AdaptConfig, main
from hepfm.finetune.generate import GenerateConfig
from hepfm.finetune.generate import main as generate
from hepfm.finetune.protocols import ProtocolConfig
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.data import TokenCorpora
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


FEW = replace(TRAINING, steps=4, warmup_steps=1, validate_every=4, validation_records=64, checkpoint_every=2)


def adapted(parent: Path, tokens: Path, out: Path, protocol: ProtocolConfig, **training: object) -> Path:
    main(AdaptConfig((tokens,), str(parent), out, protocol=protocol, training=replace(FEW, **training)))
    return out


@pytest.mark.parametrize(
    ("protocol", "trained"),
    [
        (ProtocolConfig("full"), ("",)),
        (ProtocolConfig("full", backbone_rate=0.1), ("",)),
        (ProtocolConfig("scratch"), ("",)),
        (ProtocolConfig("unfreeze", unfreeze_step=2), ("",)),
        (ProtocolConfig("frozen"), ("head.",)),
        (ProtocolConfig("last-blocks"), ("head.", "transformer.blocks.3.", "transformer.final_norm.")),
        (ProtocolConfig("low-rank", rank=2), tuple(f"transformer.blocks.{block}." for block in range(4))),
    ],
    ids=lambda value: value.name if isinstance(value, ProtocolConfig) else "",
)
def test_protocols_train_what_they_say_and_the_artifact_is_a_backbone_as_before(
    protocol: ProtocolConfig,
    trained: tuple[str, ...],
    parent: Path,
    token_corpus: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = token_corpus(seed=9, records=300)
    run = adapted(parent, tokens, tmp_path / "run", protocol)
    before, (after, artifact) = load_backbone(parent)[0].state_dict(), load_backbone(run)
    assert {name: value.shape for name, value in after.state_dict().items()} == {n: v.shape for n, v in before.items()}
    for name, value in after.state_dict().items():
        same, should = torch.equal(value, before[name]), name.startswith(trained)
        assert same != should or (protocol.name == "low-rank" and value.ndim < 2), name
        if protocol.name == "low-rank" and value.ndim > 1 and should:
            singular = torch.linalg.svdvals((value - before[name]).double())
            assert singular[2] < 1e-5 * singular[0]
    assert artifact.provenance["config"]["protocol"]["name"] == protocol.name
    assert f"protocol: {protocol.name}, trains" in capsys.readouterr().err
    # What was measured in training, adapters beside the weights, is what the written weights give.
    batch = TokenCorpora.open([tokens]).batches("val", 12, 0).batch(0, 64)
    with torch.no_grad():
        loss = after.loss(batch.inputs, batch.targets, batch.layout) / len(batch.targets)
    assert float(loss) == pytest.approx(read_metrics(run / "metrics.jsonl")[-1]["validation_loss"], rel=1e-5)


def test_what_is_frozen_has_no_optimizer_state(parent: Path, token_corpus: Callable[..., Path], tmp_path: Path) -> None:
    run = adapted(parent, token_corpus(seed=9, records=300), tmp_path / "run", ProtocolConfig("low-rank", rank=2))
    (file,) = (run / "checkpoints/step-0000004").glob("mp_rank*")
    state = torch.load(file, weights_only=False)["optimizer"]["state"]
    shapes = [tuple(moments["exp_avg"].shape) for moments in state.values()]
    assert len(shapes) == 4 * 4 * 2  # blocks, matrices of each, factors of each
    assert all(2 in shape for shape in shapes)


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        (ProtocolConfig("last-blocks", last_blocks=5), "--last-blocks: must lie in 1 to 4"),
        (ProtocolConfig("low-rank", rank=0), "--rank: must be at least 1"),
        (ProtocolConfig("scratch", rank=4), "--rank: is for low-rank, not for scratch"),
        (ProtocolConfig("full", last_blocks=2), "--last-blocks: is for last-blocks, not for full"),
        (ProtocolConfig("unfreeze", unfreeze_step=4), "--unfreeze-step: must lie in 1 to 3"),
    ],
    ids=lambda value: value.name if isinstance(value, ProtocolConfig) else "",
)
def test_impossible_protocols_are_one_line_and_leave_nothing(
    protocol: ProtocolConfig, told: str, parent: Path, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(HepfmError, match=told) as error:
        adapted(parent, token_corpus(), tmp_path / "run", protocol)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A backbone that is told nothing, and labelled token jets of its tokenizer."""
    folder = tmp_path_factory.mktemp("jets")
    tokens = tokens_of(jet_corpus(folder / "jets"), folder)
    training = replace(TRAINING, steps=20)
    pretrain(PretrainConfig((tokens,), folder / "run", max_length=8, training=training))
    return folder / "run", tokens


@pytest.mark.slow
def test_low_rank_gives_a_backbone_conditions(jets: tuple[Path, Path], tmp_path: Path) -> None:
    """Class, jet pt and mass; QCD has 1 to 3 constituents, Tbqq 5 to 8."""
    parent, tokens = jets
    training = replace(TRAINING, steps=150, learning_rate=1e-2)
    told = ("label", "jet_pt", "jet_mass")
    protocol = ProtocolConfig("low-rank", rank=4)
    main(AdaptConfig((tokens,), str(parent), tmp_path / "run", told, protocol=protocol, training=training))
    asked = GenerateConfig(str(tmp_path / "run"), tmp_path / "jets.parquet", n=200, format="parquet")
    generate(replace(asked, label=("Tbqq",), jet_pt=(600.0, 700.0), jet_mass=(100.0,)))
    lengths = pq.read_table(tmp_path / "jets.parquet").column("constituents").combine_chunks().value_lengths()
    assert (lengths.to_numpy() > 4).mean() > 0.65  # without being told: 0.5


@pytest.mark.slow
def test_a_killed_adaptation_continues_bit_for_bit(jets: tuple[Path, Path], tmp_path: Path) -> None:
    """kill -9 at two moments, with adapters, new conditions, averages and early stopping at once."""
    words = f"finetune generate {jets[1]} --backbone {jets[0]} --condition label jet_pt"
    words += " --protocol low-rank --rank 2 --ema 0.9 --patience 9 --steps 16 --batch-records 16"
    words += " --warmup-steps 2 --log-every 1 --checkpoint-every 4 --validate-every 5"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(words.split(), whole)
    for lines in (3, 9):
        kill(words.split(), cut, lines)
    finish(words.split(), cut)
    assert_same_run(cut, whole)
