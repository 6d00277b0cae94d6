"""Training in one process: what it computes, what it refuses, how it continues."""

from __future__ import annotations

import errno
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.engine.batches import part, prefetch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.sharded import adamw
from hepfm.core.engine.stopping import REQUEUE, Requeue
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder, read_metrics

TOY = Path(__file__).with_name("engine_toy.py")
toy = SimpleNamespace(**runpy.run_path(str(TOY)))
curve, assert_equal, assert_close = toy.curve, toy.assert_equal, toy.assert_close


def checkpoint_names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir() if path.name != ".lock")


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM to this process when the records of update ``step`` (from 0) are read."""
    records = toy.fit.__globals__["Records"]
    original = records.batch

    def batch(self: Any, start: int, stop: int) -> Any:
        if start == step * toy.SMALL["batch_records"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, start, stop)

    monkeypatch.setattr(records, "batch", batch)


# What is computed


def test_micro_batches_and_zero_stages_give_the_same_weights(tmp_path: Path) -> None:
    expected = toy.fit(tmp_path / "plain")
    for name, settings in {
        "accumulation 2": {"accumulation": 2},
        "accumulation 4": {"accumulation": 4},
        "uneven micro-batches": {"accumulation": 3},
        "zero 1": {"zero_stage": 1},
        "zero 2": {"zero_stage": 2, "accumulation": 2},
        "zero 3": {"zero_stage": 3, "accumulation": 2},
    }.items():
        found = toy.fit(tmp_path / name, **settings)
        assert_close(found, expected)
        for line, wanted in zip(curve(tmp_path / name), curve(tmp_path / "plain"), strict=True):
            assert line == pytest.approx(wanted, rel=1e-4), name


def test_the_loss_is_the_mean_over_the_real_tokens_of_the_global_batch(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run", accumulation=4)
    fresh, records = toy.Toy(False), toy.Records()
    expected = float(fresh(records.batch(0, 16)).total.detach()) / records.tokens(0, 16)
    line = curve(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(expected, rel=1e-6)
    assert line["tokens"] == records.tokens(0, 16)


def test_the_gradient_is_clipped_by_its_global_norm(tmp_path: Path) -> None:
    loose = toy.fit(tmp_path / "loose", clip=1e9, steps=1)
    tight = toy.fit(tmp_path / "tight", clip=1e-6, steps=1)
    none = toy.fit(tmp_path / "none", clip=0.0, steps=1)
    assert_equal(loose, none)
    assert not torch.equal(loose["out.weight"], tight["out.weight"])
    norms = [curve(tmp_path / name)[0]["gradient_norm"] for name in ("loose", "tight", "none")]
    assert norms[0] == norms[1] == norms[2] > 0


def test_bfloat16_trains_and_keeps_fp32_weights(tmp_path: Path) -> None:
    state = toy.fit(tmp_path / "run", precision="bf16", steps=30)
    assert state["out.weight"].dtype == torch.float32
    losses = [line["loss"] for line in curve(tmp_path / "run")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("accumulation", [1, 3, 16])
def test_gradients_of_a_batch_are_those_of_its_mean_loss(
    accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(toy.train.__globals__, "update", toy.train.__globals__["update"])  # put back afterwards
    toy.dump_gradients(tmp_path / "gradients.pt")
    toy.fit(tmp_path / "run", accumulation=accumulation, steps=1)
    assert_gradients(tmp_path / "gradients.pt")


def assert_gradients(path: Path) -> None:
    """The gradients written to ``path`` are those of the first global batch."""
    fresh, records = toy.Toy(False), toy.Records()
    (fresh(records.batch(0, 16)).total / records.tokens(0, 16)).backward()
    found = torch.load(path, weights_only=True)
    assert found.keys() == {name for name, weight in fresh.named_parameters() if weight.requires_grad}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, fresh.get_parameter(name).grad, rtol=1e-5, atol=1e-8, msg=name)


def test_vectors_and_marked_parameters_do_not_decay() -> None:
    module = toy.Toy(False)
    module.embedding.weight.no_weight_decay = True
    decaying, steady = adamw(module, TrainingConfig(weight_decay=0.3)).param_groups
    assert [id(p) for p in decaying["params"]] == [id(module.hidden.weight), id(module.out.weight)]
    assert (decaying["weight_decay"], steady["weight_decay"]) == (0.3, 0.0)
    assert not any(p is module.frozen for p in steady["params"])


def test_metrics_hold_validation_and_timing(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run")
    lines = read_metrics(RunFolder(tmp_path / "run").metrics)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "validation_loss" in line] == [6, 12]
    names = {"loss", "accuracy", "learning_rate", "gradient_norm", "seconds", "tokens_per_s", "peak_memory_mb"}
    assert all(line.keys() >= names for line in lines)


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = toy.Toy(True)
    before = torch.get_rng_state()
    config = toy.from_dict(TrainingConfig, toy.SMALL)
    toy.train(module, toy.Records(), None, config, RunFolder(tmp_path / "run"), {})
    assert torch.equal(torch.get_rng_state(), before)


# Continuing


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_that_was_asked_to_stop_continues_bit_for_bit(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = toy.fit(tmp_path / "whole", noisy=True, zero_stage=stage)
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        with pytest.raises(Requeue) as stopped:
            toy.fit(tmp_path / "cut", noisy=True, zero_stage=stage)
    assert stopped.value.code == REQUEUE == 75
    assert len(curve(tmp_path / "cut")) < 12
    assert_equal(toy.fit(tmp_path / "cut", noisy=True, zero_stage=stage), expected)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_finished_run_gives_its_weights_again_without_a_step(tmp_path: Path) -> None:
    expected = toy.fit(tmp_path / "run", noisy=True)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert_equal(toy.fit(tmp_path / "run", noisy=True), expected)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run", keep_checkpoints=2)
    assert checkpoint_names(tmp_path / "run") == ["step-0000008", "step-0000012"]


@pytest.mark.parametrize("damage", ["altered", "cut short", "missing", "hashes cut short", "hashes missing"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = toy.fit(tmp_path / "run", noisy=True)
    newest = tmp_path / "run" / "checkpoints" / "step-0000012"
    victim = newest / ("hashes.json" if "hashes" in damage else "mp_rank_00_model_states.pt")
    content = victim.read_bytes()
    if "missing" in damage:
        victim.unlink()
    elif "cut short" in damage:
        victim.write_bytes(content[: len(content) // 2])
    else:
        victim.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    assert_equal(toy.fit(tmp_path / "run", noisy=True), expected)
    told = capsys.readouterr().err
    assert f"{newest}: broken checkpoint" in told
    assert "continuing from" in told
    assert "step-0000008" in told


def test_nothing_is_thrown_away_when_no_whole_checkpoint_is_left(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (path / "hashes.json").unlink()
    with pytest.raises(HepfmError, match="no whole checkpoint is left"):
        toy.fit(tmp_path / "run")


def test_leftovers_of_a_killed_save_are_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    expected = toy.fit(tmp_path / "run", noisy=True)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-0000012").rename(folder / ".partial-step-0000012")
    (folder / "step-0000008").rename(folder / ".removed-step-0000008")
    assert_equal(toy.fit(tmp_path / "run", noisy=True), expected)
    assert checkpoint_names(tmp_path / "run") == ["step-0000008", "step-0000012"]


def test_a_full_disk_leaves_the_previous_checkpoint_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = toy.fit(tmp_path / "whole")
    original = torch.save

    def save(data: Any, path: Any, *args: Any, **options: Any) -> None:
        if "step-0000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(data, path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(HepfmError, match="continues from step-0000004"):
            toy.fit(tmp_path / "run")
    assert_equal(toy.fit(tmp_path / "run"), expected)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


# What is refused


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_records(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="not finite at step 3") as refused:
        toy.fit(tmp_path / "run", bad=[40])
    told = json.loads(Path(refused.value.where).read_text())
    assert told["step"] == 3
    assert (told["first_position"], told["end_position"]) == (32, 48)
    assert told["loss"] in ("inf", "nan")


def test_checkpoints_of_another_run_are_refused_by_name_of_what_differs(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run")
    with pytest.raises(HepfmError, match="another batch_records, learning_rate"):
        toy.fit(tmp_path / "run", learning_rate=0.5, batch_records=32)


def test_a_setting_that_a_checkpoint_does_not_know_was_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaping = TrainingConfig.shaping
    with monkeypatch.context() as older:  # a version that had no averages
        without = lambda self: {name: value for name, value in shaping(self).items() if name != "ema"}  # noqa: E731
        older.setattr(TrainingConfig, "shaping", without)
        toy.fit(tmp_path / "run")
    toy.fit(tmp_path / "run")
    with pytest.raises(HepfmError, match="another ema"):
        toy.fit(tmp_path / "run", ema=0.9)


def test_settings_that_do_not_shape_the_result_may_change(tmp_path: Path) -> None:
    toy.fit(tmp_path / "run")
    toy.fit(tmp_path / "run", accumulation=2, log_every=5, keep_checkpoints=1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "--steps"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"batch_records": 3, "accumulation": 4}, "--batch-records"),
        ({"decay_fraction": 0.0}, "--decay-fraction"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(HepfmError, match=named):
        toy.from_dict(TrainingConfig, {**toy.SMALL, **settings}).check(processes=1)


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    from hepfm.core.files import locked

    with locked(tmp_path / "run" / "checkpoints"), pytest.raises(HepfmError, match="another process"):
        toy.fit(tmp_path / "run")


def test_wandb_never_fails_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    toy.fit(tmp_path / "run", wandb=True, steps=1)
    assert "wandb is off" in capsys.readouterr().err


# Parts


@given(start=st.integers(0, 10**9), records=st.integers(1, 500), parts=st.integers(1, 64))
def test_parts_cover_the_batch_in_order_and_differ_by_one_record_at_most(start: int, records: int, parts: int) -> None:
    slices = [part(start, records, index, parts) for index in range(parts)]
    assert slices[0][0] == start
    assert slices[-1][1] == start + records
    assert all(before[1] == after[0] for before, after in itertools.pairwise(slices))
    sizes = {stop - first for first, stop in slices}
    assert max(sizes) - min(sizes) <= 1


def test_prefetch_keeps_the_order_and_passes_errors_on() -> None:
    def fail() -> int:
        raise HepfmError("broken block")

    results = prefetch([lambda: 1, lambda: 2, fail])
    assert next(results) == 1
    assert next(results) == 2
    with pytest.raises(HepfmError, match="broken block"):
        next(results)


def test_it_needs_no_compiler(tmp_path: Path) -> None:
    environment = {"PATH": "", "HOME": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    offload = {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu", "ema": 0.9}
    arguments = json.dumps({"steps": 1, "each": {"plain": {}, "offload": offload}})
    done = subprocess.run(
        [sys.executable, str(TOY), str(tmp_path / "run"), arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "extensions").exists()
    assert done.stdout == ""
    assert "WARN" not in done.stderr.upper()
