"""Generation over several streams: the sampler of :mod:`hepfm.finetune.sampler`, of steps that hold parts of points."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.nn.cache import Cache, grains
from hepfm.core.progress import Task
from hepfm.finetune.cell_rules import CellRules
from hepfm.finetune.rows import IDLE, Rows, by_number
from hepfm.finetune.sampler import Drawing, Sampled, shown_progress
from hepfm.pretrain.mixture import draw
from hepfm.pretrain.stream_backbone import Outlook
from hepfm.pretrain.streams import Number, Streams

PLAIN = Drawing()


class StreamSteps(Protocol):
    """What the sampler needs of a backbone."""

    streams: Streams

    def new_cache(self, rows: int, max_length: int) -> Cache: ...

    def step_of(
        self,
        ids: torch.Tensor,
        numbers: torch.Tensor | None,
        cache: Cache,
        begin: torch.Tensor | None = None,
        budget: torch.Tensor | None = None,
    ) -> Outlook: ...


@torch.no_grad()
def generate_streams(
    backbone: StreamSteps,
    n: int,
    seed: int,
    *,
    max_length: int,
    batch: int = 256,
    drawing: Drawing = PLAIN,
    min_length: int = 1,
    first: int = 0,
    begin: torch.Tensor | None = None,
    profile: np.ndarray | None = None,
    task: Task | None = None,
) -> Sampled:
    """Generate ``n`` records of several streams; see :func:`hepfm.finetune.sampler.generate`, also for the arguments.

    A record that stops, or has ``max_length`` points, is finished in the streams that lag behind. ``begin`` is added at
    every step. With a ``profile`` (n, 2, L), energies [MeV] and hits of the layers, hits keep to the rules of
    :mod:`hepfm.finetune.cell_rules`. The draws are keyed by (seed, number, step, stream).
    """
    if n < 0 or batch < 1 or not 1 <= min_length <= max_length:
        raise ValueError(f"n {n}, batch {batch}, min_length {min_length}, max_length {max_length}")
    rows = _StreamRows(backbone, n, first, min(batch, max(n, 1)), min_length, max_length, begin, profile)
    key, columns = key_of("generate", seed), np.arange(len(backbone.streams.codes) + 3)
    with shown_progress(task, n) as shown:
        while rows.busy:
            uniform = hashed_uniform(key, np.maximum(rows.number, 0)[:, None], rows.step[:, None], columns[None])
            outlook = rows.outlook()
            stops, ids, values = drawn_of(
                outlook, torch.from_numpy(uniform), drawing, backbone.streams.number, rows.bounds()
            )
            shown.advance(rows.take(stops, ids, values))
    return rows.result()


def drawn_of(
    outlook: Outlook,
    uniform: torch.Tensor,
    drawing: Drawing,
    number: Number | None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Stops (rows,), ids (rows, Q) and numbers (rows,) of an outlook.

    The temperature holds for all of them (see :func:`hepfm.pretrain.mixture.draw` for the number), top-k and top-p for
    the ids.

    Args:
        outlook: what can come.
        uniform: (rows, Q + 3) in [0, 1): of the stop, the ids, and two of the number.
        drawing: temperature and the like.
        number: what the number is, if there is one.
        bounds: two (rows,), between which the outlook has the number's place.
    """
    uniform = uniform.to(outlook.stop.device)
    stop = outlook.stop.double()
    stops = stop > 0 if drawing.temperature == 0 else uniform[:, 0] < (stop / drawing.temperature).sigmoid()
    ids = [drawing.draw(logits.float(), uniform[:, place]) for place, logits in enumerate(outlook.ids, 1)]
    values = None
    if number is not None and outlook.number is not None:
        if bounds is not None:
            least, most = (torch.from_numpy(bound).to(uniform.device) for bound in bounds)
            drawn = least + draw(outlook.number, uniform[:, -2:], 0.0, 1.0, drawing.temperature) * (most - least)
        else:
            low, high = ((bound - number.mean) / number.std for bound in (number.low, number.high))
            drawn = draw(outlook.number, uniform[:, -2:], low, high, drawing.temperature) * number.std + number.mean
        values = drawn.float().cpu().numpy()
    return stops.cpu().numpy(), torch.stack(ids, 1).cpu().numpy(), values


class _StreamRows(Rows):
    """Rows of several streams.

    Attributes:
        step: (rows,) the step that comes next.
        length: (rows,) points so far, not all of them with all their parts.
        ended: (rows,) bool, whether there will be no further point.
        ids, values: (rows, max_length, Q), (rows, max_length), parts of the points.
        last_ids, last_values: (rows, Q), (rows,), the step before.
    """

    per_row = ("number", "step", "length", "ended", "ids", "values", "last_ids", "last_values")

    def __init__(
        self,
        backbone: StreamSteps,
        n: int,
        first: int,
        batch: int,
        min_length: int,
        max_length: int,
        begin: torch.Tensor | None,
        profile: np.ndarray | None,
    ) -> None:
        streams = backbone.streams
        super().__init__(backbone.new_cache(grains(batch), max_length + streams.largest_delay), n, first, begin)
        rows = len(self.number)
        self.backbone, self.streams = backbone, streams
        self.min_length, self.max_length = min_length, max_length
        self.step: np.ndarray = np.zeros(rows, dtype=np.int64)
        self.length: np.ndarray = np.zeros(rows, dtype=np.int64)
        self.ended: np.ndarray = np.zeros(rows, dtype=bool)
        self.ids: np.ndarray = np.zeros((rows, max_length, len(streams.codes)), dtype=np.uint32)
        self.values: np.ndarray = np.zeros((rows, max_length if streams.number else 0), dtype=np.float32)
        self.nothing = np.array(streams.codes, dtype=np.int64)
        self.last_ids: np.ndarray = np.tile(self.nothing, (rows, 1))
        self.last_values: np.ndarray = np.full(rows, np.nan, dtype=np.float32)
        self.profile = profile
        self.rules = None if profile is None else CellRules(streams, rows)
        self._begin(np.arange(rows) < batch)

    def outlook(self) -> Outlook:
        """What can come next in each row."""
        ids = torch.from_numpy(self.last_ids).to(self.device)
        numbers = torch.from_numpy(self.last_values).to(self.device) if self.streams.number else None
        if self.rules is None:
            return self.backbone.step_of(ids, numbers, self.cache, self.told())
        now = (self.step, self.length, self.ids)
        budget = torch.from_numpy(self.rules.budget(*now, self.values)).to(self.device)
        found = self.backbone.step_of(ids, numbers, self.cache, self.told(), budget)
        return self.rules.allowed(found, *now)

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Between what the number that comes next lies, two (rows,)."""
        return None if self.rules is None else self.rules.bounds(self.step, self.length, self.ids, self.values)

    def take(self, stops: np.ndarray, ids: np.ndarray, values: np.ndarray | None) -> int:
        """Go on by a step with what was drawn, end and replace samples; how many have ended."""
        active = self.number != IDLE
        stopped = active & ~self.ended & stops & (self.step >= self.min_length)
        longer = active & ~self.ended & ~stopped
        self.length[longer] += 1
        full = longer & (self.length == self.max_length)
        self.hit_maximum += int(full.sum())
        self.ended |= stopped | full
        for column, delay in enumerate(self.streams.delays):
            rows, points = self._points(active, delay)
            self.ids[rows, points, column] = ids[rows, column]
            self.last_ids[:, column] = self.nothing[column]
            self.last_ids[rows, column] = ids[rows, column]
        if values is not None and self.streams.number:
            rows, points = self._points(active, self.streams.number.delay)
            self.values[rows, points] = values[rows]
            self.last_values[:] = np.nan
            self.last_values[rows] = values[rows]
        if self.rules is not None:
            self.rules.take(self.step, self.length, active, self.ids, self.values)
        self.step += 1
        done = active & self.ended & (self.step >= self.length + self.streams.largest_delay)
        if done.any():
            self._collect(done)
            self._begin(done)
        empty = self.number == IDLE
        self.step[empty] = 0
        self.restart(self.step == 0)
        return int(done.sum())

    def _points(self, active: np.ndarray, delay: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (k,) in which a stream of this delay has a point at this step, and which point (k,)."""
        points = self.step - delay
        rows = np.flatnonzero(active & (points >= 0) & (points < self.length))
        return rows, points[rows]

    def _collect(self, done: np.ndarray) -> None:
        lengths = self.length[done]
        filled = np.arange(self.max_length) < lengths[:, None]
        values = self.values[done][filled] if self.streams.number else np.zeros(lengths.sum(), np.float32)
        self.done.append((self.number[done], lengths, self.ids[done][filled], values))

    def _begin(self, free: np.ndarray) -> None:
        rows = self.assign(free)
        self.step[rows] = self.length[rows] = 0
        self.ended[rows] = False
        self.last_ids[rows], self.last_values[rows] = self.nothing, np.nan
        if self.rules is not None and self.profile is not None:
            self.rules.begin(rows, self.profile[np.maximum(self.number[rows] - self.first, 0)])

    def _keep(self, rows: np.ndarray) -> None:
        super()._keep(rows)
        if self.rules is not None:
            self.rules.keep(rows)

    def result(self) -> Sampled:
        """All samples by number."""
        columns = len(self.streams.codes)
        if not self.done:
            nothing = np.zeros(0, np.float32) if self.streams.number else None
            return Sampled(np.zeros((0, columns), np.uint32), np.zeros(1, np.int64), 0, nothing)
        offsets, (ids, values) = by_number(self.done)
        return Sampled(ids, offsets, self.hit_maximum, values if self.streams.number else None)
