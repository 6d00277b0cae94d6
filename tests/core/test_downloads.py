"""Whatever a server does: the right file under its name, or none and a message that says what to do."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rough_server import (
    Fault,
    RoughServer,
    body,
    cut,
    endless,
    held,
    lying_length,
    redirect,
    rough_server,
    slow,
    status,
    unframed,
    whole,
)

from hepfm.core import http_get
from hepfm.core.downloads import Remote, Stopped, download, read_url, size_of
from hepfm.core.errors import HepfmError
from hepfm.core.partial import Stated, partial_file

CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
STATED = Stated(len(CONTENT), MD5, SHA256)


@pytest.fixture
def remote(server: RoughServer, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setattr(http_get, "CHUNK_BYTES", 1 << 12)
    return Remote(server.add("/file", CONTENT), STATED)


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_a_download_is_the_file_and_nothing_else(remote: Remote, tmp_path: Path) -> None:
    gained: list[int] = []
    checksums = download(remote, tmp_path / "deep" / "file", gained.append)
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert checksums == {"md5": MD5, "sha256": SHA256}
    assert sum(gained) == len(CONTENT)
    assert left_in(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize("stated", [Stated(), Stated(len(CONTENT)), Stated(md5=MD5), Stated(sha256=SHA256)])
def test_what_is_not_stated_is_found_out(remote: Remote, stated: Stated, tmp_path: Path) -> None:
    checksums = download(Remote(remote.url, stated), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert checksums == ({"md5": MD5} if stated.md5 else {"sha256": SHA256})


def test_an_empty_file_is_a_file(server: RoughServer, tmp_path: Path) -> None:
    download(Remote(server.add("/empty", b""), Stated(0)), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""
    assert left_in(tmp_path) == ["file"]


def test_cut_connections_are_continued_where_they_were_cut(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.faults["/file"] = [cut(100_000)] * 2
    gained: list[int] = []
    download(remote, tmp_path / "file", gained.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/file") == ["", "bytes=100000-", "bytes=200000-"]
    assert server.bytes_sent == sum(gained) == len(CONTENT)


def test_many_cuts_are_no_failure_as_long_as_bytes_arrive(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.faults["/file"] = [cut(20_000)] * 14
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [STATED, Stated()])
def test_a_server_that_ignores_ranges_is_read_from_the_beginning(
    server: RoughServer, remote: Remote, stated: Stated, tmp_path: Path
) -> None:
    server.faults["/file"] = [cut(100_000), whole]
    gained: list[int] = []
    download(Remote(remote.url, stated), tmp_path / "file", gained.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert sum(gained) == len(CONTENT)


def test_a_server_that_ignores_ranges_and_always_cuts_is_given_up(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    def whole_cut(handler: object, content: bytes) -> None:
        handler.headers.replace_header("Range", "none") if "Range" in handler.headers else None  # type: ignore[attr-defined]
        handler.honest(content, stop=100_000)  # type: ignore[attr-defined]

    server.always["/file"] = whole_cut
    with pytest.raises(HepfmError, match=r"cannot be downloaded: .* 6 times in a row .*run the same command again"):
        download(remote, tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("stated", [Stated(), STATED])
def test_a_file_that_changes_between_two_parts_is_never_glued(
    server: RoughServer, remote: Remote, stated: Stated, tmp_path: Path
) -> None:
    old = bytes(reversed(CONTENT))

    def of_old(handler: object, content: bytes) -> None:
        handler.honest(old, stop=150_000)  # type: ignore[attr-defined]

    server.faults["/file"] = [of_old]
    download(Remote(remote.url, stated), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_answers_a_range_of_another_version_is_found_out(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    def other(handler: object, content: bytes) -> None:
        rest = bytes(len(content) - 100_000)
        span = f"bytes 100000-{len(content) - 1}/{len(content)}"
        handler.plain(206, rest, Content_Range=span, ETag='"another"')  # type: ignore[attr-defined]

    server.faults["/file"] = [cut(100_000), other]
    download(Remote(remote.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, '"a"'])
def test_halves_are_not_glued_on_trust(server: RoughServer, remote: Remote, tmp_path: Path, etag: str | None) -> None:
    """Without a checksum, only the server's word for the version joins two parts; with one, silence will do."""
    named = {} if etag is None else {"ETag": etag}

    def first(handler: object, content: bytes) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Length", str(len(content)))  # type: ignore[attr-defined]
        for name, value in named.items():
            handler.send_header(name, value)  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.send(content[:100_000])  # type: ignore[attr-defined]
        handler.close_connection = True  # type: ignore[attr-defined]

    span = {"Content_Range": f"bytes 100000-{len(CONTENT) - 1}/{len(CONTENT)}"}

    def of_another(handler: object, content: bytes) -> None:
        if "Range" in handler.headers:  # type: ignore[attr-defined]
            handler.plain(206, bytes(len(content) - 100_000), **span)  # type: ignore[attr-defined]
        else:
            handler.honest(content)  # type: ignore[attr-defined]

    server.faults["/file"] = [first, of_another]
    download(Remote(remote.url, Stated(len(CONTENT))), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    server.requests.clear()
    server.faults["/file"] = [first, body(CONTENT[100_000:], 206, **span)]
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/file") == ["", "bytes=100000-"]


PAGE = body(b"<html>down for maintenance</html>", Content_Type="text/html; charset=utf-8")


@pytest.mark.parametrize("stated", [STATED, Stated(md5=MD5)])
def test_a_page_in_the_place_of_the_rest_costs_nothing_that_has_arrived(
    server: RoughServer, remote: Remote, tmp_path: Path, stated: Stated
) -> None:
    remote = Remote(remote.url, stated)
    server.faults["/file"] = [cut(100_000), PAGE]
    with pytest.raises(HepfmError, match=r"(login|web) page.*in a browser"):
        download(remote, tmp_path / "file")
    assert (tmp_path / ".file.part").stat().st_size == 100_000
    server.requests.clear()
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/file") == ["bytes=100000-"]


def test_a_page_in_the_place_of_a_file_is_called_one(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.always["/file"] = PAGE
    with pytest.raises(HepfmError, match=r"has md5 .*it came as a web page: open the address in a browser"):
        download(Remote(remote.url, Stated(md5=MD5)), tmp_path / "file")
    assert left_in(tmp_path) == []


def test_a_compressed_transfer_is_not_taken_for_the_file(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.always["/file"] = body(gzip.compress(CONTENT), Content_Encoding="gzip")
    with pytest.raises(HepfmError, match="is sent as gzip, which was not asked for"):
        download(Remote(remote.url), tmp_path / "file")
    with pytest.raises(HepfmError, match=r"has md5|has [\d,]+ bytes, expected"):
        download(remote, tmp_path / "file")
    assert left_in(tmp_path) == []
    assert read_url(remote.url) == CONTENT
    server.always["/file"] = body(CONTENT, Content_Encoding="gzip")  # servers say so of a .tar.gz
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_range_that_begins_elsewhere_is_not_used(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.faults["/file"] = [cut(100_000), body(CONTENT[7:], 206, Content_Range="bytes 7-299999/300000")]
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


WRONG = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (body(WRONG), r"has md5 [0-9a-f]{16}\.\.\., expected .*\(the partial file is removed; try again later, "),
        (body(CONTENT[:-1]), r"the server's file has 299,999 bytes, expected 300,000 \(.*login page"),
        (body(CONTENT + b"x"), r"the server's file has 300,001 bytes, expected 300,000 \("),
        (body(b"<html>log in</html>"), r"has 19 bytes, expected 300,000 \(.*login page"),
        (lying_length(len(CONTENT) + 5), r"has 300,005 bytes, expected 300,000"),
        (endless, r"sends more than 300,000 bytes \(take another mirror\)"),
        (status(404), r"no such file there \(404\) \(check the address, or take a mirror\)"),
        (status(403), r"the server refuses it \(403\)"),
        (status(416), r"the server answers 416"),
        (status(418), r"the server answers 418"),
        (redirect("http://[::1"), r"cannot be downloaded: Invalid IPv6 URL"),
        (status(503), r"the server answers 503 Service Unavailable, 6 times in a row \(check address and network"),
        (status(429, Retry_After="100000"), r"asks to come back in 100,000 s .*then run the same command again"),
        (redirect("/file"), r"redirects without end \(more than 10\)"),
        (redirect("ftp://127.0.0.1/file"), r"redirected from http to ftp: refused"),
        (redirect("file:///etc/passwd"), r"redirected from http to file: refused"),
        (body(CONTENT[:10], 206, Content_Range="bytes 0-9/300000"), r"the server answers 206"),
    ],
)
def test_a_fault_that_stays_is_an_error_and_leaves_no_file(
    server: RoughServer, remote: Remote, tmp_path: Path, fault: Fault, message: str
) -> None:
    server.always["/file"] = fault
    with pytest.raises(HepfmError, match=message) as told:
        download(remote, tmp_path / "file")
    assert str(told.value).startswith(remote.url)
    assert "\n" not in str(told.value)
    assert left_in(tmp_path) == []


def test_a_file_under_the_name_stays_when_its_replacement_is_wrong(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    server.always["/file"] = body(WRONG)
    with pytest.raises(HepfmError):
        download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_short_and_long_answers_without_a_stated_length_are_still_cuts(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    server.always["/file"] = lying_length(len(CONTENT) + 5)
    with pytest.raises(HepfmError, match=r"the connection (broke|ended)"):
        download(Remote(remote.url), tmp_path / "file")
    assert "file" not in left_in(tmp_path)


def test_a_body_whose_end_cannot_be_known_needs_a_checksum(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.always["/file"] = unframed
    with pytest.raises(HepfmError, match="states no length and no checksum is known"):
        download(Remote(remote.url), tmp_path / "file")
    assert left_in(tmp_path) == []
    download(Remote(remote.url, Stated(sha256=SHA256)), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: RoughServer, remote: Remote, tmp_path: Path, code: int) -> None:
    server.faults["/file"] = [status(code)] * 4
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


class Impatient(threading.Event):
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(server: RoughServer, remote: Remote, tmp_path: Path, as_date: bool) -> None:
    after = formatdate(time.time() + 90, usegmt=True) if as_date else "90"
    server.faults["/file"] = [status(429, Retry_After=after)]
    clock = Impatient()
    download(remote, tmp_path / "file", stop=clock)
    assert len(clock.waits) == 1
    assert 30 < (clock.waits[0] or 0) <= 90
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_redirects_are_followed_with_their_range(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.always["/old"] = redirect("file", 301)
    server.faults["/file"] = [cut(123_456)]
    download(Remote(server.url + "/old", STATED), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/file") == ["", "bytes=123456-"]


def test_https_is_never_left(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(session: requests.Session, url: str, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.headers["Location"], response.url = 302, remote.url, url
        response.raw = open(os.devnull, "rb")  # noqa: SIM115
        return response

    monkeypatch.setattr(requests.Session, "get", answer)
    with pytest.raises(HepfmError, match="redirected from https to http: refused"):
        download(Remote("https://safe.example/file"), tmp_path / "file")


def test_nobody_listening_is_told_in_one_line(tmp_path: Path, server: RoughServer) -> None:
    with rough_server() as gone:
        url = gone.url
    with pytest.raises(HepfmError, match=r"no answer \(.*refused\), 2 times in a row"):
        download(Remote(f"{url}/file"), tmp_path / "file")
    with pytest.raises(HepfmError, match=r"no answer \(.*\), 2 times in a row"):
        download(Remote("http://nowhere.invalid/file"), tmp_path / "file")
    with pytest.raises(HepfmError, match="cannot be downloaded"):
        read_url("http://")


def test_a_server_that_answered_before_is_waited_for(tmp_path: Path, server: RoughServer) -> None:
    with rough_server() as gone:
        assert read_url(gone.add("/file", b"content")) == b"content"
    with pytest.raises(HepfmError, match=r"no answer \(.*refused\), 6 times in a row"):
        download(Remote(f"{gone.url}/file"), tmp_path / "file")


def interrupted(remote: Remote, path: Path, after: int) -> None:
    """Leave a partial file, as a process that ended does."""
    stop = threading.Event()
    seen = [0]

    def advance(count: int) -> None:
        seen[0] += count
        if seen[0] >= after:
            stop.set()

    with pytest.raises(Stopped):
        download(remote, path, advance, stop)


def test_a_stopped_download_continues_in_the_next_call(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    interrupted(remote, tmp_path / "file", 100_000)
    assert left_in(tmp_path) == [".file.part", ".file.part.json"]
    have = (tmp_path / ".file.part").stat().st_size
    gained: list[int] = []
    download(remote, tmp_path / "file", gained.append)
    assert server.ranges("/file")[-1] == f"bytes={have}-"
    assert sum(gained) == len(CONTENT)
    assert left_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [STATED, Stated()])
def test_what_lies_there_from_before_never_spoils_the_file(
    remote: Remote, tmp_path: Path, stated: Stated, server: RoughServer
) -> None:
    """Whatever a crash left in the partial file and its note, the file comes out right or not at all."""
    remote = Remote(remote.url, stated)
    part, note = tmp_path / ".file.part", tmp_path / ".file.part.json"
    for leftover in (b"", b"garbage", CONTENT[:5], CONTENT, CONTENT + b"more", bytes(len(CONTENT))):
        for remembered in (None, "", "{", "[]", "{}", '{"url": "elsewhere", "validator": "\\"x\\""}'):
            part.write_bytes(leftover)
            note.unlink(missing_ok=True)
            if remembered is not None:
                note.write_text(remembered)
            download(remote, tmp_path / "file")
            assert (tmp_path / "file").read_bytes() == CONTENT
            assert left_in(tmp_path) == ["file"]
            (tmp_path / "file").unlink()


def test_a_damaged_remnant_of_the_same_version_is_fetched_again(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    interrupted(remote, tmp_path / "file", 100_000)
    part = tmp_path / ".file.part"
    part.write_bytes(bytes(part.stat().st_size))  # as after a power cut
    gained: list[int] = []
    download(remote, tmp_path / "file", gained.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert sum(gained) == len(CONTENT)


def test_a_remnant_longer_than_the_remote_file_is_dropped(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    unknown = Remote(remote.url)
    interrupted(unknown, tmp_path / "file", 200_000)
    server.files["/file"] = CONTENT[:1000]
    download(unknown, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[:1000]


def test_416_means_another_file_and_begins_again(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.faults["/file"] = [cut(100_000), status(416)]
    download(Remote(remote.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("chunk", [1 << 16, 5000])  # larger and smaller than a buffer of Python's
def test_a_full_disk_is_told_and_the_bytes_stay(
    server: RoughServer, remote: Remote, tmp_path: Path, chunk: int
) -> None:
    script = f"""
import resource, signal
from pathlib import Path
from hepfm.core import http_get
from hepfm.core.downloads import Remote, download
http_get.CHUNK_BYTES = {chunk}
from hepfm.core.errors import HepfmError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    download(Remote({remote.url!r}), Path({str(tmp_path / "file")!r}))
except HepfmError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert "cannot be written: File too large (free disk space, then run the same command again)" in done.stdout
    assert done.returncode == 0, done.stderr
    assert left_in(tmp_path) == [".file.part", ".file.part.json"]
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/file")[-1] == "bytes=100000-"


def test_a_folder_in_the_files_place_is_told_before_the_transfer(
    server: RoughServer, remote: Remote, tmp_path: Path
) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(HepfmError, match=r"/file: is a folder, and a file should go there \(move it away\)"):
        download(remote, tmp_path / "file")
    assert (server.requests, left_in(tmp_path)) == ([], ["file"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(
        st.sampled_from([cut(0), cut(1), cut(50_000), cut(299_999), whole, status(503), status(416), endless]),
        max_size=8,
    ),
    known=st.booleans(),
)
def test_any_order_of_faults_gives_the_file_or_an_error(
    server: RoughServer, remote: Remote, tmp_path: Path, faults: list[Fault], known: bool
) -> None:
    server.faults["/file"] = list(faults)
    target = tmp_path / "file"
    target.unlink(missing_ok=True)
    try:
        download(Remote(remote.url, STATED if known else Stated(len(CONTENT))), target)
    except HepfmError:
        assert not target.exists()
    else:
        assert target.read_bytes() == CONTENT


def test_two_that_want_the_same_file_share_one_download(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    server.always["/file"] = slow(0.005)
    threads = [
        threading.Thread(target=download, args=(remote, tmp_path / "file"), kwargs={"keep": True}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.bytes_sent == len(CONTENT)
    assert left_in(tmp_path) == ["file"]


def test_without_keep_a_download_replaces_what_is_there(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    download(remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_small_documents_and_sizes(server: RoughServer, remote: Remote) -> None:
    server.faults["/file"] = [status(503), cut(10), status(502)]
    assert read_url(remote.url) == CONTENT
    assert size_of(remote.url) == len(CONTENT)
    with pytest.raises(HepfmError, match="has more than 1,000 bytes"):
        read_url(remote.url, limit=1000)
    server.always["/file"] = unframed
    assert size_of(remote.url) is None


def test_an_untouched_partial_leaves_nothing(tmp_path: Path) -> None:
    with partial_file(tmp_path / "file", Stated()):
        pass
    assert left_in(tmp_path) == []


def test_memory_does_not_grow_with_the_file(server: RoughServer, tmp_path: Path) -> None:
    url = server.add("/large", bytes(40_000_000))
    script = f"""
import tracemalloc
from pathlib import Path
from hepfm.core.downloads import Remote, download
tracemalloc.start()
download(Remote({url!r}), Path({str(tmp_path / "large")!r}))
print(tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 8_000_000
    assert (tmp_path / "large").stat().st_size == 40_000_000


SCRIPT = """
import sys
from pathlib import Path
from hepfm.core import downloads, http_get
from hepfm.core.partial import Stated
http_get.CHUNK_BYTES = 1 << 12
downloads.download(downloads.Remote(sys.argv[1], Stated(int(sys.argv[3]), sha256=sys.argv[4])), Path(sys.argv[2]))
"""


def test_a_download_killed_at_any_moment_continues(server: RoughServer, remote: Remote, tmp_path: Path) -> None:
    gate = threading.Event()
    server.always["/file"] = held(260_000, gate, 0.01)  # so no download is done before it is killed
    words = [sys.executable, "-c", SCRIPT, remote.url, str(tmp_path / "file"), str(len(CONTENT)), SHA256]
    target, part = tmp_path / "file", tmp_path / ".file.part"
    for wanted in (1, 120_000, 240_000):
        process = subprocess.Popen(words)
        while process.poll() is None and not (part.exists() and part.stat().st_size >= wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not target.exists()
    gate.set()
    assert subprocess.run(words, timeout=300).returncode == 0
    assert target.read_bytes() == CONTENT
    assert left_in(tmp_path) == ["file"]
    begun = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked in server.ranges("/file")]
    assert begun == sorted(begun)
    assert begun[-1] >= 240_000
