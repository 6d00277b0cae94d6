"""Verifying a corpus: every checksum, every count, every figure, every invariant of its records."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.progress import progress
from hepfm.core.records import lengths_of, offsets_of
from hepfm.ingest.corpus import Corpus, Split, map_shard
from hepfm.ingest.entries import Entries, entry_numbers
from hepfm.ingest.manifest import SPLITS, Manifest, ShardEntry
from hepfm.ingest.plausible import possible_records
from hepfm.ingest.shards import decode, member_name, tar_end, tar_header, what_stands
from hepfm.ingest.summary import Summary, summarise
from hepfm.ingest.workers import in_order


def verify(path: Path, processes: int = 1) -> list[str]:
    """Everything that is wrong with a corpus, one line each; empty for a sound one.

    A flipped bit anywhere in manifest, table of blocks, shards or attached files is found, and so is anything
    in a shard but its blocks. Shards are read block by block, so memory does not grow with the corpus but for a byte
    for each entry of the source files, which tells whether two splits hold it.

    Args:
        path: its folder.
        processes: worker processes.
    """
    try:
        manifest = Manifest.load(path)
    except HepfmError as error:
        return [_told(error)]
    problems = list(_files(path, manifest))
    try:
        corpus = Corpus.open(path)
    except HepfmError as error:
        # Where the blocks lie is not known, but each shard's own checksum is.
        check: _Blocks | _Bytes = _Bytes(path)
        problems.append(_told(error))
    else:
        check = _Blocks(corpus)
        problems += _totals(corpus)
    found: dict[str, dict[str, Summary]] = {name: {} for name in manifest.splits}
    entries = Entries(manifest.provenance.get("files") or ())
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    with progress("verify", sum(shard.bytes for _, shard in shards), "bytes") as task:
        results = in_order(check, shards, min(processes, len(shards)))
        for (name, shard), report in zip(shards, results, strict=True):
            problems += report.problems
            for quantity, summary in report.summaries.items():
                found[name].setdefault(quantity, Summary()).merge(summary)
            entries.add(SPLITS.index(name), report.entries)
            task.advance(shard.bytes)
    return problems or [*_figures(path, manifest, found), *_apart(path, entries)]


def _apart(path: Path, entries: Entries) -> Iterator[str]:
    """What is held out must not be trained on."""
    count, first = entries.shared()
    if count:
        yield f"{path}: {count:,} entries of source files are in more than one split, first {first}"


def _told(error: Exception) -> str:
    """What is wrong and where; the mend is told once, for all problems."""
    return f"{error.where}: {error.what}" if isinstance(error, HepfmError) else str(error)


def _files(path: Path, manifest: Manifest) -> Iterator[str]:
    """Attached files, and shards that the manifest does not know."""
    for name, sha256 in manifest.files.items():
        file = path / name
        if not file.is_file():
            yield f"{file}: is missing"
        elif sha256_file(file) != sha256:
            yield f"{file}: was altered (sha256)"
    known = {shard.name for split in manifest.splits.values() for shard in split.shards}
    for file in sorted(path.glob("*/*.tar")):
        name = file.relative_to(path).as_posix()
        if name not in known and name not in manifest.files:
            yield f"{file}: the manifest does not know this shard"


def _totals(corpus: Corpus) -> Iterator[str]:
    """Do manifest and table of blocks agree?"""
    for name, entry in corpus.manifest.splits.items():
        index = corpus.split(name).index
        for what, stated, shards, blocks in (
            ("records", entry.records, [shard.records for shard in entry.shards], index.records),
            ("points", entry.points, [shard.points for shard in entry.shards], index.points),
            ("blocks", len(index), [shard.blocks for shard in entry.shards], np.ones(len(index), int)),
        ):
            of_shards = [int(blocks[index.shard == shard.number].sum()) for shard in entry.shards]
            if not stated == sum(shards) == blocks.sum() or of_shards != shards:
                yield f"{corpus.path}: {what} of {name} disagree between manifest and table of blocks"


def _figures(path: Path, manifest: Manifest, found: dict[str, dict[str, Summary]]) -> Iterator[str]:
    """Are the manifest's labels and statistics those of the records?"""
    for name, entry in manifest.splits.items():
        if "label" in found[name] and found[name]["label"].values != entry.labels:
            yield f"{path}: labels of {name} are {found[name]['label'].values}, stated {entry.labels}"
    for quantity, stated in manifest.statistics.items():
        figures = found["train"][quantity].figures() if quantity in found.get("train", {}) else {}
        for what in sorted(stated.keys() | figures.keys()):
            if not _agree(figures.get(what), stated.get(what), what):
                yield f"{path}: {what} of {quantity} is {figures.get(what)}, stated {stated.get(what)}"


def _agree(found: object, stated: object, what: str) -> bool:
    """Means and spreads may differ in their last digits between machines; all else is exact."""
    if what in ("mean", "std") and isinstance(found, float) and isinstance(stated, float):
        return math.isclose(found, stated, rel_tol=1e-6, abs_tol=1e-9)
    return found == stated


@dataclass(frozen=True)
class _Report:
    """What is wrong with a shard, the summaries of its quantities, and the numbers of its entries where files are
    known."""

    problems: list[str]
    summaries: dict[str, Summary]
    entries: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class _Bytes:
    """Compares a shard's bytes with the manifest."""

    path: Path

    def __call__(self, item: tuple[str, ShardEntry]) -> _Report:
        entry = item[1]
        try:
            map_shard(self.path / entry.name, entry)
            return _Report(list(_altered(self.path / entry.name, entry)), {})
        except (HepfmError, OSError) as error:
            return _Report([_told(error)], {})


@dataclass(frozen=True)
class _Blocks:
    """Compares a shard's bytes, tar and records with manifest and table. Goes to worker processes."""

    corpus: Corpus

    def __call__(self, item: tuple[str, ShardEntry]) -> _Report:
        split, entry = self.corpus.split(item[0]), item[1]
        path, summaries, entries = self.corpus.path / entry.name, dict[str, Summary](), [np.zeros(0, np.int64)]
        try:
            data = map_shard(path, entry)
            problems = list(_altered(path, entry))
        except (HepfmError, OSError) as error:
            return _Report([_told(error)], {})
        layout = list(_layout(split, data, entry))
        problems += [f"{path}: {problem}" for problem in layout]
        for number, block in enumerate(split.blocks_of(entry.number)):
            where = f"{path}: block {number}"
            problems += [f"{where}{problem}" for problem in _block(split, block, data, summaries, entries)]
        return _Report(problems, summaries, np.unique(np.concatenate(entries)))


def _altered(path: Path, entry: ShardEntry) -> Iterator[str]:
    found = sha256_file(path)
    if found != entry.sha256:
        yield f"{path}: was altered: sha256 {found[:16]}..., expected {entry.sha256[:16]}..."


def _layout(split: Split, data: pa.Buffer, entry: ShardEntry) -> Iterator[str]:
    """Is the tar, byte for byte, the blocks as plain files in order, and nothing else?

    A tar of these members can be written in one way only, so links, devices, foreign paths, owners, times, hidden bytes
    between the members or after them are all seen here, without unpacking anything.
    """
    at = 0
    for number, block in enumerate(split.blocks_of(entry.number)):
        name, start, length = member_name(entry.number, number), int(split.index.offset[block]), _length(split, block)
        if start != at + tarfile.BLOCKSIZE or length < 0 or start + length > data.size:
            yield f"block {number} lies at {start}, {length} bytes long, in the table of blocks: it cannot"
            return
        header = data.slice(at, tarfile.BLOCKSIZE).to_pybytes()
        if header != tar_header(name, length):
            yield f"before block {number} {what_stands(header, name)}"
        at = start + length + -length % tarfile.BLOCKSIZE
        if data.slice(start + length, at - start - length).to_pybytes().strip(b"\0"):
            yield f"after block {number} there is something in the padding"
    if data.size != at + tar_end(at) or data.slice(at).to_pybytes().strip(b"\0"):
        yield "after the last block there is something else"


def _length(split: Split, block: int) -> int:
    return int(split.index.length[block])


def _block(
    split: Split, block: int, data: pa.Buffer, summaries: dict[str, Summary], entries: list[np.ndarray]
) -> Iterator[str]:
    """Does a block hold what table and manifest say? Sound ones are taken into ``summaries`` and ``entries``."""
    start, length = int(split.index.offset[block]), _length(split, block)
    if start < 0 or length < 0 or start + length > data.size:
        return  # told by the tar's layout
    stream = data.slice(start, length)
    checksum, expected = xxhash.xxh64_intdigest(stream), int(split.index.xxh64[block])
    if checksum != expected:
        yield f" was altered: xxh64 {checksum:016x}, expected {expected:016x}"
        return
    try:
        batch = decode(stream)
        batch.validate(full=True)
    except (pa.ArrowException, StopIteration, OSError) as error:
        yield f" is no valid Arrow data: {error}"
        return
    problems = list(_contents(split, block, batch))
    yield from (f": {problem}" for problem in problems)
    if not problems:
        summarise(batch, summaries)
        if files := split.corpus.manifest.provenance.get("files"):
            entries.append(entry_numbers(files, batch))


def _contents(split: Split, block: int, batch: pa.RecordBatch) -> Iterator[str]:
    """Is a batch what manifest and table say, and do its records keep the rules?"""
    manifest, index = split.corpus.manifest, split.index
    if not batch.schema.equals(manifest.schema, check_metadata=True):
        yield "its schema is not the manifest's"
        return
    if not len(batch):
        yield "it is empty"
        return
    points = batch.column(manifest.points_column)
    lengths = lengths_of(points)
    counts = (len(batch), int(lengths.sum()), int(lengths.min()), int(lengths.max()))
    stated = (index.records[block], index.points[block], index.min_points[block], index.max_points[block])
    if counts != tuple(map(int, stated)):
        yield f"records, points and their range are {counts}, stated {tuple(map(int, stated))}"
    if "label" in batch.schema.names and batch.column("label").dictionary.to_pylist() != list(manifest.labels):
        yield "its label names are not the manifest's"
    possible, fault = possible_records(batch)
    if fault:
        yield f"{fault} in record {int(np.argmin(possible))}"
    yield from _records(manifest, batch, points)


def _records(manifest: Manifest, batch: pa.RecordBatch, points: pa.ListArray) -> Iterator[str]:
    if manifest.kind == "jets" and points.type.value_type.get_field_index("pt") >= 0:
        pt = points.flatten().field(points.type.value_type.get_field_index("pt")).to_numpy(zero_copy_only=False)
        rises = np.flatnonzero(np.diff(pt) > 0) + 1
        inside = rises[~np.isin(rises, offsets_of(points))]
        if len(inside):
            record = int(np.searchsorted(offsets_of(points), inside[0], side="right")) - 1
            yield f"constituents of record {record} are not ordered by pt"
    if manifest.kind == "tokens" and manifest.tokens is not None:
        yield from _tokens(manifest, manifest.tokens, batch, points)
    yield from _origins(manifest.provenance.get("files"), batch)


def _tokens(manifest: Manifest, made: dict, batch: pa.RecordBatch, points: pa.ListArray) -> Iterator[str]:
    """Does every list of ids hold one id of its tokenizer for each point?"""
    streams = made.get("streams") or {manifest.points_column: made["codes"]}
    for name, codes in streams.items():
        if name not in batch.schema.names:
            yield f"has no list '{name}', which the tokenizer makes"
            continue
        ids = batch.column(name).flatten()
        highest = pc.call_function("max", [ids]).as_py() if len(ids) else 0
        if highest >= codes:
            place = f" in {name}" if len(streams) > 1 else ""
            yield f"holds token {highest}{place}, but the tokenizer has {codes} codes"
    for column in batch.schema:
        if pa.types.is_list(column.type) and not np.array_equal(
            offsets_of(batch.column(column.name)), offsets_of(points)
        ):
            yield f"its lists '{column.name}' and '{manifest.points_column}' differ in length"


def _origins(files: Iterable[dict] | None, batch: pa.RecordBatch) -> Iterator[str]:
    if files is None:
        return
    numbers = batch.column("source_file").to_numpy()
    entries = batch.column("source_entry").to_numpy()
    most = np.array([file["entries"] for file in files])
    if numbers.min() < 0 or numbers.max() >= len(most) or (entries < 0).any() or (entries >= most[numbers]).any():
        yield "a record's origin is no entry of a source file"
