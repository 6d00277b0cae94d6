"""Jobs of several processes under the launchers that a site has, and what can befall them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

TIMEOUT_S = 240
PYTHON = [sys.executable]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Job:
    """The processes that somebody started on the hosts of a job, one command a host."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[IO[bytes]] = []

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in range(len(self.processes)):
            for process in self.tree(host):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for process in self.processes:
            process.wait()
        self.stack.close()

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        output = self.stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        settings = {**_clean(os.environ), "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
        self.processes.append(process)
        self._outputs.append(output)
        return process

    def told(self, host: int) -> str:
        """What a host's processes wrote."""
        self._outputs[host].seek(0)
        return self._outputs[host].read().decode(errors="replace")

    def wait(self, timeout: float = TIMEOUT_S) -> list[int]:
        """Exit codes of all hosts.

        Raises:
            AssertionError: not all ended in time; with what they wrote.
        """
        deadline = time.monotonic() + timeout
        for host, process in enumerate(self.processes):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"host {host} goes on: {self.told(host)}") from None
        return [process.returncode for process in self.processes]

    def tree(self, host: int) -> list[psutil.Process]:
        """All processes of a host that live."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.processes[host].pid)
            return [top, *top.children(recursive=True)]
        return []

    def rank(self, host: int, local: int = 0) -> psutil.Process:
        """The training process ``local`` of a host."""
        ranks = []
        for process in self.tree(host):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("LOCAL_RANK") == str(local) and "heartbeat" not in " ".join(process.cmdline()):
                    ranks.append(process)
        return ranks[-1]  # the innermost: a launcher's own environment may have it too

    def stop(self, host: int) -> Callable[[], None]:
        """Make a host fall silent; the result wakes it again."""
        stopped = self.tree(host)
        for process in stopped:
            process.send_signal(signal.SIGSTOP)

        def wake() -> None:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

        return wake


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what an in-process training has left."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in environment.items() if name not in launcher}


def torchrun_agents(job: Job, command: Sequence[str], hosts: int = 2) -> None:
    """``command`` (a script and its arguments) under one torchrun a host, all over loopback."""
    port = str(free_port())
    for host in range(hosts):
        job.start(
            [
                *(*PYTHON, "-m", "torch.distributed.run", "--nnodes", str(hosts), "--nproc_per_node", "1"),
                *("--node_rank", str(host), "--master_addr", "127.0.0.1", "--master_port", port, *command),
            ]
        )


def plain_hosts(
    job: Job, command: Sequence[str], address: str = "127.0.0.1", prefixes: Sequence[Sequence[str]] = ((), ())
) -> None:
    """``command`` (a script and its arguments) once a host, with nothing but the environment to connect them."""
    port = str(free_port())
    for rank, prefix in enumerate(prefixes):
        job.start(
            [*prefix, *PYTHON, *command],
            RANK=str(rank),
            WORLD_SIZE=str(len(prefixes)),
            LOCAL_RANK="0",
            MASTER_ADDR=address,
            MASTER_PORT=port,
        )


def wait_for_lines(job: Job, metrics: Path, lines: int) -> None:
    """Until metrics.jsonl has so many lines.

    Raises:
        AssertionError: the job ended before; with what it wrote.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        ended = [host for host, process in enumerate(job.processes) if process.poll() is not None]
        assert not ended, f"host {ended[0]} ended: {job.told(ended[0])}"
        assert time.monotonic() < deadline, job.told(0)
        time.sleep(0.005)
