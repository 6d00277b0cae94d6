"""Decoding some entries of a large basket of ``std::vector``: uproot strips the header of every entry in it."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from uproot.interpretation.jagged import AsJagged, JaggedArray
from uproot.interpretation.numerical import AsDtype


class VectorsInRange(AsJagged):
    """Interpretation of a branch of ``std::vector`` that makes arrays of entries [start, stop) only.

    A basket is still decompressed whole, as it must be; what it costs beyond that goes with the entries asked for.

    Args:
        whole: the branch's own interpretation, for which :func:`is_vector` holds.
        start, stop: the range that is read.
    """

    def __init__(self, whole: AsJagged, start: int, stop: int) -> None:
        super().__init__(whole.content, whole.header_bytes, whole.typename, whole.original)
        self._range = start, stop

    def basket_array(
        self, data: np.ndarray, byte_offsets: np.ndarray, basket: Any, branch: Any, *_: Any, **__: Any
    ) -> JaggedArray:
        """All offsets of the basket, counted from the first entry in range, and the values in range."""
        header, numbers = self.header_bytes, self.content.from_dtype
        entries = len(byte_offsets) - 1
        first = branch.entry_offsets[basket.basket_num]
        low, high = (min(max(edge - first, 0), entries) for edge in self._range)
        offsets = (byte_offsets - header * np.arange(entries + 1)) // numbers.itemsize
        unit = gcd(header, numbers.itemsize)
        words = data[byte_offsets[low] : byte_offsets[high]].view(f"u{unit}")
        starts = (byte_offsets[low:high] - byte_offsets[low]) // unit
        kept = np.ones(len(words), dtype=bool)
        kept[np.add.outer(starts, np.arange(header // unit)).ravel()] = False
        return JaggedArray(offsets - offsets[low], words[kept].view(numbers))


def is_vector(interpretation: Any) -> bool:
    """Is it that of numbers in ``std::vector``?"""
    return (
        isinstance(interpretation, AsJagged)
        and interpretation.header_bytes > 0
        and isinstance(interpretation.content, AsDtype)
    )
