"""Axes of a card's panels, chosen from a look at some of the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Form = Literal["number", "integer", "names", "codes", "profile"]

FEWEST_BINS, MOST_BINS = 12, 60
TAIL = 0.001  # share of the values on each side that an axis may leave out
SAME = 1e-6  # relative difference of float32 values that are the same but for rounding
# An axis is logarithmic where all but this share of the values on each side span more than these decades.
DECADES, LOG_TAIL = 1.5, 0.05
# These are read on a linear axis: resonances stand at masses, not at their logarithms.
_LINEAR = ("mass", "softdrop_mass", "tau1", "tau2", "tau3", "tau4", "x", "y", "z", "response")
# Range over interquartile range from which the vertical axis is logarithmic (a normal distribution has 4.6).
_LONG_TAILS = 15.0


@dataclass(frozen=True)
class Axis:
    """Bins of a panel.

    Attributes:
        edges: (bins + 1,) equal in the value, or in its log10 if ``log``.
        log: logarithmic horizontal axis; edges are log10 then.
        names: of the bins, for names and codes.
        codes: the number that each bin stands for, for codes (particle ids).
        log_counts: logarithmic vertical axis.
    """

    edges: np.ndarray
    log: bool = False
    names: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    log_counts: bool = False

    @property
    def bins(self) -> int:
        return len(self.edges) - 1

    def place(self, values: np.ndarray) -> np.ndarray:
        """Bin (N,) int64 of each value: 1 to ``bins``, 0 below, ``bins + 1`` above; the last edge lies inside."""
        if self.codes:
            nearest = np.minimum(np.searchsorted(self.codes, values), len(self.codes) - 1)
            return np.where(np.array(self.codes)[nearest] == values, nearest + 1, self.bins + 1)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.where(values > 0, np.log10(values), -np.inf)
        low, high = self.edges[0], self.edges[-1]
        place = np.floor((np.clip(values, low, high) - low) * (self.bins / (high - low))).astype(np.int64) + 1
        np.minimum(place, self.bins, out=place)
        place[values < low] = 0
        place[values > high] = self.bins + 1
        return place


def axis_of(name: str, form: Form, names: Sequence[str], samples: Sequence[np.ndarray], values: float) -> Axis:
    """An axis that holds all but the outermost values of the samples.

    Args:
        name: of the quantity; its last part decides whether a logarithm is usual.
        form: number, integer, names or profile.
        names: of the bins, for names.
        samples: values of some blocks, all finite.
        values: how many a class will have in the end, roughly; the number of bins grows with its cube root.
    """
    bins = int(np.clip(3 * np.cbrt(values), FEWEST_BINS, MOST_BINS))
    if form == "names":
        return Axis(np.arange(len(names) + 1) - 0.5, names=tuple(names))
    samples = [sample for sample in samples if len(sample)]
    if not samples:
        return Axis(np.array([0.0, 1.0]))
    if form == "codes":
        codes = tuple(np.unique(np.concatenate(samples)).astype(int).tolist())
        return Axis(np.arange(len(codes) + 1) - 0.5, names=tuple(map(str, codes)), codes=codes)
    whole = form == "integer" or (form == "profile" and all((sample == np.round(sample)).all() for sample in samples))
    if whole:
        first, last = min(sample.min() for sample in samples), max(sample.max() for sample in samples)
        # Energy by layer is read layer by layer, however few showers there are.
        return Axis(_integers(first, last, MOST_BINS if form == "profile" else bins))
    low, high = _range(samples)
    positive = [sample[sample > 0] for sample in samples]
    usual = name.rpartition(".")[2] not in _LINEAR and form == "number"
    if usual and all(len(some) > 0.9 * len(sample) for some, sample in zip(positive, samples, strict=True)):
        first, last = _range(positive, LOG_TAIL)
        if last > 10**DECADES * first:
            low, high = np.log10(_range(positive)).tolist()
            return Axis(_widened(low, high, bins), log=True)
    quartiles = np.mean([np.quantile(sample, [0.25, 0.75]) for sample in samples], axis=0)
    tails = high - low > _LONG_TAILS * (quartiles[1] - quartiles[0]) and form == "number"
    return Axis(_widened(low, high, bins), log_counts=bool(tails and high > low))


def _range(samples: Sequence[np.ndarray], tail: float = TAIL) -> tuple[float, float]:
    ends = np.array([np.quantile(sample, [tail, 1 - tail]) for sample in samples])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _widened(low: float, high: float, bins: int) -> np.ndarray:
    """Edges with a little room, or around the one value that there is, which lies in the middle of a bin."""
    if high - low <= SAME * max(abs(low), abs(high), SAME):
        room = max(0.5 * abs(low), 0.5)
        return np.linspace(low - room, low + room, (bins | 1) + 1)
    room = 0.02 * (high - low)
    start = max(0.0, low - room) if low >= 0 else low - room
    return np.linspace(start, high + room, bins + 1)


def _integers(low: float, high: float, bins: int) -> np.ndarray:
    """One bin an integer, or several integers a bin where there are many."""
    span = high - low + 1
    step = max(1, int(np.ceil(span / max(bins, FEWEST_BINS * 2))))
    return low - 0.5 + step * np.arange(int(np.ceil(span / step)) + 1)
