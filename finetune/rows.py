"""Rows of a batch in generation: a row that ends is handed the next sample; at the end, idle rows are given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from hepfm.core.nn.cache import Cache, grains

IDLE = -1


class Rows:
    """What rows of any kind have in common.

    Args:
        cache: of as many rows, none of which has a sample yet.
        n: how many samples there are.
        first: number of the first.
        begin: (n, width) what each is told.

    Attributes:
        per_row: names of the attributes (rows, ...) that go with a row.
        number: (rows,) number of each row's sample, or IDLE.
        done: of samples that ended: numbers (k,), lengths (k,), and arrays of their points, one after another.
        hit_maximum: how many were ended by the maximum length.
    """

    per_row: ClassVar[tuple[str, ...]]

    def __init__(self, cache: Cache, n: int, first: int, begin: torch.Tensor | None) -> None:
        self.cache, self.n, self.first, self.begin = cache, n, first, begin
        self.device = cache.lengths.device
        self.number: np.ndarray = np.full(cache.rows, IDLE, dtype=np.int64)
        self.done: list[tuple[np.ndarray, ...]] = []
        self.begun = self.hit_maximum = 0

    @property
    def busy(self) -> bool:
        return bool((self.number != IDLE).any())

    def told(self) -> torch.Tensor | None:
        """What each row's sample is told (rows, width)."""
        if self.begin is None:
            return None
        return self.begin[torch.from_numpy(np.maximum(self.number - self.first, 0)).to(self.begin.device)]

    def assign(self, free: np.ndarray) -> np.ndarray:
        """Hand the next samples to free rows (rows,) as far as there are any; the indices of all of these rows."""
        rows = np.flatnonzero(free)
        fresh = min(len(rows), self.n - self.begun)
        self.number[rows] = IDLE
        self.number[rows[:fresh]] = self.first + self.begun + np.arange(fresh)
        self.begun += fresh
        return rows

    def restart(self, empty: np.ndarray) -> None:
        """Empty the cache of these rows (rows,), and give up idle rows if they are the half of all."""
        self.cache.restart(torch.from_numpy(empty).to(self.device))
        wanted = grains(int((self.number != IDLE).sum()))
        if 0 < wanted <= len(self.number) // 2:
            keep = np.argsort(self.number == IDLE, kind="stable")[:wanted]
            self._keep(keep)

    def _keep(self, rows: np.ndarray) -> None:
        """Keep only the rows of these indices, in this order."""
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[rows])
        self.cache.keep(torch.from_numpy(rows).to(self.device))


def by_number(done: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Offsets (n + 1,) and arrays of points of ended samples, in the order of their numbers."""
    numbers, lengths, *points = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(numbers)
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return offsets, [values[source] for values in points]
