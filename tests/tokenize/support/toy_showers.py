"""Toy showers as records: hits in a 6 x 8 x 8 grid, no cell twice, with energies over three decades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.draws import generator
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.geometry import Bins, Geometry, Layer
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

LAYERS, CELLS = 6, 8
SCHEMA = records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), ("incident_energy",))


def shower_batch(count: int, seed: int = 0) -> pa.RecordBatch:
    """Showers of 0 to 120 hits in a random order."""
    draw = generator("toy showers", seed)
    lengths = draw.integers(0, 121, count)
    cells = np.concatenate([draw.permutation(LAYERS * CELLS * CELLS)[:length] for length in lengths])
    layer, rest = np.divmod(cells, CELLS * CELLS)
    cell_a, cell_b = np.divmod(rest, CELLS)
    energy = np.exp(draw.normal(0, 1.5, len(cells)))
    item = SCHEMA.field("points").type
    values = {"cell_a": cell_a, "cell_b": cell_b, "layer": layer, "energy": energy}
    arrays = [pa.array(values[field.name].astype(field.type.to_pandas_dtype())) for field in item.value_type]
    points = pa.StructArray.from_arrays(arrays, fields=list(item.value_type))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), points, type=item),
        pa.array(draw.uniform(10, 100, count).astype(np.float32)),
        pa.array(np.zeros(count, np.int32)),
        pa.array(np.arange(count)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def geometry() -> Geometry:
    bins = Bins(CELLS, -40.0, 10.0)
    layers = tuple(Layer(number, bins, bins, position=5.0 * number, thickness=5.0) for number in range(LAYERS))
    return Geometry(name="toy", kind="grid", layers=layers)


def shower_corpus(folder: Path, count: int) -> Corpus:
    """Showers in three splits."""
    jobs = [Job("train", 0, 0, size=count), Job("val", 0, 1, size=count // 4), Job("test", 0, 2, size=count // 4)]
    jobs.insert(1, replace(jobs[0], shard=1, payload=3))
    plan = Plan(
        identity={"made": "toy showers"},
        jobs=tuple(jobs),
        kind="showers",
        schema=SCHEMA,
        labels=(),
        axis="",
        block_records=16,
        provenance={},
        geometry=geometry().to_data(),
    )
    return write_corpus(folder / "corpus", plan, lambda job: [shower_batch(job.size, job.payload)])
