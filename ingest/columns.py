"""Choosing quantities of a block, and label names of several corpora brought under one list; nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError


def project(batch: pa.RecordBatch, columns: Sequence[str] | None, where: Path) -> pa.RecordBatch:
    """Only the named columns (``mass``, ``constituents``) and quantities of points (``constituents.pt``), as ordered.

    Raises:
        HepfmError: one is not there; lists those that are.
    """
    if columns is None:
        return batch
    wanted: dict[str, list[str]] = {}
    for name in columns:
        column, _, quantity = name.partition(".")
        wanted.setdefault(column, []).extend([quantity] if quantity else [])
    fields, arrays = [], []
    for name, quantities in wanted.items():
        if name not in batch.schema.names:
            raise HepfmError(f"has no column '{name}'", where, f"there is: {', '.join(batch.schema.names)}")
        column, field = batch.column(name), batch.schema.field(name)
        if quantities and name not in columns:
            column = _points(column, quantities, name, where)
            field = field.with_type(column.type)
        fields.append(field)
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=batch.schema.metadata))


def _points(column: pa.ListArray, quantities: list[str], name: str, where: Path) -> pa.ListArray:
    item = column.type.value_field
    known = [child.name for child in item.type] if pa.types.is_struct(item.type) else []
    for quantity in quantities:
        if quantity not in known:
            raise HepfmError(f"has no quantity '{name}.{quantity}'", where, f"there is: {', '.join(known)}")
    fields = [item.type.field(quantity) for quantity in quantities]
    points = pa.StructArray.from_arrays([column.values.field(quantity) for quantity in quantities], fields=fields)
    return pa.ListArray.from_arrays(column.offsets, points, type=pa.list_(item.with_type(points.type)))


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of ``schema``: null where the batch lacks one, cast where its type is another."""
    arrays = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        if at < 0:
            arrays.append(pa.nulls(len(batch), field.type))
        elif pa.types.is_dictionary(field.type):
            arrays.append(batch.column(at))  # its names are brought under one list by relabel
        else:
            column = batch.column(at)
            arrays.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def relabel(batch: pa.RecordBatch, labels: tuple[str, ...]) -> pa.RecordBatch:
    """The label column with its indices into ``labels``, which holds all of its names."""
    at = batch.schema.get_field_index("label")
    if at < 0 or batch.column(at).dictionary.to_pylist() == list(labels):
        return batch
    column = batch.column(at)
    names = column.dictionary.to_pylist()
    new = np.array([labels.index(name) for name in names], dtype=np.int16)
    indices = column.indices
    values = new[indices.fill_null(0).to_numpy()] if len(names) else np.zeros(len(column), np.int16)
    mask = indices.is_null().to_numpy(zero_copy_only=False) if indices.null_count else None
    column = pa.DictionaryArray.from_arrays(pa.array(values, mask=mask), pa.array(labels, pa.string()))
    return batch.set_column(at, batch.schema.field(at), column)
