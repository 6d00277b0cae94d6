"""Command: ``hepfm fetch --list`` and ``hepfm fetch NAME[/SPLIT] --dest DIR``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import tyro
from tyro.conf import Positional

from hepfm.core.archives import is_archive
from hepfm.core.errors import HepfmError
from hepfm.core.files import locked, sweep
from hepfm.core.progress import say
from hepfm.ingest.fetch.catalogue import DataSet, catalogue, find, is_glob
from hepfm.ingest.fetch.fetching import fetch_files, unpack_archives, unpacked_folder, write_source
from hepfm.ingest.fetch.ledger import LEDGER_FILE
from hepfm.ingest.fetch.records import SOURCE_FILE, Located, RemoteFile, locate

# `--list` and not `--list True`: a flag of its own among the options of hepfm.core.config.
Switch = Annotated[
    bool,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=0,
        metavar="",
        instance_from_str=lambda words: True,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["on" if value else "off"],
    ),
]
NAMED_FILES = 3


@dataclass(frozen=True)
class FetchConfig:
    """Download a public data set: parallel, resumable, every file verified before it gets its name.

    Run again, it keeps what is there and fetches what lacks. Paths of the files go to stdout.
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="[NAME[/SPLIT]]")] = ""
    """Data set, or one split of it: jetclass, jetclass/val."""
    list: Switch = False
    """Show the catalogue, or one entry of it, and fetch nothing."""
    dest: Path = Path("data")
    """Folder for data sets; the files go into DEST/NAME."""
    files: tuple[str, ...] = ()
    """Take only files whose names match one of these patterns: 'RunG_batch1*.h5'."""
    mirror: str = ""
    """Address to fetch from instead, which has the files as MIRROR/NAME/FILE: a DEST that somebody serves over http(s).
    Sizes and checksums remain those of the catalogue or the record."""
    jobs: int = 4
    """Downloads at once."""
    unpack: Switch = False
    """Unpack archives into folders of their names, beside them."""


def main(config: FetchConfig) -> None:
    """List, or fetch."""
    if config.list:
        sys.stdout.write(details(find(config.name)[0]) if config.name else table())
        return
    if not config.name:
        raise HepfmError("needs the name of a data set", "hepfm fetch", f"there is: {', '.join(catalogue())}")
    if config.jobs < 1:
        raise HepfmError("must be at least 1", "--jobs")
    if config.mirror and not _is_address(config.mirror):
        raise HepfmError("must begin with https:// or http:// and name a host", "--mirror")
    data_set, splits = find(config.name)
    located = _chosen(locate(data_set, splits, config.mirror), config.files)
    folder = config.dest / data_set.name
    with locked(folder):
        sweep(folder, (LEDGER_FILE, SOURCE_FILE))
        ledger = fetch_files(folder, located.files, config.jobs, config.unpack)
        write_source(folder, data_set, located, ledger)
        archives = [file.name for file in located.files if is_archive(file.name)]
        if config.unpack:
            unpack_archives(folder, archives, ledger)
    paths = list(_paths(folder, located.files, config.unpack))
    sys.stdout.writelines(f"{path}\n" for _, path in paths)
    say(f"licence: {data_set.licence}; cite: {_citation(data_set)}")
    if archives and not config.unpack:
        say(f"next: hepfm fetch {config.name} --dest {shlex.quote(str(config.dest))} --unpack")
        return
    readable = [path for split, path in paths if data_set.splits[split].ingested]
    if readable:
        words = [_shell(word) for word in patterns(readable)]
        say(f"next: hepfm ingest {data_set.source} {' '.join(words)} --out corpora/{data_set.name}")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _chosen(located: Located, wanted: Sequence[str]) -> Located:
    if not wanted:
        return located
    names = [PurePosixPath(file.name).name for file in located.files]
    unused = [pattern for pattern in wanted if not any(fnmatchcase(name, pattern) for name in names)]
    if unused:
        raise HepfmError(f"no file is like {unused[0]!r}", "--files", f"there is: {_some(names)}")
    files = [
        file
        for file, name in zip(located.files, names, strict=True)
        if any(fnmatchcase(name, pattern) for pattern in wanted)
    ]
    return Located(tuple(files), located.licences)


def _paths(folder: Path, files: Sequence[RemoteFile], unpacked: bool) -> Iterator[tuple[str, Path]]:
    """Split and path of every file that is there now."""
    for file in files:
        if unpacked and is_archive(file.name):
            inside = unpacked_folder(folder, file.name)
            yield from ((file.split, path) for path in sorted(inside.rglob("*")) if path.is_file())
        else:
            yield file.split, folder / file.name


def patterns(paths: Sequence[Path]) -> list[str]:
    """Shell words that mean exactly these files: a glob where one does, else every path."""
    words = []
    for folder in dict.fromkeys(path.parent for path in paths):
        inside = {path.name for path in paths if path.parent == folder}
        glob = _glob(inside, {path.name for path in folder.iterdir() if path.is_file()})
        words += [f"{folder}/{glob}"] if glob else [f"{folder}/{name}" for name in sorted(inside)]
    return words


def _glob(wanted: set[str], present: set[str]) -> str | None:
    suffixes = {PurePosixPath(name).suffix for name in wanted}
    if len(wanted) <= NAMED_FILES or len(suffixes) != 1:
        return None
    first, last = min(wanted), max(wanted)
    shared = next((at for at in range(len(first)) if first[at : at + 1] != last[at : at + 1]), len(first))
    for glob in (f"*{suffixes.pop()}", f"{first[:shared]}*"):
        if {name for name in present if fnmatchcase(name, glob) and not name.startswith(".")} == wanted:
            return glob
    return None


def _shell(word: str) -> str:
    """Quoted where the shell needs it, its globs left open."""
    return word if is_glob(word) and " " not in word else shlex.quote(word)


def table() -> str:
    """The catalogue, one row a data set."""
    rows = [("name", "splits", "files", "size", "checksums", "licence", "read by")]
    for entry in catalogue().values():
        names = [name for split in entry.splits.values() for name in split.names()]
        count = "?" if any(is_glob(name) for name in names) else f"{len(names):,}"
        licence = entry.licence if " " not in entry.licence else "see the record"
        rows.append(
            (entry.name, ", ".join(entry.splits), count, _size(entry), _checksums(entry), licence, entry.source)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "hepfm fetch NAME --list tells more of one.", ""])


def details(entry: DataSet) -> str:
    """One data set in full."""
    lines = [
        f"{entry.name}: {entry.title}",
        f"size: {_size(entry)}",
        f"licence: {entry.licence}",
        f"cite: {_citation(entry)}",
        f"read by: hepfm ingest {entry.source}",
        *([f"note: {entry.note}"] if entry.note else []),
        *([f"without a split: {', '.join(entry.default)}"] if entry.default else []),
    ]
    for name, split in entry.splits.items():
        lines.append(f"{entry.name}/{name}: {_some(split.names())}")
        lines.append(
            f"  from {split.base}, checksums here" if split.files else f"  listed with checksums by {split.record}"
        )
    return "\n".join(lines) + "\n"


def _size(entry: DataSet) -> str:
    known = entry.bytes()
    return f"{known / 1e9:,.1f} GB" if known else entry.size or "asked when fetched"


def _checksums(entry: DataSet) -> str:
    pinned = [file for split in entry.splits.values() for file in split.files]
    if len(pinned) == sum(len(split.names()) for split in entry.splits.values()):
        return "SHA-256" if all(file.sha256 for file in pinned) else "MD5"
    return "from the record"


def _citation(entry: DataSet) -> str:
    known = entry.citation
    parts = [known.text, f"doi:{known.doi}" if known.doi else "", f"arXiv:{known.arxiv}" if known.arxiv else ""]
    return ", ".join(part for part in parts if part)


def _some(names: Sequence[str]) -> str:
    names = list(names)
    more = f", ... ({len(names):,} in all)" if len(names) > 2 * NAMED_FILES else ""
    return ", ".join(names[: 2 * NAMED_FILES]) + more
