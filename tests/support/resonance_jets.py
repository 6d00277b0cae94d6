"""Corpora with JetClass-II's labels: classes differ in multiplicity, resonances have a mass, QCD falls with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.benchmarks.synthetic import random_jets
from hepfm.ingest.formats.jetclass import SCHEMA
from hepfm.ingest.formats.jetclass2 import LABELS
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan


@dataclass(frozen=True)
class Resonances:
    """Jets of JetClass-II labels: label -> constituents, soft-drop mass [GeV] (0: falling from 20 GeV on)."""

    made: tuple[tuple[str, int, float], ...]

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard + len(job.split))
        for label, constituents, mass in self.made:
            jets = job.size // len(self.made)
            batch = random_jets(draws, constituents + draws.integers(0, 4, jets), 0)
            masses = draws.normal(mass, 8, jets) if mass else 20 + draws.exponential(60, jets)
            values = {
                "pt": pa.array(draws.uniform(250, 1500, jets), pa.float32()),
                "softdrop_mass": pa.array(masses.clip(21, 499), pa.float32()),
                "label": pa.DictionaryArray.from_arrays(
                    pa.array([LABELS.index(label)] * jets, pa.int16()), pa.array(LABELS)
                ),
            }
            for name, column in values.items():
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, batch.schema.field(name), column)
            yield batch


RESONANCES = (("QCD_light", 1, 0.0), ("QCD_b", 1, 0.0), ("X_bb", 6, 125.0), ("X_YY_bbbb", 12, 170.0))


def resonance_corpus(out: Path, made: tuple[tuple[str, int, float], ...] = RESONANCES, jets: int = 600) -> Path:
    """A corpus with ``jets`` to train on and half as many to validate and to test."""
    jobs = (Job("train", 0, None, jets), Job("val", 0, None, jets // 2), Job("test", 0, None, jets // 2))
    plan = Plan({"made": f"{made} {jets}"}, jobs, "jets", SCHEMA, LABELS, "stored", 32, {})
    write_corpus(out, plan, Resonances(made))
    return out
