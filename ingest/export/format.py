"""What an export format is, and what several of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.summary import flat_columns

KINDS = ("jets", "showers", "tokens")


class Format(ABC):
    """How a corpus is written for another program. Picklable.

    Attributes:
        opening: the line that opens an export.
        kinds: the kinds of corpora that it can hold.
    """

    opening: str
    kinds: tuple[str, ...]

    @abstractmethod
    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        """Path of a shard's file inside the export."""

    @abstractmethod
    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        """Write a shard's file, block by block."""

    def shards(self, split: Split) -> Sequence[ShardEntry]:
        """The shards that get a file."""
        return split.corpus.manifest.splits[split.name].shards

    def texts(self, corpus: Corpus, splits: Sequence[str]) -> dict[str, str]:
        """Further text files by their path inside the export, written when all shards are there."""
        return {}


def blocks_of(split: Split, shard: ShardEntry) -> Iterator[pa.RecordBatch]:
    """The blocks of a shard, in order."""
    return (split.read(block) for block in split.blocks_of(shard.number))


def names_of(corpus: Corpus) -> dict[str, list[str]]:
    """What the indices of dictionary quantities (label, species) stand for, by dotted name."""
    batch = corpus.split(corpus.splits()[0]).read(0)
    return {
        name: array.dictionary.to_pylist() for name, array in flat_columns(batch) if pa.types.is_dictionary(array.type)
    }
