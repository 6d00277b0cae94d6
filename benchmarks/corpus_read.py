"""Benchmark ``corpus-read``: token jets against a plain copy and a tar member each, full jets against weaver-core."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from webdataset.compat import WebDataset

from hepfm.benchmarks.synthetic import CODES, TOKEN_SCHEMA, TOKENS, jetclass_files, multiplicities
from hepfm.benchmarks.weaver import weaver_reads
from hepfm.benchmarks.workload import Way, Workload
from hepfm.core.records import ORIGIN
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.reader import Reader
from hepfm.ingest.sources.jetclass import JetClassSource
from hepfm.ingest.workers import cores

JETS = 2_000_000
JETS_PER_SHARD = 100_000
JETS_ALONE = 4_000  # with a tar member each: enough to measure, as they are a thousand times slower
SLICE = BATCH = 1_024
FULL_JETS, FULL_FILES, FULL_BATCH = 40_000, 4, 512  # jets with all that JetClass has; weaver's batch size


@dataclass(frozen=True)
class Jets:
    """Token jets in memory; also produces them as a corpus."""

    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def random(cls, jets: int) -> Jets:
        """Jets of 45 tokens on average, 5 to 128 (the multiplicities of a typical corpus)."""
        draws = np.random.default_rng(0)
        lengths = multiplicities(draws, jets)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(draws.integers(0, CODES, offsets[-1]).astype(np.uint16), offsets)

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        first, stop = job.payload
        offsets = (self.offsets[first : stop + 1] - self.offsets[first]).astype(np.int32)
        tokens = pa.array(self.tokens[self.offsets[first] : self.offsets[stop]])
        column = pa.ListArray.from_arrays(pa.array(offsets), tokens, type=TOKENS)
        origin = [pa.array(np.zeros(stop - first, np.int32)), pa.array(np.arange(first, stop))]
        yield pa.RecordBatch.from_arrays([column, *origin], schema=TOKEN_SCHEMA)

    def copy_and_sum(self) -> int:
        """The yardstick: copy and sum the tokens, 1,024 jets at a time."""
        bounds = [*self.offsets[::SLICE].tolist(), int(self.offsets[-1])]
        return sum(int(self.tokens[a:b].copy().sum()) for a, b in itertools.pairwise(bounds))


@contextmanager
def corpus_read() -> Iterator[Workload]:
    """Write corpora to a temporary folder and read them in several ways."""
    jets = Jets.random(JETS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        corpus = _write_corpus(folder / "corpus", jets)
        alone = _write_jets_alone(folder / "jets.tar", jets)
        files = jetclass_files(folder / "raw", FULL_FILES, FULL_JETS // FULL_FILES)
        full = build(JetClassSource(), files, folder / "full", BuildOptions(splits=(1, 0, 0)), processes=cores())
        split = corpus.split("train")
        reader, full_reader = Reader([split], seed=0, columns=["tokens"]), Reader([full.split("train")], seed=0)
        ways = {
            "sequential": Way(lambda: _sum(iter(split)), JETS),
            "shuffled": Way(lambda: _sum(_batches(reader, JETS, BATCH)), JETS),
            "slice_copy_and_sum": Way(jets.copy_and_sum, JETS),
            "webdataset_per_jet": Way(lambda: _read_jets_alone(alone), JETS_ALONE),
            "full_features_shuffled": Way(lambda: _count(_batches(full_reader, FULL_JETS, FULL_BATCH)), FULL_JETS),
        }
        ratios = {
            "slice_copy_and_sum": ("sequential", "slice_copy_and_sum"),
            "slice_copy_and_sum_shuffled": ("shuffled", "slice_copy_and_sum"),
            "webdataset_per_jet": ("shuffled", "webdataset_per_jet"),
        }
        notes = ["weaver-core is not installed: pip install -c constraints.txt '.[bench]' adds ratios.weaver"]
        if find_spec("weaver") is not None:
            ways["weaver"] = Way(weaver_reads(files, folder / "weaver", FULL_BATCH), FULL_JETS)
            ratios["weaver"] = ("full_features_shuffled", "weaver")
            notes = []
        on_disk = sum(shard.bytes for shard in corpus.manifest.splits["train"].shards)
        content = jets.tokens.nbytes + JETS * sum(quantity.type.bit_width // 8 for quantity in ORIGIN)
        yield Workload(
            unit="jets/s",
            ways=ways,
            value="sequential",
            ratios=ratios,
            figures={"disk_per_content": lambda: on_disk / content},
            notes=tuple(notes),
        )


def _batches(reader: Reader, jets: int, size: int) -> Iterator[pa.RecordBatch]:
    return (reader.take(start, min(start + size, jets)).batch for start in range(0, jets, size))


def _write_corpus(out: Path, jets: Jets) -> Corpus:
    shards = range(0, JETS, JETS_PER_SHARD)
    jobs = tuple(Job("train", k, [a, a + JETS_PER_SHARD], JETS_PER_SHARD) for k, a in enumerate(shards))
    plan = Plan({"benchmark": "corpus-read"}, jobs, "tokens", TOKEN_SCHEMA, (), "", 4096, {}, tokens={"codes": CODES})
    return write_corpus(out, plan, jets)


def _sum(batches: Iterator[pa.RecordBatch]) -> int:
    return sum(int(batch.column("tokens").flatten().to_numpy().sum()) for batch in batches)


def _count(batches: Iterator[pa.RecordBatch]) -> int:
    return sum(len(batch.column("constituents").flatten()) for batch in batches)


def _write_jets_alone(path: Path, jets: Jets) -> Path:
    """The idiomatic webdataset: one sample a jet, tokens as .npy and a class as .cls."""
    with tarfile.open(path, "w") as tar:
        for jet in range(JETS_ALONE):
            buffer = io.BytesIO()
            np.save(buffer, jets.tokens[jets.offsets[jet] : jets.offsets[jet + 1]])
            for suffix, content in (("tokens.npy", buffer.getvalue()), ("cls", b"0")):
                member = tarfile.TarInfo(f"{jet:07d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def _read_jets_alone(path: Path) -> int:
    samples: Any = WebDataset(str(path), shardshuffle=False).decode()
    return sum(int(sample["tokens.npy"].sum()) for sample in samples)
