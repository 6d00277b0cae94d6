"""``hepfm pretrain`` under the launchers of a site, SLURM above all: time limits, and what is refused."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jobs import Job, free_port, wait_for_lines
from safetensors.torch import load_file

from hepfm.core.engine import rendezvous
from hepfm.core.runs import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "tests/support/slurm"
HEPFM = [sys.executable, "-m", "hepfm.cli"]
SETTINGS = ["--steps", "150", "--batch-records", "16", "--log-every", "1", "--checkpoint-every", "40"]
SETTINGS += ["--validate-every", "0", "--warmup-steps", "5"]
REQUEUE = 75


def pretrain(tokens: Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", str(tokens), "--out", str(out), *SETTINGS, *more]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "artifact/model.safetensors")


def assert_same(found: Path, expected: Path) -> None:
    for name, value in weights(found).items():
        assert torch.equal(value, weights(expected)[name]), name


@pytest.fixture
def job() -> Iterator[Job]:
    with Job() as made:
        yield made


@pytest.fixture(scope="module")
def uninterrupted(token_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two processes that nobody disturbed."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    with Job() as job:
        job.start([*HEPFM, *pretrain(token_corpus(), out, "--nproc", "2")])
        assert job.wait() == [0], job.told(0)
    return out


def start_sbatch(job: Job, state: Path, arguments: list[str], hepfm: Path = Path(sys.executable).parent) -> None:
    """Submit the template of examples/ to the stand-in for SLURM, as two nodes of one task."""
    path = os.pathsep.join([str(SLURM), str(hepfm), os.environ["PATH"]])
    command = ["sbatch", str(ROOT / "examples/pretrain.sbatch"), *arguments[1:]]
    job.start(command, PATH=path, FAKE_SLURM=str(state), FAKE_SLURM_SHAPE="2x1")


def signal_batch(state: Path, number: int) -> None:
    os.kill(int((state / "batch.pid").read_text()), number)


# Tells of its start; ends as asked by a signal, and at once after a restart.
WORKER = """#!/bin/bash
echo "$SLURM_PROCID/$SLURM_STEP_NUM_TASKS $*" >> "$FAKE_SLURM/starts"
[[ -z ${SLURM_RESTART_COUNT:-} ]] || exit 0
trap 'exit CODE' USR1
trap 'exit 75' TERM
touch "$FAKE_SLURM/ready-$SLURM_PROCID"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("number", "code", "exits", "starts"),
    [
        (signal.SIGUSR1, "75", [0], 2),  # the time limit: back into the queue, and to the end
        (signal.SIGUSR1, "2", [2], 1),  # the time limit comes, but the program fails
        (signal.SIGTERM, "75", [REQUEUE], 1),  # scancel
    ],
)
def test_the_template_goes_back_into_the_queue_at_its_time_limit_only(
    number: int, code: str, exits: list[int], starts: int, job: Job, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    worker = tmp_path / "bin/hepfm"
    worker.write_text(WORKER.replace("CODE", code))
    worker.chmod(0o755)
    start_sbatch(job, tmp_path, ["pretrain", "a corpus", "--out", "run"], worker.parent)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert time.monotonic() < deadline, job.told(0)
        time.sleep(0.02)
    if number == signal.SIGUSR1:
        signal_batch(tmp_path, number)
    else:
        for task in (tmp_path / "tasks.pid").read_text().split():  # scancel signals the tasks, not the script
            os.kill(int(task), number)
    assert job.wait() == exits, job.told(0)
    lines = sorted((tmp_path / "starts").read_text().splitlines())
    assert lines == sorted(f"{task}/2 pretrain a corpus --out run" for task in range(2) for _ in range(starts))


@pytest.mark.slow
def test_the_sbatch_template_requeues_at_the_time_limit(
    job: Job, token_corpus: Callable[..., Path], tmp_path: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "run"
    start_sbatch(job, tmp_path, pretrain(token_corpus(), out))
    wait_for_lines(job, RunFolder(out).metrics, 15)
    signal_batch(tmp_path, signal.SIGUSR1)
    assert job.wait() == [0], job.told(0)
    told = job.told(0)
    assert "stopped on request" in told
    assert "goes back into the queue" in told
    assert "continuing from" in told
    assert_same(out, uninterrupted)


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_out_of_the_queue(
    job: Job, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    start_sbatch(job, tmp_path, pretrain(token_corpus(), out, "--steps", "100000"))
    wait_for_lines(job, RunFolder(out).metrics, 15)
    for task in (tmp_path / "tasks.pid").read_text().split():  # scancel signals the tasks, not the script
        os.kill(int(task), signal.SIGTERM)
    assert job.wait() == [REQUEUE], job.told(0)
    assert not (tmp_path / "requeue").exists()
    assert list((out / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_local_processes_save_and_ask_for_a_requeue(
    number: int, job: Job, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = job.start([*HEPFM, *pretrain(token_corpus(), out, "--nproc", "2", "--steps", "100000")])
    wait_for_lines(job, RunFolder(out).metrics, 5)
    process.send_signal(number)
    assert job.wait() == [REQUEUE], job.told(0)
    assert "stopped on request" in job.told(0)


def catches(pid: int, number: int) -> bool:
    """Has a process a handler of its own for a signal? Before the first lines of ``hepfm`` none can have."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="looks into /proc (Linux)")
@pytest.mark.parametrize(
    ("processes", "delay_s", "number"),
    [(1, 0.0, signal.SIGTERM), (1, 1.0, signal.SIGUSR1), (2, 0.3, signal.SIGUSR1), (2, 2.0, signal.SIGTERM)],
)
def test_a_signal_before_training_asks_for_a_requeue(
    processes: int, delay_s: float, number: int, job: Job, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    asked = ["--nproc", str(processes), "--steps", "100000"]
    process = job.start([*HEPFM, *pretrain(token_corpus(), tmp_path / "run", *asked)])
    while not catches(process.pid, number):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(delay_s)
    process.send_signal(number)
    assert job.wait() == [REQUEUE], job.told(0)
    assert "the same command continues" in job.told(0)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hepfm.cli"]
DEEPSPEED = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--no_local_rank"]
DEEPSPEED += ["--module", "hepfm.cli"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        (TORCHRUN, signal.SIGTERM, 1),
        (TORCHRUN, signal.SIGUSR1, -signal.SIGUSR1),  # torchrun dies of it; its processes save and end
        (DEEPSPEED, signal.SIGTERM, 1),
    ],
    ids=["torchrun TERM", "torchrun USR1", "deepspeed TERM"],
)
def test_foreign_launchers_change_the_exit_code_but_the_step_is_saved(
    launcher: list[str], number: int, code: int, job: Job, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job.start([*launcher, *pretrain(token_corpus(), out, "--steps", "100000", "--checkpoint-every", "100000")])
    wait_for_lines(job, RunFolder(out).metrics, 5)
    inner = [process for process in job.tree(0) if "deepspeed.launcher.launch" in process.cmdline()]
    (inner or job.tree(0))[0].send_signal(number)
    assert job.wait() == [code], job.told(0)
    deadline = time.monotonic() + 60
    while "stopped on request" not in job.told(0):
        assert time.monotonic() < deadline, job.told(0)
        time.sleep(0.2)
    assert list((out / "checkpoints").glob("step-*"))


def start_alone(job: Job, arguments: list[str], rank: int, port: int, **environment: str) -> None:
    settings = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    job.start([*HEPFM, *arguments], **settings, **environment)


@pytest.mark.slow
def test_ranks_with_other_settings_are_refused_in_one_line(
    job: Job, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    port = free_port()
    for rank, rate in enumerate(("0.001", "0.002")):
        start_alone(job, pretrain(token_corpus(), tmp_path / "run", "--learning-rate", rate), rank, port)
    assert job.wait() == [2, 2]
    told = (job.told(0) + job.told(1)).strip()
    assert told.count("\n") == 0
    assert "rank 1 on" in told
    assert "another settings than rank 0" in told
    assert not (tmp_path / "run").exists()


def test_the_launchers_environment_must_be_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(rendezvous.HepfmError, match="MASTER_ADDR is not set"):
        rendezvous.meet(1, 2, {}, {}, "")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(rendezvous.HepfmError, match="RANK is 2, WORLD_SIZE 2"):
        rendezvous.meet(2, 2, {}, {}, "")
