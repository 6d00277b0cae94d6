"""Corpora on http(s), S3 and other stores: shards are brought whole into a local cache and read from there.

``$HEPFM_CACHE/shards/SHA256.tar`` holds a shard under the checksum that the manifest states, so equal shards are kept
once and a wrong one never gets the name. ``$HEPFM_CACHE/corpora/NAME-DIGEST`` has the manifest, the table of blocks,
the attached files, and a link for every shard that is staged: a corpus folder like any other once all of them are.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial as bind
from pathlib import Path
from typing import IO
from urllib.parse import quote

from hepfm.core.downloads import Remote, Stopped, cache_root, download, read_url
from hepfm.core.errors import HepfmError
from hepfm.core.files import CHUNK_BYTES, sha256_file
from hepfm.core.partial import Stated, Wrong, partial_file, write_shared
from hepfm.core.progress import progress
from hepfm.core.transfers import transfer_all
from hepfm.ingest.corpus import Corpus, remote_url
from hepfm.ingest.manifest import FILE, Manifest, ShardEntry
from hepfm.ingest.shards import INDEX

JOBS = 4
MANIFEST_BYTES = 1 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEND = "the copy there is damaged or was replaced; run again, or open another copy"


def mirror(url: str) -> Path:
    """A folder in the cache with all of a remote corpus but its shards, every byte checked.

    Raises:
        HepfmError: there is no corpus, it cannot be had, or a byte of it is wrong.
    """
    content = _read(f"{url}/{FILE}")
    manifest = _manifest(content, f"{url}/{FILE}")
    folder = cache_root() / "corpora" / f"{url.rsplit('/', 1)[1]}-{manifest.digest[:16]}"
    for file, sha256 in {INDEX: manifest.blocks_sha256, **manifest.files}.items():
        target = folder / file
        if not (target.is_file() and sha256_file(target) == sha256):
            _fetch(f"{url}/{file}", target, Stated(sha256=sha256), keep=False)
    if not ((folder / FILE).is_file() and (folder / FILE).read_bytes() == content):
        write_shared(folder / FILE, content, Stated(), url, "")
    return folder


def stage_shard(
    url: str,
    folder: Path,
    entry: ShardEntry,
    advance: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
) -> Path:
    """Bring a shard into the cache, unless it is there; gives its path in the corpus's folder there.

    Args:
        url: of the corpus.
        folder: what :func:`mirror` gave for it.
        entry: the shard, from the manifest.
        advance: told the bytes fetched.
        stop: ends the transfer, from another thread.

    Raises:
        HepfmError: it cannot be had, or is not the manifest's; names its address.
    """
    address = f"{url}/{entry.name}"
    if not _SHA256.fullmatch(entry.sha256):
        raise HepfmError("has no valid SHA-256 in the manifest", address, "do not use this corpus")
    shard = cache_root() / "shards" / f"{entry.sha256}.tar"
    there = shard.is_file()
    if not there or shard.stat().st_size != entry.bytes:
        _fetch(address, shard, Stated(entry.bytes, sha256=entry.sha256), not there, advance, stop)
    link = folder / entry.name
    _link(link, os.path.relpath(shard, link.parent))
    return link


def _link(link: Path, target: str) -> None:
    """Make ``link`` a link to ``target``, whatever another process does here meanwhile."""
    link.parent.mkdir(parents=True, exist_ok=True)
    while not (link.is_symlink() and os.readlink(link) == target):
        try:
            link.symlink_to(target)
        except FileExistsError:
            link.unlink(missing_ok=True)  # to where the shards once were


def stage(corpus: Corpus, jobs: int = JOBS) -> None:
    """Bring every shard of a remote corpus into the cache, ``jobs`` at once; a local one is left as it is.

    Raises:
        HepfmError: a shard cannot be had, or is not the manifest's.
    """
    if corpus.url is None:
        return
    entries = [shard for split in corpus.manifest.splits.values() for shard in split.shards]
    missing = {shard.sha256: shard.bytes for shard in entries if not (corpus.path / shard.name).exists()}
    with progress(f"stage {corpus.url}", sum(missing.values()), "bytes", visible=bool(missing)) as bar:
        transfer_all([bind(stage_shard, corpus.url, corpus.path, entry) for entry in entries], jobs, bar)


def local_folder(path: Path | str, jobs: int = JOBS) -> Path:
    """The folder of a corpus with all of its shards: the path itself, or of a remote corpus its place in the cache."""
    if remote_url(path) is None:
        return Path(path)
    corpus = Corpus.open(path)
    stage(corpus, jobs)
    return corpus.path


def _manifest(content: bytes, address: str) -> Manifest:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / FILE).write_bytes(content)
        try:
            return Manifest.load(Path(scratch))
        except HepfmError as error:
            raise HepfmError(error.what, address, error.mend) from error


def _read(address: str) -> bytes:
    if _scheme(address) in ("http", "https"):
        return read_url(_quoted(address), limit=MANIFEST_BYTES)
    with _stored(address) as source:
        return source.read(MANIFEST_BYTES)


def _fetch(
    address: str,
    target: Path,
    stated: Stated,
    keep: bool,
    advance: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
) -> None:
    try:
        if _scheme(address) in ("http", "https"):
            download(Remote(_quoted(address), stated), target, advance, stop, keep)
        else:
            _copy(address, target, stated, keep, advance, stop or threading.Event())
    except Wrong as error:
        raise HepfmError(error.what, address, _MEND) from error


def _copy(
    address: str, target: Path, stated: Stated, keep: bool, advance: Callable[[int], None], stop: threading.Event
) -> None:
    with partial_file(target, stated) as partial:
        if keep and target.is_file():
            return
        partial.restart({})
        try:
            with _stored(address) as source:
                while chunk := source.read(CHUNK_BYTES):
                    if stop.is_set():
                        raise Stopped
                    partial.write(chunk)
                    advance(len(chunk))
        except BaseException:
            partial.discard()
            raise
        partial.finish(address, _MEND)


@contextmanager
def _stored(address: str) -> Iterator[IO[bytes]]:
    """A file on one of fsspec's stores, opened; what the store raises becomes one line."""
    import fsspec

    scheme = _scheme(address)
    try:
        with fsspec.open(address, "rb") as source:
            yield source
    except (HepfmError, Stopped):
        raise
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "root": "fsspec-xrootd"}.get(scheme)
        mend = f"pip install {package}" if package else "install the package that fsspec names"
        raise HepfmError(f"{scheme}:// needs a package that is not installed: {error}", address, mend) from error
    except FileNotFoundError as error:
        raise HepfmError("no such file there", address, "check the address") from error
    except Exception as error:  # every store has errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HepfmError(f"cannot be read: {reason}", address, "check the address and your access to it") from error


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def _quoted(address: str) -> str:
    return quote(address, safe=":/%@[]")
