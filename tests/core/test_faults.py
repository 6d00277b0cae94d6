"""Jobs on two hosts of which one is lost: the other says which, and a fresh launch continues to the same weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from jobs import Job, plain_hosts, torchrun_agents, wait_for_lines

from hepfm.core.runs import RunFolder

TOY = str(Path(__file__).with_name("engine_toy.py"))
LONG = {"noisy": True, "steps": 400, "checkpoint_every": 20, "validate_every": 100}
LOST = 69
WITHIN_S = 60


def toy(out: Path, **arguments: object) -> list[str]:
    return [TOY, str(out), json.dumps({**LONG, **arguments})]


def final(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "final.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    with Job() as job:
        torchrun_agents(job, toy(out))
        assert job.wait() == [0, 0], job.told(0) + job.told(1)
    return final(out)


def assert_continues(
    start: Callable[[Job, Sequence[str]], None], out: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    with Job() as job:
        start(job, toy(out))
        assert job.wait() == [0, 0], job.told(0) + job.told(1)
        assert "continuing from" in job.told(0)
    for name, value in final(out).items():
        assert torch.equal(value, uninterrupted[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_and_a_fresh_launch_continues(
    victim: int, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "run"
    with Job() as job:
        torchrun_agents(job, toy(out))
        wait_for_lines(job, RunFolder(out).metrics, 50)
        job.rank(victim).kill()
        codes = job.wait(WITHIN_S)
        assert all(codes)
        assert f"rank {victim} on {socket.gethostname()} is lost" in job.told(1 - victim)
    assert_continues(torchrun_agents, out, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_silent_host_is_named_and_a_fresh_launch_continues(
    victim: int, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "run"
    with Job() as job:
        plain_hosts(job, toy(out))
        wait_for_lines(job, RunFolder(out).metrics, 50)
        wake = job.stop(victim)
        assert job.processes[1 - victim].wait(WITHIN_S) == LOST
        assert f"rank {victim} on {socket.gethostname()} is lost: no sign of life" in job.told(1 - victim)
        wake()  # it learns that it was given up, and does not go on to write
        assert job.wait(WITHIN_S)[victim] == LOST
    assert_continues(plain_hosts, out, uninterrupted)


@pytest.fixture(scope="module")
def two_networks() -> Iterator[Callable[[str], None]]:
    """Two hosts' networks, joined by a cable: left 10.231.7.1, right 10.231.7.2; sets the cable up or down."""
    names = f"hepfm{os.getpid()}l", f"hepfm{os.getpid()}r"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
            for number, name in enumerate(names, start=1):
                ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield lambda state: ip("-n", names[0], "link", "set", "cable", state)
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "del", name)


def _on_two_networks(job: Job, command: Sequence[str]) -> None:
    prefixes = [["ip", "netns", "exec", f"hepfm{os.getpid()}{side}"] for side in "lr"]
    plain_hosts(job, command, "10.231.7.1", prefixes)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_two_networks(
    fault: str, two_networks: Callable[[str], None], tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "run"
    with Job() as job:
        _on_two_networks(job, toy(out))
        wait_for_lines(job, RunFolder(out).metrics, 50)
        if fault == "killed":
            job.rank(1).kill()
            assert job.wait(WITHIN_S) == [LOST, -signal.SIGKILL]
        else:
            two_networks("down")
            started = time.monotonic()
            assert job.wait(WITHIN_S) == [LOST, LOST]
            print(f"ended {time.monotonic() - started:.1f} s after the cut")  # noqa: T201
            assert f"rank 0 on {socket.gethostname()} is lost" in job.told(1)
            two_networks("up")
        assert f"rank 1 on {socket.gethostname()} is lost" in job.told(0)
    assert_continues(_on_two_networks, out, uninterrupted)
