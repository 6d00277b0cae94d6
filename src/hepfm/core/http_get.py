"""One GET: its redirects, which never leave https, and what its answer says, as errors that are final or worth another
attempt."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from importlib import metadata
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from hepfm.core.errors import HepfmError

CHUNK_BYTES = 1 << 16  # what a connection that stalls can lose
TIMEOUT_S = (15.0, 60.0)  # to connect, and between two packets
MAX_REDIRECTS = 10
RETRIED = {408, 425, 429, 500, 502, 503, 504}

_answered: set[tuple[str, str]] = set()  # servers that this process has had an answer from


class Interrupted(Exception):
    """Worth another attempt.

    Attributes:
        wait_s: what the server asked for.
        nobody: no server was found there, or it refused the connection, and never yet answered this process.
    """

    def __init__(self, reason: str, wait_s: float | None = None, nobody: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.nobody = wait_s, nobody


def new_session() -> requests.Session:
    session = requests.Session()
    # identity: lengths, ranges and checksums are those of the file, not of a compressed transfer
    session.headers.update({"User-Agent": f"hepfm/{metadata.version('hepfm')}", "Accept-Encoding": "identity"})
    return session


@contextmanager
def response_to(
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
        raise HepfmError(f"cannot be downloaded: {short(error)}", url, "check the address") from error


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    server = urlsplit(url)[:2]
    try:
        response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT_S)
    except requests.exceptions.SSLError as error:
        raise HepfmError(
            f"its certificate is refused: {short(error)}", url, "check address, clock and proxy"
        ) from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        nobody = isinstance(_innermost(error), ConnectionRefusedError | socket.gaierror) and server not in _answered
        raise Interrupted(f"no answer ({short(error)})", nobody=nobody) from error
    except (requests.RequestException, ValueError) as error:
        raise HepfmError(f"cannot be downloaded: {short(error)}", url, "check the address") from error
    _answered.add(server)
    return response


def check_status(response: requests.Response, url: str) -> None:
    """Only 200 passes; what may mend itself is an interruption, the rest is final."""
    status = response.status_code
    if status == 200:
        return
    if status in RETRIED:
        raise Interrupted(f"the server answers {status} {response.reason}".rstrip(), _retry_after(response))
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


def chunks_of(response: requests.Response, decode: bool = False) -> Iterator[bytes]:
    """The body as sent (or without its ``Content-Encoding``), in pieces; a cut is an interruption."""
    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=decode)
    except (urllib3.exceptions.HTTPError, requests.RequestException, ConnectionError, TimeoutError) as error:
        raise Interrupted(f"the connection broke ({short(error)})") from error


def content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() and "Transfer-Encoding" not in response.headers else None


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """First byte and whole length of a 206; (-1, None) where it is not readable."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def version_of(response: requests.Response) -> str:
    """What names this version of the file: a strong ETag, else the time of its last change (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def is_page(response: requests.Response, url: str) -> bool:
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


def short(error: BaseException) -> str:
    """The innermost reason of a chain of network errors, without Python's object addresses."""
    error = _innermost(error)
    return re.sub(r"<[^>]*>[:,]? ?", "", str(error)).strip() or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error
