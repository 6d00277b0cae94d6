"""Generation of token sequences: KV cache, batches whose finished rows are replaced, draws keyed by sample and step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.nn.cache import Cache, grains
from hepfm.core.progress import Task, progress
from hepfm.finetune.rows import IDLE, Rows, by_number


class Sampled(NamedTuple):
    """Generated sequences.

    Attributes:
        tokens: (N,) uint32 codes of all samples, one after another, without start and stop.
        offsets: (n + 1,) int64; sample i owns ``tokens[offsets[i]:offsets[i + 1]]``.
        hit_maximum: how many samples were ended by the maximum length instead of a stop.
        continuous: (N,) float32 numbers of the points, if they have one; ``tokens`` are (N, Q) of Q streams.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    hit_maximum: int
    continuous: np.ndarray | None = None


class Steps(Protocol):
    """What the sampler needs of a backbone."""

    start: int
    stop: int

    def new_cache(self, rows: int, max_length: int) -> Cache: ...

    def step(self, inputs: torch.Tensor, cache: Cache, begin: torch.Tensor | None = None) -> torch.Tensor: ...


CUMULATED, BLOCK = 1024, 128  # so many weights are cumulated at once; more by blocks
SMALLEST_TEMPERATURE = 1e-3  # logits divided by less overflow; 0 is the limit


@dataclass(frozen=True)
class Drawing:
    """How a token is drawn from logits.

    Attributes:
        temperature: logits are divided by it; 0 takes the most probable token.
        top_k: only the k most probable tokens, if given.
        top_p: only the most probable tokens that together have this probability, if given.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or SMALLEST_TEMPERATURE <= self.temperature < math.inf):
            raise HepfmError(
                f"must be 0, or a number from {SMALLEST_TEMPERATURE:g}, is {self.temperature}", "--temperature"
            )
        if self.top_k is not None and self.top_k < 1:
            raise HepfmError(f"must be at least 1, is {self.top_k}", "--top-k")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise HepfmError(f"must lie in (0, 1], is {self.top_p}", "--top-p")

    def draw(self, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """One token (rows,) of each row of logits (rows, vocabulary), by uniform numbers (rows,) in [0, 1).

        The token is the one at which the cumulative probability passes the uniform number; one of probability 0 is
        never drawn.
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        return passed(self._probabilities(logits), uniform)

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probabilities = logits.softmax(-1)
        if self.top_p is not None:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            probabilities = probabilities.masked_fill(dropped, 0)
        return probabilities


def passed(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The index (rows,) at which the cumulative weight (rows, n) passes the share uniform (rows,) of the whole.

    Many weights are summed by blocks first, so that only the sums, and then one block of each row, are cumulated in
    double precision. A row depends on no other.
    """
    n = weights.shape[1]
    blocks = weights if n <= CUMULATED else _block_sums(weights)
    cumulative = blocks.cumsum(-1, dtype=torch.float64)
    target = _below(uniform[:, None] * cumulative[:, -1:], cumulative)
    block = torch.searchsorted(cumulative, target, right=True)
    if blocks is weights:
        return block[:, 0]
    before = cumulative.gather(1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0)
    index = BLOCK * block + torch.arange(BLOCK, device=weights.device)
    own = weights.gather(1, index.clamp(max=n - 1)).masked_fill(index >= n, 0).cumsum(-1, dtype=torch.float64)
    return (BLOCK * block + torch.searchsorted(own, _below(target - before, own), right=True))[:, 0]


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums (rows, blocks) of each BLOCK of the weights (rows, n), and of what is left over."""
    whole = weights.shape[1] // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    rest = weights[:, whole:]
    return torch.cat([sums, rest.sum(-1, keepdim=True)], 1) if rest.shape[1] else sums


def _below(target: torch.Tensor, cumulative: torch.Tensor) -> torch.Tensor:
    """Targets (rows, 1), at most just below the whole, so that one of weight 0 is never the last."""
    whole = cumulative[:, -1:]
    return torch.minimum(target, torch.nextafter(whole, torch.zeros_like(whole)))


@torch.no_grad()
def generate(
    backbone: Steps,
    n: int,
    seed: int,
    *,
    max_length: int,
    batch: int = 256,
    drawing: Drawing = Drawing(),
    min_length: int = 1,
    first: int = 0,
    begin: torch.Tensor | None = None,
    ids: tuple[int, int] | None = None,
    task: Task | None = None,
) -> Sampled:
    """Generate ``n`` sequences.

    A sample depends on its number and the seed, not on ``batch`` or ``n``: its draws are keyed by (seed, number, step),
    and rows and cached lengths are kept at multiples for which a row's arithmetic does not depend on the others.
    The start token is never drawn, nor is a stop before ``min_length`` tokens, so that no sample is empty. Memory is
    that of ``batch`` rows and of the result.

    Args:
        backbone: the network, in evaluation mode.
        n: how many samples.
        seed: another seed, other samples.
        max_length: a sample of so many tokens ends there, and is counted.
        batch: sequences in flight.
        drawing: temperature and the like.
        min_length: least tokens of a sample, at least 1.
        begin: (n, width) what is added to the start token of each sample, see
            :meth:`hepfm.pretrain.backbone.Backbone.beginning`.
        ids: first and number of the ids that may come; by default all. Samples count from the first.
        first: number of the first sample; n at once, or in parts with ``first``, are the same samples.
        task: progress to advance by one a sample; by default its own.
    """
    if n < 0 or batch < 1 or not 1 <= min_length <= max_length:
        raise ValueError(f"n {n}, batch {batch}, min_length {min_length}, max_length {max_length}")
    rows = _Rows(backbone, n, first, min(batch, max(n, 1)), min_length, max_length, begin, ids)
    key = key_of("generate", seed)
    with shown_progress(task, n) as shown:
        while rows.busy:
            uniform = torch.from_numpy(hashed_uniform(key, np.maximum(rows.number, 0), rows.length))
            logits = rows.logits()
            shown.advance(rows.take(drawing.draw(logits, uniform.to(logits.device))))
    return rows.result()


@contextmanager
def shown_progress(task: Task | None, n: int) -> Iterator[Task]:
    """The task, or one of its own."""
    if task is not None:
        yield task
    else:
        with progress("generate", n, "samples") as own:
            yield own


class _Rows(Rows):
    """Rows of one token a step."""

    per_row = ("number", "length", "tokens", "last")

    def __init__(
        self,
        backbone: Steps,
        n: int,
        first: int,
        batch: int,
        min_length: int,
        max_length: int,
        begin: torch.Tensor | None,
        ids: tuple[int, int] | None,
    ) -> None:
        super().__init__(backbone.new_cache(grains(batch), max_length), n, first, begin)
        rows = len(self.number)
        self.backbone = backbone
        self.min_length, self.max_length = min_length, max_length
        self.length: np.ndarray = np.zeros(rows, dtype=np.int64)
        self.tokens: np.ndarray = np.zeros((rows, max_length), dtype=np.uint32)
        self.last: np.ndarray = np.full(rows, backbone.start, dtype=np.int64)
        self.least, codes = ids or (0, backbone.start)
        others = [*range(self.least), *range(self.least + codes, backbone.start)]
        self.never = torch.tensor([backbone.start, *others], device=self.device)
        self._begin(np.arange(rows) < batch)

    def logits(self) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next token, those that may not come at -inf."""
        begin = None if self.length.all() else self.told()
        last = torch.from_numpy(self.last).to(self.device)
        logits = self.backbone.step(last, self.cache, begin).float()
        logits.index_fill_(1, self.never, -torch.inf)
        logits[torch.from_numpy(self.length < self.min_length).to(self.device), self.backbone.stop] = -torch.inf
        return logits

    def take(self, drawn: torch.Tensor) -> int:
        """Append the drawn tokens (rows,), end and replace samples; how many have ended."""
        token, active = drawn.cpu().numpy(), self.number != IDLE
        stopped = active & (token == self.backbone.stop)
        longer = np.flatnonzero(active & ~stopped)
        self.tokens[longer, self.length[longer]] = token[longer]
        self.length[longer] += 1
        full = active & (self.length == self.max_length) & ~stopped
        self.hit_maximum += int(full.sum())
        ended = stopped | full
        self.last = token
        if ended.any():
            lengths = self.length[ended]
            filled = np.arange(self.max_length) < lengths[:, None]
            self.done.append((self.number[ended], lengths, self.tokens[ended][filled] - np.uint32(self.least)))
            self._begin(ended)
        self.last[self.length == 0] = self.backbone.start
        self.restart(self.length == 0)
        return int(ended.sum())

    def _begin(self, free: np.ndarray) -> None:
        self.length[self.assign(free)] = 0

    def result(self) -> Sampled:
        """All samples by number."""
        if not self.done:
            return Sampled(np.zeros(0, np.uint32), np.zeros(1, np.int64), 0)
        offsets, (tokens,) = by_number(self.done)
        return Sampled(tokens, offsets, self.hit_maximum)
