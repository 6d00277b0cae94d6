"""Tars with one sample a record, for loaders built on ``webdataset`` that expect a file a sample.

A corpus's own shards stream with ``webdataset`` too, a block a sample, and are read far faster; this is for programs
that cannot take blocks.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.export.format import KINDS, Format, blocks_of
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.shards import tar_end, tar_header

_SIGNED = ("charge",)  # integers of which -1 is a value, so that it cannot stand for null


@dataclass(frozen=True)
class SampleFormat(Format):
    """``KEY.npy``: the points, a structured array with a field for each quantity (of tokens: a plain array); null is
    NaN, for integers -1; charge is a float, since -1 is a charge; species is an index (names in ``export.json``).
    ``KEY.json``: the other quantities; label is a name."""

    opening: str = 'webdataset.WebDataset("DIR/train/000000.tar", shardshuffle=False).decode()'
    kinds: tuple[str, ...] = KINDS

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        return f"{split}/{shard.number:06d}.tar"

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        number = 0
        with path.open("wb") as file:
            for batch in blocks_of(split, shard):
                for points, columns in samples(batch, split.corpus.manifest.points_column):
                    key = f"{shard.number:06d}-{number:08d}"
                    file.write(_member(f"{key}.npy", points))
                    file.write(_member(f"{key}.json", columns))
                    number += 1
            file.write(bytes(tar_end(file.tell())))


def samples(batch: pa.RecordBatch, points_column: str) -> Iterator[tuple[bytes, bytes]]:
    """The points of each record as a ``.npy`` file, and its other quantities as JSON."""
    column = batch.column(points_column)
    points = _points(column)
    columns = batch.drop_columns([points_column]).to_pylist()
    for (start, stop), values in zip(pairwise(offsets_of(column).tolist()), columns, strict=True):
        header = _npy_header(points.dtype, stop - start)
        yield header + points[start:stop].tobytes(), json.dumps(values, allow_nan=False).encode()


def _points(column: pa.ListArray) -> np.ndarray:
    """All points of a block (N,), as one structured array if they have several quantities."""
    flat = column.flatten()
    if not pa.types.is_struct(flat.type):
        return values_of(flat)
    quantities = {child.name: _values(child.name, flat.field(number)) for number, child in enumerate(flat.type)}
    points = np.empty(len(flat), dtype=[(name, values.dtype) for name, values in quantities.items()])
    for name, values in quantities.items():
        points[name] = values
    return points


def _values(name: str, column: pa.Array) -> np.ndarray:
    return values_of(column.cast(pa.float32()) if name in _SIGNED else column)


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype, length: int) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _member(name: str, data: bytes) -> bytes:
    """A file as it stands in a tar."""
    return tar_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
