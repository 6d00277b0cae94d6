"""Artifacts: a model as a folder that says everything needed to use it.

``config.json`` (kind, architecture, feature contract, provenance, SHA-256 of every other file), ``model.safetensors``,
``README.md`` (card), ``metrics.json``, ``reference.npz`` (inputs and outputs that a loader replays), and where a model
needs another one, that artifact in a folder inside (a backbone's ``tokenizer/``). Nothing in it is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, fsync_folder, read_json, sha256_file, write_json, write_text
from hepfm.core.versions import versions

FORMAT = 1
MEND = "get the artifact again"
CONFIG = "config.json"
WEIGHTS, METRICS, REFERENCE, CARD = "model.safetensors", "metrics.json", "reference.npz", "README.md"
FIELDS = {"format", "kind", "architecture", "contract", "provenance", "files", "hash"}
SUFFIXES = {".safetensors", ".json", ".npz", ".md"}  # none of them can hold a pickle that would be read

_replays: ContextVar[bool] = ContextVar("replays", default=True)


@dataclass(frozen=True)
class Artifact:
    """An artifact that was read and whose checksums agree."""

    path: Path
    kind: str
    architecture: dict[str, Any]
    contract: dict[str, Any]
    provenance: dict[str, Any]
    hash: str
    replayed: bool = True
    """Whether its loader is to replay the reference: see :func:`without_replay`."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dict.

        Raises:
            HepfmError: the file is no whole safetensors file.
        """
        try:
            return load_file(self.path / WEIGHTS)
        except (SafetensorError, ValueError, MemoryError) as error:
            raise HepfmError(f"is no safetensors file: {error}", self.path / WEIGHTS, MEND) from error

    def metrics(self) -> dict[str, Any]:
        """Measured results by name.

        Raises:
            HepfmError: the file holds something else.
        """
        metrics = read_json(self.path / METRICS)
        if not isinstance(metrics, dict):
            raise HepfmError("holds no results by name", self.path / METRICS, MEND)
        return metrics

    def reference(self) -> dict[str, np.ndarray]:
        """Reference inputs and outputs; arrays only (``allow_pickle`` stays off).

        Raises:
            HepfmError: the file is no whole archive of plain arrays.
        """
        path = self.path / REFERENCE
        try:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its arrays are compressed, which hepfm never does")
            with np.load(path, allow_pickle=False) as data:
                return dict(data)
        except (ValueError, EOFError, OSError, KeyError, MemoryError, zipfile.BadZipFile) as error:
            raise HepfmError(f"is no archive of plain arrays: {error}", path, MEND) from error

    def inner(self, name: str) -> Path:
        """Folder of an artifact that this one carries."""
        return self.path / name


def write_artifact(
    path: Path,
    *,
    kind: str,
    architecture: dict[str, Any],
    contract: dict[str, Any],
    provenance: dict[str, Any],
    weights: dict[str, torch.Tensor],
    metrics: dict[str, Any],
    reference: dict[str, np.ndarray],
    card: str,
    inner: dict[str, Path] | None = None,
) -> Artifact:
    """Write an artifact whole: into a folder beside ``path``, synced, then renamed over it.

    Raises:
        HepfmError: it cannot be written (a full disk); nothing of it is left.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with _told_when_full(path, partial):
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
            partial / WEIGHTS,
        )
        np.savez(partial / REFERENCE, **reference)  # type: ignore[arg-type]
        write_json(partial / METRICS, metrics)
        write_text(partial / CARD, card)
        (partial / WEIGHTS).chmod((partial / CARD).stat().st_mode)  # safetensors lets nobody else read its file
        for name, folder in (inner or {}).items():
            copy_artifact(folder, partial / name)
        config = {
            "format": FORMAT,
            "kind": kind,
            "architecture": architecture,
            "contract": contract,
            "provenance": {**provenance, "versions": versions()},
            "files": {str(file.relative_to(partial)): sha256_file(file) for file in _files(partial)},
        }
        write_json(partial / CONFIG, {**config, "hash": digest_of(config)})
    fsync_folder(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)
    fsync_folder(path.parent)
    return read_artifact(path)


def copy_artifact(source: Path, target: Path) -> None:
    """Copy what an artifact consists of into a new folder; whatever else lies beside it stays behind."""
    for name in (CONFIG, *check_config(read_json(source / CONFIG), source)["files"]):
        _check_inside(source, name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


@contextmanager
def _told_when_full(path: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise HepfmError(
            f"cannot be written: {error}", path, "make room and give the same command again: it continues"
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / CONFIG)


@contextmanager
def without_replay() -> Iterator[None]:
    """Models loaded inside skip the replay of their reference; checksums and contracts are checked all the same."""
    token = _replays.set(False)
    try:
        yield
    finally:
        _replays.reset(token)


def glance(path: Path) -> Artifact:
    """What ``config.json`` says of an artifact; the other files are there, but their bytes are not compared.

    Raises:
        HepfmError: as :func:`read_artifact`, but for altered files.
    """
    if not (path / CONFIG).is_file():
        raise HepfmError("is no artifact (it has no config.json)", path)
    _check_inside(path, CONFIG)
    config = check_config(read_json(path / CONFIG), path)
    for name in config["files"]:
        _check_there(path, name)
    return Artifact(
        path=path,
        kind=config["kind"],
        architecture=config["architecture"],
        contract=config["contract"],
        provenance=config["provenance"],
        hash=config["hash"],
        replayed=_replays.get(),
    )


def read_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Read an artifact and check every byte of it.

    Files that ``config.json`` does not list are never read.

    Raises:
        HepfmError: no artifact, of another kind, from a newer format, with a field this version does not know, or with
            a file missing, altered, or leading out of the folder.
    """
    artifact = glance(path)
    _check_bytes(path, read_json(path / CONFIG)["files"])
    if kind is not None and artifact.kind != kind:
        raise HepfmError(f"is a {artifact.kind}, not a {kind}", path, f"name a {kind}")
    return artifact


def check_config(config: Any, where: object) -> dict[str, Any]:
    """The content of a ``config.json`` once it is an artifact's and its own hash agrees; no file is looked at.

    Raises:
        HepfmError: it is something else, of a newer format, altered, has a field that this version does not know, or
            lists a file outside the folder or of a type that no artifact holds.
    """
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise HepfmError("config.json is not an artifact's", where, "check the name")
    if config["format"] > FORMAT:
        raise HepfmError(f"artifact format {config['format']} is newer than this hepfm", where, "update hepfm")
    if missing := sorted(FIELDS - config.keys()):
        raise HepfmError(f"config.json is not an artifact's: it lacks '{missing[0]}'", where, "check the name")
    if digest_of({name: value for name, value in config.items() if name != "hash"}) != config["hash"]:
        raise HepfmError("config.json was altered (its own hash disagrees)", where, MEND)
    if unknown := sorted(config.keys() - FIELDS):
        raise HepfmError(f"config.json has a field '{unknown[0]}' that this hepfm does not know", where, "update hepfm")
    types = {"kind": str, "architecture": dict, "contract": dict, "provenance": dict, "files": dict}
    for name, expected in types.items():
        if not isinstance(config[name], expected):
            raise HepfmError(f"config.json is not an artifact's: '{name}' is no {expected.__name__}", where, MEND)
    for name in (WEIGHTS, METRICS, REFERENCE, CARD):
        if name not in config["files"]:
            raise HepfmError(f"config.json lists no {name}", where, MEND)
    for name, sha256 in config["files"].items():
        _check_listed(name, sha256, where)
    return config


def _check_listed(name: str, sha256: Any, where: object) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name:
        raise HepfmError(f"names a file outside its folder: {name!r}", where, "do not use this artifact")
    if path.suffix not in SUFFIXES:
        raise HepfmError(f"lists '{name}', a file of a type that no artifact holds", where, "do not use this artifact")
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise HepfmError(f"states no SHA-256 of '{name}'", where, MEND)


def _check_inside(path: Path, name: str) -> None:
    file = path / name
    if file.is_symlink() or not file.resolve().is_relative_to(path.resolve()):
        raise HepfmError("lies outside the artifact's folder", file, MEND)


def _check_there(path: Path, name: str) -> None:
    _check_inside(path, name)
    if not (path / name).is_file():
        raise HepfmError("missing from the artifact", path / name, MEND)


def _check_bytes(path: Path, stated: dict[str, str]) -> None:
    for name, sha256 in stated.items():
        file = path / name
        found = sha256_file(file)
        if found != sha256:
            raise HepfmError(f"altered: sha256 {found[:12]}..., expected {sha256[:12]}...", file, MEND)


def locate(name: str | Path) -> Path:
    """The artifact folder that a run or an artifact folder stands for.

    Raises:
        HepfmError: nothing there, or a run that has not finished.
    """
    path = Path(name)
    if (path / CONFIG).is_file():
        return path
    if (path / "artifact" / CONFIG).is_file():
        return path / "artifact"
    if (path / "config.yaml").is_file():
        raise HepfmError("this run has not finished: it has no artifact yet", path, "run its command again")
    if (path / "corpus.json").is_file():
        raise HepfmError(
            "is a corpus, not a model", path, "name a run or an artifact; hepfm pretrain makes one of tokens"
        )
    if path.exists():
        raise HepfmError("is neither a run nor an artifact", path)
    raise HepfmError("no such run or artifact", path)
