"""What a tokenizer decodes, as records of jets or showers that the writers of the formats take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.geometry import Geometry
from hepfm.pretrain.conditions import Condition, ConditionValues

JET_POINTS, JET = ("pt", "deta", "dphi"), ("pt", "pt_constituents", "eta", "phi", "mass")
INCIDENT = ("incident_energy", "direction_x", "direction_y", "direction_z")


class JetRecords:
    """Jets at phi = 0 and at eta = 0 or what they are told; deta and dphi are about that axis, constituents massless.

    Args:
        conditions: what the backbone is told.

    Attributes:
        schema: of the records.
        labels: names of the classes.
    """

    kind: records.Kind = "jets"
    geometry = None

    def __init__(self, conditions: Sequence[Condition] = ()) -> None:
        self.conditions = tuple(conditions)
        self.labels = next((known.names for known in conditions if known.kind == "label"), ())
        self.schema = records.schema("jets", JET_POINTS, (*JET, *(("label",) if self.labels else ())))

    def of(
        self, decoded: Mapping[str, np.ndarray], offsets: np.ndarray, told: ConditionValues | None, first: int
    ) -> pa.RecordBatch:
        """Records of decoded constituents, each jet's ordered by falling pt; ``source_entry`` counts from ``first``."""
        jet = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.lexsort((-decoded["pt"], jet))
        points = {name: decoded[name][order] for name in JET_POINTS}
        jets = Constituents(points["pt"], points["deta"], points["dphi"], offsets)
        known = {} if told is None else told.columns(self.conditions)
        pt, n = jet_pt(jets), len(jets)
        columns = {
            "pt": pt,
            "pt_constituents": pt,
            "eta": np.nan_to_num(known["jet_eta"]) if "jet_eta" in known else np.zeros(n),
            "phi": np.zeros(n),
            "mass": jet_mass(jets),
            "source_file": np.zeros(n),
            "source_entry": first + np.arange(n),
        }
        if self.labels:
            columns["label"] = known["label"]
        return jet_batch(self.schema, self.labels, offsets, points, columns)


@dataclass
class ShowerRecords:
    """Showers of a detector: each cell once, inside it, at or above its threshold.

    Cells that come twice are one of the energy of both (no energy is lost); cell indices beyond a layer's own cells are
    its last ones; then cells below the threshold are left out, and counted.

    Attributes:
        detector: as the token corpus's manifest has it.
        conditions: what the backbone is told.
        positions: what the tokenizer decodes beside the energy.
        merged, below: hits that were merged into another, and left out below the threshold.
    """

    detector: Geometry
    conditions: tuple[Condition, ...]
    positions: tuple[str, ...]
    merged: int = 0
    below: int = 0
    kind: records.Kind = "showers"
    labels: tuple[str, ...] = ()

    @property
    def geometry(self) -> dict[str, Any]:
        """For a manifest."""
        return self.detector.to_data()

    @property
    def schema(self) -> pa.Schema:
        told = {known.column for known in self.conditions}
        columns = [name for name in (*INCIDENT, "particle") if name in told]
        wide = self.detector.stored.wide & {"energy", *columns}
        return records.schema("showers", (*self.positions, "energy"), (*columns, "shower_id"), wide)

    def of(
        self, decoded: Mapping[str, np.ndarray], offsets: np.ndarray, told: ConditionValues | None, first: int
    ) -> pa.RecordBatch:
        """Records of decoded hits; ``shower_id`` and ``source_entry`` count from ``first``."""
        n = len(offsets) - 1
        shower = np.repeat(np.arange(n), np.diff(offsets))
        points = {name: np.asarray(decoded[name]) for name in (*self.positions, "energy")}
        if "layer" in points:
            shower, points = self._cells(shower, points)
        above = points["energy"] >= (self.detector.threshold or 0.0)
        self.below += int((~above).sum())
        shower, points = shower[above], {name: values[above] for name, values in points.items()}
        offsets = np.concatenate([[0], np.cumsum(np.bincount(shower, minlength=n))])
        known = {} if told is None else told.columns(self.conditions)
        columns = {name: known[name] for name in INCIDENT if name in known}
        if "particle" in known:
            ids = next(condition.names for condition in self.conditions if condition.kind == "particle")
            columns["particle"] = np.array([*map(int, ids), 0])[known["particle"]]
        unknown = {name: np.isnan(values) for name, values in columns.items() if name != "particle"}
        if "particle" in known:
            unknown["particle"] = known["particle"] < 0
        numbers = first + np.arange(n)
        columns |= {"shower_id": numbers, "source_entry": numbers}
        return _with_nulls(shower_batch(self.schema, offsets, points, columns), unknown)

    def _cells(self, shower: np.ndarray, points: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Each cell of a shower once, in order of layer and indices."""
        layer = points["layer"].astype(np.int64)
        most = np.asarray(self.detector.shape)[layer] - 1
        cell_a = np.minimum(points["cell_a"].astype(np.int64), most[:, 0])
        cell_b = np.minimum(points["cell_b"].astype(np.int64), most[:, 1])
        unique, place = np.unique(np.stack([shower, layer, cell_a, cell_b], axis=1), axis=0, return_inverse=True)
        self.merged += len(shower) - len(unique)
        energy = np.bincount(place.ravel(), points["energy"].astype(np.float64), minlength=len(unique))
        names = ("layer", "cell_a", "cell_b")
        return unique[:, 0], {**dict(zip(names, unique[:, 1:].T, strict=True)), "energy": energy}


def _with_nulls(batch: pa.RecordBatch, unknown: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """A batch with nulls in the columns named, where (n,) they are unknown."""
    for name, mask in unknown.items():
        if mask.any():
            place = batch.schema.get_field_index(name)
            values = batch.column(place)
            column = pa.array(values.to_numpy(zero_copy_only=False), values.type, mask=mask)
            batch = batch.set_column(place, batch.schema.field(place), column)
    return batch
