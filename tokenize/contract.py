"""The feature contract: what a tokenizer takes a record's points to be, and the exact way there and back.

It lives in the tokenizer's artifact as plain data. Before a tokenizer touches a corpus the contract is checked
against the manifest: names, units, axis, nulls, and the size of the numbers themselves, so that a corpus with pt
relative to the jet, in MeV, or about another axis is refused instead of tokenized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, Kind, points_of
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.schema_json import quantities

# The root mean square of a feature may differ by this factor between two corpora of the same meaning (jets of 100 GeV
# and of 1 TeV, radius 0.4 and 0.8); MeV for GeV, degrees for radians or relative for absolute pt differ by more.
SIZE_FACTOR = 20.0


@dataclass(frozen=True)
class Transform:
    """An invertible function of a feature's values, and the values it can take."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    inverse_tensor: Callable[[Tensor], Tensor]
    lowest: float
    """Values must be larger than this."""


TRANSFORMS = {
    "identity": Transform(np.positive, np.positive, torch.positive, -math.inf),
    "log": Transform(np.log, np.exp, torch.exp, 0.0),
}


@dataclass(frozen=True)
class FeatureSpec:
    """One feature: ``(transform(value) - shift) * scale``.

    Attributes:
        name: the quantity of a point (see :mod:`hepfm.core.records`).
        unit: its unit in the corpus.
        transform: name in TRANSFORMS.
        shift: subtracted after the transform.
        scale: multiplied last.
        seen: min, max, mean and std of the values the tokenizer was fitted on; empty before.
    """

    name: str
    unit: str
    transform: str = "identity"
    shift: float = 0.0
    scale: float = 1.0
    seen: dict[str, float] = field(default_factory=dict)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Physical values to the feature, in float64."""
        return (TRANSFORMS[self.transform].forward(values.astype(np.float64)) - self.shift) * self.scale

    def decode(self, feature: np.ndarray) -> np.ndarray:
        """The feature to physical values, in float64."""
        return TRANSFORMS[self.transform].inverse(feature.astype(np.float64) / self.scale + self.shift)

    def decode_tensor(self, feature: Tensor) -> Tensor:
        """The feature to physical values, differentiable."""
        return TRANSFORMS[self.transform].inverse_tensor(feature / self.scale + self.shift)


# OmniJet-alpha's features (Birk, Hallin, Kasieczka, arXiv:2403.05618), without its cuts on deta and dphi: every
# constituent gets a token, so that tokens and constituents stay aligned.
KINEMATIC = (
    FeatureSpec("pt", "GeV", "log", shift=1.8),
    FeatureSpec("deta", "1", scale=3.0),
    FeatureSpec("dphi", "rad", scale=3.0),
)


@dataclass(frozen=True)
class FeatureContract:
    """Features of the points, in order, and what else the numbers mean.

    Attributes:
        features: the features, in the order of the columns of :meth:`encode`.
        axis: axis that deta and dphi refer to, as manifests name it.
        kind: kind of record.
        order: order of the points in a record.
        mass: mass of the decoded points.
    """

    features: tuple[FeatureSpec, ...] = KINEMATIC
    axis: str = ""
    kind: Kind = "jets"
    order: str = "pt descending"
    mass: str = "massless"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

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

    def encode(self, batch: pa.RecordBatch) -> np.ndarray:
        """Features (T, F) float32 of all points of a batch of records.

        Raises:
            HepfmError: a quantity is missing, has another unit, or a value that has no feature (null, pt of 0).
        """
        units = {name: _unit(found) for name, found in quantities(batch.schema)}
        columns = []
        for name, feature in zip(self.columns, self.features, strict=True):
            if name not in units:
                raise HepfmError(f"has no quantity '{name}'", "records", f"there is: {', '.join(units)}")
            self._check_unit(feature, name, units[name], "records")
            columns.append(points_of(batch, feature.name))
        return self.encode_values(dict(zip(self.names, columns, strict=True)))

    def encode_values(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features (T, F) float32 of physical values (T,) by name.

        Raises:
            HepfmError: a value that has no feature.
        """
        for feature in self.features:
            known = values[feature.name]
            bad = ~(np.isfinite(known) & (known > TRANSFORMS[feature.transform].lowest))
            if bad.any():
                first = int(np.argmax(bad))
                raise HepfmError(
                    f"{feature.name} is {known[first]} {feature.unit} in {int(bad.sum())} points (first: {first})",
                    "records",
                    f"the tokenizer takes finite values{_above(feature)}",
                )
        encoded = [feature.encode(values[feature.name]) for feature in self.features]
        return np.stack(encoded, axis=1).astype(np.float32)

    def decode(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Physical values (T,) float32 by name of features (T, F)."""
        return {
            feature.name: feature.decode(features[:, index]).astype(np.float32)
            for index, feature in enumerate(self.features)
        }

    def fitted(self, manifest: Manifest, where: object = "corpus") -> FeatureContract:
        """This contract for a tokenizer to be fitted on a corpus: its axis, and the sizes of its numbers.

        Raises:
            HepfmError: see :meth:`check`; also a quantity that is the same number everywhere.
        """
        contract = replace(self, axis=manifest.axis)
        contract.check(manifest, where=where)
        features = []
        for name, feature in zip(self.columns, self.features, strict=True):
            known = manifest.statistics.get(name, {})
            if not known.get("count"):
                raise HepfmError(f"'{name}' has no value in the train split", where, "fit on another corpus")
            if known["min"] == known["max"]:
                raise HepfmError(
                    f"'{name}' is {known['min']} {feature.unit} everywhere", where, "fit on another corpus"
                )
            seen = {key: float(known[key]) for key in ("min", "max", "mean", "std")}
            features.append(replace(feature, seen=seen))
        return replace(contract, features=tuple(features))

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
        units = {name: _unit(found) for name, found in quantities(manifest.schema)}
        for name, feature in zip(self.columns, self.features, strict=True):
            if name not in units:
                raise HepfmError(
                    f"has no '{name}' [{feature.unit}], which the tokenizer takes",
                    where,
                    f"it provides: {', '.join(units)}",
                )
            self._check_unit(feature, name, units[name], where)
            known = (manifest.statistics if statistics is None else statistics).get(name)
            if known is not None:
                _check_values(feature, name, known, where)
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
            features = tuple(FeatureSpec(**feature) for feature in data["features"])
            contract = cls(**{**data, "features": features})
        except (TypeError, KeyError, AttributeError) as error:
            raise HepfmError(f"is no feature contract: {error}", where) from error
        for feature in features:
            if feature.transform not in TRANSFORMS:
                raise HepfmError(
                    f"unknown transform '{feature.transform}' of {feature.name}",
                    where,
                    f"known: {', '.join(TRANSFORMS)}; update hepfm",
                )
        return contract


def _unit(found: pa.Field) -> str:
    return (found.metadata or {}).get(b"unit", b"").decode()


def _above(feature: FeatureSpec) -> str:
    lowest = TRANSFORMS[feature.transform].lowest
    return f" above {lowest:g} {feature.unit}" if lowest > -math.inf else ""


def _check_values(feature: FeatureSpec, name: str, known: Mapping[str, Any], where: object) -> None:
    """Refuse nulls, values without a feature, and numbers of another size than those fitted on."""
    if known["nulls"]:
        total = known["nulls"] + known["count"]
        raise HepfmError(
            f"'{name}' is null in {known['nulls']:,} of {total:,} points", where, "the tokenizer takes every point"
        )
    if not known["count"]:
        return
    if not known["min"] > TRANSFORMS[feature.transform].lowest:
        raise HepfmError(
            f"'{name}' goes down to {known['min']:g}", where, f"the tokenizer takes values{_above(feature)}"
        )
    if not feature.seen:
        return
    here, fitted = _size(known), _size(feature.seen)
    if not 1 / SIZE_FACTOR < here / fitted < SIZE_FACTOR:
        raise HepfmError(
            f"'{name}' has values of about {here:.3g}, the tokenizer was fitted on about {fitted:.3g} {feature.unit} "
            "(root mean square): not the same quantity or unit",
            where,
            f"build the corpus with {feature.name} in [{feature.unit}], as the tokenizer takes it",
        )


def _size(known: Mapping[str, Any]) -> float:
    return math.hypot(known["mean"], known["std"])
