"""How long sequences are, and what a maximum length cuts: counted before training begins."""

from __future__ import annotations

import numpy as np

from hepfm.core.progress import progress
from hepfm.core.records import offsets_of
from hepfm.ingest.order import Order
from hepfm.ingest.reader import Reader
from hepfm.pretrain.batches import terms


def length_counts(reader: Reader) -> np.ndarray:
    """How many records of an epoch have 0, 1, 2, ... constituents, on average where they are weighted.

    Reads offsets only.
    """
    counts = np.zeros(1)
    blocks = sum(len(split) for split in reader.splits)
    number = 0
    with progress("count constituents", blocks, "blocks", visible=blocks > 1000) as task:
        for split in reader.splits:
            for block in split:
                lengths = np.diff(offsets_of(block.column(split.corpus.manifest.points_column)))
                counts = _added(counts, np.bincount(lengths, mean_weights(reader.order, number)))
                number += 1
                task.advance()
    return counts


def mean_weights(order: Order, block: int) -> np.ndarray:
    """How often each record of a block comes in an epoch on average."""
    first, stop = order.block_starts[block : block + 2].tolist()
    if order.weights is None:
        return np.ones(stop - first)
    of_records = len(order.weights) == order.records
    return order.weights[first:stop] if of_records else np.full(stop - first, order.weights[block])


def _added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def length_statistics(counts: np.ndarray, max_length: int) -> dict[str, float]:
    """Statistics of constituents per jet, and what ``max_length`` cuts.

    Returns:
        ``jets`` of an epoch, ``mean``, ``std``, ``longest``; ``cut_jets`` and ``cut_constituents``; ``terms`` of the
        loss in an epoch; ``mean_sequence``, the mean over terms of the length of the sequence that a term is in.
    """
    lengths = np.arange(len(counts))
    jets = float(counts.sum())
    mean = float((counts * lengths).sum() / jets)
    sequences = terms(lengths, max_length)
    total = float((counts * sequences).sum())
    return {
        "jets": round(jets),
        "mean": mean,
        "std": float(np.sqrt((counts * (lengths - mean) ** 2).sum() / jets)),
        "longest": int(lengths[counts > 0].max()),
        "cut_jets": round(float(counts[lengths > max_length].sum())),
        "cut_constituents": round(float((counts * np.maximum(lengths - max_length, 0)).sum())),
        "terms": round(total),
        "mean_sequence": float((counts * sequences**2).sum() / total),
    }
