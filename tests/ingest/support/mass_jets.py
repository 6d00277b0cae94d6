"""Corpora of jets with transverse momentum, soft-drop mass and label, spread as real ones are: steeply in pt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.records import schema
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

COLUMNS = ("pt", "softdrop_mass", "label")


def mass_jets(
    folder: Path, labels: Sequence[str], records: int = 6000, seed: int = 1, columns: Sequence[str] = COLUMNS
) -> Corpus:
    """A corpus with splits train and val; a jet's mass depends on its label, label -1 (none) is among them."""
    jets = schema("jets", ("pt", "deta", "dphi"), tuple(columns))

    def produce(job: Job) -> list[pa.RecordBatch]:
        draws = np.random.default_rng([seed, len(job.split)])
        label = draws.integers(-1, len(labels), job.size)
        values = {
            "pt": 200 * (1 + draws.pareto(3.0, job.size)),
            "softdrop_mass": np.abs(draws.normal(60 + 40 * label, 30)),
            "label": label,
            "source_file": np.zeros(job.size),
            "source_entry": np.arange(job.size),
        }
        points = {"pt": values["pt"], "deta": draws.normal(size=job.size), "dphi": draws.uniform(-1, 1, job.size)}
        return [jet_batch(jets, labels, np.arange(job.size + 1), points, values)]

    jobs = (Job("train", 0, None, size=records), Job("val", 0, None, size=records // 10))
    plan = Plan({"seed": seed}, jobs, "jets", jets, tuple(labels), "stored", 256, {"versions": {}})
    write_corpus(folder, plan, produce)
    return Corpus.open(folder)
