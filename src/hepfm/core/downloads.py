"""Downloads over http(s) that are whole, verified and resumable, or absent.

One file goes through :func:`download`: HTTP ranges guarded by ``If-Range``, bounded retries that honour
``Retry-After``, bounded redirects that never leave https (:mod:`hepfm.core.http_get`), constant memory. The bytes get
their final name only when length and checksum agree (:mod:`hepfm.core.partial`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

from hepfm.core.errors import HepfmError
from hepfm.core.http_get import (
    Interrupted,
    check_status,
    chunks_of,
    content_length,
    content_range,
    is_page,
    new_session,
    response_to,
    version_of,
)
from hepfm.core.partial import Partial, Stated, Wrong, partial_file
from hepfm.core.progress import say

ResultT = TypeVar("ResultT")

ATTEMPTS = 6  # in a row without a byte gained
ATTEMPTS_AT_NOBODY = 2  # where no server ever answered: an address with a typing error, a machine without network
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
CONTINUE = "run the same command again: it continues where it stopped"


class Stopped(Exception):
    """Somebody asked a download to stop; what has arrived stays for the next time."""


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
    session = new_session()

    def attempt() -> bytes:
        with response_to(session, url, {}, own) as response:
            check_status(response, url)
            data = bytearray()
            for chunk in chunks_of(response, decode=True):
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
    session = new_session()

    def attempt() -> int | None:
        with response_to(session, url, {}) as response:
            check_status(response, url)
            return content_length(response)

    return _retrying(url, attempt, lambda: 0, threading.Event())


class _Transfer:
    """Fills a partial file from a remote one, over as many connections as it takes."""

    def __init__(self, remote: Remote, partial: Partial, advance: Callable[[int], None], stop: threading.Event) -> None:
        self.remote, self.partial, self.advance, self.stop = remote, partial, advance, stop
        self.stated = remote.stated
        self.session = new_session()
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
        with response_to(self.session, self.remote.url, headers, self.remote.headers) as response:
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
            raise Interrupted("the server has fewer bytes than were downloaded (416)")
        check_status(response, self.remote.url)
        total = content_length(response)
        # Before what has arrived gives way to it: this may be a page that tells of maintenance.
        self._check_total(total)
        self.is_page = is_page(response, self.remote.url)
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
        self._restart({"url": self.remote.url, "validator": version_of(response)})
        return total

    def _continue(self, response: requests.Response) -> int | None:
        start, total = content_range(response)
        mine, theirs = self._validator(), version_of(response)
        # With a checksum, silence about the version will do; without one, only the same version will.
        same = (not mine or not theirs or mine == theirs) if self.stated.checksums else mine == theirs
        if start != self.partial.length or not same:
            self._restart({})
            raise Interrupted("the file changed on the server while it was downloaded")
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
        for chunk in chunks_of(response):
            if self.stop.is_set():
                raise Stopped
            self.partial.write(chunk)
            self.advance(len(chunk))
            if total is not None and self.partial.length > total:
                self._drop()
                raise Wrong(f"the server sends more than {total:,} bytes", self.remote.url, "take another mirror")
        if total is not None and self.partial.length < total:
            raise Interrupted(f"the connection ended after {self.partial.length:,} of {total:,} bytes")

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
        except Interrupted as error:
            reason, asked_s = str(error), error.wait_s
            attempts = ATTEMPTS_AT_NOBODY if error.nobody else ATTEMPTS
        if length() > best:
            failures, best = 0, length()
        failures += 1
        wait_s = min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S) if asked_s is None else asked_s
        if wait_s > LONGEST_WAIT_S:
            raise HepfmError(f"the server asks to come back in {wait_s:,.0f} s ({reason})", url, f"then {CONTINUE}")
        if failures >= attempts:
            raise HepfmError(
                f"cannot be downloaded: {reason}, {failures} times in a row",
                url,
                f"check address and network, then {CONTINUE}",
            )
        say(f"{url}: {reason}; trying again in {wait_s:.0f} s")
        if stop.wait(wait_s):
            raise Stopped
