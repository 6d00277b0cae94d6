"""Shards: plain POSIX tars of Arrow blocks, the same bytes for the same records, and the index of all blocks.

Every member of a shard is one block: an Arrow IPC stream with one record batch, named ``SSSSSS-BBBBBB.arrow`` for shard
and block. ``webdataset``, ``tarfile`` and ``tar`` read it; because nothing is compressed and the index knows where each
block lies, a local reader maps the tar into memory and takes the columns as they are.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path
from hepfm.ingest.schema_json import points_column

INDEX = "blocks.arrow"
MEMBER_SUFFIX = ".arrow"


@dataclass(frozen=True)
class Block:
    """A block of a shard: where its bytes lie, what it holds, and their checksum (xxh64)."""

    offset: int
    length: int
    records: int
    points: int
    min_points: int
    max_points: int
    xxh64: int


@dataclass(frozen=True)
class Written:
    """A shard that was written."""

    bytes: int
    sha256: str
    blocks: tuple[Block, ...]


def member_name(shard: int, block: int) -> str:
    """Name of a block inside its tar."""
    return f"{shard:06d}-{block:06d}{MEMBER_SUFFIX}"


def reblock(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same records in batches of ``size``; what is left over makes a last, smaller one."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + len(batch) >= size:
            head = batch.slice(0, size - count)
            yield concatenate([*waiting, head])
            batch = batch.slice(len(head))
            waiting, count = [], 0
        if len(batch):
            waiting.append(batch)
            count += len(batch)
    if waiting:
        yield concatenate(waiting)


def concatenate(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all records (at least one batch; dictionaries have to be equal)."""
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches)


def encode(batch: pa.RecordBatch) -> pa.Buffer:
    """A block's bytes: an Arrow IPC stream with one record batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode(data: pa.Buffer) -> pa.RecordBatch:
    """The record batch of a block's bytes, without copying them."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


def write_shard(path: Path, shard: int, batches: Iterable[pa.RecordBatch], within: Path | None = None) -> Written:
    """Write a shard whole or not at all; without any record no file is made.

    Args:
        path: the tar.
        shard: its number, part of every member's name.
        batches: blocks in order, all of one schema.
        within: folder of the temporary file; see :func:`hepfm.core.files.atomic_path`.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return Written(0, "", ())
    blocks: list[Block] = []
    with atomic_path(path, within) as partial, partial.open("wb") as file:
        tar = _Tar(file)
        for batch in chain([first], batches):
            blocks.append(tar.add(member_name(shard, len(blocks)), batch))
        tar.finish()
    return Written(tar.bytes, tar.sha256.hexdigest(), tuple(blocks))


def tar_header(name: str, size: int) -> bytes:
    """Header of a plain file in a tar: time 0, owner 0, mode 644, so that it depends on name and size alone."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header.tobuf(tarfile.USTAR_FORMAT)


def is_member(header: bytes, name: str) -> bool:
    """Does a plain file of this name follow a tar's header?"""
    return header[:100].rstrip(b"\0") == name.encode() and header[156:157] == tarfile.REGTYPE


def what_stands(header: bytes, expected: str) -> str:
    """What stands in the place of the header of the member ``expected``."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        return f"there is no tar header: {error}"
    what = next(
        (name for name, holds in (("a link", member.islnk() or member.issym()), ("a device", member.isdev())) if holds),
        "a file" if member.isfile() else f"a member of type {member.type!r}",
    )
    if not member.isfile() or member.name != expected:
        return f"stands {what}, {member.name!r}, which is no block"
    return "stands a header with other owner, time, mode or size"


def tar_end(written: int) -> int:
    """How many zeros end a tar of so many bytes."""
    return 2 * tarfile.BLOCKSIZE + -(written + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE


class _Tar:
    """A tar whose bytes depend on its members alone: ustar headers, times, owners and modes fixed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def add(self, name: str, batch: pa.RecordBatch) -> Block:
        data = encode(batch)
        self._write(tar_header(name, data.size))
        offset = self.bytes
        self._write(data)
        self._write(bytes(-data.size % tarfile.BLOCKSIZE))
        points = batch.column(points_column(batch.schema)).value_lengths().to_numpy(zero_copy_only=False)
        return Block(
            offset=offset,
            length=data.size,
            records=len(batch),
            points=int(points.sum(dtype=np.int64)),
            min_points=int(points.min()),
            max_points=int(points.max()),
            xxh64=xxhash.xxh64_intdigest(data),
        )

    def finish(self) -> None:
        self._write(bytes(tar_end(self.bytes)))

    def _write(self, data: bytes | pa.Buffer) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


@dataclass(frozen=True)
class Index:
    """Where every block of a split lies, in order (columns of ``blocks.arrow``; one element each per block)."""

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    records: np.ndarray
    points: np.ndarray
    min_points: np.ndarray
    max_points: np.ndarray
    xxh64: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)


_INDEX_SCHEMA = pa.schema(
    [
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("shard", pa.int32(), nullable=False, metadata={"meaning": "number of the shard"}),
        pa.field("member", pa.string(), nullable=False, metadata={"meaning": "name inside the tar"}),
        pa.field("offset", pa.int64(), nullable=False, metadata={"meaning": "of the Arrow stream in the tar"}),
        pa.field("length", pa.int64(), nullable=False, metadata={"meaning": "bytes of the Arrow stream"}),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("points", pa.int64(), nullable=False, metadata={"meaning": "points of all its records"}),
        pa.field("min_points", pa.int64(), nullable=False, metadata={"meaning": "of one record"}),
        pa.field("max_points", pa.int64(), nullable=False, metadata={"meaning": "of one record"}),
        pa.field("xxh64", pa.uint64(), nullable=False, metadata={"meaning": "checksum of the Arrow stream"}),
    ]
)


def index_bytes(blocks: list[tuple[str, int, int, Block]], splits: tuple[str, ...]) -> bytes:
    """``blocks.arrow``: one row for each (split, shard, number in the shard, block), in that order."""
    columns: dict[str, list] = {name: [] for name in _INDEX_SCHEMA.names}
    for split, shard, number, block in blocks:
        columns["split"].append(splits.index(split))
        columns["shard"].append(shard)
        columns["member"].append(member_name(shard, number))
        for field in fields(Block):
            columns[field.name].append(getattr(block, field.name))
    arrays: list[pa.Array] = [
        pa.DictionaryArray.from_arrays(pa.array(columns["split"], pa.int8()), pa.array(splits, pa.string()))
    ]
    arrays += [pa.array(columns[field.name], field.type) for field in _INDEX_SCHEMA if field.name != "split"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _INDEX_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_INDEX_SCHEMA))
    return sink.getvalue().to_pybytes()


def read_index(path: Path) -> dict[str, Index]:
    """The blocks of each split.

    Raises:
        HepfmError: not such a table.
    """
    try:
        table = pa.ipc.open_file(path).read_all()
        if not table.schema.equals(_INDEX_SCHEMA):
            raise HepfmError("is no table of blocks", path, "restore the corpus from a copy, or build it again")
        split = table["split"].cast(pa.string()).to_numpy()
        names = [field.name for field in fields(Index)]
        columns = {name: table[name].to_numpy() for name in names}
    except (pa.ArrowException, OSError) as error:
        raise HepfmError(f"is no table of blocks: {error}", path) from error
    return {
        name: Index(**{key: values[split == name] for key, values in columns.items()})
        for name in dict.fromkeys(split.tolist())
    }
