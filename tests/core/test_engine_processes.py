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
from typing import Any

import pytest
import torch

from hepfm.core.runs import RunFolder, read_metrics

TOY = Path(__file__).with_name("engine_toy.py")
TIMING = {"seconds", "tokens_per_s", "peak_memory_mb"}
TIMEOUT_S = 240
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# Saving takes most of the time of such a run, so that many kills come in the middle of it.
LONG = {"noisy": True, "steps": 100, "checkpoint_every": 3, "validate_every": 50}


def start(out: Path, launcher: Sequence[str] = (sys.executable,), **arguments: Any) -> subprocess.Popen[str]:
    command = [*launcher, str(TOY), str(out), json.dumps(arguments)]
    return subprocess.Popen(command, env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(out: Path, launcher: Sequence[str] = (sys.executable,), **arguments: Any) -> dict[str, torch.Tensor]:
    process = start(out, launcher, **arguments)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return final(out)


def final(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "final.pt", weights_only=True)


def curve(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without timing."""
    lines = read_metrics(RunFolder(out).metrics)
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    states = final(found), final(expected)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert curve(found) == curve(expected)


def assert_close_run(found: Path, expected: Path) -> None:
    for name, value in final(found).items():
        torch.testing.assert_close(value, final(expected)[name], rtol=1e-4, atol=2e-6, msg=name)
    for line, wanted in zip(curve(found), curve(expected), strict=True):
        assert line == pytest.approx(wanted, rel=1e-4)


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
        out = folder / f"{processes}-{stage}"
        if not out.exists():
            run(out, **LONG, processes=processes, zero_stage=stage)
        return out

    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in this very process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    state = runpy.run_path(str(TOY))["fit"](out)
    torch.save(state, out / "final.pt")
    return out


def test_two_processes_compute_what_one_does(alone: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(tmp_path / "torchrun", torchrun, accumulation=2)
    run(tmp_path / "nproc", processes=2, zero_stage=2)
    assert_close_run(tmp_path / "torchrun", alone)
    assert_close_run(tmp_path / "nproc", alone)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("how", ["ends", "bad loss"])
def test_no_thread_of_gloo_outlives_the_training(stage: int, how: str, tmp_path: Path) -> None:
    # One that freed a tensor after the interpreter had ended aborted whole jobs.
    process = start(tmp_path / "run", processes=2, zero_stage=stage, bad=[40] if how == "bad loss" else [])
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (0 if how == "ends" else 2), errors
    for rank in range(2):
        assert "gloo" not in (tmp_path / "run" / f"threads-{rank}.txt").read_text()


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


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(1, 1), (2, 0), (2, 3)])
def test_often_killed_runs_end_bit_identical(
    processes: int, stage: int, tmp_path: Path, uninterrupted: Callable[[int, int], Path]
) -> None:
    seed = time.time_ns()
    arguments = {**LONG, "processes": processes, "zero_stage": stage}
    hits = kill_and_finish(tmp_path / "run", 3, random.Random(seed), **arguments)
    assert hits > 0, f"seed {seed}"
    assert_same_run(tmp_path / "run", uninterrupted(processes, stage))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "before", "after"), [(0, 1, 2), (1, 2, 1), (2, 1, 2), (2, 2, 1), (3, 1, 2), (3, 2, 1)]
)
def test_another_number_of_processes_continues(
    stage: int, before: int, after: int, alone: Path, tmp_path: Path
) -> None:
    run(tmp_path / "run", zero_stage=stage, processes=before, keep_checkpoints=9)
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step-0000008", "step-0000012"):
        (checkpoints / name).rename(checkpoints / f".removed-{name}")
    run(tmp_path / "run", zero_stage=stage, processes=after)
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
