"""What a training run measures: losses per token over all processes, and speed."""

from __future__ import annotations

import math
import re
import resource
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hepfm.core.engine import launch

_PROCESS = Path("/proc/self")


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
    """Speed since it was made.

    Args:
        flops_per_token: forward and backward, by the caller's formula.
        peak: FLOP/s of all devices together; 0 if it is not known.
    """

    def __init__(self, flops_per_token: float = 0.0, peak: float = 0.0) -> None:
        self._flops_per_token, self._peak = flops_per_token, peak
        self.restart()

    def restart(self) -> None:
        """Forget what has been counted."""
        self._start, self._steps, self._tokens = time.monotonic(), 0, 0

    def count(self, tokens: int) -> None:
        self._steps += 1
        self._tokens += tokens

    def read(self) -> dict[str, float]:
        """Seconds per step, tokens per second, and of_peak = tokens/s x FLOPs per token / peak of all devices."""
        seconds = time.monotonic() - self._start
        speed = self._tokens / seconds
        found = {"seconds": seconds / self._steps, "tokens_per_s": speed}
        if self._peak:
            found["of_peak"] = speed * self._flops_per_token / self._peak
        return found


def forget_peak_memory() -> None:
    """Let :func:`peak_memory_mb` count from here on, where the system allows it (CUDA, Linux)."""
    if launch.device().type == "cuda":
        torch.cuda.reset_peak_memory_stats(launch.device())
    elif (_PROCESS / "clear_refs").exists():
        with suppress(OSError):  # some containers forbid it
            (_PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def peak_memory_mb() -> float:
    """The most memory [MB, 10^6 bytes] that any process has held: torch.cuda.max_memory_allocated on a GPU; on a CPU
    the peak resident set, which includes the libraries."""
    if launch.device().type == "cuda":
        held = float(torch.cuda.max_memory_allocated(launch.device()))
    elif (_PROCESS / "status").exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
        held = float(found.group(1)) * 1024 if found else float("nan")
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
    most = torch.tensor([held], dtype=torch.float64, device=launch.device())
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most) / 1e6


def note(line: dict[str, float], timing: dict[str, float], steps_left: int) -> str:
    """What stands beside the progress bar."""
    left = timedelta(seconds=round(timing["seconds"] * steps_left))
    share = f"  {timing['of_peak']:.0%} of peak" if "of_peak" in timing else ""
    return f"loss {line['loss']:.4f}  {timing['tokens_per_s']:,.0f} tokens/s{share}  {left} left"
