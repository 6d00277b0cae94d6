"""Labelled corpora whose classes differ in how many constituents their jets have: a few steps tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.benchmarks.synthetic import random_jets
from hepfm.ingest.formats.jetclass import LABELS, SCHEMA
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

FEWEST = (1, 6, 12)  # constituents of a jet of each class; a class has up to three more


@dataclass(frozen=True)
class ByMultiplicity:
    """Jets of the first ``classes`` labels of JetClass, as many of each."""

    classes: int

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard + len(job.split))
        for label in range(self.classes):
            lengths = FEWEST[label] + draws.integers(0, 4, job.size // self.classes)
            yield random_jets(draws, lengths, label)


def labelled_corpus(out: Path, classes: int = 3, jets: int = 600) -> Path:
    """A corpus with ``jets`` to train on and half as many to validate and to test."""
    jobs = (Job("train", 0, None, jets), Job("val", 0, None, jets // 2), Job("test", 0, None, jets // 2))
    plan = Plan({"made": f"{classes} {jets}"}, jobs, "jets", SCHEMA, LABELS, "stored", 32, {})
    write_corpus(out, plan, ByMultiplicity(classes))
    return out
