"""Delayed streams: what a generator needs to draw the ids of a point one after another, each knowing those before.

With delays 0, 1, 2 step i of a sequence holds the first id of point i, the second of point i - 1, the third of point
i - 2: when the second id of a point is drawn, its first one has been read. (The pattern of Copet et al., MusicGen,
arXiv:2306.05284; for showers of SPADE, arXiv:2606.11304.) A record of n points takes n + (largest delay) steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from hepfm.tokenize.tokens import CONTINUOUS, Stream


def delays_of(streams: Sequence[Stream], continuous: str) -> dict[str, int]:
    """Delay of each column of a token corpus; a number comes one step after the last id of its point."""
    delays = {stream.column: stream.delay for stream in streams}
    free = next(wait for wait in count() if wait not in delays.values())
    return delays | {CONTINUOUS: free} if continuous else delays


def delay(values: np.ndarray, offsets: np.ndarray, delays: Sequence[int], fill: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S, Q) and their offsets (n + 1,) of values (T, Q) of records.

    Args:
        values: (T, Q), record after record.
        offsets: (n + 1,) of the records; those without points have no steps.
        delays: (Q,) steps, at least 0.
        fill: what steps hold before a column begins and after it has ended.
    """
    lengths = np.diff(offsets)
    steps = np.where(lengths > 0, lengths + max(delays), 0)
    begins = np.concatenate([[0], np.cumsum(steps)])
    delayed = np.full((int(begins[-1]), len(delays)), fill, dtype=values.dtype)
    # Point t of a record that begins at step b goes to step b + t + delay.
    place = np.arange(len(values)) + np.repeat(begins[:-1] - offsets[:-1], lengths)
    for column, wait in enumerate(delays):
        delayed[place + wait, column] = values[:, column]
    return delayed, begins


def undelay(delayed: np.ndarray, offsets: np.ndarray, delays: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The values (T, Q) and offsets (n + 1,) that :func:`delay` made steps of."""
    lengths = np.maximum(np.diff(offsets) - max(delays), 0)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(int(begins[-1])) + np.repeat(offsets[:-1] - begins[:-1], lengths)
    columns = [delayed[place + wait, column] for column, wait in enumerate(delays)]
    return np.stack(columns, axis=1), begins
