"""Processes: one without a launcher; several under torchrun, the deepspeed launcher, or ``--nproc``."""

# torch and deepspeed are imported where they are used: the parent of several processes needs neither.

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any

from hepfm.core.engine import rendezvous
from hepfm.core.engine.early import SIGNALS, hold_signals, requeue_on_signals
from hepfm.core.engine.guard import Guard
from hepfm.core.engine.rendezvous import USER_ERROR
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say

if TYPE_CHECKING:
    import torch

GRACE_S = 5.0
FOREIGN_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")  # set by torchrun and by the deepspeed launcher
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


def rank() -> int:
    """This process's number among all of the job."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that writes files and messages."""
    return rank() == 0


def device() -> torch.device:
    """This process's accelerator: a GPU of its own, or the CPU."""
    import torch

    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def setup(same: Mapping[str, Any] | None = None, gpus: int = 0) -> None:
    """Join the job's processes; only the first call does anything.

    Args:
        same: plain data that must be equal in all processes, by name.
        gpus: how many GPUs this machine must have; 0 for as many as it has.

    Raises:
        HepfmError: no way to the other processes, one that runs other code, fewer GPUs than processes or than ``gpus``.
    """
    import torch

    from hepfm.core.engine.quiet_deepspeed import deepspeed

    if torch.distributed.is_initialized():
        return
    rendezvous.adopt_slurm()
    # Its default arguments keep the group that exists at its first import alive for good: let that be none.
    import torch.distributed.nn.functional

    fault = _claim_gpu(gpus)
    here = device()
    backend = "nccl" if here.type == "cuda" else "gloo"
    if world() == 1:  # a store of its own: no port, no network
        if fault:
            raise HepfmError(fault, socket.gethostname())
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK=os.environ.get("LOCAL_RANK", "0"))
        alone = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    else:
        own = {"GPU": str(torch.cuda.get_device_properties(here).uuid)} if here.type == "cuda" and not fault else {}
        store, hosts = rendezvous.meet(rank(), world(), same or {}, own, fault)
        if backend == "gloo":
            rendezvous.choose_interface(hosts)
        group = torch.distributed.PrefixStore("group", store)
        torch.distributed.init_process_group(
            backend, store=group, rank=rank(), world_size=world(), timeout=COLLECTIVE_TIMEOUT
        )
    if backend == "gloo":
        atexit.register(_leave)
    if world() > 1:
        if any(name in os.environ for name in FOREIGN_LAUNCHERS):
            _die_with_parent(signal.SIGTERM)  # save first: torchrun dies of SIGUSR1 without a word to its processes
        Guard(rank(), hosts, os.environ["MASTER_ADDR"], store)
    deepspeed.init_distributed(verbose=False, dist_init_required=None)


def _claim_gpu(wanted: int) -> str:
    """Make this process's GPU the current one; why that cannot be, else an empty text."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    if wanted > found and "SLURM_GPUS_PER_TASK" not in os.environ:
        return f"{wanted} GPUs are asked for, torch finds {found}"
    if not found and given.isdigit() and int(given):
        return f"SLURM gave this node {given} GPUs, torch finds none (another build of torch?)"
    if device().type == "cuda":
        if found == 1:  # the launcher shows each process its own GPU only; meet() sees whether two share one
            os.environ["LOCAL_RANK"] = "0"
        here = device()
        if here.index >= found:
            return f"process {here.index + 1} on this machine finds {found} GPUs, start at most one process per GPU"
        torch.cuda.set_device(here)
    return ""


def _leave() -> None:
    """End gloo's threads: one that frees a tensor after the interpreter has ended aborts the process.

    They end with the last reference to their group, and DeepSpeed keeps one.
    """
    import torch

    if torch.distributed.is_initialized():
        vars(sys.modules["deepspeed.utils.groups"])["_WORLD_GROUP"] = None
        torch.distributed.destroy_process_group()
        gc.collect()


def on_main(function: Callable[[], Any]) -> Any:
    """Run ``function`` in the first process and give every process its result (plain data).

    What ``function`` raises is raised in the first process; the others then leave quietly.
    """
    if world() == 1:
        return function()
    error: Exception | None = None
    answer: dict[str, Any] = {}
    if is_main():
        try:
            answer = {"value": function()}
        except Exception as raised:
            error = raised
    answer = _share(answer)
    if error is not None:
        raise error
    if "value" not in answer:
        raise SystemExit(USER_ERROR)
    return answer["value"]


def _share(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data of the first process, as JSON bytes: nothing is unpickled."""
    import torch
    import torch.distributed as dist

    message = torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8).to(device())
    length = torch.tensor([message.numel()], device=device())
    dist.broadcast(length, 0)
    if not is_main():
        message = torch.empty(int(length), dtype=torch.uint8, device=device())
    dist.broadcast(message, 0)
    return json.loads(bytes(message.cpu().tolist()))


def relaunch(processes: int, command: Sequence[str] | None = None) -> None:
    """Run this command again in ``processes`` local processes and exit with their exit code.

    Returns at once in a process that a launcher has started, and when one process is asked for.

    Args:
        processes: how many.
        command: what each runs; this very command by default.
    """
    if processes < 1:
        raise HepfmError(f"must be at least 1, is {processes}", "--nproc")
    rendezvous.adopt_slurm()
    if world() > 1:
        requeue_on_signals()
    if processes == 1 or world() > 1:
        return
    command = command or [sys.executable, "-m", "hepfm.cli", *sys.argv[1:]]
    with contextlib.ExitStack() as stack:
        outputs = [None if k == 0 else stack.enter_context(tempfile.TemporaryFile()) for k in range(processes)]
        started = _start(processes, command, outputs)
        stack.enter_context(_forwarding(started))
        try:
            first = _first_to_fail(started)
        finally:
            _end(started)
        code = started[first].returncode
        if code < 0 or first:
            _tell(first, code, outputs[first])
    raise SystemExit(code if code >= 0 else 128 - code)


def _start(processes: int, command: Sequence[str], outputs: Sequence[IO[bytes] | None]) -> list[subprocess.Popen]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    common = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(k), "LOCAL_RANK": str(k)},
            stdout=outputs[k],
            stderr=outputs[k],
            preexec_fn=_prepare,
        )
        for k in range(processes)
    ]


def _prepare() -> None:
    """A process of ``relaunch``, before its program."""
    _die_with_parent()
    hold_signals()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """A killed parent must not leave processes that train on and hold the run's folder (Linux)."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, number)


@contextlib.contextmanager
def _forwarding(started: Sequence[subprocess.Popen]) -> Iterator[None]:
    def forward(number: int, _frame: object) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_to_fail(started: Sequence[subprocess.Popen]) -> int:
    """Wait until all have ended well, or one badly and the others have had time to say why they end."""
    while True:
        codes = [process.poll() for process in started]
        if any(codes):
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and any(process.poll() is None for process in started):
                time.sleep(0.05)
            codes = [process.poll() for process in started]
            failed = [k for k, code in enumerate(codes) if code]
            return min(failed, key=lambda k: codes[k] or 0)  # one killed by a signal comes first
        if None not in codes:
            return 0
        time.sleep(0.05)


def _tell(number: int, code: int, output: IO[bytes] | None) -> None:
    """Say what happened to a process whose own messages nobody has seen."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    say(f"process {number} {how}")
    if output is not None:
        output.seek(0)
        sys.stderr.write(output.read().decode(errors="replace"))


def _end(started: Sequence[subprocess.Popen]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
    for process in started:
        process.wait()
