"""The folder that ``datasets.load_from_disk`` opens: a DatasetDict whose Arrow files are mapped, not read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hepfm.core.files import digest_of
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.export.format import KINDS, Format, blocks_of, names_of
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.schema_json import quantities

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class DatasetDictFormat(Format):
    """A split is a Dataset; label and species are ClassLabels; units stand in its description."""

    opening: str = 'datasets.load_from_disk("DIR")'
    kinds: tuple[str, ...] = KINDS

    def name(self, corpus: Corpus, split: str, shard: ShardEntry) -> str:
        shards = corpus.manifest.splits[split].shards
        return f"{split}/data-{shards.index(shard):05d}-of-{len(shards):05d}.arrow"

    def write(self, split: Split, shard: ShardEntry, path: Path) -> None:
        schema = features_of(split.corpus).arrow_schema
        with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for batch in blocks_of(split, shard):
                columns = [_as(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

    def texts(self, corpus: Corpus, splits: Sequence[str]) -> dict[str, str]:
        texts = {"dataset_dict.json": json.dumps({"splits": list(splits)})}
        for split in splits:
            texts[f"{split}/dataset_info.json"] = _info(corpus)
            # What Dataset.save_to_disk writes: which files, and the settings of a fresh Dataset.
            state: dict[str, Any] = {
                "_data_files": [
                    {"filename": self.name(corpus, split, shard).split("/")[1]}
                    for shard in corpus.manifest.splits[split].shards
                ],
                "_fingerprint": digest_of([corpus.digest, split])[:16],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": split,
            }
            texts[f"{split}/state.json"] = json.dumps(state, indent=2, sort_keys=True)
        return texts


def features_of(corpus: Corpus) -> datasets.Features:
    """The columns as ``datasets`` calls them."""
    import datasets  # here, because it takes seconds to import

    fields = [field.with_type(_without_names(field.type)) for field in corpus.manifest.schema]
    features = datasets.Features.from_arrow_schema(pa.schema([field.remove_metadata() for field in fields]))
    for name, names in names_of(corpus).items():
        column, _, quantity = name.partition(".")
        label = datasets.ClassLabel(names=names)
        if quantity:
            features[column].feature[quantity] = label
        else:
            features[column] = label
    return features


def _without_names(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_names(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(_without_names(child.type)) for child in kind])
    return kind


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values: dictionary indices in place of names, everything nullable as ``datasets`` has it."""
    if pa.types.is_dictionary(array.type):
        return array.indices.cast(kind)
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(array.offsets, _as(array.values, kind.value_type), type=kind)
    if pa.types.is_struct(kind):
        children = [_as(array.field(number), child.type) for number, child in enumerate(kind)]
        return pa.StructArray.from_arrays(children, fields=list(kind))
    return array


def _info(corpus: Corpus) -> str:
    import datasets

    lines = [f"hepfm corpus {corpus.digest}: {corpus.manifest.kind}"]
    for name, field in quantities(corpus.manifest.schema):
        told = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        unit = f" [{told['unit']}]" if told.get("unit") else ""
        lines.append(f"{name}{unit}: {told.get('meaning', '')}")
    with tempfile.TemporaryDirectory() as folder:
        datasets.DatasetInfo(description="\n".join(lines), features=features_of(corpus)).write_to_directory(folder)
        return (Path(folder) / "dataset_info.json").read_text()
