"""Describing a corpus in plain text: what it holds, where it comes from, what was cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.ingest.corpus import Corpus
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.schema_json import quantities


def describe(corpus: Corpus) -> str:
    """The text of ``hepfm corpus inspect``."""
    manifest = corpus.manifest
    sections = [
        [
            f"{corpus.url or corpus.path}: {manifest.kind}, digest {corpus.digest[:16]}",
            *([f"axis of deta and dphi: {manifest.axis}"] if manifest.axis else []),
            *(_geometry(Geometry.from_data(manifest.geometry)) if manifest.geometry else []),
            *([f"tokens: {_pairs(manifest.tokens)}"] if manifest.tokens else []),
        ],
        list(_splits(manifest)),
        list(_labels(manifest)),
        list(_quantities(manifest)),
        list(_names(manifest)),
        list(_provenance(manifest)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _geometry(geometry: Geometry) -> list[str]:
    return [f"geometry: {geometry.summary()}", f"stored in the source as: {geometry.stored.summary()}"]


def _splits(manifest: Manifest) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("split", "records", "points", "shards", "blocks", "MB")]
    for name, split in manifest.splits.items():
        blocks, size = (sum(getattr(shard, what) for shard in split.shards) for what in ("blocks", "bytes"))
        counts = (split.records, split.points, len(split.shards), blocks)
        rows.append((name, *(f"{count:,}" for count in counts), f"{size / 1e6:,.1f}"))
    return _table(rows)


def _labels(manifest: Manifest) -> Iterator[str]:
    names = [name for name in manifest.labels if any(split.labels.get(name) for split in manifest.splits.values())]
    if names:
        yield from _table(
            [("label", *manifest.splits)]
            + [(name, *(f"{split.labels.get(name, 0):,}" for split in manifest.splits.values())) for name in names]
        )


def _quantities(manifest: Manifest) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("quantity", "type", "unit", "min", "max", "mean", "std", "nulls")]
    known = dict(quantities(manifest.schema))
    for name, figures in manifest.statistics.items():
        if "values" in figures:
            continue
        field = known.get(name.removesuffix(".item"))
        unit = ((field.metadata if field else None) or {}).get(b"unit", b"").decode()
        kind = type_name(field.type) if field else ""
        if name == manifest.points_column:
            kind, unit = "list", "per record"
        numbers = [f"{figures[key]:.5g}" if key in figures else "" for key in ("min", "max", "mean", "std")]
        share = figures["nulls"] / max(1, figures["nulls"] + figures["count"])
        rows.append((name, kind, unit, *numbers, f"{share:.1%}" if share else ""))
    return _table(rows)


def type_name(kind: pa.DataType) -> str:
    """A quantity's type as NumPy calls it; of a list that of its values, of names plain text."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return "name" if pa.types.is_dictionary(kind) else np.dtype(kind.to_pandas_dtype()).name


def _names(manifest: Manifest) -> Iterator[str]:
    """How often each name of a quantity occurs (labels have a table of their own)."""
    for name, figures in manifest.statistics.items():
        if "values" in figures and name != "label":
            counts = {value: count for value, count in figures["values"].items() if count}
            yield f"{name}: " + ", ".join(f"{value} {count / figures['count']:.1%}" for value, count in counts.items())


def _provenance(manifest: Manifest) -> Iterator[str]:
    known = manifest.provenance
    files = known.get("files", [])
    if "source" in known:
        yield f"source: {known['source']}, {len(files)} files, {sum(file['entries'] for file in files):,} entries"
    yield from ancestry(known)
    if known.get("selection"):
        yield f"selection: {_pairs(known['selection'])}"
    for name, count in known.get("cut_flow", []):
        yield f"  {name}: {count:,}"
    for note in known.get("notes", []):
        yield f"note: {note}"
    if "command" in known:
        yield f"command: {known['command']}"
    yield f"versions: {_pairs(known['versions'])}"


def ancestry(known: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The corpora that one was made from (its provenance is ``known``), each with its cut flow, and theirs in turn."""
    for parent in known.get("parents", []):
        made = f", {parent['command']}" if "command" in parent else ""
        yield f"{indent}parent {parent['digest'][:16]}: {sum(parent['records'].values()):,} records{made}"
        yield from (f"{indent}  {name}: {count:,}" for name, count in parent.get("cut_flow", []))
        yield from ancestry(parent, f"{indent}  ")


def _pairs(data: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items())


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows with the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
