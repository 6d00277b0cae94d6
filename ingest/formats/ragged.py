"""Columns of numbers and of lists of numbers, and what an open table of them can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hepfm.core.errors import HepfmError

FETCH_AGAIN = "the file is damaged: fetch it again"


@dataclass(frozen=True)
class Lists:
    """A column of lists: that of entry i is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        offsets: (n + 1,) int64, from 0.
        values: (N,).
    """

    offsets: np.ndarray
    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Length (n,) of each list."""
        return np.diff(self.offsets)


Column = np.ndarray | Lists


def lists_of(lengths: np.ndarray, values: np.ndarray) -> Lists:
    """Lists of the given lengths (n,) over flat values."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Lists(offsets, values)


def sliced(column: Column, start: int, stop: int) -> Column:
    """Entries [start, stop) of a column."""
    if isinstance(column, np.ndarray):
        return column[start:stop]
    offsets = column.offsets[start : stop + 1]
    return Lists(offsets - offsets[0], column.values[offsets[0] : offsets[-1]])


def copied(column: Column) -> Column:
    """The same column in memory of its own, apart from what it was cut from."""
    return column.copy() if isinstance(column, np.ndarray) else Lists(column.offsets.copy(), column.values.copy())


def joined(parts: Sequence[Column]) -> Column:
    """Stretches of a column, one after another."""
    if len(parts) == 1:
        return parts[0]
    lists = [part for part in parts if isinstance(part, Lists)]
    if not lists:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return lists_of(np.concatenate([part.lengths for part in lists]), np.concatenate([part.values for part in lists]))


def chosen(columns: Mapping[str, Column], kept: np.ndarray) -> dict[str, Column]:
    """The entries of some columns for which ``kept`` (n,) is true."""
    return {
        name: lists_of(column.lengths[kept], column.values[np.repeat(kept, column.lengths)])
        if isinstance(column, Lists)
        else column[kept]
        for name, column in columns.items()
    }


class Table(ABC):
    """An open table.

    Attributes:
        path: its file.
        entries: how many it has.
        names: of its columns.
    """

    path: Path
    entries: int
    names: frozenset[str]

    @abstractmethod
    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        """Columns of entries [start, stop).

        Raises:
            HepfmError: the range leaves the table; a column that holds neither numbers nor lists of numbers; values
                that are null; a damaged file.
        """

    @abstractmethod
    def whole(self, names: Sequence[str]) -> dict[str, Column]:
        """Columns of all entries: meant for a few columns of one number an entry."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def not_numbers(name: str, path: Path, found: str) -> HepfmError:
    """The error over a column of another type."""
    return HepfmError(f"column '{name}' holds {found}", path, "numbers, or lists of numbers, are needed")


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
