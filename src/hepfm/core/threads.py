"""A few helper threads for work that runs outside the interpreter's lock: copies, Arrow's kernels, NumPy's draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import pyarrow as pa

Result = TypeVar("Result")
MOST = 4  # copying is bound by memory, which a few cores saturate


def threads() -> int:
    """Threads that may work at once, this one counted: as many as Arrow may use (``OMP_NUM_THREADS``), four at most."""
    return min(MOST, pa.cpu_count())


def in_background(call: Callable[[], Result]) -> Future[Result]:
    """Begin ``call`` in a helper thread."""
    return _helpers(os.getpid()).submit(call)


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of all calls, made at once: the last in this thread, each other in a helper thread."""
    begun = [in_background(call) for call in calls[:-1]]
    last = [call() for call in calls[-1:]]
    return [future.result() for future in begun] + last


@cache
def _helpers(process: int) -> ThreadPoolExecutor:
    """The helper threads of a process: a fork does not inherit its parent's."""
    return ThreadPoolExecutor(MOST, thread_name_prefix=f"hepfm-{process}")
