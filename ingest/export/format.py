"""What an export format is, and what several of them need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.summary import flat_columns

KINDS = ("jets", "showers", "tokens")


class Format(Protocol):
    """How a corpus is written for another program. Picklable.

    Attributes:
        opening: the line that opens an export.
        kinds: the kinds of corpora that it can hold.
    """

    @property
    def opening(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        """Path of a shard's file inside the export."""
        ...

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        """Write a shard's file, block by block."""
        ...

    def texts(self, corpus: Corpus, splits: Sequence[str]) -> dict[str, str]:
        """Further text files by their path inside the export, written when all shards are there."""
        ...


def blocks_of(split: Split, shard: ShardEntry) -> Iterator[pa.RecordBatch]:
    """The blocks of a shard, in order."""
    return (split.read(block) for block in split.blocks_of(shard.number))


def names_of(corpus: Corpus) -> dict[str, list[str]]:
    """What the indices of dictionary quantities (label, species) stand for, by dotted name."""
    batch = corpus.split(corpus.splits()[0]).read(0)
    return {
        name: array.dictionary.to_pylist() for name, array in flat_columns(batch) if pa.types.is_dictionary(array.type)
    }
