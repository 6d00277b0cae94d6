"""Formats that generated records are written in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path
from hepfm.core.records import Kind
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

FormatName = Literal[
    "auto",
    "jetclass",
    "aspenopenjets",
    "jetnet",
    "parquet",
    "corpus",
    "showerdata",
    "calochallenge",
    "ildgrid",
    "showerclouds",
]
DEFAULT: dict[Kind, FormatName] = {"jets": "jetclass", "showers": "showerdata"}
FORMATS: dict[Kind, tuple[FormatName, ...]] = {
    "jets": ("jetclass", "aspenopenjets", "jetnet", "parquet", "corpus"),
    "showers": ("showerdata", "calochallenge", "ildgrid", "showerclouds", "parquet", "corpus"),
}
WITHOUT_INCIDENT = ("parquet", "corpus")
SUFFIXES = {".root": "ROOT", ".parquet": "Parquet", ".h5": "HDF5", ".hdf5": "HDF5"}  # what a file's name promises
WRITTEN: dict[FormatName, str] = {"jetclass": "ROOT", "parquet": "Parquet", "corpus": "a corpus, which is a folder"}
SHARD_RECORDS = 65_536
BLOCK_RECORDS = 1_024


@dataclass(frozen=True)
class Output:
    """Records that are to be written.

    Attributes:
        kind, schema, labels, geometry: of the records, as in a manifest.
        n: how many there are.
        batches: gives records ``first`` to ``stop - 1``.
        identity: plain data that tells them from others.
    """

    kind: Kind
    schema: pa.Schema
    labels: tuple[str, ...]
    geometry: dict[str, Any] | None
    n: int
    batches: Callable[[int, int], Iterator[pa.RecordBatch]]
    identity: dict[str, Any]


def check_format(name: FormatName, kind: Kind, schema: pa.Schema) -> FormatName:
    """The format to write.

    Raises:
        HepfmError: it cannot hold such records.
    """
    name = DEFAULT[kind] if name == "auto" else name
    if name not in FORMATS[kind]:
        raise HepfmError(f"{name} files hold no {kind}", "--format", f"there is: {', '.join(FORMATS[kind])}")
    if kind == "showers" and name not in WITHOUT_INCIDENT and "incident_energy" not in schema.names:
        raise HepfmError(
            f"{name} files have the incident energy, which the backbone is not told",
            "--format",
            "train it with --condition incident_energy, or write parquet or corpus",
        )
    return name


def check_name(name: FormatName, path: Path) -> None:
    """Refuse a file's name that promises what the format is not.

    Raises:
        HepfmError: such as ``.parquet`` of HDF5; names without a known ending pass.
    """
    promised, written = SUFFIXES.get(path.suffix), WRITTEN.get(name, "HDF5")
    if promised not in (None, written):
        ending = next((f", or end it in {suffix}" for suffix, kind in SUFFIXES.items() if kind == written), "")
        raise HepfmError(f"is named as {promised}, {name} is {written}", path, f"take another --format{ending}")


def write(name: FormatName, path: Path, output: Output) -> None:
    """Write all records; the file or corpus appears when it is complete."""
    if name == "corpus":
        _write_corpus(path, output)
    elif name == "parquet":
        with atomic_path(path) as partial, pq.ParquetWriter(partial, output.schema) as writer:
            for batch in output.batches(0, output.n):
                writer.write_batch(batch)
    else:
        writer_of = getattr(import_module(f"hepfm.ingest.formats.{name}"), f"write_{name}")
        further = () if output.geometry is None else (Geometry.from_data(output.geometry),)
        writer_of(path, output.batches(0, output.n), *further)


def _write_corpus(path: Path, output: Output) -> None:
    starts = range(0, output.n, SHARD_RECORDS)
    jobs = tuple(
        Job("train", shard, first, size=min(SHARD_RECORDS, output.n - first)) for shard, first in enumerate(starts)
    )
    plan = Plan(
        identity=output.identity,
        jobs=jobs,
        kind=output.kind,
        schema=output.schema,
        labels=output.labels,
        axis="stored" if output.kind == "jets" else "",
        block_records=BLOCK_RECORDS,
        provenance={"generated": output.identity},
        geometry=output.geometry,
    )
    write_corpus(path, plan, lambda job: output.batches(job.payload, job.payload + job.size))
