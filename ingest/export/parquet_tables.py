"""Parquet files: one a shard, a row group a block; for Arrow, pandas, polars, DuckDB, and for awkward."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.export.format import KINDS, Format, blocks_of
from hepfm.ingest.manifest import Manifest, ShardEntry


@dataclass(frozen=True)
class ParquetFormat(Format):
    """Nested columns with the corpus's types; units and meanings are in the fields' metadata.

    Names inside lists (species) are plain strings: Arrow's reader cannot give dictionaries inside lists that come from
    several row groups. On disk they are a dictionary either way.

    Attributes:
        opening: the line that opens an export in Python.
        categories: the label is a dictionary; else plain strings, since awkward cannot join dictionaries of files.
    """

    opening: str
    categories: bool = True
    kinds: tuple[str, ...] = KINDS

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        return f"{split}/{shard.number:06d}.parquet"

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        manifest = split.corpus.manifest
        fields = [field.with_type(_plain(field.type, self.categories)) for field in manifest.schema]
        about = {"corpus": split.corpus.digest, **_about(manifest)}
        metadata = {**(manifest.schema.metadata or {}), b"hepfm": json.dumps(about, sort_keys=True).encode()}
        schema = pa.schema(fields, metadata=metadata)
        # Floats hardly repeat: a dictionary of their values costs time and saves nothing.
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=_no_floats(schema)) as writer:
            for batch in blocks_of(split, shard):
                writer.write_batch(batch.cast(schema))


def _about(manifest: Manifest) -> dict[str, object]:
    """What a reader needs beside the columns."""
    tokens = {name: value for name, value in (manifest.tokens or {}).items() if name != "source_path"}
    known = {"axis": manifest.axis, "geometry": manifest.geometry, "tokens": tokens}
    return {"kind": manifest.kind, **{name: value for name, value in known.items() if value}}


def _plain(kind: pa.DataType, categories: bool) -> pa.DataType:
    """A column's type with strings for the names inside its lists."""
    if pa.types.is_dictionary(kind):
        return kind if categories else kind.value_type
    if not pa.types.is_list(kind):
        return kind
    inner = kind.value_type
    if pa.types.is_struct(inner):
        names = [
            child.with_type(child.type.value_type) if pa.types.is_dictionary(child.type) else child for child in inner
        ]
        inner = pa.struct(names)
    return pa.list_(kind.value_field.with_type(inner))


def _no_floats(schema: pa.Schema) -> list[str]:
    """Parquet paths of the columns that hold no floats."""
    paths = []
    for field in schema:
        kind, path = field.type, field.name
        if pa.types.is_list(kind):
            kind, path = kind.value_type, f"{path}.list.element"
        children = (
            [(f"{path}.{child.name}", child.type) for child in kind] if pa.types.is_struct(kind) else [(path, kind)]
        )
        paths += [path for path, kind in children if not pa.types.is_floating(kind)]
    return paths
