"""The HDF5 format of JetNet (Zenodo 6975117, arXiv:2106.11535), and its writer.

Particles are relative to the jet and padded, a mask tells which are there. A jet's class is the name of its file, or a
fifth feature of the jet, in front, as in arrays that the jetnet library gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.core.progress import say
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.shards import reblock

PARTICLES, JETS = "particle_features", "jet_features"
Label = Literal["g", "q", "t", "w", "z"]
CLASSES: tuple[Label, ...] = ("g", "q", "t", "w", "z")
PARTICLE_FEATURES = 4  # etarel, phirel, ptrel, mask
LONGEST = 150

WRITE_JETS = 1_024
CHUNK_JETS = 64


def write_jetnet(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write jet records as a JetNet HDF5 file of up to 150 particles a jet, gzip; equal records in equal bytes.

    ``particle_features`` (n, 150, 4) are deta, dphi, pt over jet pt and the mask; ``jet_features`` are pt [GeV], eta,
    mass [GeV] and number of particles. If all classes of the records are JetNet's (g, q, t, w, z), the class's number
    stands before them; other classes have no place in such a file, which is said. A missing jet pt or mass is that of
    the sum of the (massless) constituents, a missing eta 0. Energies, phi and all else is left out.

    A jet keeps its first 150 constituents; how many jets had more is said.

    Args:
        path: the file; replaced if it exists.
        batches: jet records, read one batch at a time.

    Returns:
        Number of jets written.

    Raises:
        HepfmError: no jets; constituents without pt, deta or dphi; a jet without pt, or without class where the others
            have one.
    """
    written = cut = 0
    typed = False
    with hdf5_written(path) as file:
        for batch in reblock(batches, WRITE_JETS):
            if not written:
                typed = _has_classes(batch, path)
            lengths = records.lengths_of(batch.column(records.POINTS_COLUMN["jets"]))
            rows = _rows(batch, typed, written, path)
            for name, values in rows.items():
                if not written:
                    _create(file, name, values)
                file[name].resize(written + len(batch), axis=0)
                file[name][written:] = values
            written += len(batch)
            cut += int((lengths > LONGEST).sum())
        if not written:
            raise HepfmError("no jets to write", path)
    if cut:
        say(f"{path}: {cut:,} of {written:,} jets were cut to their first {LONGEST} constituents")
    return written


def _create(file: h5py.File, name: str, values: np.ndarray) -> None:
    shape = values.shape[1:]
    layout: dict[str, Any] = {
        "maxshape": (None, *shape),
        "chunks": (CHUNK_JETS, *shape),
        "compression": "gzip",
        "track_times": False,
    }
    file.create_dataset(name, shape=(0, *shape), dtype=values.dtype, **layout)


def _has_classes(batch: pa.RecordBatch, path: Path) -> bool:
    """Whether all classes that the records may have are JetNet's; tells of others."""
    if "label" not in batch.schema.names:
        return False
    foreign = [name for name in batch.column("label").dictionary.to_pylist() if name not in CLASSES]
    if foreign:
        say(f"{path}: JetNet has no class '{foreign[0]}' (it has {', '.join(CLASSES)}): classes are left out")
    return not foreign


def _rows(batch: pa.RecordBatch, typed: bool, first: int, path: Path) -> dict[str, np.ndarray]:
    """The two data sets of a batch whose first jet is number ``first``."""
    jets = Constituents.from_batch(batch)
    pt = _jet(batch, "pt", jet_pt(jets))
    if not (pt > 0).all():
        number = int(np.argmax(~(pt > 0)))
        raise HepfmError(f"jet {first + number} has pt {pt[number]:g}: nothing is relative to it", path)
    lengths = np.diff(jets.offsets)
    kept = np.minimum(lengths, LONGEST)
    rank = np.arange(len(jets.pt)) - np.repeat(jets.offsets[:-1] - jets.offsets[0], lengths)
    relative = np.stack([jets.deta, jets.dphi, jets.pt / np.repeat(pt, lengths), np.ones(len(jets.pt))], axis=1)
    padded = np.zeros((len(batch), LONGEST, PARTICLE_FEATURES), dtype=np.float32)
    padded[np.arange(LONGEST) < kept[:, None]] = relative[rank < LONGEST]
    features = [pt, _jet(batch, "eta", np.zeros(len(batch))), _jet(batch, "mass", jet_mass(jets)), kept]
    if typed:
        features = [_class_numbers(batch, first, path), *features]
    return {PARTICLES: padded, JETS: np.stack(features, axis=1).astype(np.float32)}


def _class_numbers(batch: pa.RecordBatch, first: int, path: Path) -> np.ndarray:
    names = batch.column("label").to_pylist()
    if None in names:
        raise HepfmError(f"jet {first + names.index(None)} has no class", path, "leave such jets out")
    return np.array([CLASSES.index(name) for name in names])


def _jet(batch: pa.RecordBatch, name: str, otherwise: np.ndarray) -> np.ndarray:
    if name not in batch.schema.names:
        return otherwise
    column = batch.column(name)
    values = records.values_of(column).astype(np.float64)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), otherwise, values)
