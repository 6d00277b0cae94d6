"""Verifying a corpus: every checksum, every count, every invariant of its records."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
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
from hepfm.ingest.manifest import Manifest, ShardEntry
from hepfm.ingest.selection import possible_records
from hepfm.ingest.shards import MEMBER_SUFFIX, decode, member_name


def verify(path: Path) -> list[str]:
    """Everything that is wrong with a corpus, one line each; empty for a sound one.

    A flipped bit anywhere in the manifest, the table of blocks, a shard or an attached file is found.
    """
    try:
        corpus = Corpus.open(path)
    except HepfmError as error:
        return [str(error)]
    problems = list(_files(corpus)) + list(_totals(corpus))
    total = sum(shard.bytes for split in corpus.manifest.splits.values() for shard in split.shards)
    with progress("verify", total, "bytes") as task:
        for name, entry in corpus.manifest.splits.items():
            for shard in entry.shards:
                problems += _shard(corpus.split(name), shard)
                task.advance(shard.bytes)
    return problems


def _files(corpus: Corpus) -> Iterator[str]:
    """Attached files, and shards that the manifest does not know."""
    for name, sha256 in corpus.manifest.files.items():
        file = corpus.path / name
        if not file.is_file():
            yield f"{file}: is missing"
        elif sha256_file(file) != sha256:
            yield f"{file}: was altered (sha256)"
    known = {shard.name for split in corpus.manifest.splits.values() for shard in split.shards}
    for file in sorted(corpus.path.glob("*/*.tar")):
        if file.relative_to(corpus.path).as_posix() not in known:
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


def _shard(split: Split, entry: ShardEntry) -> list[str]:
    path = split.corpus.path / entry.name
    try:
        data = map_shard(path, entry)
    except (HepfmError, OSError) as error:
        return [str(error)]
    problems = []
    found = sha256_file(path)
    if found != entry.sha256:
        problems.append(f"{path}: was altered: sha256 {found[:16]}..., expected {entry.sha256[:16]}...")
    problems += [f"{path}: {problem}" for problem in _members(split, path, entry)]
    for number, block in enumerate(split.blocks_of(entry.number)):
        where = f"{path}: block {number}"
        start, length = int(split.index.offset[block]), int(split.index.length[block])
        stream = data.slice(start, length)
        checksum, expected = xxhash.xxh64_intdigest(stream), int(split.index.xxh64[block])
        if checksum != expected:
            problems.append(f"{where} was altered: xxh64 {checksum:016x}, expected {expected:016x}")
            continue
        try:
            batch = decode(stream)
            batch.validate(full=True)
        except pa.ArrowException as error:
            problems.append(f"{where} is no valid Arrow data: {error}")
            continue
        problems += [f"{where}: {problem}" for problem in _block(split, block, batch)]
    return problems


def _members(split: Split, path: Path, entry: ShardEntry) -> Iterator[str]:
    """Does the tar hold the blocks, the whole blocks, and nothing but plain files?"""
    blocks = split.blocks_of(entry.number)
    expected = [
        (member_name(entry.number, number), int(split.index.offset[block]), int(split.index.length[block]))
        for number, block in enumerate(blocks)
    ]
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except (tarfile.TarError, ValueError, OSError) as error:
        yield f"is no readable tar: {error}"
        return
    for member in members:
        if not member.isfile() or not member.name.endswith(MEMBER_SUFFIX):
            yield f"holds {member.name!r}, which is no block"
    if [(member.name, member.offset_data, member.size) for member in members] != expected:
        yield "its members are not those of the table of blocks"


def _block(split: Split, block: int, batch: pa.RecordBatch) -> Iterator[str]:
    """Is a block what manifest and table say, and do its records keep the rules?"""
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
    if manifest.kind == "jets":
        pt = points.flatten().field(points.type.value_type.get_field_index("pt")).to_numpy(zero_copy_only=False)
        rises = np.flatnonzero(np.diff(pt) > 0) + 1
        inside = rises[~np.isin(rises, offsets_of(points))]
        if len(inside):
            record = int(np.searchsorted(offsets_of(points), inside[0], side="right")) - 1
            yield f"constituents of record {record} are not ordered by pt"
    if manifest.kind == "tokens" and manifest.tokens is not None and len(points.flatten()):
        highest = pc.call_function("max", [points.flatten()]).as_py()
        if highest >= manifest.tokens["codes"]:
            yield f"holds token {highest}, but the tokenizer has {manifest.tokens['codes']} codes"
    files = manifest.provenance.get("files")
    if files is not None and len(batch):
        numbers = batch.column("source_file").to_numpy()
        entries = batch.column("source_entry").to_numpy()
        most = np.array([file["entries"] for file in files])
        if numbers.min() < 0 or numbers.max() >= len(most) or (entries < 0).any() or (entries >= most[numbers]).any():
            yield "a record's origin is no entry of a source file"
