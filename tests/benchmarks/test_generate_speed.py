"""``hepfm bench generate-jets``, ``generate-showers``: both procedures are the same network's; the share of steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from physics_tokens import jet_corpus, tokens_of

from hepfm.benchmarks import generate_speed
from hepfm.benchmarks.full_recompute import FullRecompute, share_of_steps
from hepfm.benchmarks.generate_speed import (
    JETS,
    SHOWERS,
    Begun,
    GenerateJetsConfig,
    GenerateShowersConfig,
    Kind,
    RealLengths,
    cached,
    network,
)
from hepfm.benchmarks.workload import read_details
from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.finetune.sampler import Drawing, generate
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.run import PretrainConfig
from hepfm.pretrain.run import main as pretrain

TINY = Kind("jet", 20, 9, 16, 4, (2, 6))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return network(TINY)


def test_the_reference_computes_the_same_logits(backbone: Backbone) -> None:
    ids = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = backbone.start
    packed = backbone(ids.flatten(), Layout.of([7, 7, 7]))
    torch.testing.assert_close(FullRecompute(backbone, 3, 7).logits(ids).flatten(0, 1), packed)


def test_the_reference_draws_what_the_sampler_draws(backbone: Backbone) -> None:
    """By inverse transform with the sampler's own numbers, from the reference's probabilities."""
    made = generate(backbone, 4, 3, max_length=9, min_length=9)
    reference, ids = FullRecompute(backbone, 4, 9), torch.full((4, 1), backbone.start)
    for step in range(9):
        logits = reference.logits(ids)[:, -1]
        logits[:, [backbone.start, backbone.stop]] = -torch.inf
        uniform = hashed_uniform(key_of("generate", 3), np.arange(4), np.full(4, step))
        ids = torch.cat([ids, Drawing().draw(logits, torch.from_numpy(uniform))[:, None]], 1)
    assert ids[:, 1:].flatten().tolist() == made.tokens.tolist()


def test_the_published_procedure_runs_all_steps_and_never_draws_the_start(backbone: Backbone) -> None:
    torch.manual_seed(0)
    ids = FullRecompute(backbone, 50, 30).generate(30)
    assert ids.shape == (50, 30)
    assert set(ids.flatten().tolist()) == {*range(20), backbone.stop}


@pytest.mark.parametrize("steps", [10, 96, 128, 700])
def test_three_steps_stand_for_all(steps: int) -> None:
    every, share = np.arange(1, steps + 1), np.array(share_of_steps(steps))
    assert 1 <= share.min() < share.max() <= steps
    for power in (1, 2):
        assert (share**power).mean() == pytest.approx((every**power).mean(), rel=0.6 / steps + 0.01)


def test_jets_come_as_long_as_real_ones(backbone: Backbone) -> None:
    wanted = np.repeat([2, 3, 8], [50, 30, 20])
    made = generate(RealLengths(backbone, wanted), 2000, 0, max_length=8, batch=256)
    lengths = np.diff(made.offsets)
    assert set(lengths) == {2, 3, 8}
    assert (lengths == 2).mean() == pytest.approx(0.5, abs=0.05)
    assert (lengths == 8).mean() == pytest.approx(0.2, abs=0.04)


def test_steps_at_a_length_read_that_many_tokens(backbone: Backbone) -> None:
    begun = Begun(backbone, 16, 5, 3)
    seen: list[list[int]] = []
    step = begun.backbone.step
    begun.step = lambda inputs, cache, begin=None: (  # type: ignore[method-assign]
        seen.append(cache.lengths.tolist()),
        step(inputs, cache),
    )[1]
    for _ in range(2):  # the same again
        assert cached(begun, 16, 16, 3, 3) == 16
    assert seen == [[5] * 16, [6] * 16, [7] * 16] * 2


@pytest.mark.parametrize(("kind", "config"), [("JETS", GenerateJetsConfig), ("SHOWERS", GenerateShowersConfig)])
def test_both_commands_measure_ratios(
    kind: str, config: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = "jet" if kind == "JETS" else "shower"
    run, made = ("jets", "generate_jets") if kind == "JETS" else ("showers", "generate_showers")
    workload = getattr(generate_speed, made)
    monkeypatch.setattr(generate_speed, made, lambda: workload(replace(TINY, unit=unit)))
    getattr(generate_speed, run)(config(repeats=2, json=tmp_path / "speed.json"))
    result = {**json.loads((tmp_path / "speed.json").read_text()), **read_details(tmp_path / "speed.json")}
    assert result["unit"] == f"{unit}s/s"
    assert result["ratios"]["full_recompute"] == pytest.approx(result["value"] / result["rates"]["full recompute"])
    assert result["figures"]["formula_over_all_steps"] > 0
    assert "ratios.full_recompute" in capsys.readouterr().out
    assert (JETS.length, SHOWERS.length, SHOWERS.codes + 2) == (128, 700, 65_538)


def test_calls_are_timed_on_one_thread_also_of_a_trained_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tokens_of(jet_corpus(tmp_path / "jets"), tmp_path)
    training = TrainingConfig(steps=2, batch_records=16, validate_every=0, warmup_steps=1)
    pretrain(PretrainConfig((tokens,), tmp_path / "run", max_length=8, training=training))
    monkeypatch.setattr(generate_speed, "JETS", TINY)
    for model in (None, str(tmp_path / "run")):
        config = GenerateJetsConfig((1, 20), repetitions=2, model=model, json=tmp_path / "timing.json")
        generate_speed.jets(config)
        result = json.loads((tmp_path / "timing.json").read_text())
        assert (result["unit"], result["threads"], result["model"]) == ("ms/jet", 1, model)
        assert result["calls"]["1"]["value"] > result["calls"]["20"]["value"] > 0
        assert result["calls"]["20"]["std"] >= 0
        assert "20 at once" in capsys.readouterr().out
    with pytest.raises(HepfmError, match="generates jets, not showers"):
        generate_speed.showers(GenerateShowersConfig((1,), model=str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (GenerateJetsConfig(calls=(0,)), "--calls: must be at least 1"),
        (GenerateJetsConfig(repetitions=0), "--repetitions"),
        (GenerateJetsConfig(model="run"), "--model: is timed by calls"),
    ],
)
def test_impossible_settings_are_named(config: GenerateJetsConfig, told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        generate_speed.jets(config)
