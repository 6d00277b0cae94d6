"""Data frames in HDF5 files as pandas and PyTables lay them out, written with h5py alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# What a reader that unpickles would run: os.system("touch HACKED") by the `info` attribute of a group.
PICKLE = b"cposix\nsystem\n(S'touch HACKED'\ntR."


def write_fixed(
    path: Path,
    key: str,
    blocks: Sequence[tuple[Sequence[Any] | None, np.ndarray]],
    mode: str = "w",
    **how: Any,
) -> Path:
    """A data frame in the fixed format: blocks of column names (None: numbered) and values (rows, columns).

    Names of several types are pickled, as pandas does.
    """
    with h5py.File(path, mode) as file:
        group = file.create_group(key)
        group.attrs.update({"pandas_type": np.bytes_(b"frame"), "nblocks": len(blocks), "ndim": 2, "info": PICKLE})
        first = 0
        for number, (names, values) in enumerate(blocks):
            width = values.shape[1]
            items = np.arange(first, first + width) if names is None else np.array(names, dtype="S")
            if names is not None and len({type(name) for name in names}) > 1:
                pickled = group.create_dataset(f"block{number}_items", (1,), dtype=h5py.vlen_dtype(np.uint8))
                pickled[0] = np.frombuffer(PICKLE, np.uint8)
            else:
                group.create_dataset(f"block{number}_items", data=items)
            group.create_dataset(f"block{number}_values", data=values, **how)
            first += width
        group.create_dataset("axis0", data=np.arange(first))
        group.create_dataset("axis1", data=np.arange(len(blocks[0][1])))
    return path


def write_table(
    path: Path, key: str, *blocks: np.ndarray, names: Sequence[Sequence[Any]] | None = None, **how: Any
) -> Path:
    """A data frame in the table format: one compound data set, names of columns pickled (None: by a harmful pickle)."""
    kinds = [("index", "<i8")]
    kinds += [(f"values_block_{number}", block.dtype, block.shape[1:]) for number, block in enumerate(blocks)]
    rows = np.zeros(len(blocks[0]), dtype=kinds)
    rows["index"] = np.arange(len(rows))
    for number, block in enumerate(blocks):
        rows[f"values_block_{number}"] = block
    with h5py.File(path, "w") as file:
        group = file.create_group(key)
        group.attrs.update({"pandas_type": np.bytes_(b"frame_table"), "info": PICKLE, "non_index_axes": PICKLE})
        table = group.create_dataset("table", data=rows, **how)
        for number in range(len(blocks)):
            pickled = pickle.dumps(list(names[number]), 0) if names else PICKLE
            table.attrs[f"values_block_{number}_kind"] = np.bytes_(pickled)
        group.create_group("_i_table").create_dataset("indices", data=np.arange(3))
    return path
