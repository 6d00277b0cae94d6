"""A sample of a corpus's points, for tokenizers that are fitted in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from hepfm.core.progress import progress
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader
from hepfm.tokenize.contract import FeatureContract

BATCH_RECORDS = 512


def sample_points(
    corpus: Corpus,
    contract: FeatureContract,
    points: int,
    seed: int,
    features: Callable[[pa.RecordBatch], np.ndarray],
) -> np.ndarray:
    """Features (T, F) of whole records of the train split in a random order, about ``points`` points; all if fewer.

    Args:
        corpus: to be read.
        contract: names the quantities.
        points: how many, at least.
        seed: of the order.
        features: what becomes of the points of a batch.
    """
    reader = Reader([corpus.split("train")], seed, columns=contract.columns)
    parts, found, start = [], 0, 0
    with progress("reading", min(points, corpus.split("train").points), "points") as task:
        while found < points and start < reader.records:
            stop = min(start + BATCH_RECORDS, reader.records)
            parts.append(features(reader.take(start, stop).batch))
            found, start = found + len(parts[-1]), stop
            task.advance(len(parts[-1]))
    return np.concatenate(parts)
