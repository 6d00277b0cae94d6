"""Jet records from flat arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hepfm.core import records

TRACK_QUANTITIES = ("d0", "d0err", "dz", "dzerr")


def jet_batch(
    schema: pa.Schema,
    labels: Sequence[str],
    offsets: np.ndarray,
    points: Mapping[str, np.ndarray],
    jets: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray] | None = None,
    tracked: np.ndarray | None = None,
) -> pa.RecordBatch:
    """Jet records with ``schema``; float32 columns of the right type are taken without copying.

    Args:
        schema: from :func:`hepfm.core.records.schema`, with charge if it has impact parameters.
        labels: all label names, in order.
        offsets: (n + 1,) constituents of jet i are ``offsets[i]:offsets[i + 1]``.
        points: constituent quantities (N,); species is the index in ``records.SPECIES``, null where negative.
        jets: the other columns (n,); label is the index in ``labels``, null where negative.
        known: (n,) bool of jet columns that are null somewhere: where they are not.
        tracked: (N,) bool: which constituents have impact parameters; by default those whose ``charge`` is not 0.
    """
    column = schema.field(records.POINTS_COLUMN["jets"]).type
    fields = list(column.value_type)
    known = known or {}
    if tracked is None and "charge" in points:
        tracked = points["charge"] != 0
    validity = (None, 0) if tracked is None else _validity(tracked)
    children = []
    for field in fields:
        values = points[field.name]
        if field.name == "species":
            children.append(_dictionary(pa.array(values.astype(np.int8), mask=values < 0), records.SPECIES))
        else:
            bits = validity if field.name in TRACK_QUANTITIES else (None, 0)
            children.append(_flat(values, field.type, *bits))
    struct = pa.StructArray.from_arrays(children, fields=fields)
    constituents = pa.ListArray.from_arrays(_flat(offsets, pa.int32()), struct, type=column)
    arrays: list[pa.Array] = [constituents]
    for field in schema.remove(0):
        if field.name == "label":
            label = jets["label"]
            arrays.append(_dictionary(pa.array(label.astype(np.int16), mask=label < 0), labels))
        else:
            bits = _validity(known[field.name]) if field.name in known else (None, 0)
            arrays.append(_flat(jets[field.name], field.type, *bits))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _validity(valid: np.ndarray) -> tuple[pa.Buffer, int]:
    """One bit (N,) a value, shared by all columns that are null together, and the number of nulls."""
    return pa.array(valid).buffers()[1], len(valid) - int(np.count_nonzero(valid))


def _flat(values: np.ndarray, kind: pa.DataType, valid: pa.Buffer | None = None, nulls: int = 0) -> pa.Array:
    values = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)], nulls)


def _dictionary(indices: pa.Array, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, type=pa.string()))
