"""Benchmark ``corpus-scale``: does the cost of a jet stay the same in large corpora and over many shards?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from hepfm.benchmarks.memory import peak_anonymous_mb
from hepfm.benchmarks.synthetic import CODES, TOKEN_SCHEMA, TOKENS, multiplicities
from hepfm.benchmarks.workload import Way, Workload
from hepfm.core.records import POINTS_COLUMN, schema
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.reader import Reader
from hepfm.ingest.workers import Workers, cores

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
JETS_PER_SHARD = 100_000
SHARDS = (1, 10, 100, 1_000)
SHARDED_JETS = 4_096_000  # a whole block a shard where there are most
BATCH = 1_024
READ = 2_000_000  # jets that are read to measure a rate: enough that opening the corpus does not count
SHOWERS, POINTS = 2_000, 3_000
SHOWER_SCHEMA = schema("showers", ("x", "y", "z", "energy"), ("incident_energy",))


@dataclass(frozen=True)
class RandomJets:
    """Token jets of a shard, drawn when they are written: ten million are never in memory at once."""

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard)
        offsets = np.concatenate([[0], np.cumsum(multiplicities(draws, job.size))]).astype(np.int32)
        tokens = pa.array(draws.integers(0, CODES, offsets[-1]).astype(np.uint16))
        column = pa.ListArray.from_arrays(pa.array(offsets), tokens, type=TOKENS)
        origin = [pa.array(np.zeros(job.size, np.int32)), pa.array(np.arange(job.size))]
        yield pa.RecordBatch.from_arrays([column, *origin], schema=TOKEN_SCHEMA)


@dataclass(frozen=True)
class RandomShowers:
    """Showers of a shard."""

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard)
        offsets = (np.arange(job.size + 1) * POINTS).astype(np.int32)
        item = SHOWER_SCHEMA.field(POINTS_COLUMN["showers"]).type
        values = [pa.array(draws.random(offsets[-1], dtype=np.float32)) for _ in range(4)]
        points = pa.StructArray.from_arrays(values, fields=list(item.value_type))
        columns = [
            pa.ListArray.from_arrays(pa.array(offsets), points, type=item),
            pa.array(np.full(job.size, 50, np.float32)),
            pa.array(np.zeros(job.size, np.int32)),
            pa.array(np.arange(job.size)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SHOWER_SCHEMA)


@contextmanager
def corpus_scale() -> Iterator[Workload]:
    """Write corpora of several sizes (3 GB in all) to a temporary folder and read as many jets from each."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        sized = {f"jets_{jets}": _jets(folder / f"{jets}", jets, -(-jets // JETS_PER_SHARD)) for jets in SIZES}
        sharded = {f"shards_{count}": _jets(folder / f"shards {count}", SHARDED_JETS, count) for count in SHARDS}
        showers = _showers(folder / "showers")
        yield Workload(
            unit="jets/s",
            ways={label: Way(Read(corpus.path, READ), READ) for label, corpus in {**sized, **sharded}.items()},
            value=f"jets_{SIZES[-1]}",
            ratios={
                "largest_per_smallest": (f"jets_{SIZES[-1]}", f"jets_{SIZES[0]}"),
                "most_per_fewest_shards": (f"shards_{SHARDS[-1]}", f"shards_{SHARDS[0]}"),
            },
            figures={
                "anonymous_memory_mb_jets": partial(peak_anonymous_mb, Read(sized[f"jets_{SIZES[-1]}"].path, READ)),
                "anonymous_memory_mb_showers": partial(peak_anonymous_mb, Read(showers.path, SHOWERS)),
            },
        )


@dataclass(frozen=True)
class Read:
    """Opens a corpus and reads so many records in shuffled batches, epoch after epoch; sums their points."""

    corpus: Path
    records: int

    def __call__(self) -> int:
        split = Corpus.open(self.corpus).split("train")
        reader, column = Reader([split], seed=0), split.corpus.manifest.points_column
        starts = range(0, self.records, BATCH if column == "tokens" else 64)
        return sum(
            len(reader.take(start, min(start + starts.step, self.records)).batch.column(column).flatten())
            for start in starts
        )


def _jets(out: Path, jets: int, shards: int) -> Corpus:
    jobs = tuple(Job("train", number, None, jets // shards) for number in range(shards))
    plan = Plan({"benchmark": "corpus-scale"}, jobs, "tokens", TOKEN_SCHEMA, (), "", 4096, {}, tokens={"codes": CODES})
    return write_corpus(out, plan, RandomJets(), workers=Workers(cores()))


def _showers(out: Path) -> Corpus:
    jobs = tuple(Job("train", number, None, SHOWERS // 4) for number in range(4))
    return write_corpus(
        out, Plan({"benchmark": "corpus-scale"}, jobs, "showers", SHOWER_SCHEMA, (), "", 128, {}), RandomShowers()
    )
