"""The plan of a corpus: its shards as independent jobs, and all else that determines its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from hepfm.core.files import digest_of
from hepfm.core.records import Kind
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.manifest import FORMAT
from hepfm.ingest.schema_json import schema_to_data


@dataclass(frozen=True)
class Job:
    """One shard to be made.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        shard: its number, from 0 in each split.
        payload: plain data that says what goes into it.
        size: how much work it is, in the plan's unit.
        expected: records that it has to hold, where that is known beforehand.
    """

    split: str
    shard: int
    payload: Any
    size: int
    expected: int | None = None

    @property
    def name(self) -> str:
        return f"{self.split}/{self.shard:06d}.tar"


@dataclass(frozen=True)
class Plan:
    """Everything that determines a corpus's bytes.

    Attributes:
        identity: plain data that tells this corpus from others (sources, selection, seed, tokenizer, ...).
        jobs: the shards, in order.
        kind, schema, labels, axis, geometry, tokens: go to the manifest as they are.
        block_records: records of a full block.
        provenance: further plain data for the manifest; nothing that differs between runs of the same command.
        unit: what ``Job.size`` counts.
    """

    identity: dict[str, Any]
    jobs: tuple[Job, ...]
    kind: Kind
    schema: pa.Schema
    labels: tuple[str, ...]
    axis: str
    block_records: int
    provenance: dict[str, Any]
    geometry: dict[str, Any] | None = None
    tokens: dict[str, Any] | None = None
    unit: str = "records"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that shapes the bytes."""
        return digest_of(
            {
                "format": FORMAT,
                "identity": self.identity,
                "jobs": [vars(job) for job in self.jobs],
                "kind": self.kind,
                "schema": schema_to_data(self.schema),
                "labels": list(self.labels),
                "axis": self.axis,
                "block_records": self.block_records,
                "geometry": self.geometry,
                "tokens": self.tokens,
            }
        )


def mirror_jobs(corpus: Corpus) -> tuple[Job, ...]:
    """One job for each shard of ``corpus``, for a corpus whose record i belongs to its record i.

    The payload is ``[first, stop]``: the shard's blocks, as numbers in its split.
    """
    jobs = []
    for name in corpus.splits():
        split = corpus.split(name)
        for shard in corpus.manifest.splits[name].shards:
            blocks = split.blocks_of(shard.number)
            payload = [blocks.start, blocks.stop]
            jobs.append(Job(name, shard.number, payload, size=shard.records, expected=shard.records))
    return tuple(jobs)
