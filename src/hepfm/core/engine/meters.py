"""What a training run measures: losses per token over all processes, and speed."""

from __future__ import annotations

import math
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class Sums:
    """Sums over real tokens, first over micro-batches, then over processes."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: Tensor | None = None

    def add(self, total: Tensor, figures: dict[str, Tensor]) -> None:
        self._names = sorted(figures)
        # A pair is (sum, count); what has no count of its own is a sum over the tokens.
        pairs = [value.detach().double().reshape(-1) for value in (total, *(figures[name] for name in self._names))]
        row = torch.cat([F.pad(pair, (0, 2 - len(pair)), value=math.nan) for pair in pairs])
        self._values = row if self._values is None else self._values + row

    def over_processes(self, tokens: int, asked: bool) -> tuple[dict[str, float], bool]:
        """Sums of all processes divided by ``tokens``, and whether any of them was asked to stop."""
        assert self._values is not None
        row = torch.cat([self._values, self._values.new_tensor([float(asked)])])
        dist.all_reduce(row)
        *values, anyone = row.tolist()
        names = ["loss", *self._names]
        pairs = zip(names, values[::2], values[1::2], strict=True)
        figures = {name: total / (tokens if math.isnan(count) else count) for name, total, count in pairs if count != 0}
        return figures, anyone > 0


class Clock:
    """Speed since it was made."""

    def __init__(self) -> None:
        self._start, self._steps, self._tokens = time.monotonic(), 0, 0

    def count(self, tokens: int) -> None:
        self._steps += 1
        self._tokens += tokens

    def read(self) -> dict[str, float]:
        """Seconds per step and tokens per second."""
        seconds = time.monotonic() - self._start
        return {"seconds": seconds / self._steps, "tokens_per_s": self._tokens / seconds}


def note(line: dict[str, float], timing: dict[str, float], steps_left: int) -> str:
    """What stands beside the progress bar."""
    left = timedelta(seconds=round(timing["seconds"] * steps_left))
    return f"loss {line['loss']:.4f}  {timing['tokens_per_s']:,.0f} tokens/s  {left} left"
