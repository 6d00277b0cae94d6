"""A sequence cut to its length, its records numbered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa


def numbered(batches: Iterable[pa.RecordBatch], records: int) -> Iterator[pa.RecordBatch]:
    """The first ``records`` records of ``batches``; their ``source_entry`` counts from 0."""
    first = 0
    for batch in batches:
        batch = batch.slice(0, records - first)
        at = batch.schema.get_field_index("source_entry")
        numbers = pa.array(np.arange(first, first + len(batch)), type=pa.int64())
        first += len(batch)
        if len(batch):
            yield batch.set_column(at, batch.schema.field(at), numbers)
        if first == records:
            return
