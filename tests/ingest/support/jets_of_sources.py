"""What the tests of jet sources share: comparing batches, and ways to spoil a file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import vector

from hepfm.core import records
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.sources.base import Source

SAMPLES = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def read_all(source: Source, path: Path, **options: Any) -> pa.RecordBatch:
    """All records of a file, checked against the source's schema."""
    batch = source.read(path, 0, source.entries(path), **options)
    batch.validate(full=True)
    assert batch.schema.equals(source.schema, check_metadata=True)
    return batch


def check_ranges(source: Source, path: Path, cuts: list[int]) -> None:
    """Piecewise reading, in any order of the pieces, gives what reading the whole gives."""
    entries = source.entries(path)
    whole = pa.Table.from_batches([source.read(path, 0, entries)])
    bounds = sorted({0, entries, *(cut % (entries + 1) for cut in cuts)})
    pieces = list(pairwise(bounds))
    backwards = {piece: source.read(path, *piece) for piece in reversed(pieces)}
    again = [source.read(path, *piece) for piece in pieces]
    assert all(backwards[piece].equals(batch) for piece, batch in zip(pieces, again, strict=True))
    assert pa.Table.from_batches(again).combine_chunks().equals(whole.combine_chunks())
    assert len(source.read(path, entries, entries)) == 0


def point_lists(batch: pa.RecordBatch, name: str) -> list[np.ndarray]:
    """A constituent quantity, an array for each jet."""
    offsets = records.offsets_of(batch.column("constituents"))
    return np.split(records.points_of(batch, name), offsets[1:-1])


def label_names(batch: pa.RecordBatch) -> list[str | None]:
    return batch.column("label").to_pylist()


def check_sums(batch: pa.RecordBatch, jets: list[np.ndarray]) -> None:
    """Compare records with constituents (k, 4) of E, px, py, pz of each jet, by the vector library."""
    assert len(batch) == len(jets)
    for number, jet in enumerate(jets):
        jet = jet.astype(np.float64)
        parts = vector.array({"E": jet[:, 0], "px": jet[:, 1], "py": jet[:, 2], "pz": jet[:, 3]})
        total = vector.obj(E=jet[:, 0].sum(), px=jet[:, 1].sum(), py=jet[:, 2].sum(), pz=jet[:, 3].sum())
        order = np.argsort(-parts.pt, kind="stable")
        row = {name: batch.column(name)[number].as_py() for name in batch.schema.names if name != "constituents"}
        assert np.isclose(row["pt"], total.pt, rtol=1e-6)
        assert np.isclose(row["pt_constituents"], total.pt, rtol=1e-6)
        assert np.isclose(row["eta"], total.eta, rtol=1e-5, atol=1e-6)
        assert np.isclose(np.cos(row["phi"] - total.phi), 1)
        assert np.isclose(row["mass"], max(total.mass, 0), rtol=1e-4, atol=1e-3)
        for name, expected in {
            "pt": parts.pt,
            "energy": parts.E,
            "deta": parts.eta - total.eta,
            "dphi": parts.deltaphi(total),
        }.items():
            assert np.allclose(point_lists(batch, name)[number], expected[order], rtol=1e-5, atol=1e-5), name


def truncated(path: Path, share: float) -> Path:
    """A copy of a file, cut off at a share of its bytes."""
    content = path.read_bytes()
    copy = path.with_name(f"cut{int(100 * share)}{path.suffix}")
    copy.write_bytes(content[: max(int(share * len(content)), 12)])
    return copy


def built(source: Source, files: list[Path], folder: Path, **options: Any) -> tuple[Corpus, pa.Table]:
    """A corpus of the files, and its records in the order of files and entries."""
    corpus = build(source, files, folder, BuildOptions(run_entries=20, **options))
    table = pa.Table.from_batches([batch for name in corpus.splits() for batch in corpus.split(name)])
    keys = [(name, "ascending") for name in ("source_file", "source_entry")]
    keys += [("jet_index", "ascending")] if "jet_index" in table.schema.names else []
    order = pc.sort_indices(table.select([name for name, _ in keys]), sort_keys=keys)
    return corpus, table.take(order)


def same(table: pa.Table, *batches: pa.RecordBatch) -> bool:
    """Do records of a corpus equal those that were read, but for the number of the file?"""
    read = pa.Table.from_batches(list(batches))
    return all(
        table.column(name).combine_chunks().equals(read.column(name).combine_chunks())
        for name in read.schema.names
        if name != "source_file"
    )
