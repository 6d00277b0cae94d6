"""``hepfm tokenizer apply``: a token corpus whose record i holds the tokens of record i of a corpus."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import tyro
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.records import POINTS_COLUMN
from hepfm.core.resolve import resolve
from hepfm.ingest.build import BLOCK_RECORDS
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan, mirror_jobs
from hepfm.ingest.summary import Summary, summarise
from hepfm.ingest.workers import Workers
from hepfm.tokenize.delays import delays_of
from hepfm.tokenize.registry import Tokenizer, load_tokenizer
from hepfm.tokenize.tokens import token_fields

INSIDE = "tokenizer"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ApplyConfig:
    """Turn a corpus into a token corpus. Run again after an interruption, it continues to the same bytes."""

    tokenizer: Annotated[Positional[str], tyro.conf.arg(metavar="TOKENIZER")]
    """Run or artifact folder of a tokenizer, its hub id or URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Corpus to tokenize."""
    out: Path
    """Folder of the token corpus: new, empty, or begun with the same command."""
    processes: int = field(default_factory=_cores)
    """Worker processes; default all cores. The result does not depend on it."""


def main(config: ApplyConfig) -> None:
    """Check that tokenizer and corpus fit together, then tokenize every split."""
    if config.processes < 1:
        raise HepfmError("must be at least 1", "--processes")
    tokens = apply(config.tokenizer, config.corpus, config.out, config.processes)
    points = {name: split.points for name, split in Corpus.open(config.corpus).manifest.splits.items()}
    for name, split in tokens.manifest.splits.items():
        without = points[name] - split.points
        told = f"; {without:,} points have none, the tokenizer's selection leaves them out" if without else ""
        say(f"{name}: {split.records:,} records, {split.points:,} tokens{told}")
    sys.stdout.write(f"{tokens.path}\n")


def apply(tokenizer_name: str | Path, corpus_path: Path, out: Path, processes: int = 1) -> Corpus:
    """Write the token corpus of a corpus.

    Raises:
        HepfmError: the corpus is not what the tokenizer takes, or ``out`` holds something else.
    """
    artifact_path = resolve(tokenizer_name)
    tokenizer, corpus = load_tokenizer(artifact_path), Corpus.open(corpus_path)
    tokenizer.contract.check(corpus.manifest, statistics_of(corpus), corpus.path)
    plan = make_plan(tokenizer, corpus, out)
    produce = Produce(artifact_path, tokenizer.hash, corpus)
    return write_corpus(out, plan, produce, workers=Workers(processes), attached={INSIDE: artifact_path})


def make_plan(tokenizer: Tokenizer, corpus: Corpus, out: Path) -> Plan:
    """One job a shard of the corpus; all that determines the token corpus's bytes."""
    made_from = {"tokenizer": tokenizer.hash, "source": corpus.digest}
    return Plan(
        identity=made_from,
        jobs=mirror_jobs(corpus),
        kind="tokens",
        schema=token_schema(corpus, tokenizer),
        labels=corpus.manifest.labels,
        axis=tokenizer.contract.axis,
        geometry=corpus.manifest.geometry,
        block_records=BLOCK_RECORDS["tokens"],
        provenance={
            "command": "hepfm tokenizer apply TOKENIZER CORPUS --out TOKENS",
            **{name: known for name, known in corpus.manifest.provenance.items() if name == "files"},
        },
        tokens=_entry(tokenizer, corpus, out) | made_from,
    )


def _entry(tokenizer: Tokenizer, corpus: Corpus, out: Path) -> dict[str, Any]:
    """What the manifest says of the tokens; their columns only where there are several."""
    # The path is relative: it holds wherever both folders are moved together.
    entry: dict[str, Any] = {"codes": tokenizer.codes, "source_path": corpus.url or os.path.relpath(corpus.path, out)}
    if selection := tokenizer.contract.selection():
        entry["selection"] = selection
    if len(tokenizer.streams) == 1:
        return entry
    entry["streams"] = {stream.column: stream.codes for stream in tokenizer.streams}
    delays = delays_of(tokenizer.streams, tokenizer.continuous)
    return entry | {"delays": delays} if any(delays.values()) else entry


def token_schema(corpus: Corpus, tokenizer: Tokenizer) -> pa.Schema:
    """Tokens in place of the points, everything else as it is."""
    fields = token_fields(tokenizer.streams, tokenizer.continuous)
    fields += [field for field in corpus.manifest.schema if field.name not in POINTS_COLUMN.values()]
    return pa.schema(fields, metadata={"kind": "tokens"})


def statistics_of(corpus: Corpus) -> dict[str, dict[str, object]]:
    """Of the train split, or where there is none of the first block."""
    if corpus.manifest.statistics:
        return corpus.manifest.statistics
    summaries: dict[str, Summary] = {}
    summarise(corpus.split(corpus.splits()[0]).read(0), summaries)
    return {name: summary.figures() for name, summary in summaries.items()}


@dataclass(frozen=True)
class Produce:
    """Tokenizes the blocks of a shard one by one. Goes to worker processes, each of which loads the tokenizer once."""

    artifact_path: Path
    hash: str
    corpus: Corpus

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        tokenizer = _load_once(self.artifact_path, self.hash)
        schema = token_schema(self.corpus, tokenizer)
        split = self.corpus.split(job.split)
        first, stop = job.payload
        for block in range(first, stop):
            yield tokenize(split.read(block), tokenizer, schema, self.corpus.manifest.axis)


def tokenize(batch: pa.RecordBatch, tokenizer: Tokenizer, schema: pa.Schema, axis: str) -> pa.RecordBatch:
    """The token records of a batch of records whose deta and dphi refer to ``axis``."""
    made = tokenizer.encode(tokenizer.contract.prepared(batch, axis)).columns(tokenizer.streams)
    arrays = [made[field.name].cast(field.type) if field.name in made else batch.column(field.name) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@functools.lru_cache(maxsize=1)
def _load_once(path: Path, expected: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.hash != expected:
        raise HepfmError("was replaced while it was being applied", path, "run again")
    return tokenizer
