"""Random jets of realistic size for benchmarks of the data path: only their shape matters there, not their physics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.progress import progress
from hepfm.core.records import ORIGIN, SPECIES
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass import LABELS, SCHEMA, write_jetclass

MEAN, SPREAD, FEWEST, MOST = 45, 17, 5, 128  # constituents of a jet, as in typical corpora
# How many of 500 real JetClass jets of all ten classes (Qu, Li, Qian, arXiv:2202.03772) have REAL_FEWEST,
# REAL_FEWEST + 1, ... constituents; they have 19,550 in all.
REAL_FEWEST = 8
# fmt: off
REAL_JETS = (
    1, 0, 0, 1, 6, 1, 2, 3, 11, 5, 2, 9, 6, 10, 12, 9, 9, 13, 6, 15, 16, 11, 19, 12, 16, 13, 10, 10, 13, 8, 10, 12,
    10, 12, 8, 9, 10, 8, 13, 13, 11, 8, 8, 12, 5, 10, 12, 6, 12, 5, 6, 3, 4, 5, 3, 3, 0, 3, 2, 7, 2, 3, 2, 5, 0, 2,
    0, 1, 0, 3, 0, 2, 1,
)
# fmt: on
BATCH_JETS = 10_000
CODES = 32_768  # of the token jets
TOKENS = pa.list_(pa.field("item", pa.uint16(), nullable=False))
TOKEN_SCHEMA = pa.schema(
    [pa.field("tokens", TOKENS, nullable=False), *(quantity.field() for quantity in ORIGIN)],
    metadata={"kind": "tokens"},
)
# ROOT's default basket holds 32,000 bytes. Only the first 30 MB of a file are in such baskets, then ROOT enlarges them,
# which uproot decodes faster: docs/figures.md has the rates for a file that ROOT wrote.
BASKET_ENTRIES = 32_000 // (4 * MEAN)


def multiplicities(draws: np.random.Generator, jets: int) -> np.ndarray:
    """Constituents (jets,) int64 of each jet."""
    return np.clip(draws.normal(MEAN, SPREAD, jets), FEWEST, MOST).astype(np.int64)


def real_multiplicities(draws: np.random.Generator, jets: int) -> np.ndarray:
    """Constituents (jets,) int64 of each jet: those of the 500 real jets over and over, each time in another order."""
    real = np.repeat(np.arange(REAL_FEWEST, REAL_FEWEST + len(REAL_JETS)), REAL_JETS)
    return np.concatenate([draws.permutation(real) for _ in range(-(-jets // len(real)))])[:jets]


def jetclass_files(folder: Path, files: int, jets: int) -> list[Path]:
    """``files`` JetClass ROOT files with ``jets`` jets each, one class a file in turn."""
    paths = [folder / f"{LABELS[number % len(LABELS)]}_{number:03d}.root" for number in range(files)]
    with progress("making files to read", files, "files") as task:
        for number, path in enumerate(paths):
            write_jetclass(path, _batches(number, jets), BASKET_ENTRIES)
            task.advance()
    return paths


def _batches(number: int, jets: int) -> Iterator[pa.RecordBatch]:
    draws = np.random.default_rng(number)
    for start in range(0, jets, BATCH_JETS):
        lengths = multiplicities(draws, min(BATCH_JETS, jets - start))
        yield random_jets(draws, lengths, number % len(LABELS))


def random_jets(draws: np.random.Generator, lengths: np.ndarray, label: int) -> pa.RecordBatch:
    """JetClass records with so many constituents each, of one class."""
    jets, offsets = len(lengths), np.concatenate([[0], np.cumsum(lengths)])
    count = int(offsets[-1])
    jet = np.repeat(np.arange(jets), np.diff(offsets))
    pt = draws.lognormal(1.5, 1.2, count)
    pt = pt[np.lexsort((-pt, jet))]
    charge = draws.integers(-1, 2, count)
    deta, dphi = draws.normal(0, 0.2, (2, count))
    eta = draws.uniform(-2, 2, jets)
    points = {
        "pt": pt,
        "deta": deta,
        "dphi": dphi,
        "energy": pt * np.cosh(eta[jet] + deta),
        **{name: draws.normal(0, 1, count) for name in ("d0", "dz")},
        **{name: draws.exponential(0.1, count) for name in ("d0err", "dzerr")},
        "charge": charge,
        "species": np.where(charge == 0, SPECIES.index("photon"), SPECIES.index("charged_hadron")),
    }
    total = np.add.reduceat(pt, offsets[:-1])
    columns = {
        "pt": np.maximum(total, 5.0),
        "pt_constituents": total,
        "eta": eta,
        "phi": draws.uniform(-3, 3, jets),
        "mass": draws.uniform(20, 200, jets),
        "softdrop_mass": draws.uniform(20, 200, jets),
        **{f"tau{n}": draws.uniform(0, 1, jets) for n in (1, 2, 3, 4)},
        "label": np.full(jets, label),
        "source_file": np.zeros(jets),
        "source_entry": np.arange(jets),
    }
    return jet_batch(SCHEMA, LABELS, offsets, points, columns)
