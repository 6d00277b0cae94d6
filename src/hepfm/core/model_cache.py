"""Artifacts that came from elsewhere: brought file by file, verified, moved into the cache whole, found again by name.

The cache is ``$HEPFM_CACHE/models`` (by default ``~/.cache/hepfm/models``): a folder for each artifact, called by its
hash; ``names/`` remembers which artifact a name stood for when it was pulled, so that it is found without network;
``incoming/`` holds what has arrived of unfinished downloads, which continue there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hepfm.core.artifacts import CONFIG, Artifact, check_config, glance, read_artifact
from hepfm.core.downloads import CONTINUE, cache_root
from hepfm.core.errors import HepfmError
from hepfm.core.files import (
    digest_of,
    fsync_folder,
    read_json,
    sha256_file,
    told_when_full,
    write_bytes,
    write_json,
    write_text,
)
from hepfm.core.progress import progress

LONGEST_CONFIG = 16 << 20  # bytes; a page or a data set in the place of config.json is not read into memory


class Origin(Protocol):
    """Where an artifact's files come from."""

    @property
    def name(self) -> str:
        """What the user called it, for messages."""
        ...

    @property
    def key(self) -> str:
        """Names the place it comes from, and the version where it has one."""
        ...

    def config(self) -> bytes:
        """Content of ``config.json``."""
        ...

    def bring(self, file: str, sha256: str, target: Path, advance: Callable[[int], None]) -> None:
        """Write a file of the artifact to ``target``; what arrived of it earlier is continued.

        Raises:
            HepfmError: it cannot be had, or has another checksum; ``target`` is untouched then.
        """
        ...

    def sizes(self) -> dict[str, int]:
        """Length of each file, as far as it is known beforehand."""
        ...


@dataclass(frozen=True)
class Remembered:
    """An artifact of the cache and the name it was pulled by.

    Attributes:
        name: what the user called it.
        path: its folder.
        key: see :class:`Origin`.
        source: what it was made of, where it was imported (address, checksum).
    """

    name: str
    path: Path
    key: str
    source: dict[str, Any]


def cache_folder() -> Path:
    """Where artifacts from elsewhere are kept: ``$HEPFM_CACHE/models``, else ``~/.cache/hepfm/models``."""
    return cache_root() / "models"


def collect(origin: Origin, test: Callable[[Path], object] = read_artifact) -> Path:
    """Bring an artifact into the cache, or find it there; it appears when all of it is verified.

    Args:
        origin: where it comes from.
        test: what it has to pass before it may appear, given its folder; every checksum is compared before.

    Raises:
        HepfmError: it is no artifact, a file cannot be had or is not what ``config.json`` states, or it fails the test.
    """
    content = origin.config()
    try:
        config = check_config(json.loads(content), origin.name)
    except ValueError as error:
        raise HepfmError("its config.json is not JSON: this is no artifact", origin.name, "check the name") from error
    folder = cache_folder() / config["hash"]
    incoming = cache_folder() / "incoming" / config["hash"]
    with _held(incoming.with_suffix(".lock")), told_when_full(incoming):
        if folder.is_dir() and _is_whole(folder):
            test(folder)
            return folder
        _fill(incoming, origin, content, config["files"])
        read_artifact(incoming)
        try:
            test(incoming)
        except HepfmError:
            shutil.rmtree(incoming)  # all its bytes are right, so that none would be brought again
            raise
        shutil.rmtree(folder, ignore_errors=True)
        incoming.rename(folder)
        fsync_folder(folder.parent)
    return folder


def _fill(incoming: Path, origin: Origin, content: bytes, files: dict[str, str]) -> None:
    sizes = origin.sizes()
    known = all(file in sizes for file in files)
    total, unit = (sum(sizes[file] for file in files), "bytes") if known else (len(files), "files")
    with progress(f"download {origin.name}", total, unit) as task:
        for file, sha256 in files.items():
            target = incoming / file
            if target.is_file() and sha256_file(target) == sha256:
                task.advance(target.stat().st_size if known else 1)
                continue
            origin.bring(file, sha256, target, task.advance if known else lambda count: None)
            if not known:
                task.advance()
    write_bytes(incoming / CONFIG, content)


def _is_whole(folder: Path) -> bool:
    try:
        read_artifact(folder)
    except HepfmError:
        return False
    return True


def remember(name: str, key: str, path: Path, source: dict[str, Any] | None = None) -> None:
    """Note which artifact of the cache a name stands for, until it is pulled again."""
    write_json(_note(key), {"name": name, "key": key, "hash": path.name, "source": source or {}})


def remembered(key: str) -> Path | None:
    """The artifact that was pulled under a key, if it is in the cache."""
    note = _note(key)
    if not note.is_file():
        return None
    path = cache_folder() / str(read_json(note).get("hash"))
    return path if (path / CONFIG).is_file() else None


def all_remembered() -> list[Remembered]:
    """Every artifact in the cache by the names it was pulled by, in order of these."""
    found = []
    for note in sorted((cache_folder() / "names").glob("*.json")):
        known = read_json(note)
        path = cache_folder() / str(known.get("hash"))
        if (path / CONFIG).is_file():
            found.append(Remembered(str(known["name"]), path, str(known["key"]), dict(known.get("source", {}))))
    return sorted(found, key=lambda each: each.name)


def read_once(path: Path) -> Artifact:
    """An artifact whose bytes are compared with their checksums unless its files have kept size and time since that was
    done: for lists of many models. What is to be used goes through :func:`~hepfm.core.artifacts.read_artifact`.

    Raises:
        HepfmError: as ``read_artifact``.
    """
    artifact = glance(path)
    notes = cache_folder() / "compared" / f"{digest_of(str(path.resolve()))[:32]}.json"
    files = [file.stat() for file in sorted(path.rglob("*")) if file.is_file()]
    state = digest_of([artifact.hash, [[file.st_size, file.st_mtime_ns, file.st_ino] for file in files]])
    try:
        if notes.is_file() and notes.read_text() == state:
            return artifact
    except OSError:
        pass
    artifact = read_artifact(path)
    with contextlib.suppress(OSError, HepfmError):  # a cache that cannot be written: compared again next time
        write_text(notes, state)
    return artifact


def _note(key: str) -> Path:
    return cache_folder() / "names" / f"{digest_of(key)[:32]}.json"


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """One process at a time brings an artifact: the ranks of a training all ask for it at once, the others wait."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        if error.filename != str(lock) and error.filename != str(lock.parent):
            raise
        raise HepfmError(
            f"cannot be written: {error.strerror}", lock.parent, f"set HEPFM_CACHE to a folder that can; {CONTINUE}"
        ) from error
