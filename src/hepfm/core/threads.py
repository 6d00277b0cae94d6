"""A few helper threads for work that runs outside the interpreter's lock: copies, Arrow's kernels, NumPy's draws."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Protocol, TypeVar

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


class Forked(Protocol):
    """What has locks, or work in helper threads, that a forked child can neither release nor finish."""

    def begin_anew(self) -> None:
        """Replace them: called first thing in the child."""


def renewed_in_forks(owner: Forked) -> None:
    """Let every child that is forked from now on begin with ``owner.begin_anew()``."""
    _FORKED.add(owner)


_FORKED: weakref.WeakSet[Forked] = weakref.WeakSet()


def _begin_anew() -> None:
    for owner in list(_FORKED):
        owner.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


@cache
def _helpers(process: int) -> ThreadPoolExecutor:
    """The helper threads of a process: a fork does not inherit its parent's."""
    return ThreadPoolExecutor(MOST, thread_name_prefix=f"hepfm-{process}")
