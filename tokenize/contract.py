"""The feature contract: what a tokenizer takes a record's points to be, and the exact way there and back.

It lives in the tokenizer's artifact as plain data. Before a tokenizer touches a corpus the contract is checked
against the manifest: names, units, axis, nulls, and the size of the numbers themselves, so that a corpus with pt
relative to the jet, in MeV, or about another axis is refused instead of tokenized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, Kind, kind_of, lengths_of, points_of, values_of
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.schema_json import quantities
from hepfm.tokenize.features import KINEMATIC, TRANSFORMS, FeatureSpec

__all__ = ["KINEMATIC", "FeatureContract", "FeatureSpec"]

AS_STORED, BY_LAYER = "as stored", "layer ascending, energy descending"
KNOWN = 0.5  # a flag above this says that the quantities of its group are not null


@dataclass(frozen=True)
class FeatureContract:
    """Features of the points, in order, and what else the numbers mean.

    The columns (T, F) are those of the features, one after another (a column of 0 and 1 for each category), then for
    each group of quantities that can be null one that is 1 where they are known; where they are null they are 0.

    Attributes:
        features: the features, in the order of the columns of :meth:`encode`.
        axis: axis that deta and dphi refer to, as manifests name it.
        kind: kind of record.
        order: order of the points in a record: that of the corpus (``pt descending``, ``as stored``), or BY_LAYER,
            which points are put in.
        mass: mass of the decoded points.
        conditions: quantities of a record (jet pt, incident energy, ...) that decoding is told.
        grid: layers of the detector, and the most cells of a layer along both indices; None where there are no cells.
        cells: of each layer its cells along both indices, where the layers differ; else empty.
    """

    features: tuple[FeatureSpec, ...] = KINEMATIC
    axis: str = ""
    kind: Kind = "jets"
    order: str = "pt descending"
    mass: str = "massless"
    conditions: tuple[FeatureSpec, ...] = ()
    grid: tuple[int, int, int] | None = None
    cells: tuple[tuple[int, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Groups of quantities that are null together."""
        return tuple(dict.fromkeys(feature.null_with for feature in self.features if feature.null_with))

    @property
    def width(self) -> int:
        """F, the number of feature columns of a point."""
        return sum(feature.width for feature in self.features) + len(self.groups)

    def place(self, name: str) -> slice:
        """The columns of a feature."""
        index = self.names.index(name)
        first = sum(feature.width for feature in self.features[:index])
        return slice(first, first + self.features[index].width)

    @property
    def columns(self) -> tuple[str, ...]:
        """Dotted names of the quantities, as a corpus names them."""
        return tuple(f"{POINTS_COLUMN[self.kind]}.{name}" for name in self.names)

    def prepared(self, batch: pa.RecordBatch, axis: str) -> pa.RecordBatch:
        """The records as the tokenizer sees them: a tokenizer gives one token to each of their points.

        Here as they are; see :class:`hepfm.tokenize.selection.SelectingContract` for one that has a choice.

        Args:
            batch: records of a corpus that passes :meth:`check`.
            axis: what their deta and dphi refer to, as the corpus's manifest says.
        """
        return batch

    def selection(self) -> dict[str, Any]:
        """What :meth:`prepared` does, as plain data for a token corpus's manifest; empty where it does nothing."""
        return {}

    @property
    def needed(self) -> tuple[str, ...]:
        """Dotted names of all that is read of a record."""
        return tuple(name for name, _ in self._named())

    def _named(self) -> list[tuple[str, FeatureSpec]]:
        """Features and conditions with the names that a corpus has for them."""
        points = zip(self.columns, self.features, strict=True)
        return [*points, *((condition.name, condition) for condition in self.conditions)]

    def encode(self, batch: pa.RecordBatch) -> np.ndarray:
        """Columns (T, F) float32 of all points of a batch of records.

        Raises:
            HepfmError: a quantity is missing, has another unit, or a value that has no feature (null, pt of 0).
        """
        return self.spread(self.encode_each(self.values_of(batch)))

    def encode_values(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Columns (T, F) float32 of physical values (T,) by name.

        Raises:
            HepfmError: a value that has no feature.
        """
        return self.spread(self.encode_each(values))

    def decode(self, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Physical values (T,) by name of columns (T, F): float32, int8 of categories, NaN where null."""
        return self.decode_each(self.gather(columns))

    def values_of(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Physical values (T,) by name of all points of a batch of records, in the contract's order; nulls are NaN.

        Raises:
            HepfmError: a quantity is missing or has another unit.
        """
        self._check_schema(batch.schema)
        values = {name: _points(batch, name) for name in self.names}
        if self.order != BY_LAYER:
            return values
        record = np.repeat(np.arange(len(batch)), lengths_of(batch.column(POINTS_COLUMN[self.kind])))
        # Equal energies of a layer are ordered by cell, so that the order is one.
        keys = [values[name] for name in ("cell_b", "cell_a")]
        order = np.lexsort((*keys, -values["energy"], values["layer"], record))
        return {name: known[order] for name, known in values.items()}

    def conditions_of(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Values (n,) by name of what decoding is told of each record.

        Raises:
            HepfmError: a quantity is missing or has another unit.
        """
        self._check_schema(batch.schema)
        return {condition.name: values_of(batch.column(condition.name)) for condition in self.conditions}

    def encode_conditions(self, values: Mapping[str, np.ndarray] | None, records: int) -> np.ndarray:
        """Conditions (n, C) float32 of physical values (n,) by name.

        Raises:
            HepfmError: values are needed and not there, too few, or not finite.
        """
        columns = [np.zeros((records, 0))]
        for condition in self.conditions:
            if values is None or condition.name not in values:
                names = ", ".join(f"{known.name} [{known.unit}]" for known in self.conditions)
                raise HepfmError(f"the tokenizer decodes with {names} of each record", "decode", "give them")
            known = np.asarray(values[condition.name])
            if known.shape != (records,):
                raise HepfmError(f"{known.size} values of {condition.name} for {records} records", "decode")
            condition.check_finite(known)
            columns.append(condition.encode(known)[:, None])
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _check_schema(self, schema: pa.Schema) -> None:
        units = {name: unit_of(found) for name, found in quantities(schema)}
        for name, feature in self._named():
            if name not in units:
                raise HepfmError(f"has no quantity '{name}'", "records", f"there is: {', '.join(units)}")
            self._check_unit(feature, name, units[name], "records")

    def encode_each(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """One number (T, features) float32 for each feature of physical values: NaN where null, a category's index.

        Raises:
            HepfmError: a value that has no feature, or quantities of one group that are not null together.
        """
        for feature in self.features:
            feature.check_finite(values[feature.name])
        encoded = np.stack([feature.encode(values[feature.name]) for feature in self.features], axis=1)
        for group in self.groups:
            self._check_group(group, np.isnan(encoded))
        return encoded.astype(np.float32)

    def decode_each(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Physical values (T,) by name of what :meth:`encode_each` gave; cells are ones that their layer has."""
        decoded = {
            feature.name: feature.decode(numbers[:, index]).astype(feature.dtype)
            for index, feature in enumerate(self.features)
        }
        if self.cells:
            last = np.array(self.cells, dtype=np.int16)[decoded["layer"]] - 1
            for index, name in enumerate(("cell_a", "cell_b")):
                decoded[name] = np.minimum(decoded[name], last[:, index])
        return decoded

    def spread(self, numbers: np.ndarray) -> np.ndarray:
        """Columns (T, F) float32 of one number for each feature (T, features)."""
        columns = []
        for index, feature in enumerate(self.features):
            number = numbers[:, index]
            if feature.categories:
                columns.append(number[:, None] == np.arange(feature.width))
            else:
                columns.append(np.where(np.isnan(number), 0, number)[:, None])
        columns += [~np.isnan(numbers[:, self._members(group)[0], None]) for group in self.groups]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def gather(self, columns: np.ndarray) -> np.ndarray:
        """One number for each feature (T, features) of columns (T, F), which need not be exact.

        A category is the one that stands out, and null is what a flag says is.
        """
        numbers = []
        for feature in self.features:
            part = columns[:, self.place(feature.name)]
            numbers.append(part.argmax(axis=1) if feature.categories else part[:, 0])
        gathered = np.stack(numbers, axis=1).astype(np.float32)
        for index, group in enumerate(self.groups):
            null = columns[:, self.width - len(self.groups) + index] <= KNOWN
            gathered[np.flatnonzero(null)[:, None], self._members(group)] = np.nan
        return gathered

    def null_errors(self, group: str, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> int:
        """Points where a group's quantities are null in one of two sets of values, and not in the other."""
        name = self.names[self._members(group)[0]]
        return int(np.count_nonzero(np.isnan(first[name]) != np.isnan(second[name])))

    def _members(self, group: str) -> list[int]:
        return [index for index, feature in enumerate(self.features) if feature.null_with == group]

    def _check_group(self, group: str, null: np.ndarray) -> None:
        members = self._members(group)
        differ = (null[:, members] != null[:, members[:1]]).any(axis=1)
        if differ.any():
            first = int(np.argmax(differ))
            names = ", ".join(self.names[index] for index in members)
            raise HepfmError(
                f"{names} are not null together in {int(differ.sum())} points (first: {first})",
                "records",
                "the tokenizer takes points that have all of them or none",
            )

    def fitted(self, manifest: Manifest, where: object = "corpus") -> FeatureContract:
        """This contract for a tokenizer to be fitted on a corpus: its axis, and the sizes of its numbers.

        Raises:
            HepfmError: see :meth:`check`; also a quantity that is the same number everywhere.
        """
        contract = replace(self, axis=manifest.axis)
        contract.check(manifest, where=where)
        fitted = tuple(
            feature.fitted(name, manifest.statistics.get(name, {}), where) for name, feature in self._named()
        )
        points = len(self.features)
        return replace(contract, features=fitted[:points], conditions=fitted[points:])

    def check(
        self, manifest: Manifest, statistics: Mapping[str, Mapping[str, Any]] | None = None, where: object = "corpus"
    ) -> None:
        """Refuse a corpus whose records are not what this contract takes them to be.

        Args:
            manifest: the corpus's.
            statistics: of its quantities; by default the manifest's (which are empty without a train split).
            where: the corpus, for messages.

        Raises:
            HepfmError: names the quantity, what the tokenizer takes it for, and what the corpus says.
        """
        if manifest.kind != self.kind:
            raise HepfmError(f"holds {manifest.kind}, the tokenizer takes {self.kind}", where, "name another corpus")
        units = {name: unit_of(found) for name, found in quantities(manifest.schema)}
        for name, feature in self._named():
            if name not in units:
                raise HepfmError(
                    f"has no '{name}' [{feature.unit}], which the tokenizer takes",
                    where,
                    f"it provides: {', '.join(units)}",
                )
            self._check_unit(feature, name, units[name], where)
            known = (manifest.statistics if statistics is None else statistics).get(name)
            if known is not None:
                feature.check(name, known, where)
        grid = grid_of(manifest)
        if self.kind == "showers" and (grid, cells_of(manifest)) != (self.grid, self.cells):
            same = ", with other cells in some of them" if grid == self.grid else ""
            raise HepfmError(
                f"is of a detector of {_told(grid)}, the tokenizer was fitted on {_told(self.grid)}{same}",
                where,
                "fit a tokenizer on this corpus",
            )
        if manifest.axis != self.axis:
            raise HepfmError(
                f"deta and dphi refer to the axis '{manifest.axis}', the tokenizer was fitted on '{self.axis}'",
                where,
                "build the corpus with that axis, or fit a tokenizer on this one",
            )

    def _check_unit(self, feature: FeatureSpec, name: str, unit: str, where: object) -> None:
        if unit != feature.unit:
            raise HepfmError(
                f"'{name}' is in [{unit}], the tokenizer takes it in [{feature.unit}]",
                where,
                "build the corpus in that unit",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for an artifact."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: object = "contract") -> FeatureContract:
        """The contract that :meth:`to_dict` described.

        Raises:
            HepfmError: it is not one, or names a transform that this hepfm does not have.
        """
        try:
            features = tuple(FeatureSpec.from_dict(feature) for feature in data["features"])
            conditions = tuple(FeatureSpec.from_dict(condition) for condition in data.get("conditions", ()))
            grid = data.get("grid") and tuple(data["grid"])
            cells = tuple((int(a), int(b)) for a, b in data.get("cells", ()))
            changed: dict[str, Any] = {"features": features, "conditions": conditions, "grid": grid, "cells": cells}
            contract = cls(**{**data, **changed})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise HepfmError(f"is no feature contract: {error}", where) from error
        for feature in features + conditions:
            if feature.transform not in TRANSFORMS:
                raise HepfmError(
                    f"unknown transform '{feature.transform}' of {feature.name}",
                    where,
                    f"known: {', '.join(TRANSFORMS)}; update hepfm",
                )
        return contract


def _points(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """Values (T,) of a quantity, NaN where it is null even if it is a whole number."""
    values = points_of(batch, name)
    points = batch.column(POINTS_COLUMN[kind_of(batch.schema)]).flatten()
    column = points.field(points.type.get_field_index(name))
    if not column.null_count or pa.types.is_floating(column.type):
        return values
    return np.where(column.is_null().to_numpy(zero_copy_only=False), np.nan, values)


def unit_of(found: pa.Field) -> str:
    return (found.metadata or {}).get(b"unit", b"").decode()


def grid_of(manifest: Manifest) -> tuple[int, int, int] | None:
    """Layers of the detector and the most cells of a layer along both indices; None if there are no cells."""
    shape = _shape(manifest)
    if shape is None:
        return None
    cell_a, cell_b = shape.max(axis=0).tolist()
    return len(shape), cell_a, cell_b


def cells_of(manifest: Manifest) -> tuple[tuple[int, int], ...]:
    """Cells of each layer along both indices, where the layers differ; else empty."""
    shape = _shape(manifest)
    if shape is None or (shape == shape[0]).all():
        return ()
    return tuple((int(cell_a), int(cell_b)) for cell_a, cell_b in shape)


def _shape(manifest: Manifest) -> np.ndarray | None:
    """Cells (layers, 2) of the layers along both indices; None if there are no cells."""
    geometry = None if manifest.geometry is None else Geometry.from_data(manifest.geometry)
    if geometry is None or geometry.kind == "points" or not geometry.layers:
        return None
    return geometry.shape


def _told(grid: tuple[int, int, int] | None) -> str:
    return "no cells" if grid is None else f"{grid[0]} layers of {grid[1]} x {grid[2]} cells"
