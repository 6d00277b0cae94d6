"""A local HTTP server that misbehaves on request: what downloads have to survive."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Fault = Callable[["Handler", bytes], None]


class RoughServer:
    """Serves ``files`` (path -> content). The next requests of a path meet ``faults[path]``, one each; after them
    ``always[path]``, if there is one. ``requests`` lists (path, headers) of every GET.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bytes_sent = 0
        self.url = ""
        self.lock = threading.Lock()

    def add(self, path: str, content: bytes) -> str:
        """Serve ``content`` at ``path``; gives its address."""
        self.files[path] = content
        return self.url + path

    def ranges(self, path: str) -> list[str]:
        """The Range header of each request of a path, empty where it had none."""
        return [headers.get("Range", "") for asked, headers in self.requests if asked == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rough: RoughServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        with self.rough.lock:
            self.rough.requests.append((path, dict(self.headers)))
            waiting = self.rough.faults[path]
            fault = waiting.pop(0) if waiting else self.rough.always.get(path)
        content = self.rough.files.get(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fault is not None:
                fault(self, content or b"")
            elif content is None:
                self.plain(404, b"")
            else:
                self.honest(content)

    def plain(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.send(body)

    def honest(
        self,
        content: bytes,
        stop: int | None = None,
        pause_s: float = 0.0,
        hold: tuple[int, threading.Event] | None = None,
    ) -> None:
        """What a good server does; with ``stop`` the connection ends after so many bytes of the body, with ``hold`` it
        is silent after so many bytes of the file, until the gate opens."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and self.headers.get("If-Range", etag) == etag else None
        if start is not None and start >= len(content):
            self.plain(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        body = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if hold is not None:
            before = max(0, hold[0] - (start or 0))
            self.send(body[:before], pause_s)
            hold[1].wait()
            body = body[before:]
        self.send(body[:stop], pause_s)
        if stop is not None:
            self.close_connection = True

    def send(self, body: bytes, pause_s: float = 0.0) -> None:
        step = 1 << 14
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            self.rough.bytes_sent += len(body[at : at + step])
            time.sleep(pause_s)


def cut(after: int) -> Fault:
    """Ends the connection after so many bytes."""
    return lambda handler, content: handler.honest(content, stop=after)


def status(code: int, **headers: str) -> Fault:
    """Answers with a status and nothing else."""
    return lambda handler, content: handler.plain(code, b"", **headers)


def body(data: bytes, code: int = 200, **headers: str) -> Fault:
    """Sends other bytes, and no range."""
    return lambda handler, content: handler.plain(code, data, **headers)


def whole(handler: Handler, content: bytes) -> None:
    """Ignores ranges."""
    handler.plain(200, content)


def redirect(to: str, code: int = 302) -> Fault:
    return status(code, Location=to)


def lying_length(stated: int) -> Fault:
    """States a length that the body does not have, then ends."""

    def fault(handler: Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(stated))
        handler.end_headers()
        handler.send(content)
        handler.close_connection = True

    return fault


def endless(handler: Handler, content: bytes) -> None:
    """Chunked, so without a length, and it does not stop where the file ends."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def unframed(handler: Handler, content: bytes) -> None:
    """Neither a length nor chunks: the end of the connection is the end of the file."""
    handler.send_response(200)
    handler.end_headers()
    handler.send(content)
    handler.close_connection = True


def slow(pause_s: float) -> Fault:
    """Honest, with a pause after every 16 kB."""
    return lambda handler, content: handler.honest(content, pause_s=pause_s)


def held(after: int, gate: threading.Event, pause_s: float = 0.0) -> Fault:
    """Honest, but a client gets only so many bytes of the file until the gate opens: it cannot be done before."""
    return lambda handler, content: handler.honest(content, pause_s=pause_s, hold=(after, gate))


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def rough_server() -> Iterator[RoughServer]:
    """A running server on a free port."""
    rough = RoughServer()
    handler = type("BoundHandler", (Handler,), {"rough": rough})
    with QuietServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        rough.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield rough
        finally:
            http.shutdown()
            thread.join()
