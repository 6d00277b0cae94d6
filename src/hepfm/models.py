"""One resolver: a run, an artifact folder, a hub id or a URL becomes a model, everywhere.

Whatever the name, the answer is a folder whose every byte was checked against its ``config.json`` before a tensor is
read; downloads are kept in a cache by content hash and nothing in them is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from hepfm.core.artifacts import locate, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file, write_bytes
from hepfm.core.progress import progress

# kind of artifact -> the function (path) -> model that loads it
LOADERS = {
    "tokenizer": "hepfm.tokenize.registry:load_tokenizer",
    "backbone": "hepfm.pretrain.backbone:load_backbone",
}
HUB_ID = re.compile(r"^(?:hub:)?([\w.-]+/[\w.-]+)$")
TIMEOUT_S = 30


def cache_folder() -> Path:
    """Where downloaded artifacts are kept: ``$HEPFM_CACHE``, else ``~/.cache/hepfm``."""
    return Path(os.environ.get("HEPFM_CACHE", Path.home() / ".cache" / "hepfm")) / "models"


def resolve(name: str | Path) -> Path:
    """The checked artifact folder that ``name`` stands for.

    Args:
        name: a run or artifact folder, ``ORG/NAME`` on the Hugging Face hub (``hub:ORG/NAME`` where a folder of that
            name exists too), or the https URL of an artifact folder.

    Raises:
        HepfmError: nothing there, or what is there is not whole.
    """
    text = str(name)
    if text.startswith(("https://", "http://")):
        path = fetch(text.rstrip("/"))
    elif Path(name).exists() or not HUB_ID.match(text):
        path = locate(name)
    else:
        path = pull(HUB_ID.match(text).group(1))  # type: ignore[union-attr]
    read_artifact(path)
    return path


def load(name: str | Path) -> Any:
    """The model that ``name`` stands for, whatever its kind; see :func:`resolve`."""
    path = resolve(name)
    artifact = read_artifact(path)
    if artifact.kind not in LOADERS:
        raise HepfmError(f"no loader for an artifact of kind '{artifact.kind}'", path, "update hepfm")
    module, function = LOADERS[artifact.kind].split(":")
    return getattr(importlib.import_module(module), function)(path)


def pull(hub_id: str) -> Path:
    """Download an artifact from the Hugging Face hub (or find it in its cache)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(hub_id))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise HepfmError(
            f"no such folder, and not to be had from the hub: {reason}", hub_id, "check the name and the network"
        ) from error
    # The hub's cache is made of links; an artifact must not lead out of its folder, so its files are copied by content.
    return collect(lambda file: (snapshot / file).read_bytes(), hub_id)


def fetch(url: str) -> Path:
    """Download an artifact folder over http(s): ``config.json`` first, then the files it names."""
    return collect(lambda file: _get(f"{url}/{file}"), url)


def collect(read: Callable[[str], bytes], name: str) -> Path:
    """Bring an artifact into the cache, file by file, each checked; a whole file that is there is not read again.

    Args:
        read: content of a file of the artifact.
        name: what the user called it, for messages.
    """
    config = read("config.json")
    try:
        stated = json.loads(config)
        files, content_hash = dict(stated["files"]), str(stated["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise HepfmError("its config.json is not an artifact's", name, "check the name") from error
    if not re.fullmatch(r"[0-9a-f]{64}", content_hash):
        raise HepfmError("its config.json states no valid hash", name, "check the name")
    folder = cache_folder() / content_hash
    with progress(f"download {name}", len(files), "files") as task:
        for file, sha256 in files.items():
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise HepfmError(f"names a file outside its folder: {file}", name, "do not use this artifact")
            _collect_file(folder / file, sha256, read, file, name)
            task.advance()
    write_bytes(folder / "config.json", config)
    return folder


def _collect_file(target: Path, sha256: str, read: Callable[[str], bytes], file: str, name: str) -> None:
    if target.is_file() and sha256_file(target) == sha256:
        return
    data = read(file)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise HepfmError(
            f"{file} has sha256 {found[:12]}..., expected {sha256[:12]}...", name, "try again, or tell its owner"
        )
    write_bytes(target, data)


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            data: bytes = response.read()
            return data
    except (urllib.error.URLError, OSError) as error:
        raise HepfmError(f"cannot be downloaded: {error}", url, "check the address and the network") from error


@dataclass(frozen=True)
class ListConfig:
    """List the runs and artifacts below a folder."""

    folder: tyro.conf.Positional[Path] = Path()
    """Where to look."""


def list_models(config: ListConfig) -> None:
    """Print a table of every whole artifact below the folder; a broken one is told, not hidden."""
    if not config.folder.is_dir():
        raise HepfmError("no such folder", config.folder)
    table = Table("path", "kind", "parameters", "metrics", "hash")
    for path in sorted(config.folder.rglob("config.json")):
        if not (path.parent / "model.safetensors").exists():
            continue
        try:
            artifact = read_artifact(path.parent)
        except HepfmError as error:
            table.add_row(str(path.parent), "broken", "", error.what, "")
            continue
        parameters = sum(tensor.numel() for tensor in artifact.weights().values())
        figures = ", ".join(f"{k}={v:.4g}" for k, v in artifact.metrics().items() if isinstance(v, float))
        table.add_row(str(path.parent), artifact.kind, f"{parameters:,}", figures, artifact.hash[:12])
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160).print(table)
