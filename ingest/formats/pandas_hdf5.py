"""Numeric data frames that pandas stored in HDF5 files (PyTables), read by ranges of rows with h5py.

Layouts: *fixed*, a group with ``axis1`` (row labels) and for each type of number ``blockN_values`` (rows, columns) and
``blockN_items`` (column names); *table*, a group with one compound data set ``table`` whose fields ``values_block_N``
hold the columns of a type, with their names in a pickled attribute ``values_block_N_kind``. Nothing here unpickles: a
pickled list of strings is read from its opcodes, names are None where anything else is pickled, and blocks of objects
are refused.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.hdf5_rows import Rows, names_in

# Opcodes of a pickled list, and of the strings in it.
_LIST = re.compile("PROTO|FRAME|MARK|(EMPTY_)?LIST|APPENDS?|(LONG_)?(BIN)?PUT|MEMOIZE|STOP")
_STRING = re.compile("(SHORT_)?(BIN)?(STRING|UNICODE)")
_BLOCK = re.compile(r"block\d+_values|values_block_\d+")


@dataclass(frozen=True)
class Block:
    """Columns of one type: how many, and their names where these can be read."""

    width: int
    names: tuple[str, ...] | None


class Frame:
    """A stored data frame.

    Attributes:
        key: its name in the file (``df``).
        rows: how many it has.
        blocks: its blocks of columns, in order.
    """

    def __init__(self, group: h5py.Group, path: Path) -> None:
        self.key = group.name.strip("/")
        self._fields: tuple[str, ...] = ()
        if isinstance(group.get("table"), h5py.Dataset):
            table = Rows(group["table"], path)
            self._parts: tuple[Rows, ...] = (table,)
            self._fields = tuple(sorted(filter(_BLOCK.fullmatch, table.dtype.names or ())))
            kinds = [table.dtype[name] for name in self._fields]
            self.blocks = tuple(
                _table_block(kind, group["table"].attrs.get(f"{name}_kind"))
                for name, kind in zip(self._fields, kinds, strict=True)
            )
            _check_numbers([kind.base for kind in kinds], self.key, path)
        else:
            names = sorted(filter(_BLOCK.fullmatch, group))
            self._parts = tuple(Rows(group[name], path) for name in names)
            _check_numbers([part.dtype for part in self._parts], self.key, path)
            self.blocks = tuple(
                _fixed_block(group, name, part, path) for name, part in zip(names, self._parts, strict=True)
            )
        self.rows = len(self._parts[0])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows [start, stop) of each block, (n, width).

        Raises:
            HepfmError: they cannot be decoded.
        """
        if self._fields:
            rows = self._parts[0].read(start, stop)
            return tuple(
                rows[name].reshape(len(rows), block.width)
                for name, block in zip(self._fields, self.blocks, strict=True)
            )
        return tuple(part.read(start, stop) for part in self._parts)

    def place(self, name: str) -> tuple[int, int] | None:
        """Block and column of a named column; None if there is none, or names cannot be read."""
        for number, block in enumerate(self.blocks):
            if block.names is not None and name in block.names:
                return number, block.names.index(name)
        return None


def frames(file: h5py.File, path: Path) -> list[Frame]:
    """The data frames of a file.

    Raises:
        HepfmError: there is none; one that is no plain numbers, or does not fit together.
    """
    groups = [group for group in file.values() if isinstance(group, h5py.Group) and _is_frame(group)]
    if not groups:
        raise HepfmError("holds no data frame of numbers", path, f"it has {', '.join(file) or 'nothing'}")
    return [Frame(group, path) for group in groups]


def _is_frame(group: h5py.Group) -> bool:
    table = group.get("table")
    if isinstance(table, h5py.Dataset):
        return "values_block_0" in (table.dtype.names or ())
    return isinstance(group.get("block0_values"), h5py.Dataset)


def _check_numbers(kinds: list[np.dtype], key: str, path: Path) -> None:
    if not kinds or any(kind.kind not in "fiub" for kind in kinds):
        raise HepfmError(f"data frame '{key}' holds more than numbers", path, "objects are pickled, and not read")


def _table_block(kind: np.dtype, pickled: object) -> Block:
    width = int(np.prod(kind.shape))
    names = _names_in_pickle(pickled) if isinstance(pickled, bytes) else None
    return Block(width, names if names and len(names) == width else None)


def _names_in_pickle(pickled: bytes) -> tuple[str, ...] | None:
    """Strings of a pickled list of strings; None if something else is pickled. Nothing is unpickled."""
    names = []
    try:
        for opcode, value, _ in pickletools.genops(pickled):
            if _STRING.fullmatch(opcode.name):
                names.append(str(value))
            elif not _LIST.fullmatch(opcode.name):
                return None
    except ValueError:
        return None
    return tuple(names)


def _fixed_block(group: h5py.Group, name: str, part: Rows, path: Path) -> Block:
    items = group.get(name.replace("values", "items"))
    labels = group.get("axis1")
    rows, width = part.shape if len(part.shape) == 2 else (len(part), -1)
    expected = (_labels(labels, rows), _labels(items, width))
    if width < 0 or expected != (rows, width):
        raise HepfmError(
            f"'{group.name}/{name}' is {part.shape}, its labels are for {expected}", path, "fetch it again"
        )
    if isinstance(items, h5py.Dataset) and items.dtype.kind == "S":
        return Block(width, names_in(items, path))
    return Block(width, None)


def _labels(index: object, otherwise: int) -> int:
    """How many labels an index has; a pickled one is a single entry of bytes, and tells nothing."""
    if isinstance(index, h5py.Dataset) and index.dtype.kind in "iufS":
        return len(index)
    return otherwise
