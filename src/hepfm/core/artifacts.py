"""Artifacts: a model as a folder that says everything needed to use it.

``config.json`` (kind, architecture, feature contract, provenance, SHA-256 of every other file), ``model.safetensors``,
``README.md`` (card), ``metrics.json``, ``reference.npz`` (inputs and outputs that a loader replays), and where a model
needs another one, that artifact in a folder inside (a backbone's ``tokenizer/``). Nothing in it is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, fsync_folder, read_json, sha256_file, write_json, write_text
from hepfm.core.versions import versions

FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """An artifact that was read and whose checksums agree."""

    path: Path
    kind: str
    architecture: dict[str, Any]
    contract: dict[str, Any]
    provenance: dict[str, Any]
    hash: str

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dict."""
        return load_file(self.path / "model.safetensors")

    def metrics(self) -> dict[str, Any]:
        return read_json(self.path / "metrics.json")

    def reference(self) -> dict[str, np.ndarray]:
        """Reference inputs and outputs; arrays only (``allow_pickle`` stays off)."""
        with np.load(self.path / "reference.npz", allow_pickle=False) as data:
            return dict(data)

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
            partial / "model.safetensors",
        )
        np.savez(partial / "reference.npz", **reference)  # type: ignore[arg-type]
        write_json(partial / "metrics.json", metrics)
        write_text(partial / "README.md", card)
        for name, folder in (inner or {}).items():
            shutil.copytree(folder, partial / name)
        config = {
            "format": FORMAT,
            "kind": kind,
            "architecture": architecture,
            "contract": contract,
            "provenance": {**provenance, "versions": versions()},
            "files": {str(file.relative_to(partial)): sha256_file(file) for file in _files(partial)},
        }
        write_json(partial / "config.json", {**config, "hash": digest_of(config)})
    fsync_folder(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)
    fsync_folder(path.parent)
    return read_artifact(path)


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
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / "config.json")


def read_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Read an artifact and check every byte of it.

    Raises:
        HepfmError: no artifact, of another kind, from a newer format, or with a file missing, added to or altered.
    """
    if not (path / "config.json").is_file():
        raise HepfmError("is no artifact (it has no config.json)", path)
    config = read_json(path / "config.json")
    try:
        if config["format"] > FORMAT:
            raise HepfmError(f"artifact format {config['format']} is newer than this hepfm", path, "update hepfm")
        stated = config.pop("hash")
        if digest_of(config) != stated:
            raise HepfmError("config.json was altered (its own hash disagrees)", path, "get the artifact again")
        _check_files(path, config["files"])
        artifact = Artifact(
            path=path,
            kind=config["kind"],
            architecture=config["architecture"],
            contract=config["contract"],
            provenance=config["provenance"],
            hash=stated,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise HepfmError(f"config.json is not an artifact's: {error}", path) from error
    if kind is not None and artifact.kind != kind:
        raise HepfmError(f"is a {artifact.kind}, not a {kind}", path, f"name a {kind}")
    return artifact


def _check_files(path: Path, stated: dict[str, str]) -> None:
    for name, sha256 in stated.items():
        file = path / name
        if file.is_symlink() or not file.resolve().is_relative_to(path.resolve()):
            raise HepfmError("lies outside the artifact's folder", file, "get the artifact again")
        if not file.is_file():
            raise HepfmError("missing from the artifact", file, "get the artifact again")
        found = sha256_file(file)
        if found != sha256:
            raise HepfmError(
                f"altered: sha256 {found[:12]}..., expected {sha256[:12]}...", file, "get the artifact again"
            )


def locate(name: str | Path) -> Path:
    """The artifact folder that a run or an artifact folder stands for.

    Raises:
        HepfmError: nothing there, or a run that has not finished.
    """
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    if (path / "artifact" / "config.json").is_file():
        return path / "artifact"
    if (path / "config.yaml").is_file():
        raise HepfmError("this run has not finished: it has no artifact yet", path, "run its command again")
    if path.exists():
        raise HepfmError("is neither a run nor an artifact", path)
    raise HepfmError("no such run or artifact", path)
