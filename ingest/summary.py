"""Statistics of every quantity, gathered block by block and merged in a fixed order, so that they are reproducible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass
class Summary:
    """Count, nulls, range, mean and spread of one quantity; for names (label, species) how often each occurs.

    Sums run in float64 with NumPy's pairwise order and never through BLAS, so the same blocks give the same digits
    whatever the number of threads. Partial summaries merge as in Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979), equation 2.1.
    """

    count: int = 0
    nulls: int = 0
    minimum: float | int | None = None
    maximum: float | int | None = None
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    values: dict[str, int] = field(default_factory=dict)

    def add(self, array: pa.Array) -> None:
        """Take in a flat column."""
        if pa.types.is_dictionary(array.type):
            self.merge(_names(array))
        else:
            valid = array.drop_null() if array.null_count else array
            self.merge(_numbers(valid.to_numpy(zero_copy_only=False), array.null_count))

    def merge(self, other: Summary) -> None:
        """Take in the summary of further values."""
        total = self.count + other.count
        if other.count:
            step = other.mean - self.mean
            self.squares += other.squares + step * step * (self.count * other.count / total)
            self.mean += step * (other.count / total)
            self.minimum = other.minimum if self.minimum is None else _least(self.minimum, other.minimum)
            self.maximum = other.maximum if self.maximum is None else _most(self.maximum, other.maximum)
        self.count, self.nulls = total, self.nulls + other.nulls
        for name, count in other.values.items():
            self.values[name] = self.values.get(name, 0) + count

    def figures(self) -> dict[str, Any]:
        """What the manifest says: count and nulls; then min, max, mean and std, or how often each name occurs."""
        known: dict[str, Any] = {"count": self.count, "nulls": self.nulls}
        if self.values:
            return {**known, "values": self.values}
        if not self.count:
            return known
        spread = float(np.sqrt(self.squares / self.count))
        return {**known, "min": self.minimum, "max": self.maximum, "mean": self.mean, "std": spread}


def _least(a: Any, b: Any) -> Any:
    return a if b is None else min(a, b)


def _most(a: Any, b: Any) -> Any:
    return a if b is None else max(a, b)


def _numbers(values: np.ndarray, nulls: int) -> Summary:
    if not len(values):
        return Summary(nulls=nulls)
    # Distances from one of the values, in float64: their squares do not cancel as the squares of large values would.
    first = values[0].item()
    wide = np.subtract(values, first, dtype=np.float64)
    total = float(wide.sum())
    wide *= wide
    squares = max(0.0, float(wide.sum()) - total * (total / len(wide)))
    return Summary(len(values), nulls, values.min().item(), values.max().item(), first + total / len(wide), squares)


def _names(array: pa.DictionaryArray) -> Summary:
    indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
    names = array.dictionary.to_pylist()
    counts = np.bincount(indices, minlength=len(names)) if len(indices) else np.zeros(len(names), dtype=int)
    return Summary(
        count=len(indices),
        nulls=array.null_count,
        values={name: int(count) for name, count in zip(names, counts, strict=True)},
    )


def summarise(batch: pa.RecordBatch, into: dict[str, Summary]) -> None:
    """Take every quantity of a block into ``into``, by dotted name.

    A list column counts under its own name with the number of points of each record, and its values under
    ``column.quantity`` (``tokens.item`` for a list of plain numbers).
    """
    for name, array in flat_columns(batch):
        into.setdefault(name, Summary()).add(array)


def flat_columns(batch: pa.RecordBatch) -> list[tuple[str, pa.Array]]:
    """Every flat array of a block by dotted name; a list gives its lengths and then its values."""
    found: list[tuple[str, pa.Array]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_list(column.type):
            found.append((name, column))
            continue
        found.append((name, column.value_lengths()))
        values = column.flatten()
        if pa.types.is_struct(values.type):
            found += [(f"{name}.{child.name}", values.field(i)) for i, child in enumerate(values.type)]
        else:
            found.append((f"{name}.item", values))
    return found
