"""Files that are whole or absent: atomic writes, hashes, canonical JSON, locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hepfm.core.errors import HepfmError

CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.(.+)\.partial-\d+(?:-[0-9a-f]+)?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spare blanks: equal data give equal bytes, so that it can be hashed."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(data: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``data``."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success it is synced and renamed to ``path``, on failure removed.

    Args:
        path: the file; its folder is made.
        within: folder of the temporary file, on the same file system; beside ``path`` by default. It is not made: once
            it has been removed, nothing that was begun in it can get to ``path`` any more.

    A killed process leaves the temporary file behind: who begins work in a folder that it has locked calls
    :func:`sweep`.
    """
    if within is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two machines may write the same file, so the process id does not tell them apart.
    partial = (within or path.parent) / f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)  # the system does not say what could not be written
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def told_when_full(where: Path) -> Iterator[None]:
    """Work that can be continued: a full disk is said as such.

    Raises:
        HepfmError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HepfmError("the disk is full", where, "free some space and run again: it continues") from error


def is_temporary(path: Path) -> bool:
    """Has it the name of a file that :func:`atomic_path` had not finished?"""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path, names: Container[str] | None = None) -> None:
    """Remove what killed processes left of :func:`atomic_path` in a folder and below it.

    Only for the holder of a lock that all who write there must hold: a living process's file would be lost to it.

    Args:
        folder: need not exist.
        names: of the files that were to be written, directly in ``folder``; by default any, at any depth.
    """
    for path in folder.glob(".*.partial-*") if names is not None else folder.rglob(".*.partial-*"):
        temporary = _TEMPORARY.fullmatch(path.name)
        if temporary and (names is None or temporary[1] in names) and path.is_file():
            path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, within: Path | None = None) -> None:
    """Write ``data`` atomically; see :func:`atomic_path`."""
    with atomic_path(path, within) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` atomically as indented JSON with sorted keys."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a :class:`HepfmError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise HepfmError("no such file", path) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HepfmError(f"not valid JSON: {error}", path, "restore it or make it again") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against a second process; the lock goes with the process, however it ends.

    Raises:
        HepfmError: another process holds it.
    """
    lock = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HepfmError("another process is writing here", folder, "wait for it, or stop it first") from error
            # Who held it before may have removed the folder after this file was opened: it would hold nothing.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                yield
                return
