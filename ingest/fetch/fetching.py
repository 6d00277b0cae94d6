"""Bringing the files of a data set into a folder: what is there is kept, what lacks is fetched, all of it verified."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hepfm.core.archives import discard_unfinished, folder_name, is_archive, matches, unpack
from hepfm.core.downloads import Remote, download, size_of
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, write_json
from hepfm.core.partial import Wrong, check, checksums_of
from hepfm.core.progress import progress, say
from hepfm.core.transfers import begin_all, transfer_all
from hepfm.ingest.fetch.catalogue import DataSet
from hepfm.ingest.fetch.ledger import Ledger
from hepfm.ingest.fetch.records import SOURCE_FILE, Located, RemoteFile


def fetch_files(folder: Path, files: Sequence[RemoteFile], jobs: int, room_to_unpack: bool = False) -> Ledger:
    """Make sure that ``folder`` holds these files, whole and verified.

    Args:
        folder: of the data set; this process has it locked.
        files: what should be there.
        jobs: downloads at once.
        room_to_unpack: whether the disk must hold the content of archives too.

    Raises:
        HepfmError: too little disk, or a file that cannot be had or is wrong.
    """
    for file in files:
        if is_archive(file.name):  # before the disk is checked
            discard_unfinished(unpacked_folder(folder, file.name))
    ledger = Ledger(folder)
    missing = [file for file in files if not _is_there(folder, file, ledger)]
    sizes = _sizes(missing, jobs)
    needed = sum(max(0, sizes[file.name] - _arrived(folder, file.name)) for file in missing)
    if room_to_unpack:
        needed += _room_to_unpack(folder, files, sizes)
    _check_room(folder, needed)
    if missing:
        with progress(f"fetch {folder.name}", sum(sizes.values()), "bytes") as bar:
            transfer_all([partial(_fetch_one, folder, file, ledger) for file in missing], jobs, bar)
    return ledger


def _is_there(folder: Path, file: RemoteFile, ledger: Ledger) -> bool:
    """Is the file there, whole? One that the ledger does not know is hashed."""
    if ledger.holds(file.name, file.stated):
        return True
    path = folder / file.name
    if not path.is_file() or file.stated.bytes not in (None, path.stat().st_size) or not file.stated.checksums:
        return False
    with progress(f"check {file.name}", 1, "file"):
        checksums = checksums_of(path, file.stated)
    try:
        check(file.stated, path.stat().st_size, checksums, path, "")
    except Wrong as error:
        say(f"note: {error}; it is fetched again")
        return False
    ledger.add(file.name, checksums)
    return True


def _fetch_one(
    folder: Path,
    file: RemoteFile,
    ledger: Ledger,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> None:
    checksums = download(Remote(file.url, file.stated), folder / file.name, advance, stop)
    ledger.add(file.name, checksums)


def _sizes(files: Sequence[RemoteFile], jobs: int) -> dict[str, int]:
    """Bytes of each file: as stated, else asked of the server (0 where it does not say).

    Raises:
        HepfmError: no server can be asked.
    """
    unknown = [file for file in files if file.stated.bytes is None]
    asking = begin_all([partial(_ask_size, file) for file in unknown], jobs)
    answers = {file.name: future.result() for file, future in zip(unknown, asking, strict=True)}
    errors = [answer for answer in answers.values() if isinstance(answer, HepfmError)]
    if errors and len(errors) == len(files):
        raise errors[0]
    silent = [name for name, answer in answers.items() if answer is None]
    if silent:
        say(f"note: the server does not state the size of {len(silent)} files, first: {silent[0]}")
    asked = {name: answer if isinstance(answer, int) else 0 for name, answer in answers.items()}
    return {file.name: asked[file.name] if file.stated.bytes is None else file.stated.bytes for file in files}


def _ask_size(file: RemoteFile) -> int | HepfmError | None:
    """Its size, None where the server does not say, or why it cannot be asked: that holds up no other file."""
    try:
        return size_of(file.url)
    except HepfmError as error:
        return error


def _arrived(folder: Path, name: str) -> int:
    path = folder / name
    part = path.with_name(f".{path.name}.part")
    return part.stat().st_size if part.is_file() else 0


def _room_to_unpack(folder: Path, files: Sequence[RemoteFile], sizes: dict[str, int]) -> int:
    """Bytes that unpacking takes at least: a plain tar is as long as its files, a compressed one shorter."""
    archives = [file.name for file in files if is_archive(file.name)]
    waiting = [name for name in archives if not unpacked_folder(folder, name).exists()]
    return sum(sizes[name] if name in sizes else (folder / name).stat().st_size for name in waiting)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HepfmError(
            f"needs {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free on this disk",
            folder,
            "free space, name another --dest, or take some of the files with --files",
        )


def unpacked_folder(folder: Path, archive: str) -> Path:
    """Where the content of an archive goes."""
    path = folder / archive
    return path.with_name(folder_name(path.name))


def unpack_archives(folder: Path, names: Sequence[str], ledger: Ledger) -> None:
    """Unpack those archives that are not unpacked yet.

    Raises:
        HepfmError: an archive holds something that must not be written, or its folder holds something else.
    """
    waiting = [name for name in names if not (ledger.is_unpacked(name) and unpacked_folder(folder, name).is_dir())]
    total = sum((folder / name).stat().st_size for name in waiting)
    with progress(f"unpack {folder.name}", total, "bytes", visible=bool(waiting)) as bar:
        for name in waiting:
            target = unpacked_folder(folder, name)
            if not (target.is_dir() and matches(folder / name, target)):  # it was killed before it could note it
                unpack(folder / name, target, bar.advance)
            ledger.unpacked(name)


def write_source(folder: Path, data_set: DataSet, located: Located, ledger: Ledger) -> None:
    """Write ``hepfm-source.json``: what lies here, where it is from, its checksums, its licence, what to cite.

    It tells of every verified file that this folder got over time, and names no date and no mirror, so equal content
    gives equal bytes. A folder that has it can serve as a mirror.
    """
    path = folder / SOURCE_FILE
    files: dict[str, Any] = {}
    with suppress(HepfmError, KeyError, TypeError, AttributeError):  # the first time, or not ours
        files = {name: entry for name, entry in read_json(path)["files"].items() if (folder / name).is_file()}
    for file in located.files:
        size = (folder / file.name).stat().st_size
        files[file.name] = {"url": file.origin, "split": file.split, "bytes": size, **ledger.checksums(file.name)}
    entry = {
        "name": data_set.name,
        "title": data_set.title,
        "source": data_set.source,
        "licence": data_set.licence,
        "licences_of_records": located.licences,
        "citation": asdict(data_set.citation),
        "note": data_set.note,
        "files": files,
    }
    write_json(path, entry)
