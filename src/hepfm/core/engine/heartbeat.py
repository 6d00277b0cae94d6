"""A small process beside every process of a job: it notices within half a minute that another one is lost.

Run as a program by :mod:`hepfm.core.engine.guard`, without torch, so that it costs 10 MB and starts at once. It is a
process of its own, because a thread of the training would fall silent whenever a long call holds Python's lock (writing
a checkpoint, say) and would seem lost. What counts as lost: a process that is gone or stopped, and a host that cannot
be reached. A process that merely takes long is not lost, however long it takes.

The first process's watcher is the hub: the others connect to it and both sides send a sign of life every ``BEAT_S``.
Whatever the hub learns, it tells all. Messages are JSON lines:

    {"hello": rank, "token": ...}     a watcher to the hub
    {"beat": true}                    both ways
    {"failed": "KeyError: ..."}       my process ends by this error
    {"died": true}                    my process ended without a word
    {"bye": true}                     my process ends as it should; the hub answers the same
    {"lost": rank, "how": ...}        the hub to all: end your process, this rank is lost
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

BEAT_S = 2.0
SILENCE_S = 30.0  # without a sign of life from there on a rank is lost
VERDICT_S = 1.0  # an error is often the echo of a loss that is not yet known
FAREWELL_S = 0.3  # how long one who leaves first is kept, for the same reason
LAST_RESORT_S = 10.0  # a process that was told to end and still exists is killed
STALLED_S = 5.0  # this program itself stood still (a suspended laptop): old silences say nothing

ENDED_FIRST = "it ended before the others; its own message says why"


@dataclass
class Link:
    """A connection, with what is known of the process at its other end."""

    socket: socket.socket
    rank: int = -1
    heard: float = field(default_factory=time.monotonic)
    text: bytes = b""
    closed: bool = False

    def send(self, **message: Any) -> None:
        if not self.closed:
            try:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:  # a full buffer too: that end has been silent for long
                self.closed = True

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; sets ``closed`` at the end of the connection."""
        try:
            piece = self.socket.recv(1 << 16)
            self.closed |= not piece
        except BlockingIOError:
            return []
        except OSError:
            self.closed, piece = True, b""
        if piece:
            self.heard = time.monotonic()
        *lines, self.text = (self.text + piece).split(b"\n")
        return [message for message in map(_message, lines) if message]


def _message(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Watcher:
    """What both kinds share: watching over the own process and telling it of a loss."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.rank, self.token = int(settings["rank"]), settings["token"]
        self.hosts: list[str] = settings["hosts"]
        self.parent = os.getppid()
        self.selector = selectors.DefaultSelector()
        self.home = Link(_StandardInput())  # type: ignore[arg-type]
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self.home)
        self.leaving = False
        self.told_at: float | None = None

    def run(self) -> None:
        """Until the own process has ended and nobody needs this program any more."""
        last = next_beat = time.monotonic()
        while not self.done():
            events = self.selector.select(0.1)
            now = time.monotonic()
            if now - last > STALLED_S:
                self.forgive(now)
            last = now
            for key, _ in events:
                self.handle(key.data)
            if now >= next_beat:
                next_beat = now + BEAT_S
                if not _stopped(self.parent):
                    self.beat()
            self.judge(now)
            if self.told_at is not None and now - self.told_at > LAST_RESORT_S and not self.home.closed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.parent, signal.SIGKILL)

    def tell(self, rank: int, how: str) -> None:
        """Let the own process know; it ends, and is killed if it does not."""
        if self.told_at is None:
            self.told_at = time.monotonic()
            with contextlib.suppress(OSError):
                sys.stdout.write(json.dumps({"lost": rank, "how": how}) + "\n")
                sys.stdout.flush()

    def handle(self, link: Link) -> None:
        if link is not self.home:
            raise NotImplementedError
        for message in link.receive():
            if "bye" in message:
                self.leaving = True
            self.from_home(message)
        if link.closed:
            self.selector.unregister(sys.stdin.fileno())
            if not self.leaving:
                self.from_home({"died": True})

    def done(self) -> bool:
        raise NotImplementedError

    def beat(self) -> None:
        raise NotImplementedError

    def forgive(self, now: float) -> None:
        raise NotImplementedError

    def judge(self, now: float) -> None:
        raise NotImplementedError

    def from_home(self, message: dict[str, Any]) -> None:
        raise NotImplementedError


class Hub(Watcher):
    """The first process's watcher, to which the others connect."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.server = _server()
        self.server.setblocking(False)
        self.selector.register(self.server, selectors.EVENT_READ, self.server)
        sys.stdout.write(json.dumps({"port": self.server.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        self.links: dict[int, Link] = {}
        self.strangers: list[Link] = []
        self.started = time.monotonic()
        self.left: dict[int, float] = {}  # since when
        self.farewells: list[int] = []
        self.said_farewell = False
        self.failures: list[tuple[float, int, str]] = []
        self.lost: tuple[int, str] | None = None

    def done(self) -> bool:
        """Stay until the others know that they are not needed any more, or what is lost."""
        return (self.home.closed or self.leaving) and (self.lost is not None or self.said_farewell)

    def handle(self, link: Any) -> None:
        if link is self.server:
            with contextlib.suppress(OSError):
                connection, _ = self.server.accept()
                connection.setblocking(False)
                stranger = Link(connection)
                self.strangers.append(stranger)
                self.selector.register(connection, selectors.EVENT_READ, stranger)
            return
        if link is self.home:
            super().handle(link)
            return
        for message in link.receive():
            if link.rank >= 0:
                self.from_rank(link.rank, message)
            elif message.get("token") == self.token and message.get("hello") in range(1, len(self.hosts)):
                link.rank = message["hello"]
                self.links[link.rank] = link
                self.strangers.remove(link)
                if self.lost:
                    link.send(lost=self.lost[0], how=self.lost[1])
        if link.closed:
            self.selector.unregister(link.socket)
            if link.rank >= 0 and link.rank not in self.left:
                self.lose(link.rank, "the connection to it broke")

    def from_home(self, message: dict[str, Any]) -> None:
        self.from_rank(0, message)

    def from_rank(self, rank: int, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if "died" in message:
            self.lose(rank, "its process ended without a word (killed?)")
        elif "failed" in message:
            self.failures.append((now, rank, f"it ended by {message['failed']}"))
        elif "bye" in message:
            self.left[rank] = now
            self.farewells.append(rank)

    def beat(self) -> None:
        for link in self.links.values():
            link.send(beat=True)

    def forgive(self, now: float) -> None:
        self.started = now
        for link in self.links.values():
            link.heard = now

    def judge(self, now: float) -> None:
        if self.failures and now - self.failures[0][0] > VERDICT_S:
            first_to_leave = min(self.left, key=self.left.__getitem__, default=None)
            if first_to_leave is not None and self.left[first_to_leave] < self.failures[0][0]:
                self.lose(first_to_leave, ENDED_FIRST)
            else:
                self.lose(*self.failures[0][1:])
        for rank in range(1, len(self.hosts)):
            if rank not in self.left:
                heard = self.links[rank].heard if rank in self.links else self.started
                if now - heard > SILENCE_S:
                    self.lose(rank, f"no sign of life for {SILENCE_S:.0f} s")
        for rank in list(self.farewells):
            if len(self.left) == len(self.hosts) or now - self.left[rank] > FAREWELL_S:
                self.farewells.remove(rank)
                if rank:
                    self.links[rank].send(bye=True)
                    continue
                self.said_farewell = True  # the first process is the last to have work
                for link in self.links.values():
                    link.send(bye=True)

    def lose(self, rank: int, how: str) -> None:
        if self.lost is None:
            self.lost = rank, how
            for link in self.links.values():
                link.send(lost=rank, how=how)
            self.tell(rank, how)


class Spoke(Watcher):
    """The watcher of any other process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        connection = socket.create_connection((settings["address"], settings["port"]), timeout=SILENCE_S)
        connection.setblocking(False)
        self.hub = Link(connection)
        self.selector.register(connection, selectors.EVENT_READ, self.hub)
        self.hub.send(hello=self.rank, token=self.token)
        self.left_at = 0.0
        self.over = False

    def done(self) -> bool:
        if self.home.closed and not self.leaving:
            return True
        return self.leaving and (self.over or self.hub.closed or time.monotonic() - self.left_at > 2 * VERDICT_S)

    def handle(self, link: Link) -> None:
        if link is self.home:
            super().handle(link)
            return
        for message in link.receive():
            if "lost" in message:
                self.tell(int(message["lost"]), str(message["how"]))
            elif "bye" in message:
                self.over = True
        if link.closed:
            self.selector.unregister(link.socket)
            if not self.over:
                self.tell(0, "the connection to it broke")

    def from_home(self, message: dict[str, Any]) -> None:
        self.left_at = time.monotonic()
        if self.over and "failed" in message:
            self.tell(0, ENDED_FIRST)
        self.hub.send(**message)

    def beat(self) -> None:
        self.hub.send(beat=True)

    def forgive(self, now: float) -> None:
        self.hub.heard = now

    def judge(self, now: float) -> None:
        if not self.over and now - self.hub.heard > SILENCE_S:
            self.tell(0, f"no sign of life for {SILENCE_S:.0f} s")


class _StandardInput:
    """Standard input with a socket's ``recv``."""

    def recv(self, size: int) -> bytes:
        return os.read(sys.stdin.fileno(), size)


def _server() -> socket.socket:
    """On all addresses, IPv6 where the machine has it."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def _stopped(process: int) -> bool:
    """Whether a process stands still by SIGSTOP or a debugger (Linux; elsewhere this is not known)."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def main() -> None:
    """Settings come as the first line of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # those are for the process that this one watches over
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return
        line += byte
    settings = json.loads(line)
    try:
        watcher = Hub(settings) if settings["rank"] == 0 else Spoke(settings)
    except OSError as error:
        sys.stdout.write(json.dumps({"lost": 0, "how": f"no connection to its heartbeat: {error}"}) + "\n")
        return
    watcher.run()


if __name__ == "__main__":
    main()
