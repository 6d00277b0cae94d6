"""Models by name: whatever :func:`hepfm.core.resolve.resolve` finds, loaded by its kind; and a list of them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.resolve import resolve

# kind of artifact -> the function (path) -> model that loads it
LOADERS = {
    "tokenizer": "hepfm.tokenize.registry:load_tokenizer",
    "backbone": "hepfm.pretrain.backbone:load_backbone",
}
# Figures that say most about a model of either kind.
HEADLINES = ("validation_loss", "codebook_use", "jet_mass_w1_gev")


def load(name: str | Path) -> Any:
    """The model that ``name`` stands for, whatever its kind; see :func:`resolve`."""
    path = resolve(name)
    artifact = read_artifact(path)
    if artifact.kind not in LOADERS:
        raise HepfmError(f"no loader for an artifact of kind '{artifact.kind}'", path, "update hepfm")
    module, function = LOADERS[artifact.kind].split(":")
    return getattr(importlib.import_module(module), function)(path)


@dataclass(frozen=True)
class ListConfig:
    """List the runs and artifacts below a folder."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")] = Path()
    """Where to look."""


def list_models(config: ListConfig) -> None:
    """Print a table of every whole artifact below the folder; a broken one is told, not hidden."""
    if not config.folder.is_dir():
        raise HepfmError("is not a folder" if config.folder.exists() else "no such folder", config.folder)
    table = Table("path", "kind", "parameters", "metrics", "hash")
    for path in sorted(config.folder.rglob("config.json")):
        inside_another = (path.parents[1] / "model.safetensors").exists()
        if inside_another or not (path.parent / "model.safetensors").exists():
            continue
        try:
            artifact = read_artifact(path.parent)
        except HepfmError as error:
            table.add_row(str(path.parent), "broken", "", error.what, "")
            continue
        parameters = sum(tensor.numel() for tensor in artifact.weights().values())
        metrics = artifact.metrics()
        figures = ", ".join(f"{name} {metrics[name]:.4g}" for name in HEADLINES if name in metrics)
        table.add_row(str(path.parent), artifact.kind, f"{parameters:,}", figures, artifact.hash[:12])
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160).print(table)
