"""Columns of Parquet tables as jets need them: numbers, and lists that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ragged import Column, Lists

MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Does the file begin as Parquet files do? True for a truncated one."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def numbers(columns: Mapping[str, Column], name: str, path: Path) -> np.ndarray:
    """A column (n,) of one number an entry.

    Raises:
        HepfmError: it holds lists.
    """
    column = columns[name]
    if isinstance(column, Lists):
        raise HepfmError(f"column '{name}' holds lists", path, "one number an entry is needed")
    return column


def equal_lists(columns: Mapping[str, Column], names: Sequence[str], path: Path, start: int) -> tuple[Lists, ...]:
    """Columns of lists that have the same length in each entry.

    Args:
        columns: of a table.
        names: the ones that belong together.
        path: the file.
        start: entry of the file that the columns begin with.

    Raises:
        HepfmError: one holds single numbers, or lengths differ.
    """
    lists = []
    for name in names:
        column = columns[name]
        if not isinstance(column, Lists):
            raise HepfmError(f"column '{name}' holds single numbers", path, "lists are needed")
        lists.append(column)
        if not np.array_equal(column.offsets, lists[0].offsets):
            entry = int(np.argmax(column.lengths != lists[0].lengths))
            raise HepfmError(
                f"'{names[0]}' has {lists[0].lengths[entry]} values and '{name}' has {column.lengths[entry]}",
                f"{path}, entry {start + entry}",
                "the file is damaged",
            )
    return tuple(lists)
