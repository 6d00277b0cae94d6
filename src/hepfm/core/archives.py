"""Unpacking tar archives that somebody else made: only plain files, only below the target, all of them or none."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from hepfm.core.errors import HepfmError
from hepfm.core.files import CHUNK_BYTES, fsync_folder

MEND = "do not unpack this archive; compare its checksum with the publisher's, or ask the publisher"
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(name: str) -> bool:
    """Is this the name of an archive that :func:`unpack` reads?"""
    return name.endswith(SUFFIXES)


def folder_name(name: str) -> str:
    """The name of an archive without its suffix: ``a.tar.gz`` -> ``a``."""
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len)
    return name.removesuffix(suffix)


def unpack(archive: Path, folder: Path, advance: Callable[[int], None] = lambda count: None) -> list[Path]:
    """Unpack a tar (plain, gzip, bzip2 or xz) into a new folder.

    Every member is looked at before the first byte is written. The files go into a folder beside ``folder`` that is
    renamed at the end, so ``folder`` is whole or absent. Owners, permissions and times in the archive are ignored.

    Args:
        archive: the tar.
        folder: its new home; must not exist.
        advance: told the bytes written.

    Returns:
        The files, in the archive's order.

    Raises:
        HepfmError: no readable tar, a member that is absolute, leads outside, has a name that cannot be printed, is a
            link or a device, or comes twice; the folder exists; the disk has too little room.
    """
    if folder.exists() or folder.is_symlink():
        raise HepfmError("exists already", folder, "move it away, or unpack elsewhere")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = discard_unfinished(folder)
    try:
        with tarfile.open(archive, "r:*") as tar:
            members = _checked(tar, archive)
            _check_room(sum(member.size for _, member in members), folder)
            partial.mkdir()
            for path, member in members:
                if member.isdir():
                    (partial / path).mkdir(parents=True, exist_ok=True)
                else:
                    _write(tar, member, partial / path, advance)
        for inner, _, _ in os.walk(partial):
            fsync_folder(Path(inner))
        partial.rename(folder)
        fsync_folder(folder.parent)
    except (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise HepfmError(f"is no readable tar: {error}", archive, "download it again") from error
    except OSError as error:
        where = error.filename or folder
        raise HepfmError(f"cannot be unpacked: {error.strerror}", where, "see to the disk, then run again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / path for path, member in members if not member.isdir()]


def discard_unfinished(folder: Path) -> Path:
    """Remove what a killed :func:`unpack` into ``folder`` left; gives the place where it was."""
    partial = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _checked(tar: tarfile.TarFile, archive: Path) -> list[tuple[PurePosixPath, tarfile.TarInfo]]:
    """Path below the target and member, for every member; raises for the first that must not be written."""
    members: list[tuple[PurePosixPath, tarfile.TarInfo]] = []
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = {PurePosixPath(".")}
    for member in tar:
        path = PurePosixPath(member.name)
        fault = _fault(member, path)
        if not fault and not member.isdir() and path in files:
            fault = "comes twice"
        elif not fault and (not files.isdisjoint((path, *path.parents)) or (path in folders and not member.isdir())):
            fault = "is a file and a folder at once"
        if fault:
            raise HepfmError(f"refused: its member {member.name!r} {fault}", archive, MEND)
        folders.update(path.parents)
        (folders if member.isdir() else files).add(path)
        members.append((path, member))
    _check_end(tar, archive)
    return members


def _fault(member: tarfile.TarInfo, path: PurePosixPath) -> str:
    if path.is_absolute():
        return "has an absolute path"
    if ".." in path.parts:
        return "leads out of the folder"
    if not member.name.isprintable():
        return "has a name that cannot be printed"
    if not (member.isreg() or member.isdir()):
        return f"is {_KINDS.get(member.type, 'of an unknown kind')}"
    return ""


def _check_end(tar: tarfile.TarFile, archive: Path) -> None:
    """tarfile takes a damaged header for the end of the archive; behind a real end there are only zeros.

    Reading up to the end also makes gzip, bzip2 and xz compare their checksums.
    """
    source: IO[bytes] = tar.fileobj  # type: ignore[assignment]
    source.seek(tar.offset)
    while chunk := source.read(CHUNK_BYTES):
        if any(chunk):
            raise HepfmError(f"is damaged at byte {tar.offset:,}: no member begins there", archive, "download it again")


def _check_room(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise HepfmError(
            f"needs {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free",
            folder,
            "free disk space, or take another disk",
        )


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, advance: Callable[[int], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # a plain file has content
    written = 0
    with source, path.open("xb") as target:
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)
            advance(len(chunk))
            written += len(chunk)
        target.flush()
        os.fsync(target.fileno())
    if written != member.size:
        raise tarfile.ReadError(f"{member.name!r} ends early")


def matches(archive: Path, folder: Path) -> bool:
    """Does a folder hold just the files of an archive, by name and length?"""
    with tarfile.open(archive, "r:*") as tar:
        stored = {str(path): member.size for path, member in _checked(tar, archive) if not member.isdir()}
    found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return stored == found
