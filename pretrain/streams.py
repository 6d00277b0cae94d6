"""Several streams of a record: id lists and a number of each point, each some steps behind, packed for a backbone.

With delays 0, 1, 2 step s of a record holds the first id of point s, the second of point s - 1 and the third of point
s - 2 (see :mod:`hepfm.tokenize.delays`). At position s a backbone has read steps 0 to s - 1; it predicts step s, and
whether there is a point s at all. A record of n points has n + D positions, D being the largest delay, and at least
n + 1; one without points has one. Where a stream has not begun or has ended, its step holds *nothing*, which is read as
an id of its own and predicted nowhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.budget import Cells, packed_budget
from hepfm.pretrain.conditions import ConditionValues
from hepfm.pretrain.masking import moved

CELLS = ("layer", "cell_a", "cell_b")


@dataclass(frozen=True)
class Number:
    """A number of each point that stays one, as training saw it.

    Attributes:
        meaning: what it is, with its unit: ``ln(energy / MeV)``.
        delay: steps that it lags behind.
        mean, std: in training.
        low, high: range in training; none outside is generated, and one outside counts as the bound that it is beyond.
        components: of the mixture that its density is, see :mod:`hepfm.pretrain.mixture`.
    """

    meaning: str
    delay: int = 0
    mean: float = 0.0
    std: float = 1.0
    low: float = -1.0
    high: float = 1.0
    components: int = 8


@dataclass(frozen=True)
class Profile:
    """Energies [MeV] and hits of the parts of a record: sums of e^number over the points with each first id, and how
    many these are.

    Attributes:
        parts: L, layers.
        scale: number that the backbone is told with which the total is compared (``incident_energy``); empty: with 1.
        total_mean, total_std: of ln(total / MeV) in training.
        most_hits: of a layer in training.
        means, stds, lows, highs: (1 + L,) in training, of ln(total / scale) and of ln(energy of a layer / energy of
            those after it), where both have some.
    """

    parts: int
    scale: str = ""
    total_mean: float = 0.0
    total_std: float = 1.0
    most_hits: int = 1
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Streams:
    """What each point is made of.

    Attributes:
        names: columns of the id lists in a token corpus.
        codes: ids of each.
        delays: steps that each lags behind; the least, with that of the number, is 0.
        number: the number of a point, if it has one.
        profile: energies and numbers of the points with the same first id, where points are hits in cells: layer after
            layer, in a layer by falling energy, each cell at most once.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...]
    delays: tuple[int, ...]
    number: Number | None = None
    profile: Profile | None = None

    @property
    def largest_delay(self) -> int:
        """D, steps from the first to the last that belong to a point."""
        return max(*self.delays, self.number.delay if self.number else 0)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the id lists hold: their columns without ``tokens_``."""
        return tuple(name.removeprefix("tokens_") for name in self.names)

    def delayed(self, delays: tuple[int, ...]) -> Streams:
        """The same with these delays, of the id lists and of the number, if there is one; as they are if none is given.

        Raises:
            HepfmError: too few or too many, one that is negative, or none that is 0.
        """
        if not delays:
            return self
        wanted = len(self.names) + bool(self.number)
        if len(delays) != wanted or min(delays) != 0:
            parts = ", ".join((*self.labels, *(["number"] if self.number else [])))
            told = " ".join(map(str, delays))
            raise HepfmError(f"takes {wanted} numbers ({parts}), the least of them 0, got {told}", "--delays")
        number = self.number and replace(self.number, delay=delays[-1])
        return replace(self, delays=delays[: len(self.names)], number=number)

    @property
    def least_energy(self) -> float:
        """Of a hit in training [MeV], whose number is ln(energy / MeV)."""
        return math.exp(self.number.low) if self.number else 0.0

    @property
    def has_cells(self) -> bool:
        """Whether points are hits in cells: their layer is known first, and the first index before the second."""
        if not self.number or self.labels != CELLS:
            return False
        layer, first, second = self.delays
        return layer < min(first, self.number.delay) and first < second

    @property
    def cells(self) -> Cells:
        """What the rules of hits in cells need to know."""
        assert self.number is not None
        (layer, first, second), (_, rows, columns) = self.delays, self.codes
        return Cells(rows, columns, (layer, first, second, self.number.delay), self.least_energy)

    def positions(self, lengths: np.ndarray, max_length: int) -> np.ndarray:
        """Positions (n,) of records with so many points; of more than ``max_length`` the leading ones are kept."""
        kept, cut = np.minimum(lengths, max_length), lengths > max_length
        after = np.where(cut, self.largest_delay, max(self.largest_delay, 1))
        return np.where(kept > 0, kept + after, 1)


@dataclass(frozen=True)
class StreamBatch:
    """Records of several streams, packed: T positions, N points.

    Attributes:
        ids: (T, Q) int64, what is read: the step before each position; the number of a stream's codes is nothing.
        numbers: (T,) float32, likewise; NaN is nothing. None without a number.
        layout: which position belongs to which record.
        points: (N, Q) int64, ids of the points.
        values: (N,) float32, their numbers; None without.
        places: (N,) int64, position that predicts a point with delay 0; a stream with delay d is predicted d later.
        ends: (E,) int64, position at which a record has its stop.
        profile: (n, 2, L) float32, energies [MeV] and numbers of all hits of the layers; None where streams have none.
        budget: (T, 13 + A + B) float32, what is left of them, see :mod:`hepfm.pretrain.budget`.
        bounds: (N, 2) float32, between which the numbers of the points lie.
        keys, labels, conditions: see :class:`hepfm.pretrain.batches.TokenBatch`.
    """

    ids: torch.Tensor
    numbers: torch.Tensor | None
    layout: Layout
    points: torch.Tensor
    values: torch.Tensor | None
    places: torch.Tensor
    ends: torch.Tensor
    profile: torch.Tensor | None = None
    budget: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    keys: np.ndarray | None = None
    labels: torch.Tensor | None = None
    conditions: ConditionValues | None = None

    def to(self, device: torch.device | str) -> StreamBatch:
        """The same batch on another device."""
        return moved(self, device)


def pack_streams(
    ids: np.ndarray, numbers: np.ndarray | None, offsets: np.ndarray, streams: Streams, max_length: int
) -> StreamBatch:
    """Records as a backbone reads and predicts them.

    Args:
        ids: (N, Q) of all points, record after record.
        numbers: (N,) of the points, if they have one.
        offsets: (n + 1,) record i owns ``ids[offsets[i]:offsets[i + 1]]``.
        streams: what they are.
        max_length: points that are kept of a record. One with more has no stop, because it does not stop there.
    """
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, max_length)
    layout = Layout.of(streams.positions(lengths, max_length))
    begins = layout.offsets.numpy()[:-1].astype(np.int64)
    within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    source, places = np.repeat(offsets[:-1], kept) + within, np.repeat(begins, kept) + within
    points = ids[source].astype(np.int64)
    ends = np.repeat(begins + layout.offsets.diff().numpy(), kept)  # of the record of each point
    read = np.tile(np.array(streams.codes, dtype=np.int64), (layout.tokens, 1))
    for column, delay in enumerate(streams.delays):
        _put(read[:, column], places + delay + 1, ends, points[:, column])
    values = read_numbers = profile = budget = bounds = None
    if streams.number:
        assert numbers is not None
        values = numbers[source].astype(np.float32)
        read_numbers = np.full(layout.tokens, np.nan, dtype=np.float32)
        _put(read_numbers, places + streams.number.delay + 1, ends, values)
    if streams.profile:
        assert streams.number is not None
        assert numbers is not None
        profile = profiles(ids[:, 0], numbers, offsets, streams.profile.parts)
        starts = np.concatenate([[0], np.cumsum(kept)])
        budget, bounds = packed_budget(points, numbers[source], starts, profile, begins, layout.tokens, streams.cells)
    return StreamBatch(
        torch.from_numpy(read),
        None if read_numbers is None else torch.from_numpy(read_numbers),
        layout,
        torch.from_numpy(points),
        None if values is None else torch.from_numpy(values),
        torch.from_numpy(places),
        torch.from_numpy((begins + lengths)[lengths <= max_length]),
        None if profile is None else torch.from_numpy(profile.astype(np.float32)),
        None if budget is None else torch.from_numpy(budget),
        None if bounds is None else torch.from_numpy(bounds),
    )


def profiles(layers: np.ndarray, numbers: np.ndarray, offsets: np.ndarray, parts: int) -> np.ndarray:
    """Energies [MeV] and hits (n, 2, parts) of the layers of records, of their hits' layers (N,) and ln(energy / MeV)
    (N,)."""
    n = len(offsets) - 1
    group = np.repeat(np.arange(n), np.diff(offsets)) * parts + layers
    energies = np.bincount(group, np.exp(numbers.astype(np.float64)), minlength=n * parts)
    return np.stack([energies, np.bincount(group, minlength=n * parts)]).reshape(2, n, parts).swapaxes(0, 1)


def _put(column: np.ndarray, places: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    """Write values at their places, those aside that come after the last position of their record."""
    inside = places < ends
    column[places[inside]] = values[inside]
