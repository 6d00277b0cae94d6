"""The watchers beside the processes of a job: who is lost, and who only takes long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hepfm.core.engine import heartbeat

# Beats and patience of a real job are seconds and half a minute.
HASTY = f"""
import sys
sys.path.insert(0, {str(Path(heartbeat.__file__).parent)!r})
import heartbeat
heartbeat.BEAT_S, heartbeat.SILENCE_S, heartbeat.LAST_RESORT_S = 0.1, 1.2, {{}}
heartbeat.main()
"""
PATIENT, STRICT = HASTY.format(600), HASTY.format(0.5)
HOSTS = ["left", "right", "right"]
# A process that watches over itself, says so, and then does nothing.
RANK = f"""
import subprocess, sys, time
watcher = subprocess.Popen([sys.executable, "-S", "-c", {STRICT!r}], stdin=subprocess.PIPE, start_new_session=True)
watcher.stdin.write(sys.argv[1].encode() + b"\\n")
watcher.stdin.flush()
print(watcher.pid, flush=True)
time.sleep(600)
"""


class Watched:
    """A watcher whose process is this test."""

    def __init__(self, **settings: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", PATIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.say(hosts=HOSTS, address="127.0.0.1", token="secret", **settings)

    def say(self, **message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, object]:
        """The next thing it says; nothing once it has ended."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline() or "{}")

    def vanish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


class Job:
    """Three ranks; the last may be told apart."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.hub = self.start(rank=0)
        self.port = self.hub.hear()["port"]

    def start(self, rank: int, token: str = "secret") -> Watched:
        port = {} if rank == 0 else {"port": self.port}
        watched = Watched(rank=rank, **{"token": token} if token != "secret" else {}, **port)
        self.stack.callback(watched.process.wait)
        self.stack.callback(watched.process.kill)
        return watched

    def start_rank(self, rank: int) -> tuple[subprocess.Popen[str], int]:
        """A process of its own with its watcher (whose process id it gives)."""
        settings = {"rank": rank, "hosts": HOSTS, "address": "127.0.0.1", "port": self.port, "token": "secret"}
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", RANK, json.dumps(settings)], stdout=subprocess.PIPE, text=True
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        self.stack.callback(process.send_signal, signal.SIGCONT)
        assert process.stdout is not None
        return process, int(process.stdout.readline())


@pytest.fixture
def job() -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(stack)


def test_a_process_that_vanishes_is_named_to_all(job: Job) -> None:
    first, second = job.start(1), job.start(2)
    time.sleep(0.3)
    second.vanish()
    assert job.hub.hear()["lost"] == 2
    told = first.hear()
    assert told["lost"] == 2
    assert "without a word" in str(told["how"])


def test_the_first_process_is_named_too(job: Job) -> None:
    others = [job.start(1), job.start(2)]
    time.sleep(0.3)
    job.hub.vanish()
    assert [other.hear()["lost"] for other in others] == [0, 0]


def test_a_watcher_killed_with_its_host_is_missed(job: Job) -> None:
    first, second = job.start(1), job.start(2)
    time.sleep(0.3)
    second.process.kill()
    assert job.hub.hear()["lost"] == first.hear()["lost"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("what", ["process", "watcher"])
def test_a_stopped_process_or_a_silent_host_is_missed(job: Job, what: str) -> None:
    first = job.start(1)
    process, watcher = job.start_rank(2)
    time.sleep(0.3)
    os.kill(process.pid if what == "process" else watcher, signal.SIGSTOP)
    try:
        told = first.hear()
        assert told["lost"] == 2
        assert "no sign of life" in str(told["how"])
    finally:
        os.kill(watcher, signal.SIGCONT)


def test_a_process_that_does_not_end_when_told_is_killed(job: Job) -> None:
    process, _ = job.start_rank(1)
    job.start(2).vanish()
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_one_that_never_comes_is_missed(job: Job) -> None:
    job.start(1)
    assert job.hub.hear()["lost"] == 2


def test_long_work_is_no_loss_and_all_leave_in_peace(job: Job) -> None:
    watched = [job.start(2), job.start(1), job.hub]
    time.sleep(2.5)  # more than twice the patience, and nobody says anything
    for each in watched:
        assert each.process.poll() is None
        each.say(bye=True)
    assert [each.hear() for each in watched] == [{}, {}, {}]
    assert [each.process.wait(timeout=60) for each in watched] == [0, 0, 0]


def test_who_fails_is_named_with_the_error(job: Job) -> None:
    first, second = job.start(1), job.start(2)
    time.sleep(0.3)
    second.say(failed="ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in str(first.hear()["how"])
    assert second.hear()["lost"] == 2


@pytest.mark.parametrize("order", ["echo first", "loss first"])
def test_an_error_that_echoes_a_loss_does_not_hide_it(job: Job, order: str) -> None:
    first, second = job.start(1), job.start(2)
    time.sleep(0.3)
    acts = [lambda: first.say(failed="RuntimeError: Connection closed by peer"), second.vanish]
    for act in acts if order == "echo first" else reversed(acts):
        act()
        time.sleep(0.1)
    assert first.hear()["lost"] == job.hub.hear()["lost"] == 2


@pytest.mark.parametrize("early", [0, 2])
def test_who_left_early_is_why_the_others_fail(job: Job, early: int) -> None:
    ranks = {0: job.hub, 1: job.start(1), 2: job.start(2)}
    time.sleep(0.3)
    ranks[early].say(bye=True)
    time.sleep(0.6)
    ranks[1].say(failed="RuntimeError: Connection closed by peer")
    told = ranks[1].hear()
    assert told["lost"] == early
    assert "its own message says why" in str(told["how"])


def test_a_stranger_has_no_say(job: Job) -> None:
    import socket

    first = job.start(1)
    job.start(2)
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", int(str(job.port)))) as stranger:
        stranger.sendall(b'{"hello": 1, "token": "guess"}\n{"died": true}\nnonsense\n[1]\n')
        time.sleep(0.3)
    assert job.hub.process.poll() is None
    first.vanish()
    assert job.hub.hear()["lost"] == 1
