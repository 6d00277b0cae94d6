"""What the hits of a shower in cells keep to while they are drawn, given the energies and hits of its layers.

Layers that have hits come one after another, each with all of its hits; in a layer energies fall and sum to the layer's
(:func:`hepfm.pretrain.budget.bounds`); no cell comes twice; there is no hit after the last layer is done. What training
has seen obeys these rules as well, so that only probability of the impossible is taken away, and the rest divided by
its sum.
"""

from __future__ import annotations

import numpy as np
import torch

from hepfm.pretrain.budget import FIGURES, bounds, figures, scaled
from hepfm.pretrain.stream_backbone import Outlook
from hepfm.pretrain.streams import Streams


class CellRules:
    """What rows have had so far, and what may come.

    Attributes:
        energy, count: (rows, L) energies [MeV] and hits of the layers.
        spent: (rows, L) energy of the hits whose energy is drawn.
        priced, placed: (rows, L) hits whose energy, whose layer is drawn.
        columns: (rows, L, A) hits whose first index is drawn.
        used: (rows, L, A, B) bool, cells that are taken.
    """

    per_row = ("energy", "count", "spent", "priced", "placed", "columns", "used")

    def __init__(self, streams: Streams, rows: int) -> None:
        layers, first, second = streams.codes
        self.cells = streams.cells
        self.energy: np.ndarray = np.zeros((rows, layers))
        self.count: np.ndarray = np.zeros((rows, layers), dtype=np.int64)
        self.spent: np.ndarray = np.zeros((rows, layers))
        self.priced: np.ndarray = np.zeros((rows, layers), dtype=np.int64)
        self.placed: np.ndarray = np.zeros((rows, layers), dtype=np.int64)
        self.columns: np.ndarray = np.zeros((rows, layers, first), dtype=np.int32)
        self.used: np.ndarray = np.zeros((rows, layers, first, second), dtype=bool)

    def begin(self, rows: np.ndarray, profile: np.ndarray) -> None:
        """Rows (k,) get new records with these energies and hits (k, 2, L)."""
        self.energy[rows] = profile[:, 0]
        self.count[rows] = np.minimum(profile[:, 1], self.used[0, 0].size)
        for state in (self.spent, self.priced, self.placed, self.columns, self.used):
            state[rows] = 0

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these rows."""
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[rows])

    def budget(self, step: np.ndarray, length: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Figures (rows, 13 + A + B) float32 before a step (rows,) of records with so many points (rows,).

        Args:
            step, length: of the rows.
            ids: (rows, most, 3), of the hits.
            values: (rows, most), ln(energy / MeV) of the hits.
        """
        found = np.zeros((len(step), self.cells.figures), dtype=np.float32)
        to_layer, to_first, to_second, to_energy = self.cells.waits
        for place, wait, hits in ((0, to_energy, self.priced), (6, to_layer + 1, self.placed)):
            rows, layer = _layers(step - wait, length, ids)
            known = (self.energy[rows, layer], self.spent[rows, layer], self.count[rows, layer], hits[rows, layer])
            found[rows, place : place + 5] = figures(*known, self.cells.least)
        low, high = self.bounds(step, length, ids, values)
        found[:, 5] = (high - low) / 3
        for place, wait in ((11, to_first), (12, to_second)):
            if to_energy < wait:
                rows = _layers(step - wait, length, ids)[0]
                found[rows, place] = scaled(values[rows, (step - wait)[rows]], self.cells.least)
        rows, layer = _layers(step - to_first, length, ids)
        found[rows, FIGURES : FIGURES + self.cells.first] = np.log1p(self.columns[rows, layer])
        rows, layer, first = self._columns(step - to_second, length, ids)
        found[rows, FIGURES + self.cells.first :] = self.used[rows, layer, first]
        return found

    def allowed(self, outlook: Outlook, step: np.ndarray, length: np.ndarray, ids: np.ndarray) -> Outlook:
        """The outlook with what may not come at -inf: no taken cell, no layer out of turn, a stop after the last hit
        only.

        Args:
            outlook: of the next step.
            step, length, ids: see :meth:`budget`.
        """
        layer_may = self._turns(length, ids)
        done = torch.from_numpy(~layer_may.any(1)).to(outlook.stop.device)
        stop = torch.where(done, torch.inf, -torch.inf).to(outlook.stop)
        layer, first, second = outlook.ids
        rows, at = _layers(step - self.cells.waits[1], length, ids)
        free = np.ones(first.shape, dtype=bool)
        free[rows] = self.columns[rows, at] < self.cells.second
        rows, at, column = self._columns(step - self.cells.waits[2], length, ids)
        open_ = np.ones(second.shape, dtype=bool)
        open_[rows] = ~self.used[rows, at, column]
        kept = tuple(_kept(logits, may) for logits, may in ((layer, layer_may), (first, free), (second, open_)))
        return outlook._replace(stop=stop, ids=kept)

    def _columns(
        self, points: np.ndarray, length: np.ndarray, ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (k,) in which these points (rows,) are there, their layers and first indices (k,)."""
        rows, layer = _layers(points, length, ids)
        return rows, layer, ids[rows, points[rows], 1].astype(np.int64)

    def _turns(self, length: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Which layer comes (rows, L): the last one while it has hits to come, then the next that has any, or none."""
        count, layers = self.energy.shape
        every, last = np.arange(count), np.full(count, -1)
        some = length > 0
        last[some] = ids[every[some], length[some] - 1, 0]
        to_come = (self.placed < self.count) & (np.arange(layers) >= last[:, None])
        return to_come & (to_come.cumsum(1) == 1)

    def bounds(
        self, step: np.ndarray, length: np.ndarray, ids: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """ln(energy / MeV) that the hit whose energy comes next has at least and at most, two (rows,); 0 where there is
        none.

        Args:
            step, length, ids, values: see :meth:`budget`.
        """
        points = step - self.cells.waits[-1]
        rows, layer = _layers(points, length, ids)
        points = points[rows]
        before = np.maximum(points - 1, 0)
        follows = (points > 0) & (ids[rows, before, 0] == layer)
        left = self.energy[rows, layer] - self.spent[rows, layer]
        further = self.count[rows, layer] - self.priced[rows, layer]
        low, high = np.zeros(len(step)), np.zeros(len(step))
        low[rows], high[rows] = bounds(left, further, np.where(follows, values[rows, before], np.inf), self.cells.least)
        return low, high

    def take(
        self, step: np.ndarray, length: np.ndarray, active: np.ndarray, ids: np.ndarray, values: np.ndarray
    ) -> None:
        """What was drawn at a step (rows,) stands in ids (rows, most, 3) and values (rows, most)."""
        for part, wait in enumerate(self.cells.waits):
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
