"""The formats that raw data comes in: what reads such a data set reads a corpus that was exported to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.export.format import Format, blocks_of
from hepfm.ingest.formats.particle_flow import collision_numbers
from hepfm.ingest.gather import gather_from
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.keys import key
from hepfm.ingest.manifest import ShardEntry

RECORDS = 1_024  # that are put in order at a time


@dataclass(frozen=True)
class RawFormat(Format):
    """A file a shard, written by ``hepfm.ingest.formats.NAME.write_NAME``; its docstring says what is lost.

    Attributes:
        source: name of the source that reads such files back.
        suffix: of the files.
    """

    source: str
    suffix: str
    kinds: tuple[str, ...]

    @property
    def opening(self) -> str:  # type: ignore[override]
        return f"hepfm ingest {self.source} DIR/*/*{self.suffix} --out CORPUS"

    def shards(self, split: Split) -> Sequence[ShardEntry]:
        shards = super().shards(split)
        if self.source != "aspenopenjets":
            return shards
        owners = set(_collisions(split)[0].tolist())
        return [shard for shard in shards if shard.number in owners]

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        return f"{split}/{shard.number:06d}{self.suffix}"

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        writer = getattr(import_module(f"hepfm.ingest.formats.{self.source}"), f"write_{self.source}")
        try:
            if self.source == "aspenopenjets":
                writer(path, by_collision(split, shard), puppi_of(split.corpus))
            elif split.corpus.manifest.kind == "showers":
                writer(path, blocks_of(split, shard), geometry_of(split.corpus))
            else:
                writer(path, blocks_of(split, shard))
        except HepfmError as error:  # it names the temporary file
            raise HepfmError(error.what, split.corpus.path / shard.name, error.mend) from error


def geometry_of(corpus: Corpus) -> Geometry:
    """The geometry that the manifest has.

    Raises:
        HepfmError: it has none.
    """
    if corpus.manifest.geometry is None:
        raise HepfmError("has no geometry", corpus.path, "export it as parquet")
    return Geometry.from_data(corpus.manifest.geometry)


def puppi_of(corpus: Corpus) -> str:
    """Are the PUPPI weights multiplied into the constituents (``applied``) or not (``not_applied``)?

    Raises:
        HepfmError: there are weights, and the manifest does not say.
    """
    told = corpus.manifest.provenance.get("settings", {}).get("puppi")
    if told is None and "constituents.puppi_weight" in corpus.manifest.provides:
        raise HepfmError("does not say whether its constituents carry their PUPPI weights", corpus.path)
    return "not_applied" if told == "ignore" else "applied"


def by_collision(split: Split, shard: ShardEntry) -> Iterator[pa.RecordBatch]:
    """The jets of a shard, those of a collision one after another by ``jet_index``; they stand so in AspenOpenJets.

    A collision whose jets lie in several shards (after merging or filtering) belongs to the first of them.
    """
    owner, block, row, order = _collisions(split)
    mine = order[owner[order] == shard.number]
    for start in range(0, len(mine), RECORDS):
        chosen = mine[start : start + RECORDS]
        yield gather_from(split.read, block[chosen], row[chosen])


@lru_cache(maxsize=1)
def _collisions(split: Split) -> tuple[np.ndarray, ...]:
    """Of each record (n,): shard that its collision belongs to, block, row; and the order by collision and jet."""
    columns = np.concatenate([np.vstack([collision_numbers(batch), _jet_numbers(batch)]) for batch in split], axis=1)
    block = np.repeat(np.arange(len(split)), split.block_records)
    row = np.arange(len(block)) - np.repeat(np.cumsum(split.block_records) - split.block_records, split.block_records)
    event = np.unique(key(*columns[:-1]), return_inverse=True)[1]
    first = np.full(event.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, event, split.index.shard[block].astype(np.int64))
    return first[event], block, row, np.lexsort(columns[::-1])


def _jet_numbers(batch: pa.RecordBatch) -> np.ndarray:
    """What orders the jets (n,) of a collision."""
    return values_of(batch.column("jet_index" if "jet_index" in batch.schema.names else "source_entry"))


RAW_FORMATS = {
    form.source: form
    for form in (
        RawFormat("jetclass", ".root", ("jets",)),
        RawFormat("jetclass2", ".parquet", ("jets",)),
        RawFormat("aspenopenjets", ".h5", ("jets",)),
        RawFormat("calochallenge", ".hdf5", ("showers",)),
        RawFormat("ildgrid", ".h5", ("showers",)),
        RawFormat("showerclouds", ".h5", ("showers",)),
        RawFormat("showerdata", ".h5", ("showers",)),
    )
}
