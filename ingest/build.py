"""Building a corpus of jets or showers from the files of a source."""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.gather import gather
from hepfm.ingest.hub import address_of
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.plausible import faults
from hepfm.ingest.probe import Probed, SourceFile, existing, probe
from hepfm.ingest.selection import Selection, selection_type
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
from hepfm.ingest.tally import OnBad, Tally
from hepfm.ingest.workers import Workers

BLOCK_RECORDS = {"jets": 2048, "showers": 128, "tokens": 4096}
# Entries of one file that are held at a time; a shower has hundreds of times as many points as a jet.
PIECE_ENTRIES = {"jets": 4096, "showers": 16}


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
    on_bad: OnBad = "stop"
    """What to do with what is bad: stop; or leave it out, count it in the cut flow and list it in rejected.jsonl. Bad
    is a record that breaks a rule (NaN, negative energy, no constituents, another unit, an index outside its table, a
    label outside its list), an entry that comes a second time, and a file that is damaged. A build that stopped over
    a record continues with the other choice: shards without such records are the same."""


def build(
    source: Source,
    files: Sequence[Path],
    out: Path,
    options: BuildOptions | None = None,
    selection: Selection | None = None,
    processes: int = 1,
    scheduler: str | None = None,
) -> Corpus:
    """Build a corpus, or continue one that was interrupted; the bytes do not depend on either, nor on the workers.

    Args:
        source: the format of the files.
        files: raw files, each once. Neither their order nor their place on disk matters to the bytes.
        out: the corpus's folder.
        options: splits, seed and layout.
        selection: which records to keep.
        processes, scheduler: see :class:`hepfm.ingest.workers.Workers`.

    Raises:
        HepfmError: a file is missing, given twice or bad; the folder holds something else; no record passes.
    """
    options = options or BuildOptions()
    selection = selection or selection_type(source.kind)()
    _check(options)
    check_folder(out)
    source, whole, left_out = bind(source, existing(files), options.on_bad)
    selection.check(source)
    with Workers(processes, scheduler) as workers:
        probed = probe(source, whole, options.on_bad, workers, left_out)
        plan = make_plan(source, probed, options, selection)
        for note in plan.provenance["notes"]:
            say(note)
        produce = Produce(
            source, probed.files, probed.repeated, selection, options.on_bad, options.seed, plan.block_records
        )
        return write_corpus(out, plan, produce, workers=workers)


def bind(source: Source, files: Sequence[Path], on_bad: OnBad) -> tuple[Source, Sequence[Path], list[tuple[str, str]]]:
    """The source bound to its files, these files, and with ``skip`` those that cannot be opened, with their faults."""
    if on_bad == "stop":
        return source.bind(files), files, []
    whole, left_out, first = [], [], None
    for file in files:
        try:
            source.bind([file])
            whole.append(file)
        except HepfmError as error:
            first = first or error
            left_out.append((file.name, error.what))
    if not whole and first is not None:
        raise first
    return source.bind(whole), whole, left_out


def make_plan(source: Source, probed: Probed, options: BuildOptions, selection: Selection) -> Plan:
    """Lay the corpus out: which entries go to which split, shard and round."""
    entries = [file.entries for file in probed.files]
    run_entries = options.run_entries or default_run_entries(sum(entries))
    fractions = dict(zip(SPLITS, options.splits, strict=True))
    runs = cut_runs(entries, run_entries, probed.edges)
    dealt = assign_splits(runs, fractions, options.seed)
    notes = [f"{name} was left out: {what}" for name, what in probed.left_out]
    again = sum(int((ranges[:, 1] - ranges[:, 0]).sum()) for ranges in probed.repeated.values())
    if again:
        notes.append(f"{again:,} entries came a second time and were left out")
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
    listed = [file.identity() for file in probed.files]
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
        geometry=source.geometry,
        provenance={
            **origin,
            "build": settings,
            "files": [{**known, **_address(file)} for known, file in zip(listed, probed.files, strict=True)],
            "notes": notes,
            "command": _command(source, settings, selection),
        },
        unit="entries",
    )


def _address(file: SourceFile) -> dict[str, str]:
    address = address_of(file.path)
    return {} if address is None else {"url": address}


def _payload(lanes: list[Run], piece_entries: int) -> list[list[list[int]]]:
    """Rounds of a group of runs as plain data: lists of [file, first entry, stop]."""
    return [[[run.file, run.start, run.stop] for run in pieces] for pieces in rounds_of(lanes, piece_entries)]


def _entries(shard: list[list[Run]]) -> int:
    return sum(len(run) for lanes in shard for run in lanes)


def _command(source: Source, settings: dict[str, Any], selection: Selection) -> str:
    """The command in its normal form: without what does not shape the corpus (folders, processes)."""
    words = ["hepfm", "ingest", source.name, "FILES", "--out", "CORPUS"]
    for name, value in {**source.settings(), **settings, **selection.settings()}.items():
        values = value if isinstance(value, list) else [value]
        # A file that shapes the corpus is known by its checksum; the command names it as it names the raw files.
        words += [f"--{name.replace('_', '-')}", *("FILE" if _is_checksum(v) else shlex.quote(str(v)) for v in values)]
    return " ".join(words)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


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
    """Reads the rounds of a shard: selection applied, records of a round permuted. Returns what became of entries."""

    source: Source
    files: tuple[SourceFile, ...]
    repeated: dict[int, np.ndarray]
    selection: Selection
    on_bad: OnBad
    seed: int
    block_records: int

    def __call__(self, job: Job) -> Generator[pa.RecordBatch, None, Tally]:
        tally = Tally(self.on_bad, {"entries": 0})
        rounds = [pieces for group in job.payload for pieces in group]
        for number, pieces in enumerate(rounds):
            yield from self._round(pieces, generator("ingest", self.seed, job.split, job.shard, number), tally)
        return tally

    def _round(self, pieces: list[list[int]], draws: np.random.Generator, tally: Tally) -> Iterator[pa.RecordBatch]:
        """The records of a round, permuted; none of them is held when the next round is read."""
        records = concatenate([self._read(piece, tally) for piece in pieces])
        order = draws.permutation(len(records))
        for start in range(0, len(records), self.block_records):
            yield gather(records, order[start : start + self.block_records])

    def _read(self, piece: list[int], tally: Tally) -> pa.RecordBatch:
        number, start, stop = piece
        file = self.files[number]
        if not file.unchanged():
            raise HepfmError("changed while it was being read", file.path, "run again")
        tally.file = number
        tally.count("entries", stop - start)
        batch = self.source.read(file.path, start, stop, tally)
        if not batch.schema.equals(self.source.schema):
            raise HepfmError(f"{self.source.name} gave {batch.schema}, not {self.source.schema}", file.path)
        tally.count("read", len(batch))
        at = batch.schema.get_field_index("source_file")
        batch = batch.set_column(at, batch.schema.field(at), pa.array(np.full(len(batch), number, np.int32)))
        batch = self._possible(self._first(batch, number, tally), file, tally)
        return self.selection.apply(batch, tally.flow)

    def _first(self, batch: pa.RecordBatch, number: int, tally: Tally) -> pa.RecordBatch:
        """The records whose entries did not come before."""
        if number not in self.repeated:
            return batch
        starts, stops = self.repeated[number].T
        entries = values_of(batch.column("source_entry"))
        at = np.searchsorted(starts, entries, side="right") - 1
        again = (at >= 0) & (entries < stops[at])
        tally.reject("came a second time", np.unique(entries[again]), self.files[number].path)
        return batch.filter(pa.array(~again))

    def _possible(self, batch: pa.RecordBatch, file: SourceFile, tally: Tally) -> pa.RecordBatch:
        """The records that keep the rules of :mod:`hepfm.ingest.plausible`; others count under the first they break."""
        possible = np.ones(len(batch), dtype=bool)
        entries = values_of(batch.column("source_entry"))
        for what, records in faults(batch):
            first = records[possible[records]]
            possible[first] = False
            tally.reject(what, entries[first], file.path)
        tally.count("possible", int(possible.sum()))
        return batch if possible.all() else batch.filter(pa.array(possible))
