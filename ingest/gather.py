"""Taking records in any order, several times faster than Arrow's own ``take`` for lists of numbers.

Arrow gathers a list element by element. Here the values of a record are taken as one string of bytes, which is a single
copy for each record and quantity.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def gather(batch: pa.RecordBatch, index: np.ndarray) -> pa.RecordBatch:
    """The records at ``index``, as ``batch.take`` gives them.

    Args:
        batch: records.
        index: (n,) integers.
    """
    rows = pa.array(index)
    columns = [_gather_lists(column, rows) if _is_plain(column) else column.take(rows) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _is_plain(column: pa.Array) -> bool:
    """Is it a list, never null, of values of whole bytes (or names), or of structs of these?"""
    if not pa.types.is_list(column.type) or column.null_count or (column.values.null_count and _is_struct(column)):
        return False
    inner = column.type.value_type
    types = [child.type for child in inner] if _is_struct(column) else [inner]
    plain = [t.index_type if pa.types.is_dictionary(t) else t for t in types]
    return all(pa.types.is_primitive(t) and t.bit_width % 8 == 0 for t in plain)


def _is_struct(column: pa.ListArray) -> bool:
    return pa.types.is_struct(column.type.value_type)


def _gather_lists(column: pa.ListArray, rows: pa.Array) -> pa.ListArray:
    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values
    lengths = np.diff(offsets)[rows.to_numpy()]
    taken_offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=taken_offsets[1:])
    if taken_offsets[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{taken_offsets[-1]} points in one batch")
    if _is_struct(column):
        fields = list(column.type.value_type)
        children = [_gather_values(values.field(i), offsets, rows) for i in range(len(fields))]
        taken = pa.StructArray.from_arrays(children, fields=fields)
    else:
        taken = _gather_values(values, offsets, rows)
    return pa.ListArray.from_arrays(pa.array(taken_offsets.astype(np.int32)), taken, type=column.type)


def _gather_values(values: pa.Array, offsets: np.ndarray, rows: pa.Array) -> pa.Array:
    """The stretches ``offsets[r]:offsets[r + 1]`` of a flat array for each of the rows, one after another."""
    if pa.types.is_dictionary(values.type):
        return pa.DictionaryArray.from_arrays(_gather_values(values.indices, offsets, rows), values.dictionary)
    width = values.type.bit_width // 8
    data = _gather_bytes(values.buffers()[1], (offsets + values.offset) * width, rows)
    valid = None
    if values.null_count:
        bits = np.frombuffer(values.buffers()[0], dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little", count=values.offset + len(values))
        kept = np.frombuffer(_gather_bytes(pa.py_buffer(flags), offsets + values.offset, rows), dtype=np.uint8)
        valid = pa.py_buffer(np.packbits(kept, bitorder="little"))
    return pa.Array.from_buffers(values.type, data.size // width, [valid, data])


def _gather_bytes(data: pa.Buffer, offsets: np.ndarray, rows: pa.Array) -> pa.Buffer:
    strings = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), data])
    return strings.take(rows).buffers()[2] or pa.py_buffer(b"")
