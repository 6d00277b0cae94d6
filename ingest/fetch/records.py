"""Where the files of a data set are and what is stated of them: from the catalogue, a record's API, or a mirror."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin

from huggingface_hub import constants

from hepfm.core.downloads import read_url
from hepfm.core.errors import HepfmError
from hepfm.core.partial import Stated
from hepfm.core.progress import say
from hepfm.ingest.fetch.catalogue import DataSet, Split, is_glob

ZENODO = "https://zenodo.org"
HUGGINGFACE = constants.ENDPOINT  # $HF_ENDPOINT, else https://huggingface.co
SOURCE_FILE = "hepfm-source.json"
LISTING_BYTES = 1 << 26
_MEND = "try again later, or tell the authors of hepfm that the record has changed"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    Attributes:
        name: its path below the data set's folder.
        split: the part of the data set that it belongs to.
        origin: its address at the publisher's.
        url: where it is fetched from: ``origin``, or a mirror.
        stated: what is known of it.
    """

    name: str
    split: str
    origin: str
    url: str
    stated: Stated


@dataclass(frozen=True)
class Listing:
    """What a record says: its files (without a split) by name, and the licence it states, if any."""

    files: dict[str, RemoteFile]
    licence: str = ""


@dataclass(frozen=True)
class Located:
    """The files of a data set that were asked for, and the licences that their records state."""

    files: tuple[RemoteFile, ...]
    licences: dict[str, str]


def locate(data_set: DataSet, splits: Sequence[str], mirror: str = "") -> Located:
    """Find the files of some splits.

    Args:
        data_set: from the catalogue.
        splits: names of its splits.
        mirror: address that holds the files as ``MIRROR/NAME/FILE``, a folder that was fetched before. If a record
            cannot be asked, its list is read from ``MIRROR/NAME/hepfm-source.json`` there.

    Raises:
        HepfmError: a record cannot be asked, or lacks files that it should have.
    """
    listings: dict[str, Listing] = {}
    files: list[RemoteFile] = []
    for name in splits:
        split = data_set.splits[name]
        if split.files:
            listed = {file.name: _pinned(split, file.name, file.stated) for file in split.files}
        else:
            if split.record not in listings:
                listings[split.record] = _ask(data_set, split, mirror)
            listed = listings[split.record].files
        for file in _matching(split, listed, f"{data_set.name}/{name}"):
            url = f"{mirror.rstrip('/')}/{data_set.name}/{quote(file.name)}" if mirror else file.origin
            files.append(RemoteFile(file.name, name, file.origin, url, file.stated))
    licences = {record: listing.licence for record, listing in listings.items() if listing.licence}
    return Located(tuple(files), licences)


def _pinned(split: Split, name: str, stated: Stated) -> RemoteFile:
    url = f"{split.base}/{quote(name)}"
    return RemoteFile(name, "", url, url, stated)


def _ask(data_set: DataSet, split: Split, mirror: str) -> Listing:
    ask: Callable[[], Listing] = (
        partial(zenodo_listing, split.zenodo) if split.zenodo else partial(huggingface_listing, split.huggingface)
    )
    try:
        return ask()
    except HepfmError as error:
        if not mirror:
            raise
        say(f"note: {error}")
        say(f"note: {split.record} cannot be asked, so sizes and checksums are those that the mirror states")
        return mirror_listing(f"{mirror.rstrip('/')}/{data_set.name}/{SOURCE_FILE}")


def _matching(split: Split, listed: dict[str, RemoteFile], where: str) -> list[RemoteFile]:
    """The files that a split names, in its order; the record may keep them in folders."""
    by_name = {PurePosixPath(name).name: file for name, file in listed.items()}
    found: dict[str, RemoteFile] = {}
    names = split.names()
    missing = [name for name in names if not is_glob(name) and name not in by_name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise HepfmError(f"{split.record} does not list {missing[0]}{more}", where, _MEND)
    for name in names:
        hits = [known for known in by_name if fnmatchcase(known, name)] if is_glob(name) else [name]
        found.update({hit: by_name[hit] for hit in sorted(hits)})
    if not found:
        raise HepfmError(f"{split.record} lists no file like {', '.join(names)}", where, _MEND)
    return list(found.values())


def zenodo_listing(record: int) -> Listing:
    """The files of a Zenodo record, from its API.

    Raises:
        HepfmError: it cannot be asked, or answers something else.
    """
    url = f"{ZENODO}/api/records/{record}"
    data = _json(url)
    try:
        files = {}
        for file in data["files"]:
            algorithm, _, value = file["checksum"].partition(":")
            name, origin = _safe(file["key"], url), urljoin(url, file["links"]["self"])
            stated = _stated(url, file["size"], **{algorithm: value})
            files[name] = RemoteFile(name, "", origin, origin, stated)
        licence = data.get("metadata", {}).get("license", {}).get("id", "")
    except (KeyError, TypeError, AttributeError) as error:
        raise HepfmError("answers something else than a record", url, _MEND) from error
    return Listing(files, str(licence))


def huggingface_listing(repository: str) -> Listing:
    """The files of a data set on the Hugging Face hub; those kept as large files have a SHA-256.

    Raises:
        HepfmError: it cannot be asked.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    url = f"{HUGGINGFACE}/datasets/{repository}"
    try:
        tree = list(HfApi(endpoint=HUGGINGFACE).list_repo_tree(repository, repo_type="dataset", recursive=True))
    except Exception as error:  # of the hub's client and of the HTTP library below it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HepfmError(
            f"cannot be asked for its files: {reason}", url, "check the network, or take --mirror"
        ) from error
    files = {}
    for entry in tree:
        if isinstance(entry, RepoFile):
            origin = hf_hub_url(repository, entry.path, repo_type="dataset", endpoint=HUGGINGFACE)
            checksum = {"sha256": entry.lfs.sha256} if entry.lfs else {}
            name = _safe(entry.path, url)
            files[name] = RemoteFile(name, "", origin, origin, _stated(url, entry.size, **checksum))
    return Listing(files)


def mirror_listing(url: str) -> Listing:
    """The files that a folder of ``hepfm fetch`` says it holds.

    Raises:
        HepfmError: there is no such file, or it is something else.
    """
    data = _json(url)
    try:
        files = {
            _safe(name, url): RemoteFile(
                name, "", str(file["url"]), url, _stated(url, file["bytes"], file.get("md5"), file.get("sha256"))
            )
            for name, file in data["files"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise HepfmError(f"is no {SOURCE_FILE}", url, "name a folder that hepfm fetch made") from error
    return Listing(files)


def _json(url: str) -> Any:
    try:
        return json.loads(read_url(url, limit=LISTING_BYTES))
    except ValueError as error:
        raise HepfmError("answers something else than JSON", url, _MEND) from error


def _stated(url: str, size: int, md5: str | None = None, sha256: str | None = None) -> Stated:
    for value, digits in ((md5, 32), (sha256, 64)):
        if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise HepfmError(f"states a checksum that is none: {value!r}", url, _MEND)
    if not isinstance(size, int) or size < 0:
        raise HepfmError(f"states a size that is none: {size!r}", url, _MEND)
    return Stated(size, md5, sha256)


def _safe(name: str, url: str) -> str:
    """A name from the network as a path below a folder."""
    path = PurePosixPath(name)
    outside = not path.name or path.is_absolute() or ".." in path.parts
    if outside or not name.isprintable() or path.name.startswith(".hepfm"):
        raise HepfmError(f"lists a file outside its folder: {name!r}", url, "do not use this record")
    return str(path)
