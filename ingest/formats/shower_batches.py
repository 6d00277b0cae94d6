"""Shower records from flat arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from hepfm.core import records


def shower_batch(
    schema: pa.Schema, offsets: np.ndarray, points: Mapping[str, np.ndarray], showers: Mapping[str, np.ndarray]
) -> pa.RecordBatch:
    """Shower records with ``schema``; columns of the right type are taken without copying.

    Args:
        schema: from :func:`hepfm.core.records.schema`.
        offsets: (n + 1,) points of shower i are ``offsets[i]:offsets[i + 1]``.
        points: quantities of points (N,).
        showers: the other columns (n,); ``source_file`` is 0 if it is left out.
    """
    column = schema.field(records.POINTS_COLUMN["showers"]).type
    fields = list(column.value_type)
    struct = pa.StructArray.from_arrays([_flat(points[field.name], field.type) for field in fields], fields=fields)
    arrays: list[pa.Array] = [pa.ListArray.from_arrays(_flat(offsets, pa.int32()), struct, type=column)]
    showers = {"source_file": np.zeros(len(offsets) - 1), **showers}
    arrays += [_flat(showers[field.name], field.type) for field in schema.remove(0)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _flat(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype=kind.to_pandas_dtype()), type=kind)
