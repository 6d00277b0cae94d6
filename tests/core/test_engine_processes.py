"""Training in processes of its own: several of them, killed ones, another number of them."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hepfm.core.runs import RunFolder

TOY = Path(__file__).with_name("engine_toy.py")
toy = SimpleNamespace(**runpy.run_path(str(TOY)))
curve = toy.curve
TIMEOUT_S = 240
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
GROUPS = [{"match": "^embedding", "learning_rate": 0.001, "weight_decay": 0.05}]
# Saving takes most of the time of such a run, so that many kills come in the middle of it.
LONG = {"noisy": True, "steps": 100, "checkpoint_every": 3, "validate_every": 50, "ema": 0.9, "groups": GROUPS}
# Its best weights are those of an early validation.
UNSTABLE = {**LONG, "validate_every": 2, "patience": 30, "schedule": "constant", "learning_rate": 0.3}


def start(out: Path, launcher: Sequence[str] = (sys.executable,), **arguments: Any) -> subprocess.Popen[str]:
    command = [*launcher, str(TOY), str(out), json.dumps(arguments)]
    return subprocess.Popen(command, env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(out: Path, launcher: Sequence[str] = (sys.executable,), **arguments: Any) -> dict[str, torch.Tensor]:
    run_each(out, launcher, **arguments)
    return final(out)


def run_each(out: Path, launcher: Sequence[str] = (sys.executable,), **arguments: Any) -> None:
    """Several runs in the same processes, in OUT/NAME for each NAME in ``each``: most of a run's time is its start."""
    process = start(out, launcher, **arguments)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors


def final(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "final.pt", weights_only=True)


def assert_same_run(found: Path, expected: Path) -> None:
    toy.assert_equal(final(found), final(expected))
    assert curve(found) == curve(expected)


def assert_close_run(found: Path, expected: Path) -> None:
    toy.assert_close(final(found), final(expected))
    for line, wanted in zip(curve(found), curve(expected), strict=True):
        assert line == pytest.approx(wanted, rel=1e-4)


def positions(folder: Path) -> list[int]:
    """All positions that the processes of one or several runs were trained on, in order."""
    spans = [map(int, line.split()) for path in folder.glob("*/*.txt") for line in path.read_text().splitlines()]
    return sorted(position for start, stop in spans for position in range(start, stop))


def wait_for_lines(process: subprocess.Popen[str], out: Path, lines: int) -> None:
    metrics = RunFolder(out).metrics
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= lines:
            return
        time.sleep(0.002)


def kill_and_finish(out: Path, kills: int, draws: random.Random, **arguments: Any) -> int:
    """Run, kill -9 after a random number of steps ``kills`` times, and let it end. Returns the kills that hit."""
    hits = 0
    for _ in range(kills):
        done = len(curve(out)) if RunFolder(out).metrics.exists() else 0
        process = start(out, **arguments)
        wait_for_lines(process, out, min(done + draws.randint(2, 40), arguments["steps"] - 1))
        time.sleep(draws.uniform(0, 0.05))
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
        hits += process.returncode == -signal.SIGKILL
    run(out, **arguments)
    return hits


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """The folder of a LONG run with (processes, ZeRO stage) that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    def made(processes: int, stage: int) -> Path:
        out = folder / str(processes)
        if processes == 1 and not (out / str(stage)).exists():
            torch.save(toy.fit(out / str(stage), **LONG, zero_stage=stage), out / str(stage) / "final.pt")
        elif not out.exists():
            run_each(out, **LONG, processes=processes, each={str(any_): {"zero_stage": any_} for any_ in range(4)})
        return out / str(stage)

    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in this very process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    state = toy.fit(out)
    torch.save(state, out / "final.pt")
    return out


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in two processes."""
    out = tmp_path_factory.mktemp("by two") / "run"
    run(out, processes=2, zero_stage=2)
    return out


def test_two_processes_compute_what_one_does(alone: Path, by_two: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(tmp_path / "torchrun", torchrun, accumulation=2)
    assert_close_run(tmp_path / "torchrun", alone)
    assert_close_run(by_two, alone)


def assert_no_gloo(out: Path) -> None:
    """No thread of gloo outlived a training: one that freed a tensor after the interpreter had ended aborted jobs."""
    for rank in range(2):
        assert "gloo" not in (out / f"threads-{rank}.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_gloo_outlives_the_training(by_two: Path) -> None:
    assert_no_gloo(by_two)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stage", "how"),
    [
        (3, "bad loss"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(0, "ends"), (0, "bad loss"), (2, "bad loss")]),
        pytest.param(3, "ends", marks=pytest.mark.slow),
    ],
)
def test_no_thread_of_gloo_outlives_it_at_any_stage_and_end(stage: int, how: str, tmp_path: Path) -> None:
    process = start(tmp_path / "run", processes=2, zero_stage=stage, bad=[40] if how == "bad loss" else [])
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (0 if how == "ends" else 2), errors
    assert_no_gloo(tmp_path / "run")


def test_killed_runs_end_bit_identical(tmp_path: Path, uninterrupted: Callable[[int, int], Path]) -> None:
    seed = time.time_ns()
    hits = kill_and_finish(tmp_path / "run", 2, random.Random(seed), **LONG)
    assert hits > 0, f"seed {seed}"
    assert_same_run(tmp_path / "run", uninterrupted(1, 0))


def test_an_error_in_several_processes_is_one_line(tmp_path: Path) -> None:
    process = start(tmp_path / "run", processes=2, batch_records=1)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "--batch-records" in errors


@pytest.mark.parametrize("how", ["full", "kill"])
def test_a_save_that_fails_leaves_the_checkpoint_before_it(how: str, alone: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", fault=[8, how])
    _, errors = process.communicate(timeout=TIMEOUT_S)
    if how == "full":
        assert process.returncode == 2
        assert "step-0000008: cannot be written" in errors
        assert "continues from step-0000004" in errors
        assert errors.splitlines()[-1].count("step-0000004") == 1
    else:
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "checkpoints" / "step-0000008").exists()
    run(tmp_path / "run")
    assert_same_run(tmp_path / "run", alone)


@pytest.fixture(scope="module")
def two_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of short runs in two processes, by ZeRO stage."""
    out = tmp_path_factory.mktemp("two") / "runs"
    run_each(out, processes=2, ema=0.9, each={str(stage): {"zero_stage": stage} for stage in (0, 2, 3)})
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stage"), [("full", 0), ("full", 2), ("kill", 2), ("full", 3), ("kill", 3)])
def test_a_save_of_two_processes_that_fails_leaves_the_checkpoint_before_it(
    how: str, stage: int, two_whole: Path, tmp_path: Path
) -> None:
    settings = {"processes": 2, "zero_stage": stage, "ema": 0.9}
    process = start(tmp_path / "run", fault=[8, how], **settings)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (2 if how == "full" else 128 + signal.SIGKILL), errors
    assert how == "kill" or "continues from step-0000004" in errors
    run(tmp_path / "run", **settings)
    assert_same_run(tmp_path / "run", two_whole / str(stage))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_of_a_batch_do_not_depend_on_who_computes_them(processes: int, tmp_path: Path) -> None:
    each = {f"{stage}-{k}": {"zero_stage": stage, "accumulation": k} for stage in (0, 1, 3) for k in (1, 3)}
    run_each(tmp_path, processes=processes, gradients=True, steps=1, each=each)
    fresh, records = toy.Toy(False), toy.Records()
    (fresh(records.batch(0, 16)).total / records.tokens(0, 16)).backward()
    for case in each:
        found = torch.load(tmp_path / case / "gradients.pt", weights_only=True)
        assert len(found) == 7
        for name, gradient in found.items():
            expected = fresh.get_parameter(name).grad
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8, msg=f"{case} {name}")


RESIZED = {"ema": 0.9, "groups": GROUPS, "steps": 60, "patience": 9}


@pytest.fixture(scope="module")
def never_resized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a RESIZED run in this very process."""
    out = tmp_path_factory.mktemp("resized") / "run"
    torch.save(toy.fit(out, **RESIZED), out / "final.pt")
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "after"), [(0, 4), (1, 1), (2, 4), (3, 1), (3, 4)])
def test_with_another_number_of_processes_each_record_is_still_seen_once(
    stage: int, after: int, never_resized: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "run", {**RESIZED, "zero_stage": stage}
    process = start(out, processes=2, record="positions/before", **settings)
    wait_for_lines(process, out, 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, errors
    before = len(positions(out / "positions"))
    assert 5 * 16 <= before < 60 * 16
    run(out, processes=after, record="positions/after", **settings)
    assert len(list((out / "positions" / "after").iterdir())) == after
    assert positions(out / "positions") == list(range(60 * 16))
    assert_close_run(out, never_resized)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 3)])
def test_killed_runs_end_with_the_same_best_weights(processes: int, stage: int, tmp_path: Path) -> None:
    seed = time.time_ns()
    settings = {**UNSTABLE, "processes": processes, "zero_stage": stage}
    run(tmp_path / "whole", **settings)
    assert kill_and_finish(tmp_path / "run", 2, random.Random(seed), **settings) > 0, f"seed {seed}"
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_roll_back_together_and_compute_again_what_they_forget(tmp_path: Path) -> None:
    each: dict[str, Any] = {f"{stage}-plain": {"zero_stage": stage} for stage in (0, 2, 3)}
    each |= {f"{stage}-again": {"zero_stage": stage, "activation_checkpointing": True} for stage in (0, 2, 3)}
    run_each(tmp_path, processes=2, noisy=True, ema=0.9, nonfinite="rollback", bad=[88], each=each)
    for stage in (0, 2, 3):
        assert_same_run(tmp_path / f"{stage}-again", tmp_path / f"{stage}-plain")
        (entry,) = json.loads((tmp_path / f"{stage}-plain" / "skipped.json").read_text())
        assert (entry["first_position"], entry["end_position"]) == (80, 96)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)])
def test_killed_runs_end_bit_identical_at_every_stage(
    processes: int, stage: int, tmp_path: Path, uninterrupted: Callable[[int, int], Path]
) -> None:
    seed = time.time_ns()
    arguments = {**LONG, "processes": processes, "zero_stage": stage}
    hits = kill_and_finish(tmp_path / "run", 1, random.Random(seed), **arguments)
    assert hits > 0, f"seed {seed}"
    assert_same_run(tmp_path / "run", uninterrupted(processes, stage))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_more_processes_continue(stage: int, alone: Path, tmp_path: Path) -> None:
    toy.fit(tmp_path / "run", zero_stage=stage, keep_checkpoints=9)
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step-0000008", "step-0000012"):
        (checkpoints / name).rename(checkpoints / f".removed-{name}")
    run(tmp_path / "run", zero_stage=stage, processes=2)
    assert_close_run(tmp_path / "run", alone)
    assert sorted(path.name for path in checkpoints.glob("*-0*")) == ["step-0000008", "step-0000012"]


@pytest.mark.slow
def test_a_time_limit_asks_for_a_requeue(tmp_path: Path, uninterrupted: Callable[[int, int], Path]) -> None:
    process = start(tmp_path / "run", **LONG, processes=2)
    wait_for_lines(process, tmp_path / "run", 5)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, errors
    assert "the same command continues" in errors
    run(tmp_path / "run", **LONG, processes=2)
    assert_same_run(tmp_path / "run", uninterrupted(2, 0))


@pytest.mark.slow
def test_when_one_process_is_killed_the_others_end_and_it_is_named(tmp_path: Path) -> None:
    process = start(tmp_path / "run", **{**LONG, "steps": 100_000}, processes=2)
    wait_for_lines(process, tmp_path / "run", 5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGKILL
    assert "process 1 was killed by signal 9" in errors


@pytest.mark.slow
def test_deepspeeds_launcher_works_too(alone: Path, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--no_local_rank"]
    run(tmp_path / "run", launcher)
    assert_close_run(tmp_path / "run", alone)
