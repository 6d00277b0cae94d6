"""Building a corpus of jets or showers from the files of a source."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.progress import progress, say
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.gather import gather
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.selection import JetSelection, possible_records
from hepfm.ingest.shards import concatenate
from hepfm.ingest.sources.base import Source
from hepfm.ingest.splits import (
    Run,
    assign_splits,
    cut_runs,
    default_run_entries,
    interleave,
    rounds_of,
    shards_of,
)

BLOCK_RECORDS = {"jets": 2048, "showers": 128, "tokens": 4096}
# Entries of one file that are held at a time; a shower has a hundred times as many points as a jet.
PIECE_ENTRIES = {"jets": 4096, "showers": 128}


@dataclass(frozen=True)
class BuildOptions:
    """How a corpus is laid out; part of what determines its bytes."""

    seed: int = 0
    """Seed of the splits and of the order of records."""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Fractions of train, val and test."""
    run_entries: int | None = None
    """Entries of a file (a jet or an event each) that stay together in one split; default 1,000 to 4,096 by size.
    Keep to at least 1,000 unless neighbouring jets are known to be independent."""
    shard_entries: int = 65536
    """Entries that a shard is made from, about."""
    block_records: int | None = None
    """Records of a block; default 2,048 jets or 128 showers."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do with a record that holds an impossible value (NaN, infinity, a negative pt): stop, or leave it out
    and count it. A build that stopped continues with the other choice: shards without such records are the same."""


@dataclass(frozen=True)
class SourceFile:
    """A raw file: where it lies now, and what identifies it wherever it lies."""

    path: Path
    name: str
    sha256: str
    bytes: int
    entries: int

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "bytes": self.bytes, "entries": self.entries}


def build(
    source: Source,
    files: Sequence[Path],
    out: Path,
    options: BuildOptions | None = None,
    selection: JetSelection | None = None,
    processes: int = 1,
) -> Corpus:
    """Build a corpus, or continue one that was interrupted; the bytes do not depend on either, nor on processes.

    Args:
        source: the format of the files.
        files: raw files, each once. Neither their order nor their place on disk matters to the bytes.
        out: the corpus's folder.
        options: splits, seed and layout.
        selection: which records to keep.
        processes: worker processes.

    Raises:
        HepfmError: a file is missing, given twice or bad; the folder holds something else; no record passes.
    """
    options, selection = options or BuildOptions(), selection or JetSelection()
    _check(options)
    selection.check(source)
    check_folder(out)
    probed = probe(source, files)
    plan = make_plan(source, probed, options, selection)
    for note in plan.provenance["notes"]:
        say(note)
    produce = Produce(source, tuple(probed), selection, options.on_bad, options.seed, plan.block_records)
    return write_corpus(out, plan, produce, processes=processes)


def probe(source: Source, files: Sequence[Path]) -> list[SourceFile]:
    """Open every file and take its checksum; nothing is built before all are known to be good."""
    files = [Path(file) for file in files]
    if not files:
        raise HepfmError("no file was given", "ingest", "name at least one")
    for file in files:
        if not file.is_file():
            raise HepfmError("no such file" if not file.exists() else "is not a file", file)
    resolved = [file.resolve() for file in files]
    common = Path(os.path.commonpath([file.parent for file in resolved]))
    probed: dict[str, SourceFile] = {}
    with progress("checking files", len(files), "files") as task:
        for path in resolved:
            entries, sha256 = source.entries(path), sha256_file(path)
            if sha256 in probed:
                twice = "was given twice" if probed[sha256].path == path else f"is a copy of {probed[sha256].path}"
                raise HepfmError(twice, path, "give each file once")
            name = path.relative_to(common).as_posix()
            probed[sha256] = SourceFile(path, name, sha256, path.stat().st_size, entries)
            task.advance()
    if not any(file.entries for file in probed.values()):
        raise HepfmError("no file holds an entry", f"{files[0]}" + (" and the others" if files[1:] else ""))
    # By name, so that it does not matter in which order they were given, and the files of a class stand together.
    return sorted(probed.values(), key=lambda file: file.name)


def make_plan(source: Source, files: Sequence[SourceFile], options: BuildOptions, selection: JetSelection) -> Plan:
    """Lay the corpus out: which entries go to which split, shard and round."""
    entries = [file.entries for file in files]
    run_entries = options.run_entries or default_run_entries(sum(entries))
    fractions = dict(zip(SPLITS, options.splits, strict=True))
    runs = cut_runs(entries, run_entries)
    dealt = assign_splits(runs, fractions, options.seed)
    notes = []
    if len(dealt) < sum(fraction > 0 for fraction in options.splits):
        notes.append(
            f"{sum(entries):,} entries are too few to be split in runs of {run_entries:,}: all are in "
            f"{next(iter(dealt))} (give more files, or --run-entries if records are known to be independent)"
        )
    block_records = options.block_records or BLOCK_RECORDS[source.kind]
    settings = {
        "seed": options.seed,
        "splits": list(options.splits),
        "run_entries": run_entries,
        "shard_entries": options.shard_entries,
        "block_records": block_records,
    }
    origin = {"source": source.name, "settings": source.settings(), "selection": selection.settings()}
    listed = [file.identity() for file in files]
    return Plan(
        identity={**origin, "build": settings, "files": listed},
        jobs=tuple(
            Job(split, number, [_payload(lanes, PIECE_ENTRIES[source.kind]) for lanes in shard], _entries(shard))
            for split in SPLITS
            if split in dealt
            for number, shard in enumerate(shards_of(interleave(dealt[split]), run_entries, options.shard_entries))
        ),
        kind=source.kind,
        schema=source.schema,
        labels=source.labels,
        axis=source.axis,
        block_records=block_records,
        provenance={
            **origin,
            "build": settings,
            "files": listed,
            "notes": notes,
            "command": _command(source, settings, selection),
        },
        unit="entries",
    )


def _payload(lanes: list[Run], piece_entries: int) -> list[list[list[int]]]:
    """Rounds of a group of runs as plain data: lists of [file, first entry, stop]."""
    return [[[run.file, run.start, run.stop] for run in pieces] for pieces in rounds_of(lanes, piece_entries)]


def _entries(shard: list[list[Run]]) -> int:
    return sum(len(run) for lanes in shard for run in lanes)


def _command(source: Source, settings: dict[str, Any], selection: JetSelection) -> str:
    """The command in its normal form: without what does not shape the corpus (folders, processes)."""
    words = ["hepfm", "ingest", source.name, "FILES", "--out", "CORPUS"]
    for name, value in {**settings, **selection.settings()}.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)


def _check(options: BuildOptions) -> None:
    if min(options.splits) < 0 or abs(sum(options.splits) - 1) > 1e-6:
        raise HepfmError(
            f"{' '.join(map(str, options.splits))} are no fractions of a whole", "--splits", "let them add up to 1"
        )
    for name in ("run_entries", "shard_entries", "block_records"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise HepfmError("must be at least 1", f"--{name.replace('_', '-')}")


@dataclass(frozen=True)
class Produce:
    """Reads the rounds of a shard: selection applied, records of a round permuted. Returns the cut flow."""

    source: Source
    files: tuple[SourceFile, ...]
    selection: JetSelection
    on_bad: str
    seed: int
    block_records: int

    def __call__(self, job: Job) -> Generator[pa.RecordBatch, None, dict[str, int]]:
        flow = {"entries": 0, "read": 0, "possible": 0}
        rounds = [pieces for group in job.payload for pieces in group]
        for number, pieces in enumerate(rounds):
            records = concatenate([self._read(piece, flow) for piece in pieces])
            order = generator("ingest", self.seed, job.split, job.shard, number).permutation(len(records))
            for start in range(0, len(records), self.block_records):
                yield gather(records, order[start : start + self.block_records])
        return flow

    def _read(self, piece: list[int], flow: dict[str, int]) -> pa.RecordBatch:
        number, start, stop = piece
        file = self.files[number]
        if file.path.stat().st_size != file.bytes:
            raise HepfmError("changed while it was being read", file.path, "run again")
        batch = self.source.read(file.path, start, stop)
        if not batch.schema.equals(self.source.schema):
            raise HepfmError(f"{self.source.name} gave {batch.schema}, not {self.source.schema}", file.path)
        flow["entries"] += stop - start
        flow["read"] += len(batch)
        at = batch.schema.get_field_index("source_file")
        batch = batch.set_column(at, batch.schema.field(at), pa.array(np.full(len(batch), number, np.int32)))
        return self.selection.apply(self._possible(batch, file, flow), flow)

    def _possible(self, batch: pa.RecordBatch, file: SourceFile, flow: dict[str, int]) -> pa.RecordBatch:
        possible, fault = possible_records(batch)
        if fault and self.on_bad == "stop":
            entry = batch.column("source_entry")[int(np.argmin(possible))]
            raise HepfmError(f"{fault} in entry {entry}", file.path, "--on-bad skip leaves such records out")
        flow["possible"] += int(possible.sum())
        return batch.filter(pa.array(possible)) if fault else batch
