"""``hepfm models list``: what there is, with task, data, size, licence and headline numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.model_cache import all_remembered, cache_folder, read_once
from hepfm.core.resolve import shipped
from hepfm.released.catalogue import Released, catalogue
from hepfm.released.summary import citation_of, data_of, figures_of, licence_of, parameters_of, size_of, task_of

COLUMNS = ("name", "task", "parameters", "size", "data", "licence", "numbers", "hash or citation")
Row = tuple[str, ...]


@dataclass(frozen=True)
class ListConfig:
    """List models: those that ship with hepfm, those that were pulled, what others released, and those below a folder.

    Numbers of models here are their own measurements; those of the catalogue are published ones.
    """

    folder: Annotated[Positional[Path | None], tyro.conf.arg(metavar="FOLDER")] = None
    """List the runs and artifacts below this folder alone."""


def main(config: ListConfig) -> None:
    """Print the tables; a broken artifact is told, not hidden."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 220)
    if config.folder is not None:
        if not config.folder.is_dir():
            raise HepfmError("is not a folder" if config.folder.exists() else "no such folder", config.folder)
        console.print(_table(f"below {config.folder}", (_row(str(path), path) for path in _below(config.folder))))
        return
    pulled = all_remembered()
    console.print(_table("shipped with hepfm", (_row(name, path) for name, path in shipped().items())))
    console.print(_table(f"pulled into {cache_folder()}", (_row(each.name, each.path) for each in pulled)))
    console.print(_table("catalogue: hepfm models pull NAME", map(_released, catalogue().values())))


def _below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("config.json")):
        inside_another = (file.parents[1] / "model.safetensors").exists()
        if not inside_another and (file.parent / "model.safetensors").exists():
            yield file.parent


def _table(title: str, rows: Iterable[Row]) -> Table:
    table = Table(*COLUMNS, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    if not table.row_count:
        table.add_row("none", *("" for _ in COLUMNS[1:]))
    return table


def _row(name: str, path: Path) -> Row:
    try:
        artifact = read_once(path)
        figures = figures_of(artifact)
    except HepfmError as error:
        return (name, "broken", "", "", "", "", error.what, "")
    size = f"{size_of(path) / 1e6:,.1f} MB"
    parameters = f"{parameters_of(artifact):,}"
    return (
        name,
        task_of(artifact),
        parameters,
        size,
        data_of(artifact),
        licence_of(artifact),
        figures,
        "; ".join(filter(None, (artifact.hash[:12], citation_of(artifact)))),
    )


def _released(entry: Released) -> Row:
    size = f"{entry.bytes / 1e6:,.1f} MB" if entry.bytes else "unknown"
    checksum = "" if entry.sha256 else "; checksum unknown"
    numbers = ", ".join(f"{name} {value}" for name, value in entry.numbers.items())
    citation = f"arXiv:{entry.citation.arxiv}{checksum}"
    return (entry.name, entry.task, "", size, entry.data, entry.licence, numbers, citation)
