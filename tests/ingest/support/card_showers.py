"""Showers whose energy lies where it should: deposits fall off along z and with the distance from the axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.records import schema
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.ild import ild_points
from hepfm.ingest.geometry import Stored
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

LABELS = ("photon", "pion")
SCHEMA = schema(
    "showers",
    ("layer", "cell_a", "x", "y", "z", "energy"),
    ("incident_energy", "direction_x", "direction_y", "direction_z", "particle", "label"),
)


def shower_batch(records: int, seed: int, slope: float = 0.2) -> pa.RecordBatch:
    """Showers along (slope, 0, 1); distances from the axis are exponential with mean 8 mm."""
    draws = np.random.default_rng(seed)
    lengths = draws.integers(20, 60, records)
    lengths[0] = 0
    total = int(lengths.sum())
    layer = draws.geometric(0.15, total) - 1
    radius, angle = draws.exponential(8.0, total), draws.uniform(0, 2 * np.pi, total)
    axis = np.array([slope, 0, 1]) / np.hypot(slope, 1)
    first, second = np.array([axis[2], 0, -axis[0]]), np.array([0.0, 1.0, 0.0])
    position = np.outer(10.0 * layer, axis) + np.outer(radius * np.cos(angle), first)
    position += np.outer(radius * np.sin(angle), second)
    energy = draws.exponential(3.0, total) * np.exp(-radius / 20)
    points = {"layer": layer, "cell_a": (radius / 5).astype(int), "energy": energy}
    points |= dict(zip("xyz", position.T, strict=True))
    column = SCHEMA.field("points").type
    struct = pa.StructArray.from_arrays(
        [pa.array(points[field.name], field.type) for field in column.value_type], fields=list(column.value_type)
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    values = {
        "incident_energy": draws.uniform(1, 100, records),
        "direction_x": np.full(records, axis[0]),
        "direction_y": np.zeros(records),
        "direction_z": np.full(records, axis[2]),
        "particle": np.where(np.arange(records) % 2, 211, 22),
        "source_file": np.zeros(records),
        "source_entry": np.arange(records),
    }
    label = pa.DictionaryArray.from_arrays(pa.array(np.arange(records) % 2, pa.int16()), pa.array(LABELS))
    arrays = [pa.ListArray.from_arrays(offsets, struct, type=column)]
    for field in SCHEMA.remove(0):
        arrays.append(label if field.name == "label" else pa.array(values[field.name]).cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def showers(folder: Path, records: int = 400) -> Corpus:
    """A corpus of showers with the split train only."""
    geometry = ild_points(30, Stored()).to_data()
    jobs = (Job("train", 0, None, size=records),)
    plan = Plan({}, jobs, "showers", SCHEMA, LABELS, "", 64, {"versions": {}}, geometry=geometry)
    write_corpus(folder, plan, lambda job: [shower_batch(job.size, 1)])
    return Corpus.open(folder)
