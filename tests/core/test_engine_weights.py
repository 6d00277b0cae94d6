"""Which weights a training ends in: parameter groups, averages, early stopping."""

from __future__ import annotations

import json
import os
import runpy
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from hepfm.core.engine.best import Best
from hepfm.core.engine.config import ParameterGroup, TrainingConfig
from hepfm.core.engine.schedule import learning_rate
from hepfm.core.engine.sharded import adamw
from hepfm.core.engine.stopping import Requeue
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder

TOY = Path(__file__).with_name("engine_toy.py")
toy = SimpleNamespace(**runpy.run_path(str(TOY)))
GROUPS = [
    {"match": "^embedding", "learning_rate": 0.001, "weight_decay": 0.05},
    {"match": "bias$", "learning_rate": 0.02},
]
SLOW = pytest.mark.slow
STAGES = [pytest.param(0, marks=SLOW), pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)]
# Learns, then is thrown off: validation gets worse from some step on.
UNSTABLE = {"steps": 30, "validate_every": 1, "schedule": "constant", "learning_rate": 0.3, "warmup_steps": 20}


def ask_to_stop(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM to this process when it has trained ``step`` steps and begins the next."""
    original, steps = toy.Toy.forward, []

    def forward(self: Any, batch: Any) -> Any:
        steps.extend([1] * self.training)
        if len(steps) == step + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(toy.Toy, "forward", forward)


def interrupted(out: Path, step: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, torch.Tensor]:
    """The final state of a run that was asked to stop after ``step`` steps, and continued."""
    with monkeypatch.context() as patch:
        ask_to_stop(patch, step)
        with pytest.raises(Requeue):
            toy.fit(out, **settings)
    return toy.fit(out, **settings)


# Parameter groups


@pytest.mark.parametrize("stage", STAGES)
def test_groups_train_as_an_adamw_with_these_groups_does(stage: int, tmp_path: Path) -> None:
    found = toy.fit(tmp_path / "run", groups=GROUPS, zero_stage=stage)
    module, records = toy.Toy(False), toy.Records()
    config = toy.from_dict(TrainingConfig, toy.SMALL)
    named = dict(module.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [named["embedding.weight"]], "weight_decay": 0.05, "peak": 0.001},
            {"params": [named["hidden.weight"], named["out.weight"]], "weight_decay": 0.3, "peak": 0.01},
            {"params": [named[n] for n in ("hidden.bias", "norm.bias", "out.bias")], "weight_decay": 0, "peak": 0.02},
            {"params": [named["norm.weight"]], "weight_decay": 0, "peak": 0.01},
        ],
        betas=config.betas,
    )
    for step in range(config.steps):
        optimizer.zero_grad()
        batch = 16 * step, 16 * (step + 1)
        (module(records.batch(*batch)).total / records.tokens(*batch)).backward()
        clip_grad_norm_(module.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, config) / config.learning_rate
        optimizer.step()
    toy.assert_close(found, module.state_dict())


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_groups_and_averages_continue_bit_for_bit(stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"noisy": True, "zero_stage": stage, "groups": GROUPS, "ema": 0.9}
    expected = toy.fit(tmp_path / "whole", **settings)
    toy.assert_equal(interrupted(tmp_path / "cut", 6, monkeypatch, **settings), expected)
    assert toy.curve(tmp_path / "cut") == toy.curve(tmp_path / "whole")


def test_what_trains_from_a_later_step_is_untouched_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [{"match": "^embedding", "from_step": 6, "weight_decay": 0}]
    before = toy.Toy(False).embedding.weight.detach()
    found = toy.fit(tmp_path / "once", groups=groups, steps=7, schedule="constant")
    # Adam's first step is the learning rate, whatever the gradient; here the first of three of its warm-up.
    assert float((found["embedding.weight"] - before).abs().max()) == pytest.approx(0.01 / 3, rel=1e-2)
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 5)  # the checkpoint follows the sixth update
        with pytest.raises(Requeue):
            toy.fit(tmp_path / "cut", groups=groups, noisy=True)
    (file,) = (tmp_path / "cut/checkpoints").glob("step-0000006/mp_rank*")
    saved = torch.load(file, weights_only=False)
    assert torch.equal(saved["module"]["objective.embedding.weight"], before)
    assert len(saved["optimizer"]["state"]) == 6  # of seven trained parameters
    toy.assert_equal(
        toy.fit(tmp_path / "cut", groups=groups, noisy=True), toy.fit(tmp_path / "whole", groups=groups, noisy=True)
    )


def test_a_tied_parameter_is_found_by_each_of_its_names() -> None:
    module = toy.Toy(False)
    module.again = torch.nn.Linear(24, toy.CODES, bias=False)
    module.again.weight = module.embedding.weight
    for name in ("again", "embedding"):
        config = TrainingConfig(groups=(ParameterGroup(name, learning_rate=1e-4),))
        assert [id(p) for p in adamw(module, config).param_groups[0]["params"]] == [id(module.embedding.weight)]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([{"match": "decoder", "learning_rate": 0.1}], "matches no trained parameter"),
        ([{"match": "frozen", "learning_rate": 0.1}], "matches no trained parameter"),
        ([{"match": "out", "learning_rate": 0.1}, {"match": "out.bias", "learning_rate": 0.2}], "entry 2"),
        ([{"match": "bias", "weight_decay": 0.1}], "vectors only"),
        ([{"match": "out"}], "neither learning_rate nor weight_decay"),
        ([{"match": "out", "from_step": 12}], "from_step must lie in 0 to 11"),
        ([{"match": "(", "learning_rate": 0.1}], "no regular expression"),
        ([{"match": "out", "learning_rate": -1.0}], "positive"),
        ([{"match": "out", "weight_decay": float("nan")}], "weight_decay must be finite"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(groups: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=told):
        toy.fit(tmp_path / "run", groups=groups)


# Averages


def test_averages_follow_their_formula_and_leave_the_training_alone(tmp_path: Path) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    module = toy.Toy(False)

    def note(module: Any, arguments: Any) -> None:
        if module.training:
            weights.append({name: value.detach().clone() for name, value in module.named_parameters()})

    module.register_forward_pre_hook(note)
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, "ema": 0.7})
    toy.train(module, toy.Records(), toy.Records(), config, RunFolder(tmp_path / "averaged"), {})
    weights.append(toy.fit(tmp_path / "plain"))
    for name, average in module.named_parameters():
        expected = weights[0][name].double()
        for step, after in enumerate(weights[1:]):
            decay = min(0.7, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * after[name].double()
        torch.testing.assert_close(average.detach().double(), expected, rtol=1e-5, atol=1e-6, msg=name)
    lines = [[line["loss"] for line in toy.curve(tmp_path / name)] for name in ("averaged", "plain")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_validation_and_result_use_the_averages(stage: int, tmp_path: Path) -> None:
    state = toy.fit(tmp_path / "run", ema=0.9, zero_stage=stage)
    fresh, records = toy.Toy(False).eval(), toy.Records()
    fresh.load_state_dict(state)
    expected = float(fresh(records.batch(0, 20)).total.detach()) / records.tokens(0, 20)
    last = toy.curve(tmp_path / "run")[-1]
    assert last["validation_loss"] == pytest.approx(expected, rel=1e-6)
    plain = toy.fit(tmp_path / "plain", zero_stage=stage)
    assert not torch.allclose(plain["out.weight"], state["out.weight"], rtol=1e-2)
    assert toy.curve(tmp_path / "plain")[-1]["loss"] == last["loss"]


# Early stopping


@pytest.mark.parametrize(("stage", "ema"), [(0, 0.0), pytest.param(3, 0.5, marks=SLOW)])
def test_training_ends_when_validation_gets_worse_with_the_best_weights(
    stage: int, ema: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**UNSTABLE, "zero_stage": stage, "ema": ema}
    found = toy.fit(tmp_path / "run", **settings, patience=3)
    losses = [line["validation_loss"] for line in toy.curve(tmp_path / "run")]
    best = losses.index(min(losses)) + 1
    assert best > 1
    assert len(losses) == best + 3 < 30
    toy.assert_equal(found, toy.fit(tmp_path / "plain", **{**settings, "steps": best}))
    # Stopped between the best and the end, it still knows the best; finished, it gives it again.
    cut = interrupted(tmp_path / "cut", best + 1, monkeypatch, **settings, patience=3)
    toy.assert_equal(cut, found)
    assert toy.curve(tmp_path / "cut") == toy.curve(tmp_path / "run")
    toy.assert_equal(toy.fit(tmp_path / "run", **settings, patience=3), found)


def test_best_weights_of_steps_after_the_checkpoint_are_found_again(tmp_path: Path) -> None:
    settings = {**UNSTABLE, "patience": 3, "checkpoint_every": 2, "keep_checkpoints": 50}
    expected = toy.fit(tmp_path / "run", **settings)
    checkpoints = tmp_path / "run" / "checkpoints"
    for path in sorted(checkpoints.glob("step-*"))[1:]:  # as if killed after step 3, with a later best.safetensors
        path.rename(checkpoints / f".removed-{path.name}")
    toy.assert_equal(toy.fit(tmp_path / "run", **settings), expected)


def test_figures_of_an_early_stop_are_those_of_the_best_step(tmp_path: Path) -> None:
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, **UNSTABLE, "patience": 2})
    figures = toy.train(toy.Toy(False), toy.Records(), toy.Records(), config, RunFolder(tmp_path / "run"), {})
    lines = toy.curve(tmp_path / "run")
    best = min(lines, key=lambda line: line["validation_loss"])
    assert figures["best_step"] == best["step"]
    assert figures["validation_loss"] == best["validation_loss"]


def test_patience_needs_validation(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="--patience"):
        toy.fit(tmp_path / "run", patience=2, validate_every=0)
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, "patience": 2})
    with pytest.raises(HepfmError, match="validation split"):
        toy.train(toy.Toy(False), toy.Records(), None, config, RunFolder(tmp_path / "run"), {})


def test_under_early_stopping_a_run_continues_only_with_the_same_validations(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run", patience=5)
    with pytest.raises(HepfmError, match="another validate_every"):
        toy.fit(tmp_path / "run", patience=5, validate_every=3)


def test_a_validation_loss_of_nan_is_never_the_best() -> None:
    best = Best()
    found = [best.judge(step, {"validation_loss": loss}) for step, loss in enumerate([float("nan"), 2.0, 3.0, 1.0], 1)]
    assert found == [False, True, False, True]
    assert (best.step, best.worse) == (4, 0)
    assert Best(**json.loads(json.dumps(vars(best)))) == best
