"""Downloads over http(s) that are whole, verified and resumable, or absent.

One file goes through :func:`download`: HTTP ranges guarded by ``If-Range``, bounded retries that honour
``Retry-After``, bounded redirects that never leave https, constant memory. The bytes get their final name only when
length and checksum agree (:mod:`hepfm.core.partial`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from hepfm.core.errors import HepfmError
from hepfm.core.partial import Partial, Stated, Wrong, partial_file
from hepfm.core.progress import say

ResultT = TypeVar("ResultT")

CHUNK_BYTES = 1 << 16  # what a connection that stalls can lose
ATTEMPTS = 6  # in a row without a byte gained
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
TIMEOUT_S = (15.0, 60.0)  # to connect, and between two packets
MAX_REDIRECTS = 10
RETRIED = {408, 425, 429, 500, 502, 503, 504}
CONTINUE = "run the same command again: it continues where it stopped"


class Stopped(Exception):
    """Somebody asked a download to stop; what has arrived stays for the next time."""


class _Interrupted(Exception):
    """Worth another attempt; ``wait_s`` is what the server asked for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Remote:
    """A file to download: where it is and what is known of it.

    Attributes:
        url: its address.
        stated: its length and checksums.
        headers: sent to that server, and to none that it redirects to (a token).
    """

    url: str
    stated: Stated = field(default_factory=Stated)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def cache_root() -> Path:
    """Where downloads are kept between runs: ``$HEPFM_CACHE``, else ``~/.cache/hepfm``."""
    return Path(os.environ.get("HEPFM_CACHE", Path.home() / ".cache" / "hepfm"))


def download(
    remote: Remote,
    path: Path,
    advance: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
    keep: bool = False,
) -> dict[str, str]:
    """Download a file; ``path`` is whole and verified afterwards, or untouched.

    What an earlier, killed call left in ``.NAME.part`` is continued where the server still has the same file.

    Args:
        remote: its address, and its length and checksums as far as they are known.
        path: the final name; replaced if it exists.
        advance: told the bytes gained (negative where bytes had to be dropped), those found on disk included.
        stop: set from another thread, it ends the download with :class:`Stopped`.
        keep: a file that is at ``path`` once the lock is held is taken as it is (for content-addressed names).

    Returns:
        Its checksums: those stated, or SHA-256 where none was (empty if it was kept).

    Raises:
        HepfmError: it cannot be had, or has another length or checksum; says what to do.
    """
    with partial_file(path, remote.stated) as partial:
        if keep and path.is_file():
            return {}
        transfer = _Transfer(remote, partial, advance, stop or threading.Event())
        advance(partial.length)
        transfer.run()
        try:
            return partial.finish(remote.url, transfer.mend)
        except Wrong:
            if not transfer.resumed:
                raise
        # Some of the bytes are from an earlier run or connection: a damaged remnant must not condemn a sound file.
        advance(-partial.length)
    with partial_file(path, remote.stated) as partial:
        transfer = _Transfer(remote, partial, advance, stop or threading.Event())
        transfer.run()
        return partial.finish(remote.url, transfer.mend)


def read_url(url: str, limit: int | None = None, own: Mapping[str, str] | None = None) -> bytes:
    """The content of a remote file that fits into memory; ``own`` headers are for that server alone.

    Raises:
        HepfmError: it cannot be had, is longer than ``limit`` bytes, or was cut.
    """
    session = _session()

    def attempt() -> bytes:
        with _response(session, url, {}, own) as response:
            _check_status(response, url)
            data = bytearray()
            for chunk in _chunks(response, decode=True):
                data += chunk
                if limit is not None and len(data) > limit:
                    raise HepfmError(f"has more than {limit:,} bytes", url, "check the address")
            return bytes(data)

    return _retrying(url, attempt, lambda: 0, threading.Event())


def size_of(url: str) -> int | None:
    """The length that the server states for a file, or None where it states none.

    Raises:
        HepfmError: there is no such file, or no answer.
    """
    session = _session()

    def attempt() -> int | None:
        with _response(session, url, {}) as response:
            _check_status(response, url)
            return _content_length(response)

    return _retrying(url, attempt, lambda: 0, threading.Event())


class _Transfer:
    """Fills a partial file from a remote one, over as many connections as it takes."""

    def __init__(self, remote: Remote, partial: Partial, advance: Callable[[int], None], stop: threading.Event) -> None:
        self.remote, self.partial, self.advance, self.stop = remote, partial, advance, stop
        self.stated = remote.stated
        self.session = _session()
        self.resumed, self.is_page = partial.length > 0, False

    @property
    def mend(self) -> str:
        """What to do if the bytes that came are wrong."""
        page = "it came as a web page: open the address in a browser to see what it says, or take a mirror"
        other = "try again later, take another mirror, or tell the owner of the data"
        return f"the partial file is removed; {page if self.is_page else other}"

    def run(self) -> None:
        length, origin = self.partial.length, self.partial.origin
        too_long = self.stated.bytes is not None and length > self.stated.bytes
        # Without a version tag only a checksum can tell later whether the halves belong together.
        same_file = origin.get("url") == self.remote.url and origin.get("validator")
        if length and (too_long or not (same_file or self.stated.checksums)):
            self._restart({})
        if self.partial.length and self.partial.length == self.stated.bytes:
            return  # whole, but the process died before it was verified
        _retrying(self.remote.url, self._attempt, lambda: self.partial.length, self.stop)

    def _attempt(self) -> None:
        headers = {}
        if self.partial.length and not (self._validator() or self.stated.checksums):
            self._restart({})  # nothing would tell whether the rest is of the same version
        if self.partial.length:
            headers["Range"] = f"bytes={self.partial.length}-"
            if self._validator():
                headers["If-Range"] = self._validator()
        with _response(self.session, self.remote.url, headers, self.remote.headers) as response:
            total = self._begin(response)
            self._receive(response, total if total is not None else self.stated.bytes)

    def _validator(self) -> str:
        return self.partial.origin.get("validator", "") if self._is_origin() else ""

    def _is_origin(self) -> bool:
        return self.partial.origin.get("url") == self.remote.url

    def _begin(self, response: requests.Response) -> int | None:
        """Decide with the server where its bytes go; gives the length of the whole file."""
        if self.partial.length and response.status_code == 206:
            return self._continue(response)
        if self.partial.length and response.status_code == 416:  # what is here is longer than what is there
            self._restart({})
            raise _Interrupted("the server has fewer bytes than were downloaded (416)")
        _check_status(response, self.remote.url)
        total = _content_length(response)
        # Before what has arrived gives way to it: this may be a page that tells of maintenance.
        self._check_total(total)
        self.is_page = _is_page(response, self.remote.url)
        if self.is_page and self.partial.length and self.stated.checksums:
            raise HepfmError(
                "the server sends a web page in the place of the rest of the file",
                self.remote.url,
                f"open it in a browser to see what it says; later, {CONTINUE}",
            )
        framed = total is not None or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if not framed and self.stated == Stated():
            raise HepfmError("the server states no length and no checksum is known", self.remote.url, "take a mirror")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity" and not self.stated.checksums:
            raise HepfmError(f"is sent as {encoding}, which was not asked for", self.remote.url, "take a mirror")
        self._restart({"url": self.remote.url, "validator": _validator(response)})
        return total

    def _continue(self, response: requests.Response) -> int | None:
        start, total = _content_range(response)
        mine, theirs = self._validator(), _validator(response)
        # With a checksum, silence about the version will do; without one, only the same version will.
        same = (not mine or not theirs or mine == theirs) if self.stated.checksums else mine == theirs
        if start != self.partial.length or not same:
            self._restart({})
            raise _Interrupted("the file changed on the server while it was downloaded")
        try:
            self._check_total(total)
        except Wrong:
            self._drop()
            raise
        self.resumed = True
        return total

    def _check_total(self, total: int | None) -> None:
        if self.stated.bytes is not None and total not in (None, self.stated.bytes):
            raise Wrong(
                f"the server's file has {total:,} bytes, expected {self.stated.bytes:,}",
                self.remote.url,
                "it was replaced, or this is a login page: open the address in a browser, or take a mirror",
            )

    def _receive(self, response: requests.Response, total: int | None) -> None:
        for chunk in _chunks(response):
            if self.stop.is_set():
                raise Stopped
            self.partial.write(chunk)
            self.advance(len(chunk))
            if total is not None and self.partial.length > total:
                self._drop()
                raise Wrong(f"the server sends more than {total:,} bytes", self.remote.url, "take another mirror")
        if total is not None and self.partial.length < total:
            raise _Interrupted(f"the connection ended after {self.partial.length:,} of {total:,} bytes")

    def _restart(self, origin: dict[str, Any]) -> None:
        self.advance(-self.partial.length)
        self.partial.restart(origin)

    def _drop(self) -> None:
        self._restart({})
        self.partial.discard()


def _retrying(url: str, attempt: Callable[[], ResultT], length: Callable[[], int], stop: threading.Event) -> ResultT:
    """Call ``attempt`` until it succeeds, at most ``ATTEMPTS`` times in a row without a byte gained."""
    failures, best = 0, length()
    while True:
        try:
            return attempt()
        except _Interrupted as error:
            reason, asked_s = str(error), error.wait_s
        if length() > best:
            failures, best = 0, length()
        failures += 1
        wait_s = min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S) if asked_s is None else asked_s
        if wait_s > LONGEST_WAIT_S:
            raise HepfmError(f"the server asks to come back in {wait_s:,.0f} s ({reason})", url, f"then {CONTINUE}")
        if failures >= ATTEMPTS:
            raise HepfmError(
                f"cannot be downloaded: {reason}, {failures} times in a row",
                url,
                f"check address and network, then {CONTINUE}",
            )
        say(f"{url}: {reason}; trying again in {wait_s:.0f} s")
        if stop.wait(wait_s):
            raise Stopped


def _session() -> requests.Session:
    session = requests.Session()
    # identity: lengths, ranges and checksums are those of the file, not of a compressed transfer
    session.headers.update({"User-Agent": f"hepfm/{metadata.version('hepfm')}", "Accept-Encoding": "identity"})
    return session


@contextmanager
def _response(
    session: requests.Session, url: str, headers: dict[str, str], own: Mapping[str, str] | None = None
) -> Iterator[requests.Response]:
    """The answer to a GET after all redirects, its body not read yet; ``own`` headers go to the first server alone."""
    response = _follow(session, url, headers, own or {})
    try:
        yield response
    finally:
        response.close()


def _follow(session: requests.Session, url: str, headers: dict[str, str], own: Mapping[str, str]) -> requests.Response:
    at, first = url, _server(url, url)
    here = first
    for _ in range(MAX_REDIRECTS + 1):
        response = _get(session, at, {**headers, **own} if here == first else headers)
        location = session.get_redirect_target(response)
        if location is None:
            return response
        response.close()
        onward = _server(location, url, at)
        schemes = here[0], onward[0]
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise HepfmError(f"is redirected from {schemes[0]} to {schemes[1]}: refused", url, "take another mirror")
        at, here = urljoin(at, location), onward
    raise HepfmError(f"redirects without end (more than {MAX_REDIRECTS})", url, "check the address, or take a mirror")


def _server(address: str, url: str, base: str = "") -> tuple[str, str]:
    """Scheme and server of an address, which may be relative to another."""
    try:
        return urlsplit(urljoin(base, address))[:2]
    except ValueError as error:
        raise HepfmError(f"cannot be downloaded: {_short(error)}", url, "check the address") from error


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT_S)
    except requests.exceptions.SSLError as error:
        raise HepfmError(
            f"its certificate is refused: {_short(error)}", url, "check address, clock and proxy"
        ) from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted(f"no answer ({_short(error)})") from error
    except (requests.RequestException, ValueError) as error:
        raise HepfmError(f"cannot be downloaded: {_short(error)}", url, "check the address") from error


def _check_status(response: requests.Response, url: str) -> None:
    """Only 200 passes; what may mend itself is an interruption, the rest is final."""
    status = response.status_code
    if status == 200:
        return
    if status in RETRIED:
        raise _Interrupted(f"the server answers {status} {response.reason}".rstrip(), _retry_after(response))
    if status in (404, 410):
        raise HepfmError(
            f"cannot be downloaded: no such file there ({status})", url, "check the address, or take a mirror"
        )
    if status in (401, 403):
        raise HepfmError(
            f"cannot be downloaded: the server refuses it ({status})",
            url,
            "open it in a browser to see why, or take a mirror",
        )
    raise HepfmError(f"cannot be downloaded: the server answers {status} {response.reason}", url, "check the address")


def _chunks(response: requests.Response, decode: bool = False) -> Iterator[bytes]:
    """The body as sent (or without its ``Content-Encoding``), in pieces; a cut is an interruption."""
    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=decode)
    except (urllib3.exceptions.HTTPError, requests.RequestException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(f"the connection broke ({_short(error)})") from error


def _content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """First byte and whole length of a 206; (-1, None) where it is not readable."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _validator(response: requests.Response) -> str:
    """What names this version of the file: a strong ETag, else the time of its last change (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _is_page(response: requests.Response, url: str) -> bool:
    """Is this a page for people, where a file was asked for?"""
    kind = response.headers.get("Content-Type", "").lower()
    return kind.startswith("text/html") and not urlsplit(url).path.endswith((".html", ".htm"))


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks for: a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _short(error: BaseException) -> str:
    """The innermost reason of a chain of network errors, without Python's object addresses."""
    while error.__context__ is not None:
        error = error.__context__
    return re.sub(r"<[^>]*>[:,]? ?", "", str(error)).strip() or type(error).__name__
