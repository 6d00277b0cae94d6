"""Reading a corpus: its manifest, its splits, and blocks mapped from the shards without copying."""

from __future__ import annotations

import mmap
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.threads import renewed_in_forks
from hepfm.ingest.manifest import Manifest, ShardEntry
from hepfm.ingest.shards import INDEX, Index, decode, is_member, member_name, read_index, what_stands

OPEN_SHARDS = 64
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}([^/].*)")
_MEND = "restore it from a copy, or build the corpus again; 'hepfm corpus verify' lists all that is damaged"


def remote_url(path: Path | str) -> str | None:
    """The address that ``path`` is, without a slash at the end; None for a path on this machine.

    A ``Path`` will do: pathlib makes ``https:/host/x`` of ``https://host/x``, which is undone here.
    """
    match = _URL.fullmatch(str(path))
    return f"{match[1]}://{match[2].rstrip('/')}" if match and match[1] != "file" else None


class Corpus:
    """A finished corpus. Opening it reads the manifest and the table of blocks, no shard.

    Attributes:
        path: its folder; of a remote corpus the folder in the cache that its shards come to.
        url: address of a remote corpus, else None.
        manifest: what it is.
        digest: names it; covers every byte.
    """

    def __init__(self, path: Path, manifest: Manifest, index: dict[str, Index], url: str | None = None) -> None:
        self.path, self.url, self.manifest, self.digest = path, url, manifest, manifest.digest
        self._splits = {name: Split(self, name, index[name]) for name in manifest.splits}

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Open a corpus: a folder, or the address (``https://``, ``s3://``, any of fsspec's) of one.

        A remote shard is fetched whole, checked and cached when it is first read; :func:`hepfm.ingest.staging.stage`
        fetches all of them at once.

        Raises:
            HepfmError: no corpus, an unfinished one, or its manifest or table of blocks was altered.
        """
        url = remote_url(path)
        if url is None:
            return cls._open(Path(path))
        from hepfm.ingest.staging import mirror  # it knows the network, which a local corpus need not wait for

        return cls._open(mirror(url), url)

    @classmethod
    def _open(cls, path: Path, url: str | None = None) -> Corpus:
        manifest = Manifest.load(path)
        table = path / INDEX
        if not table.is_file():
            raise HepfmError("is missing", table, _MEND)
        found = sha256_file(table)
        if found != manifest.blocks_sha256:
            raise HepfmError(
                f"was altered: sha256 {found[:16]}..., expected {manifest.blocks_sha256[:16]}...", table, _MEND
            )
        return cls(path, manifest, read_index(table), url)

    def splits(self) -> list[str]:
        """Names of the splits that hold records: of ``train``, ``val``, ``test``, in this order."""
        return list(self._splits)

    def split(self, name: str) -> Split:
        """A split.

        Raises:
            HepfmError: the corpus has no such split, or it is empty.
        """
        if name not in self._splits:
            raise HepfmError(f"has no split '{name}'", self.url or self.path, f"there is: {', '.join(self._splits)}")
        return self._splits[name]

    def __reduce__(self) -> Any:
        return Corpus._open, (self.path, self.url)  # so that it can go to a worker process


class Split:
    """The blocks of a split, in order. Safe to use from several threads.

    Attributes:
        corpus: the corpus it belongs to.
        name: ``train``, ``val`` or ``test``.
        records, points: totals.
        block_records, block_points: (n_blocks,) int64.
    """

    def __init__(self, corpus: Corpus, name: str, index: Index) -> None:
        entry = corpus.manifest.splits[name]
        self.corpus, self.name, self.index = corpus, name, index
        self.records, self.points = entry.records, entry.points
        self.block_records, self.block_points = index.records, index.points
        self._shards = {shard.number: shard for shard in entry.shards}
        self._maps: OrderedDict[int, pa.Buffer] = OrderedDict()
        self._checked = np.zeros(len(index), dtype=bool)
        self.begin_anew()
        renewed_in_forks(self)

    def begin_anew(self) -> None:
        """Make the lock anew: in a forked process it may be another thread's, which is not there."""
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (self.read(block) for block in range(len(self)))

    def __reduce__(self) -> Any:
        return _reopen, (self.corpus, self.name)

    def shard_path(self, shard: int) -> Path:
        """The tar of a shard; of a remote corpus, once it is in the cache.

        Raises:
            HepfmError: it cannot be fetched.
        """
        if self.corpus.url is None:
            return self.corpus.path / self._shards[shard].name
        from hepfm.ingest.staging import stage_shard

        return stage_shard(self.corpus.url, self.corpus.path, self._shards[shard])

    def blocks_of(self, shard: int) -> range:
        """Numbers of a shard's blocks in this split."""
        first, stop = np.searchsorted(self.index.shard, [shard, shard + 1])
        return range(int(first), int(stop))

    def read(self, block: int) -> pa.RecordBatch:
        """The records of a block: columns lie in the mapped shard, nothing is copied.

        When this process first touches the block, its checksum is compared, and its member of the tar has to be a plain
        file of the block's name: links, devices and foreign paths are refused.

        Raises:
            HepfmError: the shard is missing, cut short or altered; names it, the block and both checksums.
        """
        shard = int(self.index.shard[block])
        start, length = int(self.index.offset[block]), int(self.index.length[block])
        mapped = self._map(shard)
        data = mapped.slice(start, length)
        if not self._checked[block]:
            number = block - self.blocks_of(shard).start
            found, expected = xxhash.xxh64_intdigest(data), int(self.index.xxh64[block])
            if found != expected:
                raise self._altered(shard, f"block {number} was altered: xxh64 {found:016x}, expected {expected:016x}")
            name = member_name(shard, number)
            header = mapped.slice(start - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE).to_pybytes()
            if not is_member(header, name):
                raise self._altered(shard, f"before block {number} {what_stands(header, name)}")
            self._checked[block] = True
        return decode(data)

    def _altered(self, shard: int, what: str) -> HepfmError:
        path = self.shard_path(shard)
        if self.corpus.url is None:
            return HepfmError(what, path, _MEND)
        path.resolve().unlink(missing_ok=True)
        what = f"{what}; this copy of {self.corpus.url}/{self._shards[shard].name} is removed"
        return HepfmError(what, path, "run the same command again: it fetches the shard again")

    def _map(self, shard: int) -> pa.Buffer:
        with self._lock:
            if shard in self._maps:
                self._maps.move_to_end(shard)
            else:
                self._maps[shard] = map_shard(self.shard_path(shard), self._shards[shard])
                if len(self._maps) > OPEN_SHARDS:
                    self._maps.popitem(last=False)  # stays mapped as long as somebody holds a block of it
            return self._maps[shard]


def _reopen(corpus: Corpus, name: str) -> Split:
    return corpus.split(name)


def map_shard(path: Path, entry: ShardEntry) -> pa.Buffer:
    """The bytes of a shard, mapped.

    Raises:
        HepfmError: it is missing, or its size is not the manifest's.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != entry.bytes:
                raise HepfmError(
                    f"has {size} bytes, expected {entry.bytes} (sha256 {entry.sha256[:16]}...)", path, _MEND
                )
            return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise HepfmError("this shard is missing", path, _MEND) from error
