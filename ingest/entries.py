"""Which entries of the source files the splits of a corpus hold: what one has, no other may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass
class Entries:
    """Entries of the source files of a corpus, a byte an entry; empty where the files are not known.

    Attributes:
        files: name and number of entries of each, as in the manifest.
        held: (entries of all files,) bit s is set where split number s has a record of it.
    """

    files: Sequence[dict[str, Any]]
    held: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.held = np.zeros(sum(file["entries"] for file in self.files), dtype=np.uint8)

    def add(self, split: int, numbers: np.ndarray) -> None:
        """Take in entries (n,), numbered by :func:`entry_numbers`, of a split."""
        self.held[numbers] |= np.uint8(1 << split)

    def shared(self) -> tuple[int, str]:
        """How many entries are in several splits, and where the first of them is."""
        several = np.flatnonzero(self.held & (self.held - 1))
        if not len(several):
            return 0, ""
        stops = np.cumsum([file["entries"] for file in self.files])
        file = int(np.searchsorted(stops, several[0], side="right"))
        entry = int(several[0]) - int(stops[file]) + self.files[file]["entries"]
        return len(several), f"entry {entry} of {self.files[file]['name']}"


def entry_numbers(files: Sequence[dict[str, Any]], batch: pa.RecordBatch) -> np.ndarray:
    """Number (n,) int64 of each record's entry, counted through all files."""
    first = np.concatenate([[0], np.cumsum([file["entries"] for file in files])]).astype(np.int64)
    return first[batch.column("source_file").to_numpy()] + batch.column("source_entry").to_numpy()
