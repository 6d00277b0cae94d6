"""Small corpora of every kind for tests of what makes new corpora from finished ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from toy_source import ToySource, write_files

from hepfm.core import records
from hepfm.core.records import lengths_of
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan, mirror_jobs
from hepfm.ingest.tally import Tally
from hepfm.ingest.unite import Fit

OPTIONS = BuildOptions(run_entries=50, block_records=64, shard_entries=800)
OTHER_SCHEMA = records.schema("jets", ("pt", "deta", "dphi"), ("pt", "mass", "label"))
OTHER_LABELS = ("zprime", "top", "qcd")


@dataclass(frozen=True)
class OtherSource(ToySource):
    """Toy jets without eta, d0 and species, with a mass, and with other label names ("higgs" is missing)."""

    name: str = "other"
    labels: tuple[str, ...] = OTHER_LABELS
    schema: pa.Schema = OTHER_SCHEMA

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        batch = ToySource().read(path, start, stop, tally)
        fitted = Fit(self.schema, {"label": ("qcd", "top", "zprime")}, 0)
        renamed = pa.DictionaryArray.from_arrays(
            batch["label"].indices, pa.array(("qcd", "top", "zprime"), pa.string())
        )
        batch = batch.set_column(batch.schema.get_field_index("label"), "label", renamed)
        mass = pa.array(np.arange(start, start + len(batch)), pa.float32())
        batch = fitted(batch.append_column("mass", mass))
        return Fit(self.schema, {"label": OTHER_LABELS}, 0)(batch)


def raw_files(folder: Path, entries: tuple[int, ...], seed: int, **extra: Any) -> list[Path]:
    """Toy files whose seeds, and so their bytes, differ from those of other seeds."""
    files = write_files(folder, entries, **extra)
    for file in files:
        header = json.loads(file.read_text())
        file.write_text(json.dumps({**header, "seed": header["seed"] + 7 * seed}))
    return files


def toy(folder: Path, entries: tuple[int, ...], seed: int, source: ToySource | None = None, **extra: Any) -> Corpus:
    """A corpus of toy jets."""
    return build(source or ToySource(), raw_files(folder / "raw", entries, seed, **extra), folder / "corpus", OPTIONS)


def rows(corpus: Corpus, split: str | None = None) -> list[dict[str, Any]]:
    """All records (of a split) in order."""
    names = corpus.splits() if split is None else [split]
    return [row for name in names for batch in corpus.split(name) for row in batch.to_pylist()]


def origins(corpus: Corpus, split: str) -> list[tuple[int, int]]:
    """Source file and entry of each record."""
    return [(row["source_file"], row["source_entry"]) for row in rows(corpus, split)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True)
class Ranks:
    """A made-up tokenizer: the token of a constituent is its rank."""

    corpus: Corpus

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        for block in range(*job.payload):
            batch = self.corpus.split(job.split).read(block)
            lengths = lengths_of(batch["constituents"])
            ranks = np.concatenate([np.arange(length) for length in lengths]).astype(np.uint16)
            tokens = pa.ListArray.from_arrays(batch["constituents"].offsets, pa.array(ranks))
            names = ["tokens", "pt", "label", "source_file", "source_entry"]
            yield pa.RecordBatch.from_arrays([tokens, *(batch[name] for name in names[1:])], names=names)


def token_corpus(source: Corpus, folder: Path, tokenizer: str = "a", **provenance: Any) -> Corpus:
    """A token corpus of a corpus of toy jets, with its tokenizer attached."""
    attached = folder / f"tokenizer-{tokenizer}"
    attached.mkdir(parents=True)
    (attached / "config.json").write_text(json.dumps({"tokenizer": tokenizer}))
    tokens = {"tokenizer": tokenizer * 64, "codes": 8, "source": source.digest, "source_path": "../../corpus"}
    schema = next(iter(Ranks(source)(mirror_jobs(source)[0]))).schema.with_metadata({"kind": "tokens"})
    plan = Plan(
        identity=tokens,
        jobs=mirror_jobs(source),
        kind="tokens",
        schema=schema,
        labels=source.manifest.labels,
        axis=source.manifest.axis,
        block_records=64,
        provenance=provenance,
        tokens=tokens,
    )
    return write_corpus(folder / "tokens", plan, Ranks(source), attached={"tokenizer": attached})


def batch_corpus(folder: Path, batch: pa.RecordBatch, files: list[int], **changes: Any) -> Corpus:
    """A corpus whose training split is one batch of records, from files of so many entries."""
    settings: dict[str, Any] = {
        "identity": {},
        "jobs": (Job("train", 0, None, len(batch)),),
        "kind": records.kind_of(batch.schema),
        "schema": batch.schema,
        "labels": (),
        "axis": "",
        "block_records": 32,
        "provenance": {"files": [{"name": str(n), "sha256": str(n), "entries": n} for n in files]},
    }
    return write_corpus(folder, Plan(**{**settings, **changes}), lambda job: [batch])


def showers(energies: list[float], hits: list[int]) -> pa.RecordBatch:
    """Showers with these incident energies [GeV] and numbers of hits."""
    schema = records.schema("showers", ("cell_a", "layer", "energy"), ("incident_energy",))
    total, count = sum(hits), len(hits)
    columns = [pa.array(np.arange(total) % 30, pa.int16()), pa.array(np.arange(total) % 5, pa.int16())]
    columns.append(pa.array(np.full(total, 1.5), pa.float32()))
    item = schema.field("points").type
    points = pa.StructArray.from_arrays(columns, fields=list(item.value_type))
    arrays = [
        pa.ListArray.from_arrays(pa.array(np.cumsum([0, *hits]), pa.int32()), points, type=item),
        pa.array(energies, pa.float32()),
        pa.array(np.zeros(count), pa.int32()),
        pa.array(np.arange(count), pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
