"""What the hits of a shower in cells keep to while they are drawn, given the energies of its layers.

Layers that have energy come one after another, each with at least one hit and none with more than it can pay for; in a
layer energies fall, leave enough for the hits that are to follow, and the last hit takes what is left; no cell comes
twice; there is no hit after the last layer is done. What training has seen obeys these rules as well, so that only
probability of the impossible is taken away, and the rest divided by its sum.
"""

from __future__ import annotations

import numpy as np
import torch

from hepfm.pretrain.budget import FIGURES, figures
from hepfm.pretrain.stream_backbone import Outlook
from hepfm.pretrain.streams import Streams


class CellRules:
    """What rows have had so far, and what may come.

    Attributes:
        profile: (rows, L) energies [MeV] of the layers.
        spent: (rows, L) energy of the hits whose energy is drawn.
        priced, placed: (rows, L) hits whose energy, whose layer is drawn.
        columns: (rows, L, A) hits whose first index is drawn.
        used: (rows, L, A, B) bool, cells that are taken.
    """

    per_row = ("profile", "spent", "priced", "placed", "columns", "used")

    def __init__(self, streams: Streams, rows: int) -> None:
        assert streams.profile is not None
        assert streams.number is not None
        layers, first, second = streams.codes
        self.waits = (*streams.delays, streams.number.delay)
        self.least = streams.least_energy
        self.room = first * second
        self.profile: np.ndarray = np.zeros((rows, layers))
        self.spent: np.ndarray = np.zeros((rows, layers))
        self.priced: np.ndarray = np.zeros((rows, layers), dtype=np.int64)
        self.placed: np.ndarray = np.zeros((rows, layers), dtype=np.int64)
        self.columns: np.ndarray = np.zeros((rows, layers, first), dtype=np.int32)
        self.used: np.ndarray = np.zeros((rows, layers, first, second), dtype=bool)

    def begin(self, rows: np.ndarray, profile: np.ndarray) -> None:
        """Rows (k,) get new records with these energies (k, L)."""
        self.profile[rows] = profile
        for state in (self.spent, self.priced, self.placed, self.columns, self.used):
            state[rows] = 0

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these rows."""
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[rows])

    def budget(self, step: np.ndarray, length: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Figures (rows, 6) float32 before a step (rows,) of records with so many points, ids (rows, most, 3)."""
        found = np.zeros((len(step), FIGURES), dtype=np.float32)
        for place, lag, hits in ((0, self.waits[-1], self.priced), (3, self.waits[0] + 1, self.placed)):
            rows, layer = _layers(step - lag, length, ids)
            known = (self.profile[rows, layer], self.spent[rows, layer], hits[rows, layer])
            found[rows, place : place + 3] = figures(*known, self.least)
        return found

    def allowed(
        self, outlook: Outlook, step: np.ndarray, length: np.ndarray, ids: np.ndarray, begun: np.ndarray
    ) -> Outlook:
        """The outlook with what may not come at -inf: no taken cell, no layer out of turn, no stop before
        the last.

        Args:
            outlook: of the next step.
            step, length, ids: see :meth:`budget`.
            begun: (rows,) whether the record may stop.
        """
        layer_may, stop_may, stop_must = self._turns(step, length, ids, begun)
        layer, first, second = outlook.ids
        stop = outlook.stop.masked_fill(torch.from_numpy(~stop_may).to(outlook.stop.device), -torch.inf)
        stop = stop.masked_fill(torch.from_numpy(stop_must).to(stop.device), torch.inf)
        rows, at = _layers(step - self.waits[1], length, ids)
        free = np.ones(first.shape, dtype=bool)
        free[rows] = self.columns[rows, at] < self.used.shape[-1]
        rows, at = _layers(step - self.waits[2], length, ids)
        open_ = np.ones(second.shape, dtype=bool)
        open_[rows] = ~self.used[rows, at, ids[rows, (step - self.waits[2])[rows], 1].astype(np.int64)]
        kept = tuple(_kept(logits, may) for logits, may in ((layer, layer_may), (first, free), (second, open_)))
        return outlook._replace(stop=stop, ids=kept)

    def _turns(
        self, step: np.ndarray, length: np.ndarray, ids: np.ndarray, begun: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which layers may come (rows, L), whether the record may stop and whether it must (rows,)."""
        count, layers = self.profile.shape
        every, has = np.arange(count), self.profile > 0
        last = np.full(count, -1)
        some = length > 0
        last[some] = ids[every[some], length[some] - 1, 0]
        later = has & (np.arange(layers) > last[:, None])
        following = np.where(later.any(1), later.argmax(1), -1)
        here = np.maximum(last, 0)
        hits = self.placed[every, here]
        left = self.profile[every, here] - self.spent[every, here]
        further = hits - self.priced[every, here] + 1
        stays = some & (hits < self.room) & (further * self.least <= left * (1 + 1e-9))
        may = np.zeros((count, layers), dtype=bool)
        may[every[stays], here[stays]] = True
        goes = following >= 0
        may[every[goes], following[goes]] = True
        stop = ~goes & begun
        must = stop & ~stays
        may[~may.any(1)] = True  # a least length that the energies do not pay for
        return may, stop, must

    def price(
        self, step: np.ndarray, length: np.ndarray, ended: np.ndarray, ids: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """ln(energy / MeV) that the hit whose energy comes next has at most (rows,), and whether it has just that.

        Args:
            step, length, ids: see :meth:`budget`.
            ended: (rows,) whether no further hit comes.
            values: (rows, most), ln(energy / MeV) of the hits.
        """
        points = step - self.waits[-1]
        rows, layer = _layers(points, length, ids)
        points = points[rows]
        left = self.profile[rows, layer] - self.spent[rows, layer]
        further = self.placed[rows, layer] - self.priced[rows, layer] - 1
        most = np.log(np.maximum(left - further * self.least, self.least))
        following = np.minimum(points + 1, length[rows] - 1)
        others = (points + 1 < length[rows]) & (ids[rows, following, 0] != layer)
        last = others | (ended[rows] & (points + 1 == length[rows]))
        before = np.maximum(points - 1, 0)
        falls = (points > 0) & (ids[rows, before, 0] == layer) & ~last
        most = np.where(falls, np.minimum(most, values[rows, before]), most)
        ceiling, exact = np.full(len(step), np.inf), np.zeros(len(step), dtype=bool)
        ceiling[rows], exact[rows] = most, last
        return ceiling, exact

    def take(
        self, step: np.ndarray, length: np.ndarray, active: np.ndarray, ids: np.ndarray, values: np.ndarray
    ) -> None:
        """What was drawn at a step (rows,) stands in ids (rows, most, 3) and values (rows, most)."""
        for part, wait in enumerate(self.waits):
            points = step - wait
            rows = np.flatnonzero(active & (points >= 0) & (points < length))
            layer, first, second = ids[rows, points[rows]].astype(np.int64).T
            if part == 0:
                self.placed[rows, layer] += 1
            elif part == 1:
                self.columns[rows, layer, first] += 1
            elif part == 2:
                self.used[rows, layer, first, second] = True
            else:
                self.spent[rows, layer] += np.exp(values[rows, points[rows]].astype(np.float64))
                self.priced[rows, layer] += 1


def _layers(points: np.ndarray, length: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (k,) in which these points (rows,) are there, and their layers (k,)."""
    rows = np.flatnonzero((points >= 0) & (points < length))
    return rows, ids[rows, points[rows], 0].astype(np.int64)


def _kept(logits: torch.Tensor, may: np.ndarray) -> torch.Tensor:
    """Logits (rows, codes) with those that may not come at -inf; where none may, all do."""
    may[~may.any(1)] = True
    return logits.masked_fill(torch.from_numpy(~may).to(logits.device), -torch.inf)
