"""Ends this process, with a message that names the rank, when another one of the job is lost.

A collective operation waits for a lost process for half an hour and then does not say which one it was. So each
process has a watcher beside it (:mod:`hepfm.core.engine.heartbeat`), and a thread here that listens to it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from hepfm.core.engine import heartbeat
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say

LOST = 69  # EX_UNAVAILABLE: another process of the job is lost
ECHO_S = 6.0  # a failed collective is told at once, which process is lost a moment later (seconds, on a busy machine)
KEY = "heartbeat"


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...


class Guard:
    """Watches over this process's job from its making to the end of the process.

    Args:
        rank: of this process.
        hosts: the host of each rank.
        address: where the first process can be reached.
        store: shared by all processes.
    """

    def __init__(self, rank: int, hosts: Sequence[str], address: str, store: Store) -> None:
        self.rank, self.hosts = rank, hosts
        self.failing = False
        self.watcher = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(heartbeat.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a signal for the training's whole group is not for the watcher
        )
        settings: dict[str, Any] = {"rank": rank, "hosts": list(hosts), "address": address}
        if rank == 0:
            settings["token"] = secrets.token_hex(16)
            self._send(settings)
            port = json.loads(self._read() or "{}").get("port")
            if port is None:
                raise HepfmError("its heartbeat cannot listen on any port", address)
            store.set(KEY, json.dumps({"port": port, "token": settings["token"]}))
        else:
            self._send({**settings, **json.loads(store.get(KEY))})
        threading.Thread(target=self._listen, name="guard", daemon=True).start()
        self._hook, sys.excepthook = sys.excepthook, self._failed
        atexit.register(self._leave)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.watcher.stdin is not None
        with contextlib.suppress(OSError):
            self.watcher.stdin.write(json.dumps(message) + "\n")
            self.watcher.stdin.flush()

    def _read(self) -> str:
        assert self.watcher.stdout is not None
        return self.watcher.stdout.readline()

    def _listen(self) -> None:
        verdict = self._read()
        if not verdict:
            return  # the watcher has ended: so does this process
        lost = json.loads(verdict)
        if lost["lost"] == self.rank:
            if self.failing:
                return  # its own error is what has to be told
            say(f"hepfm: rank {self.rank} on {self.hosts[self.rank]}: the others have given it up: {lost['how']}")
        else:
            say(
                f"hepfm: rank {self.rank}: rank {lost['lost']} on {self.hosts[lost['lost']]} is lost: {lost['how']} "
                "(the same command continues from the last checkpoint)"
            )
        sys.stdout.flush()
        os._exit(LOST)  # the main thread may be inside a collective that never returns

    def _failed(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """An error that nobody caught: another rank's loss, or this one's own, which the others are told."""
        self.failing = True
        self._send({"failed": " ".join(f"{kind.__name__}: {error}".split())[:300]})
        time.sleep(ECHO_S)
        self._hook(kind, error, trace)

    def _leave(self) -> None:
        self._send({"bye": True})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.watcher.wait(ECHO_S)
