"""Which records are kept: cuts on jets with a cut flow, explicit truncation, and a check for impossible values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hepfm.core.errors import HepfmError
from hepfm.core.records import kind_of, lengths_of, offsets_of, values_of
from hepfm.ingest.schema_json import points_column
from hepfm.ingest.sources.base import Source
from hepfm.ingest.summary import flat_columns

NOT_NEGATIVE = frozenset({"pt", "pt_constituents", "constituents.pt", "constituents.energy"})
LARGEST_GEV = 1e6  # ten times the energy of any collider that is planned


@dataclass(frozen=True)
class JetSelection:
    """Cuts on jets; all bounds are inclusive and none is made unless asked for."""

    pt_min: float | None = None
    """Lowest jet pt [GeV]."""
    pt_max: float | None = None
    """Highest jet pt [GeV]."""
    eta_max: float | None = None
    """Highest absolute pseudorapidity of the jet."""
    labels: tuple[str, ...] = ()
    """Classes to keep, by name; all if none is named."""
    min_constituents: int | None = None
    """Fewest constituents of a jet."""
    max_constituents: int | None = None
    """Keep at most this many leading constituents of a jet; cutting is counted in the cut flow."""

    def settings(self) -> dict[str, Any]:
        """The cuts that are made, as plain data."""
        made = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return {name: sorted(value) if name == "labels" else value for name, value in made.items()}

    def check(self, source: Source) -> None:
        """See that the source has what the cuts need.

        Raises:
            HepfmError: it lacks a quantity or a label; or a cut makes no sense.
        """
        needs = {"pt": (self.pt_min, self.pt_max), "eta": (self.eta_max,), "label": (self.labels or None,)}
        for name, values in needs.items():
            if any(value is not None for value in values) and name not in source.schema.names:
                raise HepfmError(f"{source.name} has no {name} to select on", "selection", "leave that cut out")
        unknown = set(self.labels) - set(source.labels)
        if unknown:
            raise HepfmError(
                f"{source.name} has no label {', '.join(sorted(unknown))}",
                "--labels",
                f"there is: {', '.join(source.labels)}",
            )
        if self.max_constituents is not None and self.max_constituents < 1:
            raise HepfmError("must be at least 1", "--max-constituents")
        for option in ("pt_min", "pt_max", "eta_max", "min_constituents"):
            value = getattr(self, option)
            if value is not None and not value >= 0:
                raise HepfmError(f"must not be negative, is {value}", f"--{option.replace('_', '-')}")
        for name, low, high in (
            ("pt", self.pt_min, self.pt_max),
            ("constituents", self.min_constituents, self.max_constituents),
        ):
            if low is not None and high is not None and low > high:
                raise HepfmError(f"the lowest {name} {low} lies above the highest {high}", "selection")

    def apply(self, batch: pa.RecordBatch, flow: dict[str, int]) -> pa.RecordBatch:
        """The records that pass, cut after cut; ``flow`` gains how many are left after each."""
        kept = np.ones(len(batch), dtype=bool)
        for name, passed in self._cuts(batch):
            kept &= passed
            _count(flow, name, int(kept.sum()))
        if not kept.all():
            batch = batch.filter(pa.array(kept))
        return batch if self.max_constituents is None else _leading(batch, self.max_constituents, flow)

    def _cuts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
        if self.pt_min is not None:
            yield f"pt >= {self.pt_min:g} GeV", values_of(batch.column("pt")) >= self.pt_min
        if self.pt_max is not None:
            yield f"pt <= {self.pt_max:g} GeV", values_of(batch.column("pt")) <= self.pt_max
        if self.eta_max is not None:
            yield f"abs(eta) <= {self.eta_max:g}", np.abs(values_of(batch.column("eta"))) <= self.eta_max
        if self.labels:
            column = batch.column("label")
            wanted = np.array([*(name in self.labels for name in column.dictionary.to_pylist()), False])
            yield f"label in {', '.join(sorted(self.labels))}", wanted[values_of(column)]  # null is -1: the False
        if self.min_constituents is not None:
            lengths = lengths_of(batch.column(points_column(batch.schema)))
            yield f"constituents >= {self.min_constituents}", lengths >= self.min_constituents


def _count(flow: dict[str, int], name: str, count: int) -> None:
    flow[name] = flow.get(name, 0) + count


def _leading(batch: pa.RecordBatch, most: int, flow: dict[str, int]) -> pa.RecordBatch:
    """At most ``most`` leading constituents of each jet."""
    name = points_column(batch.schema)
    column = batch.column(name)
    lengths = lengths_of(column)
    short = np.minimum(lengths, most)
    _count(flow, f"jets cut to {most} constituents", int((lengths > most).sum()))
    _count(flow, "constituents cut", int((lengths - short).sum()))
    if (lengths == short).all():
        return batch
    rank = np.arange(lengths.sum()) - np.repeat(offsets_of(column)[:-1], lengths)
    values = column.flatten().filter(pa.array(rank < most))
    offsets = np.concatenate([[0], np.cumsum(short)]).astype(np.int32)
    cut = pa.ListArray.from_arrays(pa.array(offsets), values, type=column.type)
    return batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), cut)


def possible_records(batch: pa.RecordBatch) -> tuple[np.ndarray, str]:
    """Which records hold possible values only, and what is wrong with the first quantity that does not.

    NaN and infinity are impossible in any quantity (nulls are fine); so are momenta and energies of a jet or of its
    constituents that are negative or above :data:`LARGEST_GEV`.
    """
    possible = np.ones(len(batch), dtype=bool)
    fault = ""
    starts = offsets_of(batch.column(points_column(batch.schema)))
    for name, array in flat_columns(batch):
        if not pa.types.is_floating(array.type):
            continue
        for check, what in _checks(name, array, kind_of(batch.schema)):
            if pc.call_function("all", [check]).as_py() is not False:
                continue
            bad = np.flatnonzero(~check.fill_null(True).to_numpy(zero_copy_only=False))
            possible[np.searchsorted(starts, bad, side="right") - 1 if "." in name else bad] = False
            fault = fault or f"{name} {what}"
    return possible, fault


def _checks(name: str, array: pa.Array, kind: str) -> Iterator[tuple[pa.Array, str]]:
    """Flags of the values that pass, and what is wrong with the others."""
    yield pc.call_function("is_finite", [array]), "is not finite"
    if kind == "jets" and name in NOT_NEGATIVE:
        yield pc.call_function("greater_equal", [array, pa.scalar(0.0, array.type)]), "is negative"
        most = pa.scalar(LARGEST_GEV, array.type)
        yield pc.call_function("less_equal", [array, most]), f"is above {LARGEST_GEV:g} GeV"
