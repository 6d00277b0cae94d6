"""What the tests of shower formats share: values with awkward bits, builds, and reading a corpus back in file order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.sources.base import Source

SAMPLES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "calorimeter"


def positive(kind: str) -> st.SearchStrategy[float]:
    """Energies of a NumPy float type over its whole range, denormals and whole powers of two included."""
    width = 8 * np.dtype(kind).itemsize
    most = 3e38 if width == 32 else 1e300
    least = float(np.finfo(kind).smallest_subnormal)
    floats = st.floats(least, float(np.dtype(kind).type(most)), width=width, allow_subnormal=True)  # type: ignore[arg-type]
    return st.one_of(floats, st.integers(8, 22).map(lambda power: float(2**power)))


def bits(values: np.ndarray) -> np.ndarray:
    """The bits of floats, so that -0.0 and 0.0 differ."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def same_files(first: Path, second: Path, names: Iterable[str]) -> None:
    """Both files hold these arrays with equal types, shapes and bits."""
    with h5py.File(first, "r") as one, h5py.File(second, "r") as other:
        for name in names:
            assert one[name].dtype == other[name].dtype, name
            assert one[name].shape == other[name].shape, name
            assert np.array_equal(bits(one[name][:]), bits(other[name][:])), name


def built(source: Source, files: list[Path], out: Path, processes: int = 1) -> Corpus:
    """A corpus of small blocks and shards, split by short runs."""
    options = BuildOptions(run_entries=20, block_records=16, shard_entries=64, splits=(0.6, 0.2, 0.2))
    return build(source, files, out, options, processes=processes)


def in_file_order(corpus: Corpus, file: int = 0) -> list[pa.RecordBatch]:
    """All records of one source file, of every split, as the file had them."""
    blocks = [block for name in corpus.splits() for block in corpus.split(name)]
    table = pa.Table.from_batches(blocks).combine_chunks()
    rows = np.flatnonzero(table["source_file"].to_numpy() == file)
    order = rows[np.argsort(table["source_entry"].to_numpy()[rows], kind="stable")]
    return table.take(pa.array(order)).combine_chunks().to_batches()


def piecewise(source: Source, path: Path, cuts: list[int], entries: int) -> pa.RecordBatch:
    """All entries, read in pieces that end at the cuts."""
    ends = sorted({0, entries, *(cut % (entries + 1) for cut in cuts)})
    pieces = [source.read(path, start, stop) for start, stop in pairwise(ends)]
    return pa.concat_batches(pieces)
