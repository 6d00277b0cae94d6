"""All that is measured of a tokenizer on a corpus, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hepfm.benchmarks.tokenizers.classifier import Classification, classify
from hepfm.benchmarks.tokenizers.measures import (
    Measured,
    Rate,
    Row,
    measure_codes,
    measure_features,
    measure_records,
)
from hepfm.benchmarks.tokenizers.sample import Reconstruction
from hepfm.core.records import Kind
from hepfm.core.statistics import REPLICAS

NAMES: dict[Kind, tuple[str, str]] = {"jets": ("jet", "constituent"), "showers": ("shower", "hit")}


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        kind: of the records.
        size: how many records.
        rate: bits, and use of the codes.
        records: quantities of whole records.
        features: of their points.
        classification: None where there are no classes to tell apart.
    """

    kind: Kind
    size: int
    rate: Rate
    records: list[Row]
    features: list[Row]
    classification: Classification | None = None

    @property
    def record_name(self) -> str:
        return NAMES[self.kind][0]

    @property
    def point_name(self) -> str:
        return NAMES[self.kind][1]


def evaluate(sample: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS) -> Evaluation:
    """Measure everything."""
    return Evaluation(
        kind=sample.kind,
        size=len(sample),
        rate=measure_codes(sample),
        records=measure_records(sample, seed=seed, replicas=replicas),
        features=measure_features(sample, seed=seed, replicas=replicas),
        classification=classify(sample, seed=seed, replicas=replicas),
    )


def as_data(found: Evaluation) -> dict[str, Any]:
    """Everything but the histograms."""
    return {
        "records": found.size,
        "rate": rate_data(found.rate),
        f"{found.record_name}s": {row.quantity.name: row_data(row) for row in found.records},
        f"{found.point_name}s": {row.quantity.name: row_data(row) for row in found.features},
        "classifier": None if found.classification is None else asdict(found.classification),
    }


def rate_data(rate: Rate) -> dict[str, Any]:
    """Bits and use."""
    return {
        "points": rate.tokens,
        "points_left_out": rate.left_out,
        "bits_per_point": rate.bits,
        "entropy_bits_per_point": rate.entropy_bits,
        "codebook_use": rate.use,
        "streams": [asdict(known) for known in rate.streams],
    }


def row_data(row: Row) -> dict[str, Any]:
    """A quantity by class."""
    return {
        "unit": row.quantity.unit,
        "residuals_relative": row.relative,
        "classes": {name: _measured(item) for name, item in row.classes.items()},
    }


def _measured(item: Measured) -> dict[str, Any]:
    found: dict[str, Any] = {"values": item.values, "left_out": item.left_out}
    if item.differing is not None:
        found["share_differing"] = asdict(item.differing)
    if item.residual and item.distance and item.floor:
        found["residual"] = asdict(item.residual)
        found["wasserstein_1"] = {**asdict(item.distance), "floor": asdict(item.floor)}
    return found
