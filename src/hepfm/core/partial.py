"""A file on its way in: beside its target, locked, hashed as it grows, renamed only when it is what was stated.

The bytes lie in ``.NAME.part`` until they are verified, so a target is whole or absent; what a killed process left
behind is continued. ``.NAME.part.json`` remembers which version of the remote file the bytes belong to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from hepfm.core.errors import HepfmError
from hepfm.core.files import CHUNK_BYTES, fsync_folder


@dataclass(frozen=True)
class Stated:
    """What is known of a file beforehand; None is not known.

    Attributes:
        bytes: its length.
        md5, sha256: its checksums, lower-case hex.
    """

    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """The checksums that are known, by algorithm."""
        return {name: value for name, value in (("md5", self.md5), ("sha256", self.sha256)) if value is not None}


class Wrong(HepfmError):
    """The bytes that came are not those that were stated."""


class Hashes:
    """Checksums of a stream of bytes: those that are stated, or SHA-256 where none is."""

    def __init__(self, stated: Stated) -> None:
        names = tuple(stated.checksums) or ("sha256",)
        self._running = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, data: bytes) -> None:
        for running in self._running.values():
            running.update(data)

    def hex(self) -> dict[str, str]:
        return {name: running.hexdigest() for name, running in self._running.items()}


def checksums_of(path: Path, stated: Stated) -> dict[str, str]:
    """Checksums of a file's content, read in chunks: those that are stated, or SHA-256 where none is."""
    hashes = Hashes(stated)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashes.update(chunk)
    return hashes.hex()


def check(stated: Stated, length: int, checksums: dict[str, str], where: object, mend: str) -> None:
    """Compare length and checksums with what was stated.

    Raises:
        Wrong: they differ; tells both values.
    """
    if stated.bytes is not None and length != stated.bytes:
        raise Wrong(f"has {length:,} bytes, expected {stated.bytes:,}", where, mend)
    for name, expected in stated.checksums.items():
        if checksums[name] != expected:
            raise Wrong(f"has {name} {checksums[name][:16]}..., expected {expected[:16]}...", where, mend)


class Partial:
    """The part of a file that has arrived. Only :func:`partial_file` makes one, with the lock held.

    Attributes:
        length: bytes that are there.
        origin: what :meth:`restart` was told of the remote file that they come from.
    """

    def __init__(self, target: Path, part: Path, file: FileIO, stated: Stated) -> None:
        self.target, self.stated = target, stated
        self._part, self._note, self._file = part, part.with_name(f"{part.name}.json"), file
        self._hashes = Hashes(stated)
        self.length, self.origin = 0, self._read_note()
        while chunk := file.read(CHUNK_BYTES):
            self._hashes.update(chunk)
            self.length += len(chunk)

    def _read_note(self) -> dict[str, Any]:
        try:
            data = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}  # torn by a crash, or never written: nothing is known of the bytes
        return data if isinstance(data, dict) else {}

    def restart(self, origin: dict[str, Any]) -> None:
        """Drop what is there and begin again with a remote file described by ``origin`` (plain data)."""
        with self._told():
            self._file.seek(0)
            self._file.truncate()
            self._note.write_text(json.dumps(origin))
        self._hashes = Hashes(self.stated)
        self.length, self.origin = 0, origin

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            HepfmError: the disk is full or fails.
        """
        with self._told():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._hashes.update(data)
        self.length += len(data)

    def finish(self, where: object, mend: str) -> dict[str, str]:
        """Verify, sync and rename to the target; gives the checksums.

        Raises:
            Wrong: these are not the bytes that were stated; they are removed.
        """
        checksums = self._hashes.hex()
        try:
            check(self.stated, self.length, checksums, where, mend)
        except Wrong:
            self.discard()
            raise
        with self._told():
            os.fsync(self._file.fileno())
        self._note.unlink(missing_ok=True)
        self._part.replace(self.target)
        fsync_folder(self.target.parent)
        return checksums

    def discard(self) -> None:
        """Remove what is there, unless it has its final name."""
        if _is_still(self._part, self._file):
            self._note.unlink(missing_ok=True)
            self._part.unlink()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A failing disk in one line; the bytes stay, so that the same command continues."""
        try:
            yield
        except OSError as error:
            raise HepfmError(
                f"cannot be written: {error.strerror}", self.target, "free disk space, then run the same command again"
            ) from error


@contextmanager
def partial_file(target: Path, stated: Stated) -> Iterator[Partial]:
    """Hold the part of ``target`` that has arrived; a second process or thread waits until the first is done.

    Raises:
        HepfmError: ``target`` is a folder.
    """
    if target.is_dir():
        raise HepfmError("is a folder, and a file should go there", target, "move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with _locked(part) as file:
        partial = Partial(target, part, file, stated)
        try:
            yield partial
        finally:
            if not partial.length:
                partial.discard()


def write_shared(target: Path, data: bytes, stated: Stated, where: object, mend: str) -> None:
    """Verify and write a small file that several processes may bring at once; a killed one leaves nothing that lasts.

    Args:
        target: its name; replaced if it exists.
        data: its content.
        stated: what is known of it.
        where, mend: for the message if the content is wrong: where it is from, what to do.

    Raises:
        HepfmError: it is not what was stated; the disk is full or fails.
    """
    with partial_file(target, stated) as partial:
        partial.restart({})
        partial.write(data)
        partial.finish(where, mend)


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """``part`` opened to read and write under a lock that goes with the process, however that ends.

    Without a buffer: what a full disk did not take would be written once more, and fail, when the file is closed.
    """
    while True:
        with FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(part, file):  # whoever held it before may have renamed or removed it
                yield file
                return


def _is_still(part: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
