"""Which records are kept: cuts on jets and showers with a cut flow, and explicit truncation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind, lengths_of, offsets_of, values_of
from hepfm.ingest.schema_json import points_column
from hepfm.ingest.sources.base import Source


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
        return _made(self)

    def check(self, source: Source) -> None:
        """See that the source has what the cuts need.

        Raises:
            HepfmError: it lacks a quantity or a label; or a cut makes no sense.
        """
        needs = {"pt": (self.pt_min, self.pt_max), "eta": (self.eta_max,), "label": (self.labels or None,)}
        for name, values in needs.items():
            if any(value is not None for value in values) and name not in source.schema.names:
                raise HepfmError(f"{source.name} has no {name} to select on", "selection", "leave that cut out")
        _check_labels(self.labels, source)
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
        batch = _passing(batch, self._cuts(batch), flow)
        return batch if self.max_constituents is None else _leading(batch, self.max_constituents, flow)

    def _cuts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
        if self.pt_min is not None:
            yield f"pt >= {self.pt_min:g} GeV", values_of(batch.column("pt")) >= self.pt_min
        if self.pt_max is not None:
            yield f"pt <= {self.pt_max:g} GeV", values_of(batch.column("pt")) <= self.pt_max
        if self.eta_max is not None:
            yield f"abs(eta) <= {self.eta_max:g}", np.abs(values_of(batch.column("eta"))) <= self.eta_max
        if self.labels:
            yield _label_cut(batch, self.labels)
        if self.min_constituents is not None:
            lengths = lengths_of(batch.column(points_column(batch.schema)))
            yield f"constituents >= {self.min_constituents}", lengths >= self.min_constituents


@dataclass(frozen=True)
class ShowerSelection:
    """Cuts on showers; all bounds are inclusive and none is made unless asked for."""

    energy_min: float | None = None
    """Lowest incident energy [GeV]."""
    energy_max: float | None = None
    """Highest incident energy [GeV]."""
    labels: tuple[str, ...] = ()
    """Classes to keep, by name; all if none is named."""
    min_points: int | None = None
    """Fewest points (hits, cells) of a shower."""

    def settings(self) -> dict[str, Any]:
        """The cuts that are made, as plain data."""
        return _made(self)

    def check(self, source: Source) -> None:
        """See that the source has what the cuts need.

        Raises:
            HepfmError: it lacks a quantity or a label; or a cut makes no sense.
        """
        _check_labels(self.labels, source)
        for option in ("energy_min", "energy_max", "min_points"):
            value = getattr(self, option)
            if value is not None and not value >= 0:
                raise HepfmError(f"must not be negative, is {value}", f"--{option.replace('_', '-')}")
        if None not in (self.energy_min, self.energy_max) and self.energy_min > self.energy_max:  # type: ignore[operator]
            raise HepfmError(
                f"the lowest energy {self.energy_min} lies above the highest {self.energy_max}", "selection"
            )

    def apply(self, batch: pa.RecordBatch, flow: dict[str, int]) -> pa.RecordBatch:
        """The records that pass, cut after cut; ``flow`` gains how many are left after each."""
        return _passing(batch, self._cuts(batch), flow)

    def _cuts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
        energy = values_of(batch.column("incident_energy"))
        if self.energy_min is not None:
            yield f"incident energy >= {self.energy_min:g} GeV", energy >= self.energy_min
        if self.energy_max is not None:
            yield f"incident energy <= {self.energy_max:g} GeV", energy <= self.energy_max
        if self.labels:
            yield _label_cut(batch, self.labels)
        if self.min_points is not None:
            yield (
                f"points >= {self.min_points}",
                lengths_of(batch.column(points_column(batch.schema))) >= self.min_points,
            )


Selection = JetSelection | ShowerSelection


def selection_type(kind: Kind) -> type[JetSelection] | type[ShowerSelection]:
    """The cuts that a kind of record can be given."""
    return ShowerSelection if kind == "showers" else JetSelection


def _made(selection: Any) -> dict[str, Any]:
    made = {name: value for name, value in asdict(selection).items() if value not in (None, ())}
    return {name: sorted(value) if name == "labels" else value for name, value in made.items()}


def _check_labels(labels: tuple[str, ...], source: Source) -> None:
    unknown = set(labels) - set(source.labels)
    if unknown:
        close = get_close_matches(min(unknown), source.labels)
        shown = close or source.labels[:20]
        known = ", ".join([*shown, *(["..."] if len(shown) < len(source.labels) else [])]) or "none"
        raise HepfmError(f"{source.name} has no label {', '.join(sorted(unknown))}", "--labels", f"there is: {known}")


def _passing(batch: pa.RecordBatch, cuts: Iterator[tuple[str, np.ndarray]], flow: dict[str, int]) -> pa.RecordBatch:
    kept = np.ones(len(batch), dtype=bool)
    for name, passed in cuts:
        kept &= passed
        _count(flow, name, int(kept.sum()))
    return batch if kept.all() else batch.filter(pa.array(kept))


def _label_cut(batch: pa.RecordBatch, labels: tuple[str, ...]) -> tuple[str, np.ndarray]:
    column = batch.column("label")
    wanted = np.array([*(name in labels for name in column.dictionary.to_pylist()), False])
    return f"label in {', '.join(sorted(labels))}", wanted[values_of(column)]  # null is -1: the False


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
