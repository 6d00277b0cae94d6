"""``hepfm pretrain --plan``: memory against what autograd really keeps, times against independent formulas."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from physics_tokens import jet_corpus, shower_corpus, tokens_of

from hepfm import cli
from hepfm.core.config import parse
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.pretrain import plan
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.data import pack
from hepfm.pretrain.measure import Trial, measure, multiplicities
from hepfm.pretrain.memory import Setting, activations, parameters, predict
from hepfm.pretrain.plan import DAY_S, PlanConfig, main
from hepfm.pretrain.presets import PresetName, preset

GIVEN = PlanConfig(nodes=16, gpus=8, jets=1_000_000, tokens_per_second=1e5)


def planned(config: PlanConfig) -> dict[str, Any]:
    data = plan._data(config)
    return plan.make_plan(config, data, plan._speed(config, data))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["tiny", "omnijet-alpha"])
def test_activations_are_what_autograd_keeps(model: PresetName, precision: Literal["fp32", "bf16"]) -> None:
    config, lengths = preset(model, 512), multiplicities(12, 128)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    batch = pack(np.zeros(offsets[-1], dtype=np.int64), offsets, 512, 128)
    backbone = Backbone(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), half:
        backbone.loss(batch.inputs, batch.targets, batch.layout)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    setting = Setting(config, np.diff(batch.layout.offsets.numpy()), precision=precision, device="cpu")
    assert activations(setting) == pytest.approx(found, rel=1e-3)


def test_parameters_are_counted_without_making_them() -> None:
    assert parameters(preset("tiny", 512)) == Backbone(preset("tiny", 512)).parameters_count
    assert parameters(preset("xl", 8192)) == pytest.approx(1.29e9, rel=0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sharding_and_recomputing_save_memory(device: Literal["cpu", "cuda"]) -> None:
    whole = Setting(preset("large", 8192), np.full(256, 44), processes=64, device=device)
    totals = [predict(dataclasses.replace(whole, zero_stage=stage)) for stage in (0, 1)]
    assert totals[1].optimizer == pytest.approx(totals[0].optimizer / 64)
    assert totals[1].total < totals[0].total
    assert predict(dataclasses.replace(whole, checkpointing=True)).total < totals[0].total / 2
    assert predict(dataclasses.replace(whole, precision="bf16")).activations < totals[0].activations


def test_times_follow_from_the_stated_speed() -> None:
    found = planned(GIVEN)
    tokens = found["data"]["tokens"]
    assert tokens == pytest.approx(1_000_000 * 44.5, rel=0.05)
    ideal = tokens / (128 * 1e5)
    assert found["time"]["days"] * DAY_S == pytest.approx(ideal / found["speed"]["efficiency"])
    sent = 2 * 127 / 128 * 4 * found["parameters"] / 25e9
    assert found["time"]["exchange_s"] == pytest.approx(sent)
    assert planned(dataclasses.replace(GIVEN, epochs=3.0))["time"]["days"] == pytest.approx(3 * found["time"]["days"])
    assert planned(dataclasses.replace(GIVEN, nodes=1, gpus=1))["speed"]["efficiency"] == 1


def test_a_speed_of_another_model_is_scaled_by_flops() -> None:
    config = dataclasses.replace(GIVEN, model="xl", measured_model="base")
    found = planned(config)
    data = plan._data(config)
    ratio = plan.flops_per_token("base", data) / plan.flops_per_token("xl", data)
    assert found["speed"]["tokens_per_s_of_one_device"] == pytest.approx(1e5 * ratio)
    assert any("FLOP/s" in text for text in found["assumptions"])


def test_a_corpus_gives_its_own_size(token_corpus: Callable[..., Path]) -> None:
    from hepfm.ingest.corpus import Corpus

    config = dataclasses.replace(GIVEN, jets=0, corpora=(token_corpus(),), max_length=8)
    data = plan._data(config)
    split = Corpus.open(token_corpus()).split("train")
    assert data.jets == split.records
    assert data.codes == 20
    assert data.tokens <= split.points + split.records
    assert data.lengths.max() <= 9


def test_points_of_several_ids_are_refused(tmp_path: Path) -> None:
    tokens = tokens_of(jet_corpus(tmp_path / "sim", 40), tmp_path, "--tokenizer=binning", "--ids=each")
    with pytest.raises(HepfmError, match="points have several ids"):
        plan._data(dataclasses.replace(GIVEN, jets=0, corpora=(tokens,)))


def test_the_command_prints_its_assumptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pretrain", "--plan", "--nodes", "16", "--gpus", "8", "--jets", "1000000"]
    arguments += ["--tokens-per-second", "160000", "--json", str(tmp_path / "plan.json")]
    cli.run(arguments)
    told = capsys.readouterr().out
    data = json.loads((tmp_path / "plan.json").read_text())
    assert [row["zero_stage"] for row in data["memory"]] == [0, 0, 1, 1, 2, 2, 3, 3]
    for text in data["assumptions"]:
        assert f"assumed: {text}" in told


def test_jets_and_showers_are_planned_side_by_side(tmp_path: Path) -> None:
    tokens = tokens_of(jet_corpus(tmp_path / "sim", 40), tmp_path / "a", "--tokenizer=binning")
    hits = tokens_of(shower_corpus(tmp_path / "calo", 40), tmp_path / "b", "--tokenizer=binning")
    config = dataclasses.replace(GIVEN, jets=0, corpora=(tokens, hits), vocabulary="joined")
    assert plan._data(config).kind == "records"
    with pytest.raises(HepfmError, match="--vocabulary joined"):
        plan._data(dataclasses.replace(config, vocabulary="one"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"jets": 0}, "token corpora or --jets"),
        ({"batch_records": 100}, "cannot be shared by 128 devices"),
        ({"accumulation": 257}, "cannot be shared by 128 devices"),
        ({"tokens_per_second": 0.0, "measured_model": "base"}, "--measured-model"),
        ({"network_gb_per_s": 0.0}, "--network-gb-per-s"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        main(dataclasses.replace(GIVEN, **change))


def test_plan_may_stand_anywhere() -> None:
    command, rest = cli.find(["pretrain", "tokens", "--nodes", "2", "--plan", "--gpus", "8"])
    assert command.config == "PlanConfig"
    assert rest == ["tokens", "--nodes", "2", "--gpus", "8"]
    assert cli.find(["pretrain", "tokens"])[0].config == "PretrainConfig"


def test_flags_are_read() -> None:
    config = parse(PlanConfig, ["--nodes", "2", "--model", "xl", "--jets", "5"], "hepfm pretrain --plan")
    assert (config.nodes, config.model, config.jets) == (2, "xl", 5)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 1), (2, 3)])
def test_predicted_memory_is_measured_memory(processes: int, stage: Literal[0, 1, 2, 3]) -> None:
    from hepfm.benchmarks.pretrain_memory import compare

    training = TrainingConfig(steps=2, batch_records=32, warmup_steps=0, validate_every=0, zero_stage=stage)
    trial = Trial("small", 8192, 128, processes, training)
    row = compare(trial, measure(trial, give_back=True))
    assert row["predicted_over_measured"] == pytest.approx(1, abs=0.15)
