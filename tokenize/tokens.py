"""What a tokenizer makes of records: one or several lists of ids, and what stays a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError

COLUMN = "tokens"
CONTINUOUS = "continuous"


@dataclass(frozen=True)
class Stream:
    """A list of ids, one for each point.

    Attributes:
        name: what it holds (``layer``, ``pt``, ``1``); empty where a tokenizer has only this one.
        codes: its ids are 0 ... codes - 1.
        delay: steps by which a generator should lag behind with it; see :mod:`hepfm.tokenize.delays`.
    """

    name: str
    codes: int
    delay: int = 0

    @property
    def column(self) -> str:
        """Its column in a token corpus."""
        return f"{COLUMN}_{self.name}" if self.name else COLUMN


@dataclass(frozen=True)
class Tokens:
    """The tokens of n records.

    Attributes:
        ids: (T,) ids, record after record; (T, Q) of a tokenizer with Q > 1 streams.
        offsets: (n + 1,) record i owns ``ids[offsets[i]:offsets[i + 1]]``.
        continuous: (T,) float32, of a tokenizer that leaves a quantity a number.
    """

    ids: np.ndarray
    offsets: np.ndarray
    continuous: np.ndarray | None = None

    def columns(self, streams: Sequence[Stream]) -> dict[str, pa.ListArray]:
        """The columns of a token corpus by name; ids in the smallest unsigned integer type."""
        offsets = pa.array(self.offsets.astype(np.int32))
        arrays = {}
        for stream, ids in zip(streams, self.ids.reshape(len(self.ids), -1).T, strict=True):
            kind = token_type(stream.codes)
            arrays[stream.column] = pa.array(ids.astype(kind.to_pandas_dtype()), kind)
        if self.continuous is not None:
            arrays[CONTINUOUS] = pa.array(self.continuous, pa.float32())
        return {name: pa.ListArray.from_arrays(offsets, values) for name, values in arrays.items()}


def named_streams(names: Sequence[str], codes: Sequence[int]) -> tuple[Stream, ...]:
    """Streams of so many codes; one alone needs no name."""
    if len(codes) == 1:
        return (Stream("", codes[0]),)
    return tuple(Stream(name, count) for name, count in zip(names, codes, strict=True))


def token_type(codes: int) -> pa.DataType:
    """Smallest unsigned integer type that holds ids 0 ... codes - 1."""
    for number in (pa.uint8(), pa.uint16(), pa.uint32()):
        if codes <= 1 << number.bit_width:
            return number
    raise HepfmError(f"{codes} codes are more than 32 bits hold", "tokenizer", "take fewer")


def token_fields(streams: Sequence[Stream], continuous: str = "") -> list[pa.Field]:
    """The columns of a token corpus; ``continuous`` says what the number of each point means, if there is one."""
    fields = []
    for stream in streams:
        meaning = f"token id of each point{': ' if stream.name else ''}{stream.name}"
        fields.append(_list_field(stream.column, token_type(stream.codes), meaning))
    if continuous:
        fields.append(_list_field(CONTINUOUS, pa.float32(), continuous))
    return fields


def _list_field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    item = pa.field("item", kind, nullable=False)
    return pa.field(name, pa.list_(item), nullable=False, metadata={"unit": "", "meaning": meaning})


def check_tokens(
    ids: np.ndarray,
    offsets: np.ndarray,
    continuous: np.ndarray | None,
    streams: Sequence[Stream],
    meaning: str = "",
) -> Tokens:
    """The tokens with ids as (T, Q) int64.

    Args:
        ids: (T,) or (T, Q).
        offsets: (n + 1,).
        continuous: (T,) where the tokenizer has a number of each point.
        streams: the tokenizer's.
        meaning: of its number; empty if there is none.

    Raises:
        HepfmError: an id that is none of the tokenizer's, offsets that do not divide the tokens into records, or no
            finite number of each point where there has to be one.
    """
    ids, offsets = np.asarray(ids), np.asarray(offsets)
    if not np.issubdtype(ids.dtype, np.integer) and ids.size:
        raise HepfmError(f"token ids are {ids.dtype}, not integers", "decode")
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise HepfmError(f"the offsets do not divide {len(ids)} tokens into records", "decode")
    ids = ids.reshape(len(ids), -1) if ids.size else ids.reshape(0, len(streams))
    if ids.shape[1] != len(streams):
        raise HepfmError(f"{ids.shape[1]} ids a point, the tokenizer has {len(streams)}", "decode")
    for stream, column in zip(streams, ids.T, strict=True):
        bad = (column < 0) | (column >= stream.codes)
        if bad.any():
            _refuse(stream, column, offsets, int(np.argmax(bad)))
    offsets = offsets.astype(np.int64)
    if not meaning:
        return Tokens(ids.astype(np.int64), offsets)
    if continuous is None or np.shape(continuous) != (len(ids),):
        raise HepfmError(f"there is no number of each point ({meaning})", "decode", "give 'continuous' with the ids")
    if not np.isfinite(continuous).all():
        raise HepfmError(f"a number of a point is not finite ({meaning})", "decode")
    return Tokens(ids.astype(np.int64), offsets, np.asarray(continuous, dtype=np.float32))


def _refuse(stream: Stream, ids: np.ndarray, offsets: np.ndarray, first: int) -> Any:
    record = int(np.searchsorted(offsets, first, side="right")) - 1
    raise HepfmError(
        f"{stream.name + ' ' if stream.name else ''}token id {ids[first]} in record {record} is none of the "
        f"tokenizer's (0 to {stream.codes - 1})",
        "decode",
        "take start, stop and padding out first, or name the tokenizer that made these ids",
    )
