"""``hepfm corpus split``: the records of a corpus dealt anew to train, val and test, whole events or runs together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.draws import generator, hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.plan import Plan
from hepfm.ingest.splits import default_run_entries
from hepfm.ingest.tally import Tally
from hepfm.ingest.weave import (
    Strand,
    Weaving,
    Woven,
    attached_files,
    largest_shard,
    lineage,
    tokens_alone,
    woven_jobs,
)
from hepfm.ingest.workers import Workers, in_order

EVENT_BINS = 1 << 16  # events are dealt in this many bins of about equal size
_EVENT = ("run", "lumi", "event")
_FILE_STEP = 1 << 40  # more than any file has runs
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class SplitOptions:
    """How records are dealt to splits."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Fractions of train, val and test; they add up to one."""
    seed: int = 0
    """Seed of the splits and of the order of records."""
    records: int | None = None
    """Take about so many records of each split (all of one that has fewer). With the same seed and fractions a smaller
    number gives a subset of what a larger one gives, for scans over the number of labelled jets."""
    run_entries: int | None = None
    """Neighbouring entries of a source file that stay together, where records do not name their collision; default
    1,000 to 4,096 by size. Keep to at least 1,000 unless neighbours are known to be independent."""


def split_corpus(corpus: Corpus, options: SplitOptions, out: Path, processes: int = 1) -> Corpus:
    """Write the corpus with new splits, or continue it; the bytes do not depend on either, nor on processes.

    Jets of one collision stay together: where records have run, lumi and event, or event_id, these tell which; others
    go by runs of neighbouring entries of a source file, never one by one. A token corpus loses its tie to the corpus
    that it was made from (see :func:`hepfm.ingest.weave.tokens_alone`) and keeps its tokenizer.

    Raises:
        HepfmError: there are fewer groups than splits are wanted, an option makes no sense, or ``out`` holds something
            else.
    """
    _check(options)
    check_folder(out)
    deal, kept = dealt(corpus, options, processes)
    plan = make_plan(corpus, options, kept)
    produce = Woven((corpus,), deal, options.seed, plan.block_records)
    return write_corpus(out, plan, produce, workers=Workers(processes), attached=attached_files([corpus]))


def _check(options: SplitOptions) -> None:
    if min(options.fractions) < 0 or abs(sum(options.fractions) - 1) > 1e-6:
        given = " ".join(map(str, options.fractions))
        raise HepfmError(f"{given} are no fractions of a whole", "--fractions", "let them add up to 1")
    for name in ("records", "run_entries"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise HepfmError("must be at least 1", f"--{name.replace('_', '-')}")


def make_plan(corpus: Corpus, options: SplitOptions, kept: dict[str, int]) -> Plan:
    """The corpus with new splits: blocks and shards as large as the parent's."""
    manifest = corpus.manifest
    strands = tuple(Strand(0, name, split.records) for name, split in manifest.splits.items())
    settings = {
        "fractions": list(options.fractions),
        "seed": options.seed,
        "records": options.records,
        "run_entries": _run_entries(corpus, options),
    }
    words = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if isinstance(value, int)]
    words.append(f"--fractions {' '.join(map(str, options.fractions))}")
    known = ("source", "settings", "files")
    return Plan(
        identity={"split": settings, "parent": corpus.digest},
        jobs=tuple(
            job
            for name, records in kept.items()
            for job in woven_jobs(Weaving(name, strands, records), manifest.block_records, largest_shard([corpus]))
        ),
        kind=manifest.kind,
        schema=manifest.schema,
        labels=manifest.labels,
        axis=manifest.axis,
        block_records=manifest.block_records,
        provenance={
            **{name: manifest.provenance[name] for name in known if name in manifest.provenance},
            "split": settings,
            "parents": [lineage(corpus)],
            "command": " ".join(["hepfm corpus split CORPUS --out SPLIT", *words]),
        },
        geometry=manifest.geometry,
        tokens=tokens_alone(corpus),
        unit="records looked at",  # each new split looks at all of the parent's
    )


def _run_entries(corpus: Corpus, options: SplitOptions) -> int:
    if options.run_entries is not None:
        return options.run_entries
    files = corpus.manifest.provenance.get("files")
    records = sum(split.records for split in corpus.manifest.splits.values())
    return default_run_entries(records if files is None else sum(file["entries"] for file in files))


@dataclass(frozen=True)
class Groups:
    """Which records belong together.

    A group is a run of entries, with key ``file * 2^40 + run``, or a bin of collision events, with a negative key.
    """

    run_entries: int
    seed: int

    def keys(self, batch: pa.RecordBatch) -> np.ndarray:
        """Key (n,) int64 of the group of each record."""
        file = batch.column("source_file").to_numpy().astype(np.int64)
        keys = file * _FILE_STEP + batch.column("source_entry").to_numpy() // self.run_entries
        names = batch.schema.names
        if "event_id" in names:
            # The numbers of simulated collisions start anew in each file; those of recorded ones name one collision.
            keys = self._by_event(keys, [file, *_columns(batch, ("event_id",))], batch.column("event_id"))
        if all(name in names for name in _EVENT):
            keys = self._by_event(keys, _columns(batch, _EVENT), batch.column("event"))
        return keys

    def _by_event(self, keys: np.ndarray, event: list[np.ndarray], column: pa.Array) -> np.ndarray:
        place = hashed_uniform(key_of("split events", self.seed), *event)
        known = column.is_valid().to_numpy(zero_copy_only=False)
        return np.where(known, np.floor(place * EVENT_BINS).astype(np.int64) - EVENT_BINS, keys)


def _columns(batch: pa.RecordBatch, names: tuple[str, ...]) -> list[np.ndarray]:
    return [values_of(batch.column(name)).astype(np.int64) for name in names]


@dataclass(frozen=True)
class Deal:
    """Which split each group goes to, and how many of its records are taken.

    Attributes:
        groups: which records belong together.
        keys: (g,) keys of all groups, ascending.
        splits: (g,) index of the split of each.
        below: by split: records are taken whose own draw lies below.
    """

    groups: Groups
    keys: np.ndarray
    splits: np.ndarray
    below: dict[str, float]

    def __call__(self, batch: pa.RecordBatch, corpus: int, split: str, tally: Tally) -> pa.RecordBatch:
        kept = self.split_of(batch) == SPLITS.index(split)
        if self.below[split] < 1:
            kept &= self.draws(batch) < self.below[split]
        return batch.filter(pa.array(kept))

    def split_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Index (n,) of each record's split."""
        return self.splits[np.searchsorted(self.keys, self.groups.keys(batch))]

    def draws(self, batch: pa.RecordBatch) -> np.ndarray:
        """A uniform draw (n,) of each record; those of one entry (jets of one event) share it."""
        origin = (batch.column(name).to_numpy() for name in ("source_file", "source_entry"))
        return hashed_uniform(key_of("split records", self.groups.seed), *origin)


def dealt(corpus: Corpus, options: SplitOptions, processes: int) -> tuple[Deal, dict[str, int]]:
    """Look through the records, deal their groups, and count what each split gets."""
    groups = Groups(_run_entries(corpus, options), options.seed)
    keys, counts = _count_groups(corpus, groups, processes)
    wanted = {name: fraction for name, fraction in zip(SPLITS, options.fractions, strict=True) if fraction > 0}
    owner = _owners(keys, _short_files(corpus, groups.run_entries))
    owning = np.unique(owner)
    if len(owning) < len(wanted):
        raise HepfmError(
            f"holds {len(owning)} of the groups of records that have to stay together (collisions, or runs of "
            f"{groups.run_entries:,} entries), too few for {len(wanted)} splits",
            corpus.path,
            "ask for fewer splits, or give --run-entries if neighbours are known to be independent",
        )
    owned = np.bincount(owner, counts, minlength=len(keys))[owning].astype(np.int64)
    splits = deal_groups(keys[owning], owned, wanted, options.seed)[np.searchsorted(owning, owner)]
    kept = {name: int(counts[splits == SPLITS.index(name)].sum()) for name in wanted}
    deal = Deal(groups, keys, splits, dict.fromkeys(wanted, 1.0))
    if options.records is None:
        return deal, kept
    below = _lowest_draws(corpus, deal, options.records, processes)
    return Deal(groups, keys, splits, below), {name: min(count, options.records) for name, count in kept.items()}


def _short_files(corpus: Corpus, run_entries: int) -> set[int] | None:
    """Files whose last run is shorter than the others; None if the lengths of the files are not known."""
    files = corpus.manifest.provenance.get("files")
    if files is None:
        return None
    return {number for number, file in enumerate(files) if file["entries"] % run_entries}


def _owners(keys: np.ndarray, short: set[int] | None) -> np.ndarray:
    """For each group (g,) the one that it is dealt with: itself, or for a short last run of a file the run before."""
    file = keys // _FILE_STEP
    last = np.flatnonzero((file[1:] == file[:-1]) & np.append(file[2:] != file[1:-1], True)) + 1
    owner = np.arange(len(keys))
    for group in last.tolist():
        if file[group] >= 0 and (short is None or int(file[group]) in short):
            owner[group] = group - 1
    return owner


def deal_groups(keys: np.ndarray, counts: np.ndarray, wanted: dict[str, float], seed: int) -> np.ndarray:
    """Index of the split (g,) of each group.

    The groups of a file (or all bins of events) are spread evenly over [0, 1) in an order keyed by the seed, those of
    successive files shifted against each other by the golden ratio; the splits are intervals of the sequence. So each
    file, and with it each class, is spread in proportion, and every split is within a group of its share.

    Args:
        keys: (g,) ascending, see :class:`Groups`.
        counts: (g,) records of each.
        wanted: fraction of each split that is to get any.
        seed: another seed, other splits.
    """
    files, sizes = np.unique(keys // _FILE_STEP, return_counts=True)  # events: file -1
    places = [
        (generator("split groups", seed, file).permutation(size) + rank * _GOLDEN % 1) / size
        for rank, (file, size) in enumerate(zip(files.tolist(), sizes.tolist(), strict=True))
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    middle = (np.cumsum(counts[order]) - counts[order] / 2) / counts.sum()
    edges = np.cumsum(list(wanted.values())) / sum(wanted.values())
    interval = np.searchsorted(edges[:-1], middle, side="right")
    for empty in sorted(set(range(len(wanted))) - set(interval.tolist())):
        largest = np.bincount(interval).argmax()
        interval[np.flatnonzero(interval == largest)[-1]] = empty
    splits = np.empty(len(keys), dtype=np.int8)
    splits[order] = np.array([SPLITS.index(name) for name in wanted], dtype=np.int8)[interval]
    return splits


def _shards(corpus: Corpus) -> Iterator[tuple[str, int, int]]:
    for name, split in corpus.manifest.splits.items():
        for shard in split.shards:
            blocks = corpus.split(name).blocks_of(shard.number)
            yield name, blocks.start, blocks.stop


def _count_groups(corpus: Corpus, groups: Groups, processes: int) -> tuple[np.ndarray, np.ndarray]:
    """All keys, ascending, and how many records have each."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    shards = list(_shards(corpus))
    with progress("looking through", len(shards), "shards") as task:
        for found, number in in_order(partial(_groups_of, corpus, groups), shards, processes):
            keys, counts = _added(np.concatenate([keys, found]), np.concatenate([counts, number]))
            task.advance()
    return keys, counts


def _groups_of(corpus: Corpus, groups: Groups, shard: tuple[str, int, int]) -> tuple[np.ndarray, np.ndarray]:
    name, first, stop = shard
    found = np.concatenate([groups.keys(corpus.split(name).read(block)) for block in range(first, stop)])
    return _added(found, np.ones(len(found), np.int64))


def _added(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, place = np.unique(keys, return_inverse=True)
    return unique, np.bincount(place, counts, minlength=len(unique)).astype(np.int64)


def _lowest_draws(corpus: Corpus, deal: Deal, records: int, processes: int) -> dict[str, float]:
    """For each split the draw below which about ``records`` of its records lie."""
    lowest = {name: np.zeros(0) for name in deal.below}
    shards = list(_shards(corpus))
    with progress("choosing", len(shards), "shards") as task:
        for found in in_order(partial(_lowest_of, corpus, deal, records), shards, processes):
            for name, draws in found.items():
                lowest[name] = np.sort(np.concatenate([lowest[name], draws]))[: records + 1]
            task.advance()
    return {name: float(draws[records]) if len(draws) > records else 1.0 for name, draws in lowest.items()}


def _lowest_of(corpus: Corpus, deal: Deal, records: int, shard: tuple[str, int, int]) -> dict[str, np.ndarray]:
    name, first, stop = shard
    lowest = {split: np.zeros(0) for split in deal.below}
    for block in range(first, stop):
        batch = corpus.split(name).read(block)
        splits, draws = deal.split_of(batch), deal.draws(batch)
        for split in lowest:
            mine = draws[splits == SPLITS.index(split)]
            lowest[split] = np.sort(np.concatenate([lowest[split], mine]))[: records + 1]
    return lowest
