from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.records import SPECIES
from hepfm.ingest.gather import Joined, Scratch, gather

number = st.one_of(st.none(), st.integers(0, 99))
point = st.fixed_dictionaries(
    {"pt": number, "charge": st.integers(-1, 1), "species": st.one_of(st.none(), st.sampled_from(SPECIES))}
)
record = st.tuples(st.lists(point, max_size=4), st.lists(st.integers(0, 65535), max_size=4), number)
POINT = pa.struct([("pt", pa.float32()), ("charge", pa.int8()), ("species", pa.dictionary(pa.int8(), pa.string()))])


@given(st.lists(record, max_size=12), st.data())
def test_records_are_taken_as_arrow_takes_them(rows: list[tuple], data: st.DataObject) -> None:
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([row[0] for row in rows], pa.list_(POINT)),
            pa.array([row[1] for row in rows], pa.list_(pa.uint16())),
            pa.array([[bool(n % 2) for n in row[1]] or None for row in rows], pa.list_(pa.bool_())),
            pa.array([row[2] for row in rows], pa.int64()),
        ],
        names=["points", "tokens", "flags", "number"],
    )
    start = data.draw(st.integers(0, len(rows)))
    batch = batch.slice(start, data.draw(st.integers(0, len(rows) - start)))
    index = np.array(
        data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=20)) if len(batch) else [], dtype=np.int64
    )
    taken = gather(batch, index)
    taken.validate(full=True)
    assert taken.to_pylist() == batch.take(pa.array(index)).to_pylist()
    assert taken.schema == batch.schema


TRACK = pa.struct([("pt", pa.float32()), ("d0", pa.float32()), ("dz", pa.float32()), ("charge", pa.int8())])
track = st.tuples(number, st.integers(-1, 1)).map(
    lambda drawn: {"pt": drawn[0], "d0": drawn[1] or None, "dz": -drawn[1] or None, "charge": drawn[1]}
)
block = st.lists(st.tuples(st.lists(track, max_size=3), st.integers(0, 9)), max_size=5)


def block_of(rows: list[tuple]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([row[0] for row in rows], pa.list_(TRACK)), pa.array([row[1] for row in rows], pa.int64())],
        names=["points", "number"],
    )


@given(st.lists(block, min_size=1, max_size=4), st.lists(block, min_size=1, max_size=4), st.data())
def test_joined_blocks_are_taken_as_one_also_when_their_memory_is_used_again(
    first: list, second: list, data: st.DataObject
) -> None:
    scratch, kept = Scratch(), []
    for drawn in (first, second, first):
        blocks = [block_of(rows) for rows in drawn]
        whole = pa.concat_batches(blocks)
        index = np.array(data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=9)), dtype=np.int64)
        index = index[: len(whole) * 9]
        taken = Joined(blocks, scratch).take(index)
        taken.validate(full=True)
        kept.append((taken, whole.take(pa.array(index)).to_pylist()))
    for taken, expected in kept:  # what was taken stays as it was
        assert taken.to_pylist() == expected
