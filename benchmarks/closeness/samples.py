"""Jets to compare: simulated ones from what hepfm reads, real ones from the published JetClass and JetClass-II samples.

Every sample is treated alike: deta and dphi are taken anew about the axis of the summed four-vectors, so no file's own
axis or sign of deta enters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.benchmarks.samples import READ_ENTRIES, parquet_batches
from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.observables import Constituents, FourVectors
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.arrays import segment_sums, wrapped
from hepfm.ingest.formats.jetclass import LABELS
from hepfm.ingest.sources.jetclass2 import JetClass2Source
from hepfm.ingest.sources.registry import SOURCES, recognised, source

TRACK_QUANTITIES = ("d0", "d0err", "dz", "dzerr")
UNLABELLED = ""
UNKNOWN_SPECIES = -1


@dataclass(frozen=True)
class JetSample:
    """Jets with all that is compared.

    Attributes:
        label: (n,) class of each jet, empty where it has none.
        offsets: (n + 1,) jet i owns constituents ``offsets[i]:offsets[i + 1]``.
        vectors: four-vectors (N,) of the constituents in the laboratory [GeV].
        tracks: d0, d0err, dz, dzerr (N,) [mm], NaN for neutrals; empty where the sample has none.
        species: (N,) index in ``records.SPECIES``, -1 where unknown; None where the sample has none.
    """

    label: np.ndarray
    offsets: np.ndarray
    vectors: FourVectors
    tracks: dict[str, np.ndarray]
    species: np.ndarray | None

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def jet(self) -> FourVectors:
        """Sums (n,) of the constituents [GeV]."""
        return FourVectors(*(segment_sums(part, self.offsets) for part in self.vectors))

    @cached_property
    def constituents(self) -> Constituents:
        """pt, and deta and dphi about the axis of the sum."""
        px, py = self.vectors.px, self.vectors.py
        lengths = np.diff(self.offsets)
        jet = self.jet
        axis_eta = np.arcsinh(jet.pz / np.hypot(jet.px, jet.py))
        axis_phi = np.arctan2(jet.py, jet.px)
        dphi = wrapped(np.arctan2(py, px) - np.repeat(axis_phi, lengths))
        return Constituents(np.hypot(px, py), self.eta - np.repeat(axis_eta, lengths), dphi, self.offsets)

    @cached_property
    def eta(self) -> np.ndarray:
        """Pseudorapidity (N,) of the constituents in the laboratory."""
        return np.arcsinh(self.vectors.pz / np.hypot(self.vectors.px, self.vectors.py))

    @cached_property
    def pt(self) -> np.ndarray:
        """Transverse momentum (n,) of the jets [GeV]."""
        return np.hypot(self.jet.px, self.jet.py)

    @cached_property
    def mass(self) -> np.ndarray:
        """Mass (n,) of the jets [GeV], with the energies that the constituents have."""
        px, py, pz, energy = self.jet
        return np.sqrt(np.maximum((energy - np.abs(pz)) * (energy + np.abs(pz)) - px**2 - py**2, 0.0))

    @property
    def record(self) -> np.ndarray:
        """Jet (N,) of each constituent."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def select(self, keep: np.ndarray) -> JetSample:
        """Jets where the (n,) boolean ``keep`` is true."""
        lengths = np.diff(self.offsets)
        points = np.repeat(keep, lengths)
        return JetSample(
            label=self.label[keep],
            offsets=np.concatenate([[0], np.cumsum(lengths[keep])]),
            vectors=FourVectors(*(part[points] for part in self.vectors)),
            tracks={name: values[points] for name, values in self.tracks.items()},
            species=None if self.species is None else self.species[points],
        )


def read_simulated(paths: Sequence[Path], limit: int) -> tuple[JetSample, dict[str, str]]:
    """Simulated jets of all ``paths`` together, and by path how many and the hash of what they were read from.

    Args:
        paths: corpora (every split), or raw files of any format of jets that ``hepfm ingest`` recognises, or Parquet
            files of jet records.
        limit: jets of each label to take at most, the first ones.

    Raises:
        HepfmError: nothing there, nothing that holds jets, or jets without energies or eta.
    """
    parts: list[JetSample] = []
    origins: dict[str, str] = {}
    taken: dict[str, int] = {}
    for path in paths:
        batches, digest = _open(path)
        mine = [_taken(batch, path, limit, taken) for batch in batches]
        if not mine:
            raise HepfmError("holds no jets", path)
        parts += mine
        origins[str(path)] = f"{sum(map(len, mine)):,} jets, {digest}"
    return _joined(parts), origins


def _open(path: Path) -> tuple[Iterator[pa.RecordBatch], str]:
    batches: Iterator[pa.RecordBatch]
    if path.is_dir():
        corpus = Corpus.open(path)
        if corpus.manifest.kind != "jets":
            raise HepfmError(f"holds {corpus.manifest.kind}, not jets", path, "name a corpus of jets")
        batches = (batch for split in corpus.splits() for batch in corpus.split(split))
        return batches, f"digest {corpus.digest}"
    if not path.is_file():
        raise HepfmError("no such corpus or file", path)
    formats = [name for name in recognised(path) if SOURCES[name].kind == "jets"]
    if formats:
        batches = _raw_batches(path, formats[0])
    elif path.suffix == ".parquet":
        batches = parquet_batches(path)
    else:
        raise HepfmError("holds no jets that hepfm knows", path, "name a corpus, or files that hepfm ingest reads")
    return batches, f"SHA-256 {sha256_file(path)}"


def _raw_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    reader = source(name).bind([path])
    entries = reader.entries(path)
    for start in range(0, entries, READ_ENTRIES):
        yield reader.read(path, start, min(start + READ_ENTRIES, entries))


def _taken(batch: pa.RecordBatch, path: Path, limit: int, taken: dict[str, int]) -> JetSample:
    """The jets of a batch that the limit leaves; ``taken`` counts them by label."""
    sample = sample_of(batch, path)
    keep = np.zeros(len(sample), dtype=bool)
    for label in np.unique(sample.label):
        rows = np.flatnonzero(sample.label == label)[: limit - taken.get(label, 0)]
        keep[rows] = True
        taken[label] = taken.get(label, 0) + len(rows)
    return sample.select(keep)


def sample_of(batch: pa.RecordBatch, where: object) -> JetSample:
    """Jets of a batch of records; ones without a constituent are left out.

    Raises:
        HepfmError: the records lack pt, deta, dphi or energy of constituents, or eta of jets.
    """
    around = Constituents.from_batch(batch)
    energy = np.asarray(records.points_of(batch, "energy"), dtype=np.float64)
    if "eta" not in batch.schema.names or not np.isfinite(energy).all():
        what = "jet eta" if "eta" not in batch.schema.names else "energies of constituents"
        raise HepfmError(f"the jets have no {what}", where, "compare samples whose four-vectors are complete")
    lengths = np.diff(around.offsets)
    pt = np.asarray(around.pt, dtype=np.float64)
    eta = around.deta + np.repeat(batch.column("eta").to_numpy(zero_copy_only=False), lengths).astype(np.float64)
    # The azimuth of the stored axis turns whole jets: nothing that is compared sees it.
    dphi = np.asarray(around.dphi, dtype=np.float64)
    present = batch.schema.field(records.POINTS_COLUMN["jets"]).type.value_type
    tracks = {}
    if all(present.get_field_index(name) >= 0 for name in TRACK_QUANTITIES):
        tracks = {name: np.asarray(records.points_of(batch, name), dtype=np.float64) for name in TRACK_QUANTITIES}
    vectors = FourVectors(pt * np.cos(dphi), pt * np.sin(dphi), pt * np.sinh(eta), energy)
    return JetSample(_labels(batch), around.offsets, vectors, tracks, _species(batch)).select(lengths > 0)


def _labels(batch: pa.RecordBatch) -> np.ndarray:
    if "label" not in batch.schema.names:
        return np.full(len(batch), UNLABELLED, dtype=object)
    return batch.column("label").cast(pa.string()).fill_null(UNLABELLED).to_numpy(zero_copy_only=False)


def _species(batch: pa.RecordBatch) -> np.ndarray | None:
    flat = batch.column(records.POINTS_COLUMN["jets"]).flatten()
    if flat.type.get_field_index("species") < 0:
        return None
    column = flat.field("species")
    place = np.array([records.SPECIES.index(name) for name in column.dictionary.to_pylist()] + [UNKNOWN_SPECIES])
    return place[column.indices.fill_null(len(place) - 1).to_numpy(zero_copy_only=False)]


def _joined(parts: Sequence[JetSample]) -> JetSample:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    has_tracks = all(part.tracks for part in parts)
    species = [part.species for part in parts if part.species is not None]
    return JetSample(
        label=np.concatenate([part.label for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        vectors=FourVectors(
            *(np.concatenate(components) for components in zip(*(p.vectors for p in parts), strict=True))
        ),
        tracks={name: np.concatenate([part.tracks[name] for part in parts]) for name in TRACK_QUANTITIES}
        if has_tracks
        else {},
        species=np.concatenate(species) if len(species) == len(parts) else None,
    )


def read_real_jetclass(folder: Path) -> tuple[JetSample, dict[str, Any]]:
    """The published JetClass jets as arrays: four-vectors, mask and one-hot labels of padded jets.

    The file of ``part_deta``, which is multiplied by the sign of the jet's eta, is not read: the four-vectors tell it.

    Args:
        folder: with ``*_pfVectors.npy`` (n, 4, length) px, py, pz, E [GeV], ``*_pfMask.npy`` (n, 1, length) and
            ``*_labels.npy`` (n, 10), one-hot in the order of the data set.

    Raises:
        HepfmError: a file is not there, or the shapes do not fit.
    """
    files = {name: _one(folder, f"*_{name}.npy") for name in ("pfVectors", "pfMask", "labels")}
    vectors, mask, hot = (_array(file) for file in files.values())
    n, length = len(vectors), vectors.shape[-1]
    if vectors.shape != (n, 4, length) or mask.shape != (n, 1, length) or hot.shape != (n, len(LABELS)):
        shapes = f"{vectors.shape}, {mask.shape} and {hot.shape}"
        raise HepfmError(
            f"vectors, mask and labels have shapes {shapes}", folder, "(n,4,m), (n,1,m), (n,10) are needed"
        )
    filled = mask[:, 0] > 0
    sample = JetSample(
        label=np.array(LABELS, dtype=object)[hot.argmax(axis=1)],
        offsets=np.concatenate([[0], np.cumsum(filled.sum(axis=1))]),
        vectors=FourVectors(*(vectors[:, i][filled].astype(np.float64) for i in range(4))),
        tracks={},
        species=None,
    )
    return sample, {file.name: sha256_file(file) for file in files.values()}


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        what = f"has {len(found)} files {pattern}" if found else f"has no file {pattern}"
        raise HepfmError(
            what if folder.is_dir() else "no such folder", folder, "--jetclass names the folder of one sample"
        )
    return found[0]


def _array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise HepfmError(f"is no NumPy array: {error}", path) from error
    if array.ndim < 2 or not np.isfinite(array).all():
        raise HepfmError("holds no list of finite numbers for each jet", path)
    return array


def read_real_jetclass2(path: Path) -> tuple[JetSample, dict[str, Any]]:
    """The published JetClass-II jets.

    Raises:
        HepfmError: as for :class:`JetClass2Source`.
    """
    if not path.is_file():
        raise HepfmError("no such file", path, "--jetclass2 names a JetClass-II file")
    reader = JetClass2Source().bind([path])
    batch = reader.read(path, 0, reader.entries(path))
    return sample_of(batch, path), {"file": path.name, "sha256": sha256_file(path)}
