"""``hepfm corpus filter``: the records of a corpus that pass cuts, blocks filled again, splits and order kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.plan import Plan
from hepfm.ingest.selection import Selection, ShowerSelection
from hepfm.ingest.sources.base import Source
from hepfm.ingest.tally import Tally
from hepfm.ingest.weave import (
    Strand,
    Weaving,
    Woven,
    attached_files,
    largest_shard,
    lineage,
    tokens_alone,
    woven_jobs,
)
from hepfm.ingest.workers import Workers

SAMPLED_BLOCKS = 64  # of a split, to see how much about passes


def filter_corpus(corpus: Corpus, selection: Selection, out: Path, processes: int = 1) -> Corpus:
    """Write the corpus of the records that pass, or continue it; the bytes do not depend on either, nor on processes.

    The cut flow goes to the manifest, the parent's stays in ``provenance["parents"]``. A token corpus loses its tie to
    the corpus that it was made from (see :func:`hepfm.ingest.weave.tokens_alone`) and keeps its tokenizer.

    Raises:
        HepfmError: no cut was asked for, the corpus lacks what a cut needs, no record passes, or ``out`` holds
            something else.
    """
    check(corpus, selection)
    check_folder(out)
    plan = make_plan(corpus, selection)
    produce = Woven((corpus,), Cut(selection), 0, plan.block_records)
    return write_corpus(out, plan, produce, workers=Workers(processes), attached=attached_files([corpus]))


def holds_showers(manifest: Manifest) -> bool:
    """Are the records showers, or tokens of showers?"""
    return manifest.kind == "showers" or (manifest.kind == "tokens" and "incident_energy" in manifest.schema.names)


def check(corpus: Corpus, selection: Selection) -> None:
    """See that the cuts are cuts on such records and that these have what the cuts need."""
    manifest = corpus.manifest
    if not selection.settings():
        raise HepfmError("no cut was asked for", "corpus filter", "give at least one, see --help")
    if isinstance(selection, ShowerSelection) != holds_showers(manifest):
        what = "showers" if holds_showers(manifest) else "jets"
        raise HepfmError(f"holds {what}, the cuts are others", corpus.path, f"give cuts on {what}")
    source = cast(Source, _AsSource(str(corpus.path), manifest.schema, manifest.labels))
    selection.check(source)
    if holds_showers(manifest) and "incident_energy" not in manifest.schema.names:
        raise HepfmError("has no incident_energy to select on", corpus.path)


@dataclass(frozen=True)
class _AsSource:
    """What a selection asks a source for: its name, what it provides, its labels."""

    name: str
    schema: pa.Schema
    labels: tuple[str, ...]


def make_plan(corpus: Corpus, selection: Selection) -> Plan:
    """The filtered corpus: shards and blocks as full as the parent's."""
    manifest = corpus.manifest
    jobs = [
        job
        for name, split in manifest.splits.items()
        for job in woven_jobs(
            Weaving(name, (Strand(0, name, split.records),), _passing(corpus.split(name), selection)),
            manifest.block_records,
            largest_shard([corpus]),
        )
    ]
    known = ("source", "settings", "files")
    settings = selection.settings()
    return Plan(
        identity={"filter": settings, "parent": corpus.digest},
        jobs=tuple(jobs),
        kind=manifest.kind,
        schema=manifest.schema,
        labels=manifest.labels,
        axis=manifest.axis,
        block_records=manifest.block_records,
        provenance={
            **{name: manifest.provenance[name] for name in known if name in manifest.provenance},
            "selection": settings,
            "parents": [lineage(corpus)],
            "command": " ".join(["hepfm corpus filter CORPUS --out FILTERED", *_options(settings)]),
        },
        geometry=manifest.geometry,
        tokens=tokens_alone(corpus),
    )


def _options(settings: dict[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, list) else [value])


def _passing(split: Split, selection: Selection) -> int:
    """Records of a split that pass, about: judged by some of its blocks, which are mixtures of the whole."""
    blocks = np.unique(np.linspace(0, len(split) - 1, SAMPLED_BLOCKS).astype(int)).tolist()
    read = passed = 0
    for block in blocks:
        batch = split.read(block)
        read += len(batch)
        passed += len(selection.apply(batch, {}))
    return round(split.records * passed / read)


@dataclass(frozen=True)
class Cut:
    """Applies the cuts and counts what is left after each."""

    selection: Selection

    def __call__(self, batch: pa.RecordBatch, corpus: int, split: str, tally: Tally) -> pa.RecordBatch:
        tally.count("records", len(batch))
        return self.selection.apply(batch, tally.flow)
