"""Simulated records straight into a corpus: each shard is a job that simulates what it holds."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind
from hepfm.ingest.build import BLOCK_RECORDS
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.gather import gather
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.shards import concatenate
from hepfm.ingest.simulate.simulation import Simulation, check_pieces, sequence_name
from hepfm.ingest.workers import Workers, moved

LARGEST_SHARD = {"jets": 8_192, "showers": 2_048}
SMALLEST_SHARD = {"jets": 1_024, "showers": 256}  # Pythia takes half a second to start for each class of a shard
SHARDS = 8  # of a small corpus, so that several processes have work


@dataclass(frozen=True)
class Layout:
    """How a corpus of simulated records is laid out; part of what determines its bytes."""

    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Fractions of train, val and test. They are cut between independent sequences."""
    shard_records: int | None = None
    """Records of a shard, at most; default an eighth of all, but 1,024 to 8,192 jets or 256 to 2,048 showers. A shard
    is one process's piece of work; a killed simulation loses what it had of unfinished ones."""
    block_records: int | None = None
    """Records of a block; default 2,048 jets or 128 showers."""


def simulate_corpus(
    simulation: Simulation, out: Path, records: int, layout: Layout | None = None, workers: Workers | None = None
) -> Corpus:
    """Simulate a corpus, or continue one that was interrupted; the bytes depend on neither, nor on the workers.

    The manifest lists the sequences where another corpus lists its source files: ``source_file`` is a sequence's index,
    ``source_entry`` the place in it. The same sequence in another corpus is found as the same file would be.

    Args:
        simulation: what is simulated.
        out: the corpus's folder: new, empty, or begun with the same arguments.
        records: of each stream.
        layout: splits and sizes.
        workers: who works; this process by default.

    Raises:
        HepfmError: impossible settings; the folder holds something else.
    """
    layout = layout or Layout()
    _check(layout, records)
    simulation.check()
    plan = _plan(simulation, records, layout)
    check_folder(out)
    produce = _Produce(simulation, plan.block_records)
    return write_corpus(out, plan, produce, workers=workers)


def _check(layout: Layout, records: int) -> None:
    if min(layout.splits) < 0 or abs(sum(layout.splits) - 1) > 1e-6:
        raise HepfmError(
            f"{' '.join(map(str, layout.splits))} are no fractions of a whole", "--splits", "let them add up to 1"
        )
    for name, value in (
        ("--records", records),
        ("--shard-records", layout.shard_records),
        ("--block-records", layout.block_records),
    ):
        if value is not None and value < 1:
            raise HepfmError(f"must be at least 1, is {value}", name)


def _plan(simulation: Simulation, records: int, layout: Layout) -> Plan:
    total = records * len(simulation.streams)
    shard_records = layout.shard_records or _shard_records(simulation.kind, total)
    check_pieces(-(-total // shard_records), "shards", "--shard-records")
    block_records = layout.block_records or BLOCK_RECORDS[simulation.kind]
    jobs: list[Job] = []
    files: list[dict[str, Any]] = []
    for split, wanted in zip(SPLITS, _shares(records, layout.splits), strict=True):
        shards = -(-wanted * len(simulation.streams) // shard_records)
        for shard, count in enumerate(_parts(wanted, shards)):
            number = len(jobs)
            payload = [[len(files) + index, stream, number, count] for index, stream in enumerate(simulation.streams)]
            files += [
                {
                    "name": sequence_name(stream, number),
                    "sha256": simulation.identity(stream, number),
                    "entries": count,
                }
                for stream in simulation.streams
            ]
            size = count * len(simulation.streams)
            jobs.append(Job(split, shard, payload, size=size, expected=size))
    settings = {
        "records": records,
        "splits": list(layout.splits),
        "shard_records": shard_records,
        "block_records": block_records,
    }
    origin = {"source": simulation.name, "settings": simulation.settings(), "selection": {}}
    return Plan(
        identity={**origin, "build": settings},
        jobs=tuple(jobs),
        kind=simulation.kind,
        schema=simulation.schema,
        labels=simulation.labels,
        axis=simulation.axis,
        block_records=block_records,
        geometry=simulation.geometry,
        provenance={
            **origin,
            "build": settings,
            "files": files,
            "notes": [],
            "command": _command(simulation, settings),
        },
        unit=simulation.kind,
    )


def _shard_records(kind: Kind, total: int) -> int:
    """Records of a shard of a corpus of ``total`` records."""
    return min(max(total // SHARDS, SMALLEST_SHARD[kind]), LARGEST_SHARD[kind])


def _command(simulation: Simulation, settings: dict[str, Any]) -> str:
    """The command in its normal form: without what does not shape the corpus (folders, processes)."""
    words = ["hepfm", "ingest", *simulation.name.split(), "--out", "CORPUS"]
    options = {field.name: getattr(simulation, field.name) for field in fields(simulation)}
    for name, value in {**options, **settings}.items():
        if value is None or value == ():
            continue  # the default, which is no word
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *(shlex.quote(str(value)) for value in values)]
    return " ".join(words)


def _shares(records: int, fractions: tuple[float, float, float]) -> list[int]:
    """Records of each split, which add up to ``records``."""
    bounds = np.rint(np.cumsum([0.0, *fractions]) * records).astype(int)
    return [int(stop - start) for start, stop in pairwise(bounds)]


def _parts(records: int, shards: int) -> list[int]:
    """Records of each of ``shards`` shards, equal or differing by one."""
    return [records * (k + 1) // shards - records * k // shards for k in range(shards)]


@dataclass(frozen=True)
class _Produce:
    """Simulates the sequences of a shard and mixes their records."""

    simulation: Simulation
    block_records: int

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        records = concatenate([batch for part in job.payload for batch in self._sequence(*part)])
        order = generator("mix", self.simulation.seed, job.split, job.shard).permutation(len(records))
        for start in range(0, len(records), self.block_records):
            yield gather(records, order[start : start + self.block_records])

    def _sequence(self, file: int, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        if not records:
            return
        for batch in self.simulation.batches(stream, number, records):
            at = batch.schema.get_field_index("source_file")
            yield batch.set_column(at, batch.schema.field(at), pa.array(np.full(len(batch), file, np.int32)))
            moved(len(batch))
