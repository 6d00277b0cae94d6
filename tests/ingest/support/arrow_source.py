"""A source for tests whose files are Arrow batches of records, so that a test can put any value into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.records import Kind, kind_of
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally


def write_records(path: Path, batch: pa.RecordBatch) -> Path:
    """A file of the source below."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return path


@dataclass(frozen=True)
class ArrowSource(Source):
    """Record i of the batch is entry i."""

    schema: pa.Schema
    kind: Kind = "jets"
    name: str = "arrow"
    axis: str = "stored"
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, files: Sequence[Path]) -> ArrowSource:
        batch = _batch(files[0])
        names = batch.column("label").dictionary.to_pylist() if "label" in batch.schema.names else ()
        return cls(batch.schema, kind_of(batch.schema), labels=tuple(names))

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return False

    def entries(self, path: Path) -> int:
        return len(_batch(path))

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        batch = _batch(path).slice(start, stop - start)
        at = batch.schema.get_field_index("source_entry")
        return batch.set_column(at, batch.schema.field(at), pa.array(np.arange(start, stop)))


def _batch(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).get_batch(0)
