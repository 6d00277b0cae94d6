"""What is left of a layer's energy while its hits are made: three figures of the layer of the hit whose energy comes
next, and three of the layer of the last hit whose layer is known.

Of each: ln(what is left / least energy of a hit), the share that is left, ln(1 + its hits so far).
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

FIGURES = 6
INITIAL_STD = 0.02


def figures(energy: np.ndarray, spent: np.ndarray, hits: np.ndarray, least: float) -> np.ndarray:
    """Three figures (k, 3) of layers: their energy, how much of it is spent [MeV], and on how many hits."""
    left = energy - spent
    share = np.clip(left / np.maximum(energy, least), -1.0, 1.0)
    return np.stack([np.log(np.maximum(left, 0.5 * least) / least) / 3, share, np.log1p(hits) / 3], axis=-1)


def packed_budget(
    layers: np.ndarray,
    energies: np.ndarray,
    offsets: np.ndarray,
    profile: np.ndarray,
    begins: np.ndarray,
    positions: int,
    waits: tuple[int, int],
    least: float,
) -> np.ndarray:
    """Figures (T, 6) float32 at all positions of packed records.

    Args:
        layers, energies: (N,) of the points that are kept, energies in MeV.
        offsets: (n + 1,) record i owns points ``offsets[i]`` to ``offsets[i + 1] - 1``.
        profile: (n, L) energies of the layers.
        begins: (n,) first position of each record.
        positions: T.
        waits: delays of layer and energy; the first is smaller.
        least: least energy of a hit [MeV].
    """
    found = np.zeros((positions, FIGURES), dtype=np.float32)
    if not len(layers):
        return found
    counts = np.diff(offsets)
    record = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(layers)) - np.repeat(offsets[:-1], counts)
    ends = np.repeat(np.append(begins[1:], positions), counts)
    group = record * profile.shape[1] + layers
    spent, hits = _before(group, energies)
    whole = profile.reshape(-1)[group]
    _put(found[:, :3], begins[record] + within + waits[1], ends, figures(whole, spent, hits, least))
    known = spent.copy()  # of what comes before the last point, that whose energy has been read
    for back in range(1, waits[1] - waits[0]):
        same = np.zeros(len(group), dtype=bool)
        same[back:] = group[back:] == group[:-back]
        known[back:] -= np.where(same[back:], energies[:-back], 0.0)
    _put(found[:, 3:], begins[record] + within + waits[0] + 1, ends, figures(whole, known, hits + 1, least))
    return found


def _before(group: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (N,) and number (N,) of the earlier points of each point's group."""
    order = np.argsort(group, kind="stable")
    ordered, summed = group[order], np.cumsum(energies[order], dtype=np.float64)
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    size = np.diff(np.append(first, len(group)))
    start = np.repeat(first, size)
    spent, hits = np.empty(len(group)), np.empty(len(group), dtype=np.int64)
    spent[order] = summed - energies[order] - np.append(0.0, summed)[start]
    hits[order] = np.arange(len(group)) - start
    return spent, hits


def _put(columns: np.ndarray, places: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    inside = places < ends
    columns[places[inside]] = values[inside]


class BudgetEmbedding(nn.Module):
    """Figures (T, 6) as they are added to what a position reads: (T, width)."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FIGURES, hidden), nn.Linear(hidden, width, bias=False)
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
