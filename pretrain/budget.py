"""What is left of a layer while its hits are made: energy, hits, and cells that have none yet.

A position is told five figures of the layer of the hit whose energy comes next, and five of the layer of the last hit
whose layer is known: ln(what is left / least energy of a hit), the share that is left, ln(1 + its hits so far),
ln(1 + its hits to come) and ln(what is left / hits to come / least energy). After the first five comes the width of
what ln(energy) can be. Then of the hits whose first and whose second index come next ln(energy / least energy), if that
is known; ln(1 + hits) at each first index in the layer of the one, and which second indices are taken at the layer and
first index of the other.

In a layer energies fall. So the next hit has at least the mean of what is left (it is the largest of those to come), at
most the energy of the one before, and leaves the least energy to each that follows; the last takes what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

FIGURES = 13  # all but those of single indices
INITIAL_STD = 0.02


@dataclass(frozen=True)
class Cells:
    """What the budget needs to know of streams whose points are hits in cells.

    Attributes:
        first, second: indices of a cell in a layer, A and B.
        waits: delays of layer, first and second index, energy; the layer's is the smallest.
        least: least energy of a hit [MeV].
    """

    first: int
    second: int
    waits: tuple[int, int, int, int]
    least: float

    @property
    def figures(self) -> int:
        """Numbers that a position is told."""
        return FIGURES + self.first + self.second


def figures(energy: np.ndarray, spent: np.ndarray, count: np.ndarray, hits: np.ndarray, least: float) -> np.ndarray:
    """Five figures (k, 5) of layers: their energy and how much of it is spent [MeV], their hits and how many there
    are."""
    left, further = np.maximum(energy - spent, 0.5 * least), np.maximum(count - hits, 0)
    share = np.clip((energy - spent) / np.maximum(energy, least), -1.0, 1.0)
    each = np.log(left / np.maximum(further, 1) / least) / 3
    return np.stack([np.log(left / least) / 3, share, np.log1p(hits) / 3, np.log1p(further) / 3, each], axis=-1)


def scaled(numbers: np.ndarray, least: float) -> np.ndarray:
    """ln energy (k,) as a figure."""
    return (numbers - np.log(least)) / 3


def bounds(left: np.ndarray, further: np.ndarray, before: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """ln of the least and the most energy [MeV] (k,) of the hit that comes next.

    Args:
        left: energy that the layer has left [MeV].
        further: hits that share it.
        before: ln energy of the hit before in the layer, infinite where it is the first.
        least: energy of a hit [MeV].
    """
    further = np.maximum(further, 1)
    low = np.log(np.maximum(left / further, least))
    most = np.log(np.maximum(left - (further - 1) * least, least))
    return low, np.maximum(np.minimum(most, before), low)


def packed_budget(
    points: np.ndarray,
    numbers: np.ndarray,
    offsets: np.ndarray,
    profile: np.ndarray,
    begins: np.ndarray,
    positions: int,
    cells: Cells,
) -> tuple[np.ndarray, np.ndarray]:
    """Figures (T, 13 + A + B) float32 at all positions of packed records, and bounds (N, 2) float32 of ln energy.

    Args:
        points: (N, 3) layer, first and second index of the points that are kept.
        numbers: (N,) ln(energy / MeV).
        offsets: (n + 1,) record i owns points ``offsets[i]`` to ``offsets[i + 1] - 1``.
        profile: (n, 2, L) energies and hits of the layers.
        begins: (n,) first position of each record.
        positions: T.
        cells: what they are.
    """
    found = np.zeros((positions, cells.figures), dtype=np.float32)
    if not len(points):
        return found, np.zeros((0, 2), dtype=np.float32)
    lengths, (to_layer, to_first, to_second, to_energy) = np.diff(offsets), cells.waits
    record = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(points)) - np.repeat(offsets[:-1], lengths)
    place, ends = begins[record] + within, np.repeat(np.append(begins[1:], positions), lengths)
    layer, first, second = points.T
    group = record * profile.shape[-1] + layer
    energies = np.exp(numbers.astype(np.float64))
    whole, count = profile[:, 0].reshape(-1)[group], profile[:, 1].reshape(-1)[group]
    spent, hits = _before(group, energies[:, None])[:, 0], _before(group, np.ones((len(group), 1)))[:, 0]
    low, high = bounds(whole - spent, count - hits, _last(group, numbers), cells.least)
    _put(found[:, :5], place + to_energy, ends, figures(whole, spent, count, hits, cells.least))
    _put(found[:, 5], place + to_energy, ends, (high - low) / 3)
    known = spent.copy()  # of what comes before the last point, that whose energy has been read
    for back in range(1, to_energy - to_layer):
        same = np.zeros(len(group), dtype=bool)
        same[back:] = group[back:] == group[:-back]
        known[back:] -= np.where(same[back:], energies[:-back], 0.0)
    _put(found[:, 6:11], place + to_layer + 1, ends, figures(whole, known, count, hits + 1, cells.least))
    for column, wait in ((11, to_first), (12, to_second)):
        if to_energy < wait:
            _put(found[:, column], place + wait, ends, scaled(numbers, cells.least))
    columns = _before(group, np.eye(cells.first)[first])
    _put(found[:, FIGURES : FIGURES + cells.first], place + to_first, ends, np.log1p(columns))
    taken = _before(group * cells.first + first, np.eye(cells.second)[second])
    _put(found[:, FIGURES + cells.first :], place + to_second, ends, taken > 0)
    return found, np.stack([low, high], axis=1).astype(np.float32)


def _before(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of values (N, k) over the earlier points of each point's group."""
    order, first = _grouped(group)
    ordered = values[order]
    summed = np.cumsum(ordered, axis=0, dtype=np.float64)
    found = np.empty(values.shape)
    found[order] = summed - ordered - (summed - ordered)[first]
    return found


def _last(group: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Number (N,) of the point before in each point's group; infinite where there is none."""
    order, first = _grouped(group)
    found = np.empty(len(group))
    found[order] = np.where(first == np.arange(len(group)), np.inf, np.roll(numbers[order], 1))
    return found


def _grouped(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order (N,) in which groups lie together, and in it the place (N,) at which each one's group begins."""
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(group[order]) != 0))
    return order, np.repeat(begins, np.diff(np.append(begins, len(group))))


def _put(columns: np.ndarray, places: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    inside = places < ends
    columns[places[inside]] = values[inside]


class BudgetEmbedding(nn.Module):
    """Figures (T, k) as they are added to what a position reads: (T, width)."""

    def __init__(self, width: int, told: int, hidden: int = 128) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(told, hidden), nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.up.weight)
        nn.init.normal_(self.up.bias)
        nn.init.normal_(self.down.weight, std=INITIAL_STD)

    def forward(self, found: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(found.to(self.up.weight.dtype))))


def matched(
    energies: np.ndarray, layers: np.ndarray, offsets: np.ndarray, profile: np.ndarray, least: float
) -> np.ndarray:
    """Hit energies (N,) whose sums are those of the profile (n, L), each at least ``least`` where there is room for it.

    In each layer what hits have above ``least`` is multiplied by one number. A layer that has not ``least`` for each of
    its hits has its energies multiplied by one number.
    """
    counts = np.diff(offsets)
    group = np.repeat(np.arange(len(counts)), counts) * profile.shape[1] + layers
    wanted = profile.reshape(-1).astype(np.float64)
    size = profile.size
    hits, sums = np.bincount(group, minlength=size), np.bincount(group, energies, minlength=size)
    over, room = sums - least * hits, wanted - least * hits
    with np.errstate(divide="ignore", invalid="ignore"):
        stretch = np.where((over > 0) & (room >= 0), room / over, -1.0)
        plain = wanted / sums
    return np.where(
        stretch[group] >= 0, least + (energies - least) * np.maximum(stretch[group], 0), energies * plain[group]
    )
