"""The reading order: a pure function of (corpus, seed, epoch, position), whoever reads and on however many ranks.

In each epoch the blocks are permuted and cut into windows of neighbours, and the records of a window are permuted.
Positions count records from the beginning of training, over all epochs, so a position is all that resuming needs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import RLock

import numpy as np

from hepfm.core.draws import generator, hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.threads import renewed_in_forks

_CHUNK_RECORDS = 1 << 20


@dataclass(frozen=True)
class Window:
    """Some blocks of an epoch and the order of their records.

    Attributes:
        epoch: the epoch.
        number: number of the window in the epoch.
        blocks: (k,) the blocks, one after another.
        starts: (k,) number of the first record of each block, counted through all blocks.
        sizes: (k,) records of each block.
        index: (n,) record of each position of the window, counted through these blocks.
    """

    epoch: int
    number: int
    blocks: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    index: np.ndarray

    @cached_property
    def records(self) -> np.ndarray:
        """(n,) record of each position, counted through all blocks."""
        shifts = self.starts - (np.cumsum(self.sizes) - self.sizes)
        return self.index + np.repeat(shifts, self.sizes)[self.index]


@dataclass(frozen=True)
class Span:
    """Positions ``[start, stop)`` inside a window of an epoch."""

    epoch: int
    window: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Epoch:
    """Blocks in reading order, where each window begins among them, and its first position."""

    blocks: np.ndarray
    edges: np.ndarray
    starts: np.ndarray


class Order:
    """Reading order of blocks of records.

    Args:
        block_records: (n_blocks,) records of each block.
        seed: another seed, another order.
        window: blocks that are shuffled together. Windows of an epoch differ by at most one block.
        weights: how often a record comes in an epoch on average: (n_records,), or (n_blocks,) one for each block's.
            Record r comes floor(w + u(seed, epoch, r)) times, u uniform in [0, 1). None means once each.
        identity: names the corpus (its digest), so that another corpus has another order.
    """

    def __init__(
        self,
        block_records: np.ndarray,
        seed: int,
        window: int = 16,
        weights: np.ndarray | None = None,
        identity: str = "",
    ) -> None:
        self.block_records = np.asarray(block_records, dtype=np.int64)
        self.block_starts = np.concatenate([[0], np.cumsum(self.block_records)])
        self.records = int(self.block_starts[-1])
        self.seed, self.width, self.identity = seed, window, identity
        self.weights = None if weights is None else self._weights(np.asarray(weights))
        self._epoch_starts = [0]
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self.begin_anew()
        renewed_in_forks(self)
        if not self.records:
            raise HepfmError("there is no record to read")

    def begin_anew(self) -> None:
        """Make the lock anew: in a forked process it may be another thread's, which is not there."""
        self._lock = RLock()

    def epoch_records(self, epoch: int) -> int:
        """Records that come in an epoch, repeats counted."""
        return self.records if self.weights is None else int(self._epoch(epoch).starts[-1])

    def locate(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, block and row (n,) int64 of each of the positions ``[start, stop)``."""
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for span in self.spans(start, stop):
            window = self.window(span.epoch, span.window)
            block, row = self.rows(window.records[span.start : span.stop])
            found.append((np.full(len(block), span.epoch), block, row))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        epochs, blocks, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return epochs, blocks, rows

    def rows(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Block and row of records that are counted through all blocks."""
        block = np.searchsorted(self.block_starts, records, side="right") - 1
        return block, records - self.block_starts[block]

    def spans(self, start: int, stop: int) -> list[Span]:
        """The stretches of windows that make up positions ``[start, stop)``, in order."""
        if not 0 <= start <= stop:
            raise ValueError(f"positions [{start}, {stop})")
        spans = []
        while start < stop:
            epoch = self._epoch_of(start)
            begin, starts = self._epoch_start(epoch), self._epoch(epoch).starts
            number = int(np.searchsorted(starts, start - begin, side="right")) - 1
            first, end = int(starts[number]), min(int(starts[number + 1]), stop - begin)
            spans.append(Span(epoch, number, start - begin - first, end - first))
            start = begin + end
        return spans

    def window(self, epoch: int, number: int) -> Window:
        """A window of an epoch."""
        plan = self._epoch(epoch)
        blocks = plan.blocks[plan.edges[number] : plan.edges[number + 1]]
        sizes = self.block_records[blocks]
        draws = generator("order window", self.identity, self.seed, epoch, number)
        if self.weights is None:
            index = draws.permutation(int(sizes.sum()))
        else:
            repeats = [self._repeats(epoch, block, block + 1) for block in blocks.tolist()]
            repeated = np.repeat(np.arange(int(sizes.sum())), np.concatenate(repeats))
            index = repeated[draws.permutation(len(repeated))]
        return Window(epoch, number, blocks, self.block_starts[blocks], sizes, index)

    def following(self, epoch: int, number: int) -> tuple[int, int]:
        """Epoch and number of the window after a window."""
        return (epoch, number + 1) if number + 2 < len(self._epoch(epoch).edges) else (epoch + 1, 0)

    def _weights(self, weights: np.ndarray) -> np.ndarray:
        if weights.shape not in ((self.records,), self.block_records.shape):
            raise ValueError(f"{weights.shape} weights for {self.records} records in {len(self.block_records)} blocks")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise HepfmError("a weight is negative or not finite", "weights")
        total = weights.sum(dtype=np.float64) if len(weights) == self.records else (weights * self.block_records).sum()
        if total < 1:
            raise HepfmError(f"they leave {total:g} records an epoch", "weights", "give larger weights")
        return weights

    def _repeats(self, epoch: int, first: int, stop: int) -> np.ndarray:
        """How often each record of blocks ``[first, stop)`` comes in an epoch."""
        assert self.weights is not None
        records = np.arange(self.block_starts[first], self.block_starts[stop])
        if len(self.weights) == self.records:
            weights = self.weights[records[0] : records[-1] + 1]
        else:
            weights = np.repeat(self.weights[first:stop], self.block_records[first:stop])
        uniform = hashed_uniform(key_of("order weights", self.identity, self.seed), np.array(epoch), records)
        return np.floor(weights + uniform).astype(np.int64)

    def _block_totals(self, epoch: int) -> np.ndarray:
        """Records of each block in an epoch, repeats counted."""
        if self.weights is None:
            return self.block_records
        edges = np.searchsorted(self.block_starts, np.arange(0, self.records, _CHUNK_RECORDS), side="left")
        edges = np.unique(np.append(edges, len(self.block_records)))
        totals = [
            np.add.reduceat(self._repeats(epoch, first, stop), self.block_starts[first:stop] - self.block_starts[first])
            for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
        return np.concatenate(totals)

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = self._plan(epoch)
                if len(self._epochs) > 2:
                    self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def _plan(self, epoch: int) -> _Epoch:
        count = len(self.block_records)
        blocks = generator("order blocks", self.identity, self.seed, epoch).permutation(count)
        windows = -(-count // self.width)
        edges = np.arange(windows + 1) * count // windows
        sums = np.concatenate([[0], np.cumsum(self._block_totals(epoch)[blocks])])
        return _Epoch(blocks, edges, sums[edges])

    def _epoch_start(self, epoch: int) -> int:
        return epoch * self.records if self.weights is None else self._epoch_starts[epoch]

    def _epoch_of(self, position: int) -> int:
        if self.weights is None:
            return position // self.records
        with self._lock:
            while self._epoch_starts[-1] <= position:
                past = len(self._epoch_starts) - 1
                self._epoch_starts.append(self._epoch_starts[-1] + self.epoch_records(past))
        return int(np.searchsorted(self._epoch_starts, position, side="right")) - 1
