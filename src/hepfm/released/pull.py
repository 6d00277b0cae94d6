"""``hepfm models pull``: a model from the hub, a web server, the catalogue or a folder, verified, into the cache."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import tyro
from tyro.conf import Positional

from hepfm import models
from hepfm.core.artifacts import Artifact, copy_artifact, locate, read_artifact
from hepfm.core.downloads import Remote, cache_root, download
from hepfm.core.downloads import size_of as size_of_url
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path, digest_of, fsync_folder, sha256_file
from hepfm.core.model_cache import Origin, cache_folder, collect, remember, remembered
from hepfm.core.origins import FolderOrigin, HubOrigin
from hepfm.core.progress import progress, say
from hepfm.core.resolve import CATALOGUE_KEY, origin_of, shipped
from hepfm.released.catalogue import Released, catalogue
from hepfm.released.summary import parameters_of, size_of, task_of

LARGEST_MEMBER = 8 << 30  # bytes


@dataclass(frozen=True)
class PullConfig:
    """Download a model, check every byte and replay its reference. Interrupted, the same command continues.

    It appears in the cache ($HEPFM_CACHE/models, by default ~/.cache/hepfm/models) when all of it is verified; from
    then on its name means it in every command and in hepfm.load, without network, until it is pulled again. Nothing
    that was downloaded is unpickled or run. For a private or gated repository: hf auth login, or HF_TOKEN; HF_ENDPOINT
    names another hub.
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub, https address of an artifact folder, run or artifact
    folder, or a name from the catalogue (hepfm models list)."""
    dest: Path | None = None
    """Folder to put a copy into: new."""
    self_test: bool = True
    """Whether the reference inputs are run through the model and compared with the reference outputs."""


def main(config: PullConfig) -> None:
    """Bring it, test it, tell what it is; print where it lies."""
    if config.dest is not None and config.dest.exists():
        raise HepfmError("exists already", config.dest, "name another --dest, or remove it")
    path = pull(config.name, config.self_test)
    artifact = read_artifact(path)
    say(f"{task_of(artifact)}; {parameters_of(artifact):,} parameters, {size_of(path) / 1e6:,.1f} MB")
    tested = "reference outputs replayed" if config.self_test else "not run"
    say(f"hash {artifact.hash[:12]}: every file checked, {tested}")
    if config.dest is not None:
        path = _copy(path, config.dest)
    sys.stdout.write(f"{path}\n")


def pull(name: str, self_test: bool = True) -> Path:
    """Bring a model into the cache, whatever is there already.

    Args:
        name: see :class:`PullConfig`.
        self_test: whether it has to give its reference outputs before it may appear.

    Raises:
        HepfmError: it cannot be had, is no artifact, or is not what it should be.
    """
    test = replay if self_test else read_artifact
    if Path(name).exists():
        return _bring(FolderOrigin(locate(name)), test)
    if name in shipped():
        test(shipped()[name])
        return shipped()[name]
    if name in catalogue():
        return _import(catalogue()[name], test)
    origin = origin_of(name)
    if origin is None:
        known = ", ".join([*shipped(), *catalogue()])
        raise HepfmError("no such model", name, f"name a hub id, an address, a folder, or one of {known}")
    if isinstance(origin, HubOrigin):
        say(f"{origin.name} on {origin.endpoint}: commit {origin.commit[:12]}")
    return _bring(origin, test)


def replay(path: Path) -> None:
    """Load an artifact and those that it carries; each replays its reference.

    Raises:
        HepfmError: it does not give its reference outputs here, or does not fit together.
    """
    models.load(path)
    artifact = read_artifact(path)
    for inner in _inner(artifact):
        models.load(inner)


def _inner(artifact: Artifact) -> list[Path]:
    return sorted(path.parent for path in artifact.path.glob("*/config.json"))


def _bring(origin: Origin, test: object) -> Path:
    path = collect(origin, test)  # type: ignore[arg-type]
    remember(origin.name, origin.key, path)
    return path


def _import(entry: Released, test: object) -> Path:
    """Download what others released, convert it once, and keep the artifact under the catalogue's name."""
    tokenizer = ""
    if entry.tokenizer:
        found = remembered(CATALOGUE_KEY.format(entry.tokenizer))
        tokenizer = str(found or _import(catalogue()[entry.tokenizer], test))
    say(f"{entry.title}; licence: {entry.licence}; {entry.citation.text}, arXiv:{entry.citation.arxiv}")
    file = _source(entry)
    found_sha256 = sha256_file(file)
    verified = "as the catalogue states" if entry.sha256 else "which the catalogue does not know: compare it yourself"
    say(f"{file.name}: {file.stat().st_size:,} bytes, sha256 {found_sha256}, {verified}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".import-") as work:
        checkpoint = _extract(file, entry, Path(work)) if entry.members else file
        out = Path(work) / "artifact"
        models.import_model(
            models.ImportConfig(checkpoint, out, tokenizer, features=entry.features, licence=entry.licence), quiet=True
        )
        path = collect(FolderOrigin(out), test)  # type: ignore[arg-type]
    source = {"url": entry.url, "sha256": found_sha256, "licence": entry.licence}
    remember(entry.name, CATALOGUE_KEY.format(entry.name), path, source)
    return path


def _source(entry: Released) -> Path:
    """The released file; kept, so that what several models are in is downloaded once."""
    name = PurePosixPath(urlsplit(entry.url).path).name or "archive.zip"
    file = cache_root() / "released" / digest_of(entry.url)[:16] / name
    if file.is_file() and (entry.sha256 is None or sha256_file(file) == entry.sha256):
        return file
    with progress(f"download {entry.name}", entry.bytes or size_of_url(entry.url) or 0, "bytes") as task:
        download(Remote(entry.url, entry.stated), file, task.advance)
    return file


def _extract(archive: Path, entry: Released, folder: Path) -> Path:
    """Take the members that belong to the model out of a zip, alone into a folder; gives the first of them.

    Raises:
        HepfmError: it is no zip, lacks one of them, or one is larger than any checkpoint.
    """
    try:
        with zipfile.ZipFile(archive) as found:
            for wanted in entry.members:
                fitting = [m for m in found.infolist() if f"/{m.filename}".endswith(f"/{wanted}") and not m.is_dir()]
                if len(fitting) != 1:
                    raise HepfmError(f"holds {len(fitting)} members '{wanted}'", archive, "its makers changed it")
                size = fitting[0].file_size
                if size > LARGEST_MEMBER:
                    raise HepfmError(f"'{wanted}' would have {size:,} bytes", archive, "do not use it")
                with (
                    atomic_path(folder / PurePosixPath(wanted).name) as partial,
                    found.open(fitting[0]) as source,
                    partial.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise HepfmError(f"is no readable zip: {error}", archive, "remove it and pull again") from error
    return folder / PurePosixPath(entry.members[0]).name


def _copy(path: Path, dest: Path) -> Path:
    """A copy of an artifact that appears when it is whole."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.partial-") as work:
        copy_artifact(path, Path(work) / "copy")
        read_artifact(Path(work) / "copy")
        (Path(work) / "copy").rename(dest)
    fsync_folder(dest.parent)
    return dest
