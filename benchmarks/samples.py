"""Samples of jets to compare: from a corpus split, a JetClass ROOT file, or Parquet records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.observables import Constituents, concatenate
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.manifest import FILE
from hepfm.ingest.sources.jetclass import JetClassSource

READ_ENTRIES = 4096


SUFFIXES = (".root", ".parquet", ".h5", ".hdf5")  # of files that a folder may hold in the place of a corpus


@dataclass(frozen=True)
class Sample:
    """Jets and where they came from.

    Attributes:
        jets: the jets.
        origin: what they were read from, for the record.
        source: of a corpus, what made it (``jetclass``, ``jetnet``); empty where unknown.
        labels: of a corpus, the classes that occur in it.
    """

    jets: Constituents
    origin: dict[str, Any]
    source: str = ""
    labels: tuple[str, ...] = ()


def read_sample(name: str | Path, limit: int | None = None, split: str = "test") -> Sample:
    """Read a sample of jets.

    Args:
        name: a corpus folder, a JetClass ROOT file, or a Parquet file of jet records.
        limit: jets to read at most, the first ones.
        split: of a corpus; where it has no such split, its only one.

    Raises:
        HepfmError: nothing there, or nothing that holds jets.
    """
    path = Path(name)
    if path.is_dir():
        return _from_corpus(path, limit, split)
    if not path.is_file():
        raise HepfmError("no such corpus or file", path)
    batches = {".root": _root_batches, ".parquet": parquet_batches}.get(path.suffix)
    if batches is None:
        raise HepfmError("is neither a corpus, nor a .root nor a .parquet file", path)
    return Sample(_collect(batches(path), limit, path), {"file": path.name, "sha256": sha256_file(path)})


def open_corpus(path: Path) -> Corpus:
    """The corpus in a folder.

    Raises:
        HepfmError: there is none; says what to name in the place of what lies there.
    """
    if not (path / FILE).is_file():
        if (path / "config.yaml").is_file() or (path / "config.json").is_file():
            raise HepfmError("is a model, not a sample", path, f"make one with it: hepfm generate {path} --out FILE")
        files = sorted(file for end in SUFFIXES for file in path.glob(f"*{end}"))
        if files:
            raise HepfmError("is a folder of files, not a corpus", path, f"name a file ({files[0]}), or ingest them")
    return Corpus.open(path)


def _from_corpus(path: Path, limit: int | None, split: str) -> Sample:
    corpus = open_corpus(path)
    if corpus.manifest.kind != "jets":
        raise HepfmError(f"holds {corpus.manifest.kind}, not jets", path, "name a corpus of jets")
    names = corpus.splits()
    chosen = split if split in names or len(names) > 1 else names[0]
    jets = _collect(iter(corpus.split(chosen)), limit, path)
    known = corpus.manifest.statistics.get("label", {}).get("values", {})
    source = str(corpus.manifest.provenance.get("source", ""))
    return Sample(jets, corpus_origin(corpus, chosen), source, tuple(name for name, jets in known.items() if jets))


def corpus_origin(corpus: Corpus, split: str) -> dict[str, Any]:
    """Which corpus it is, and how its manifest says that it was made."""
    manifest = corpus.manifest
    made = {name: manifest.provenance.get(name) for name in ("source", "command", "selection", "versions")}
    files = manifest.provenance.get("files")
    if isinstance(files, list) and files:
        made["files"] = f"{len(files)}, the first {files[0].get('name')} with sha256 {files[0].get('sha256')}"
    return {
        "corpus": corpus.path.name,
        "digest": corpus.digest,
        "split": split,
        "records": manifest.splits[split].records,
        "made by": {name: value for name, value in made.items() if value},
    }


def _root_batches(path: Path) -> Iterator[pa.RecordBatch]:
    source = JetClassSource()
    entries = source.entries(path)
    for start in range(0, entries, READ_ENTRIES):
        yield source.read(path, start, min(start + READ_ENTRIES, entries))


def parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file of jet records.

    Raises:
        HepfmError: it is no Parquet file, or one of something else.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise HepfmError(f"is not a Parquet file: {error}", path) from error
    if (file.schema_arrow.metadata or {}).get(b"kind") != b"jets":
        raise HepfmError("is a Parquet file of something else than jet records", path, "ingest it, name the corpus")
    yield from file.iter_batches(READ_ENTRIES)


def _collect(batches: Iterator[pa.RecordBatch], limit: int | None, path: Path) -> Constituents:
    parts, count = [], 0
    for batch in batches:
        if limit is not None:
            batch = batch.slice(0, limit - count)
        parts.append(Constituents.from_batch(batch))
        count += len(batch)
        if limit is not None and count >= limit:
            break
    if not count:
        raise HepfmError("holds no jets", path)
    return concatenate(parts)
