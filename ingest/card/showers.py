"""What a card shows of showers beyond their own columns: sums, and where the energy lies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from hepfm.core.records import lengths_of, points_of, values_of
from hepfm.ingest.card.sample import Quantity, Sample

POINTS = "points"
_DIRECTION = ("direction_x", "direction_y", "direction_z")


def derived(schema: pa.Schema) -> list[Quantity]:
    """Visible energy, response, energy per point, and the energy by layer, cell and distance from the axis."""
    inside = {child.name for child in schema.field(POINTS).type.value_type}
    if "energy" not in inside:
        return []
    found = [
        Quantity("visible_energy", "", "MeV", "number", _visible),
        Quantity("energy_per_point", "", "MeV", "number", _per_point),
    ]
    if "incident_energy" in schema.names:
        found.append(Quantity("response", "", "", "number", _response))
    for name in ("layer", "cell_a", "cell_b"):
        if name in inside:
            found.append(Quantity(f"energy_by_{name}", "", "", "profile", _profile(name)))
    if {"x", "y", "z"} <= inside:
        found.append(Quantity("energy_by_radius", "", "mm", "profile", _radius))
    return found


def _visible(batch: pa.RecordBatch) -> Sample:
    return Sample(_sum(batch, _energy(batch)), np.arange(len(batch)))


def _per_point(batch: pa.RecordBatch) -> Sample:
    lengths = lengths_of(batch.column(POINTS))
    some = np.flatnonzero(lengths)
    return Sample(_sum(batch, _energy(batch))[some] / lengths[some], some, len(batch) - len(some))


def _response(batch: pa.RecordBatch) -> Sample:
    """Visible over incident energy."""
    incident = values_of(batch.column("incident_energy")).astype(np.float64) * 1000  # MeV
    known = np.flatnonzero(incident > 0)
    return Sample(_sum(batch, _energy(batch))[known] / incident[known], known, len(batch) - len(known))


def _profile(name: str) -> Callable[[pa.RecordBatch], Sample]:
    def take(batch: pa.RecordBatch) -> Sample:
        return _finite(points_of(batch, name).astype(np.float64), _owner(batch), _energy(batch))

    return take


def _radius(batch: pa.RecordBatch) -> Sample:
    """Distance of each point from the line through the shower's centre of energy along its incident direction."""
    owner, energy = _owner(batch), _energy(batch)
    total = np.maximum(_sum(batch, energy), np.finfo(np.float64).tiny)
    position = [points_of(batch, name).astype(np.float64) for name in ("x", "y", "z")]
    offset = [axis - (_sum(batch, axis * energy) / total)[owner] for axis in position]
    along = sum(part * axis[owner] for part, axis in zip(offset, _direction(batch), strict=True))
    squared = sum(part**2 for part in offset) - along**2
    return _finite(np.sqrt(np.maximum(squared, 0)), owner, energy)


def _finite(values: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> Sample:
    """A profile of the points that have a place."""
    known = np.isfinite(values)
    return Sample(values[known], owner[known], int((~known).sum()), weights[known])


def _direction(batch: pa.RecordBatch) -> list[np.ndarray]:
    """Unit vector by component; along z where it is not known."""
    if not set(_DIRECTION) <= set(batch.schema.names):
        return [np.zeros(len(batch)), np.zeros(len(batch)), np.ones(len(batch))]
    parts = [values_of(batch.column(name)).astype(np.float64) for name in _DIRECTION]
    known = np.isfinite(parts).all(axis=0)
    return [np.where(known, part, fallback) for part, fallback in zip(parts, (0.0, 0.0, 1.0), strict=True)]


def _energy(batch: pa.RecordBatch) -> np.ndarray:
    return np.nan_to_num(points_of(batch, "energy").astype(np.float64))


def _owner(batch: pa.RecordBatch) -> np.ndarray:
    return np.repeat(np.arange(len(batch)), lengths_of(batch.column(POINTS)))


def _sum(batch: pa.RecordBatch, values: np.ndarray) -> np.ndarray:
    return np.bincount(_owner(batch), values, minlength=len(batch))
