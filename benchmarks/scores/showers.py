"""Samples of showers, read in chunks: two samples of 50,000 in 40,500 voxels do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import ks_2samp

from hepfm.benchmarks.samples import corpus_origin, open_corpus
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.records import lengths_of, points_of, values_of
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry
from hepfm.ingest.sources.registry import SOURCES, recognised
from hepfm.ingest.sources.registry import source as source_of
from hepfm.ingest.sources.shower_source import ShowerSource
from hepfm.ingest.voxels import voxels_of

CHUNK_SHOWERS = 1_024
DENSE_BYTES = 64 << 20  # of a dense chunk
UNIT_FACTOR = 30.0  # between median responses of samples in the same unit
SAME_ENERGIES = 1e-4  # probability of a Kolmogorov-Smirnov distance below which energies are distributed differently


@dataclass(frozen=True)
class Hits:
    """Voxels of n showers that hold something.

    Attributes:
        incident: (n,) incident energy [GeV].
        shower: (N,) shower of each hit, ascending, in [0, n).
        voxel: (N,) its voxel; each at most once a shower.
        energy: (N,) float64 [MeV].
    """

    incident: np.ndarray
    shower: np.ndarray
    voxel: np.ndarray
    energy: np.ndarray

    def __len__(self) -> int:
        return len(self.incident)

    def above(self, threshold: float | None) -> Hits:
        """Without hits below the threshold [MeV]."""
        if not threshold:
            return self
        kept = self.energy >= threshold
        return Hits(self.incident, self.shower[kept], self.voxel[kept], self.energy[kept])

    def first(self, showers: int) -> Hits:
        """The first showers."""
        if showers >= len(self):
            return self
        stop = int(np.searchsorted(self.shower, showers))
        return Hits(self.incident[:showers], self.shower[:stop], self.voxel[:stop], self.energy[:stop])

    def dense(self, voxels: int, kind: type = np.float64) -> np.ndarray:
        """Energies (n, voxels) [MeV]."""
        found: np.ndarray = np.zeros((len(self), voxels), dtype=kind)
        found[self.shower, self.voxel] = self.energy
        return found

    def check(self, where: object, start: int = 0) -> Hits:
        """Return itself if every value can be a shower's.

        Raises:
            HepfmError: an energy that is not finite, or an incident energy that is not positive; names the shower.
        """
        bad = ~np.isfinite(self.energy)
        if bad.any():
            shower = start + int(self.shower[np.argmax(bad)])
            raise HepfmError(
                f"an energy of shower {shower} is {self.energy[np.argmax(bad)]} ({int(bad.sum())} such values)",
                where,
                "leave such showers out, or mend what wrote them",
            )
        wrong = ~(np.isfinite(self.incident) & (self.incident > 0))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise HepfmError(f"the incident energy of shower {start + first} is {self.incident[first]} GeV", where)
        return self


@dataclass(frozen=True)
class ShowerSample:
    """Showers that can be read again and again, chunk by chunk.

    Attributes:
        name: for people.
        geometry: whose voxels the hits are.
        showers: how many.
        read: begins anew; chunks in order.
        origin: what it was made from.
    """

    name: str
    geometry: Geometry
    showers: int
    read: Callable[[], Iterator[Hits]]
    origin: dict[str, Any]

    def chunks(self, threshold: float | None = None) -> Iterator[Hits]:
        """The chunks, checked, without hits below a threshold [MeV].

        Raises:
            HepfmError: a value that cannot be a shower's; no shower at all.
        """
        start = 0
        for hits in self.read():
            yield hits.check(self.name, start).above(threshold)
            start += len(hits)
        if not start:
            raise HepfmError("holds no showers", self.name)

    def limited(self, showers: int) -> ShowerSample:
        """The first showers of it."""

        def read() -> Iterator[Hits]:
            left = showers
            for hits in self.read():
                yield hits.first(left)
                left -= len(hits)
                if left <= 0:
                    return

        return ShowerSample(
            self.name, self.geometry, min(showers, self.showers), read, {**self.origin, "limit": showers}
        )

    @classmethod
    def of_arrays(cls, name: str, geometry: Geometry, showers: Any, incident: np.ndarray) -> ShowerSample:
        """From voxels (n, voxels) [MeV], an array or anything that is sliced like one, and energies (n,) [GeV].

        Raises:
            HepfmError: another number of voxels than the geometry has, or of energies than of showers.
        """
        if len(showers.shape) != 2 or showers.shape[1] != geometry.voxels:
            raise HepfmError(
                f"voxels of shape {showers.shape}", name, f"{geometry.name} has {geometry.voxels:,} voxels"
            )
        energies = np.asarray(incident, dtype=np.float64).reshape(-1)
        if len(energies) != len(showers):
            raise HepfmError(f"{len(energies):,} incident energies for {len(showers):,} showers", name)

        def read() -> Iterator[Hits]:
            rows = max(1, min(CHUNK_SHOWERS, DENSE_BYTES // (8 * geometry.voxels)))
            for start in range(0, len(energies), rows):
                yield hits_of(np.asarray(showers[start : start + rows]), energies[start : start + rows])

        return cls(name, geometry, len(energies), read, {"arrays": name, "showers": len(energies)})

    @classmethod
    def of_batches(
        cls,
        name: str,
        geometry: Geometry,
        showers: int,
        batches: Callable[[], Iterable[pa.RecordBatch]],
        origin: dict[str, Any] | None = None,
    ) -> ShowerSample:
        """From shower records, so many; their points are put into the voxels of ``geometry``."""

        def read() -> Iterator[Hits]:
            return (from_batch(batch, geometry) for batch in batches())

        return cls(name, geometry, showers, read, origin or {})


def hits_of(dense: np.ndarray, incident: np.ndarray) -> Hits:
    """Hits of voxels (n, voxels) [MeV]; NaN stays, for :meth:`Hits.check` to find."""
    shower, voxel = np.nonzero(dense)
    return Hits(incident, shower, voxel, dense[shower, voxel].astype(np.float64))


def from_batch(batch: pa.RecordBatch, geometry: Geometry) -> Hits:
    """Hits of shower records; points in one voxel are added up, those outside all cells left out."""
    shower = np.repeat(np.arange(len(batch)), lengths_of(batch.column("points")))
    voxel = voxels_of(batch, geometry)
    energy: np.ndarray = points_of(batch, "energy").astype(np.float64)
    inside = (voxel >= 0) & (energy != 0)
    if not inside.all():
        shower, voxel, energy = shower[inside], voxel[inside], energy[inside]
    place = shower * geometry.voxels + voxel
    if len(place) and not (np.diff(place) > 0).all():
        places, inverse = np.unique(place, return_inverse=True)
        energy = np.bincount(inverse, weights=energy)
        shower, voxel = places // geometry.voxels, places % geometry.voxels
    return Hits(values_of(batch.column("incident_energy")).astype(np.float64), shower, voxel, energy)


def read_showers(path: Path, split: str = "test", limit: int | None = None) -> ShowerSample:
    """Showers of a corpus or of a file of any registered format.

    Args:
        path: a corpus folder, or a file.
        split: of a corpus; where it has no such split, its only one.
        limit: showers to read at most, the first ones.

    Raises:
        HepfmError: nothing there, nothing that holds showers, or showers that are points without cells.
    """
    sample = _of_corpus(path, split) if path.is_dir() else _of_file(path)
    if sample.geometry.kind == "points":
        raise HepfmError("its showers are points, not cells", path, "put them into cells: ShowerSample.of_batches")
    return sample if limit is None else sample.limited(limit)


def _of_corpus(path: Path, split: str) -> ShowerSample:
    corpus = open_corpus(path)
    if corpus.manifest.kind != "showers" or corpus.manifest.geometry is None:
        raise HepfmError(f"holds {corpus.manifest.kind}, not showers", path, "name a corpus of showers")
    names = corpus.splits()
    chosen = corpus.split(split if split in names or len(names) > 1 else names[0])
    origin = corpus_origin(corpus, chosen.name)
    geometry = Geometry.from_data(corpus.manifest.geometry)
    return ShowerSample.of_batches(path.name, geometry, chosen.records, lambda: iter(chosen), origin)


def _of_file(path: Path) -> ShowerSample:
    if not path.is_file():
        raise HepfmError("no such corpus or file", path)
    names = [name for name in recognised(path) if SOURCES[name].kind == "showers"]
    if len(names) != 1:
        raise HepfmError("is no file of showers of a known format", path, "ingest it, then name the corpus")
    source = source_of(names[0]).bind([path])
    assert isinstance(source, ShowerSource)
    entries = source.entries(path)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, entries, CHUNK_SHOWERS):
            yield source.read(path, start, min(start + CHUNK_SHOWERS, entries))

    origin = {"file": path.name, "sha256": sha256_file(path), "format": names[0]}
    return ShowerSample.of_batches(path.name, source.bound_geometry, entries, batches, origin)


def check_alike(reference: ShowerSample, sample: ShowerSample) -> None:
    """See that both samples have the same cells.

    Raises:
        HepfmError: they have others; says which.
    """
    ours, theirs = sample.geometry, reference.geometry
    if ours.voxels != theirs.voxels or not np.array_equal(ours.shape, theirs.shape):
        raise HepfmError(
            f"has another binning: {ours.summary()}; the reference {theirs.summary()}",
            f"sample '{sample.name}'",
            "compare showers in the same cells",
        )
    if ours.fastest != theirs.fastest:
        raise HepfmError("its voxels are in another order than the reference's", f"sample '{sample.name}'")
    for layer, (mine, other) in enumerate(zip(ours.layers, theirs.layers, strict=True)):
        for axis in ("cell_a", "cell_b"):
            if not np.allclose(getattr(mine, axis).edges, getattr(other, axis).edges, rtol=1e-5, atol=1e-5):
                raise HepfmError(f"has other edges of {axis} in layer {layer}", f"sample '{sample.name}'")


def check_energies(reference: np.ndarray, sample: np.ndarray, name: str) -> None:
    """See that both samples (n,), (m,) have the same distribution of incident energies [GeV].

    Raises:
        HepfmError: a Kolmogorov-Smirnov test finds them different (probability below 1e-4); tells their ranges.
    """
    found = ks_2samp(reference, sample, method="asymp")
    if found.pvalue < SAME_ENERGIES:
        ranges = [
            f"{part.min():.4g}-{part.max():.4g} GeV, median {np.median(part):.4g}" for part in (sample, reference)
        ]
        raise HepfmError(
            f"has other incident energies: {ranges[0]}; the reference {ranges[1]}"
            f" (largest difference of shares {found.statistic:.3f})",
            f"sample '{name}'",
            "generate it at the reference's incident energies",
        )


def check_units(reference: np.ndarray, sample: np.ndarray, name: str) -> None:
    """See that both samples have deposits in the same unit, by their responses (visible over incident energy).

    Raises:
        HepfmError: the median responses differ by a factor of more than 30.
    """
    ours, theirs = float(np.median(sample)), float(np.median(reference))
    if ours > UNIT_FACTOR * theirs or theirs > UNIT_FACTOR * ours:
        raise HepfmError(
            f"the median of visible over incident energy is {ours:.4g}, in the reference {theirs:.4g}",
            f"sample '{name}'",
            "deposits are in MeV, incident energies in GeV",
        )


def response(total: np.ndarray, incident: np.ndarray) -> np.ndarray:
    """Visible [MeV] over incident energy [GeV], (n,), a pure number."""
    return total / (incident * MEV_PER_GEV)
