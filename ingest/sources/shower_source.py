"""What the readers of showers share: a geometry that the files decide, and points read window by window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import tyro

from hepfm.core.draws import hashed, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, offsets_of, points_of, values_of
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.formats.shower_files import ShowerFile, shower_file
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.tally import Tally

# Showers at the beginning of a file from which a layout is judged where names and shapes do not tell.
SAMPLE = 128
KEY_ENTRIES = 64  # showers whose keys are worked out together: as many points as a thousand jets and more
FEWEST_POINTS = 3  # showers of fewer points can be alike by chance: empty ones are
UNIT_TOLERANCE = 1e-3
NO_UNIT_VECTOR = "its direction is no unit vector"
# Deposits over incident energy: ILD shows 0.03, calibrated deposits about 1. Single showers may fall short of that, but
# not half of them by so much.
LEAST_RESPONSE = 1e-3
LEAST_CALIBRATED_RESPONSE = 0.01


@dataclass(frozen=True)
class ShowerSource(Source):
    """A source of showers: its files decide the geometry, and that decides the schema."""

    found: tyro.conf.Suppress[Geometry | None] = None
    """The geometry, once :meth:`bind` has seen the files."""

    kind = "showers"

    def bind(self, files: Sequence[Path]) -> Self:
        """This source with the geometry of the files.

        Raises:
            HepfmError: as for :meth:`look`, or files that differ in what they hold, or whose first showers deposit
                nothing or less than a thousandth of the incident energy in the median (a hundredth where deposits are
                divided by the sampling fraction).
        """
        seen = [self.look(shower_file(Path(file))) for file in files]
        bound = replace(self, found=self.common(seen, files))
        for file in files:
            bound.check_units(shower_file(Path(file)))
        return bound

    def check_units(self, file: ShowerFile) -> None:
        """Judge by the first showers whether deposits and incident energies are in the units that they are taken for.

        Raises:
            HepfmError: they deposit nothing, or far too little.
        """
        with np.errstate(all="ignore"):  # values that are not finite are the builder's to judge
            batch = self.showers(file, 0, min(SAMPLE, self.entries(file.path)), Tally("skip"))
            offsets = offsets_of(batch.column(POINTS_COLUMN["showers"]))
            deposited = segment_sums(points_of(batch, "energy"), offsets) / MEV_PER_GEV
            response = deposited / values_of(batch.column("incident_energy"))
        response = response[np.isfinite(response)]
        least = LEAST_CALIBRATED_RESPONSE if self.bound_geometry.calibrated else LEAST_RESPONSE
        if not len(response) or np.median(response) >= least:
            return
        if not deposited.any():
            raise HepfmError(f"its first {len(batch)} showers deposit nothing", file.path, "fetch or make it again")
        raise HepfmError(
            f"its first {len(batch)} showers deposit {np.median(response):.1e} of the incident energy (median)",
            file.path,
            f"less than {least:g} is no calorimeter's: are the units right?",
        )

    def common(self, seen: Sequence[Geometry], files: Sequence[Path]) -> Geometry:
        """The geometry of all files.

        Raises:
            HepfmError: they have different ones.
        """
        for geometry, file in zip(seen, files, strict=True):
            if geometry != seen[0]:
                here, there = (f"{found.name} ({found.stored.summary()})" for found in (geometry, seen[0]))
                raise HepfmError(f"holds {here}, unlike {files[0]}: {there}", file, "one at a time")
        return seen[0]

    @abstractmethod
    def look(self, file: ShowerFile) -> Geometry:
        """The geometry of one file, with how it stores showers.

        Raises:
            HepfmError: it lacks an array, or one has an unexpected shape or type.
        """

    @abstractmethod
    def schema_of(self, geometry: Geometry) -> pa.Schema:
        """What records of such files provide."""

    @abstractmethod
    def showers(self, file: ShowerFile, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        """Records of entries [start, stop); the source is bound."""

    @cached_property
    def schema(self) -> pa.Schema:
        return self.schema_of(self.bound_geometry)

    @cached_property
    def geometry(self) -> dict[str, Any] | None:  # type: ignore[override]
        return self.found.to_data() if self.found else None

    @property
    def bound_geometry(self) -> Geometry:
        """The geometry of the files.

        Raises:
            HepfmError: no file has been seen yet.
        """
        if self.found is None:
            raise HepfmError("its files decide what it provides", self.name, "bind it to files first")
        return self.found

    def keys(self, path: Path) -> np.ndarray:
        """One for each shower, of its incident energy and all its points, in any order.

        Bad entries (which the builder will meet) and showers of fewer than three points have a key that no other has.
        """
        source, entries = self if self.found else self.bind([path]), self.entries(path)
        keys = hashed(key_of("shower without a key", path), np.arange(entries))
        for start in range(0, entries, KEY_ENTRIES):
            batch = source.read(path, start, min(start + KEY_ENTRIES, entries), Tally("skip"))
            column = batch.column(POINTS_COLUMN["showers"])
            points = key(*(points_of(batch, child.name) for child in column.type.value_type))
            offsets = offsets_of(column)
            sums = np.diff(np.concatenate([np.zeros(1, np.uint64), np.cumsum(points, dtype=np.uint64)])[offsets])
            told = np.diff(offsets) >= FEWEST_POINTS
            found = key(sums, values_of(batch.column("incident_energy")))
            keys[values_of(batch.column("source_entry"))[told]] = found[told]
        return keys

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        source = self if self.found else self.bind([path])
        return source.showers(shower_file(path), start, stop, tally or Tally())


def without(
    batch: pa.RecordBatch, faults: Mapping[str, np.ndarray], entries: np.ndarray, tally: Tally, path: Path
) -> pa.RecordBatch:
    """The records without a fault; the others are told to the tally, each once.

    Args:
        batch: records (n,).
        faults: flags (n,) of the records with a fault, by what it is.
        entries: (n,) the entry of each record.
        tally, path: see :meth:`hepfm.ingest.tally.Tally.reject`.
    """
    good = np.ones(len(entries), dtype=bool)
    for what, wrong in faults.items():
        tally.reject(what, entries[good & wrong], path)
        good &= ~wrong
    return batch if good.all() else batch.take(pa.array(np.flatnonzero(good)))


def no_unit_vectors(directions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Flags (n,) of the showers whose direction, three columns (n,), is no unit vector."""
    squares = [values.astype(np.float64) ** 2 for values in directions.values()]
    return ~(np.abs(np.sqrt(sum(squares)) - 1) <= UNIT_TOLERANCE)
