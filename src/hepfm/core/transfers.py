"""Several transfers at once, under one progress bar: a failure is told at the end, Ctrl-C ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed, wait
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from hepfm.core.errors import HepfmError
from hepfm.core.progress import Task

# Moves one thing: told the bytes gained through the first argument, asked to end through the second.
Transfer = Callable[[Callable[[int], None], threading.Event], object]

ResultT = TypeVar("ResultT")

GIVE_UP = 8  # failures; then it is the network or the server, not a file
LEAVE_AFTER_S = 2.0  # one that was asked to end may hang on a silent server for a minute: it is left behind


def begin_all(calls: Sequence[Callable[[], ResultT]], jobs: int) -> list[Future[ResultT]]:
    """Call each in a thread, at most ``jobs`` at once; nobody waits for these threads when the process ends."""
    waiting: SimpleQueue[tuple[Future[ResultT], Callable[[], ResultT]]] = SimpleQueue()
    futures: list[Future[ResultT]] = []
    for call in calls:
        futures.append(Future())
        waiting.put((futures[-1], call))
    for _ in range(min(jobs, len(calls))):
        threading.Thread(target=_work, args=(waiting,), name="transfer", daemon=True).start()
    return futures


def _work(waiting: SimpleQueue[tuple[Future[ResultT], Callable[[], ResultT]]]) -> None:
    while True:
        try:
            future, call = waiting.get_nowait()
        except Empty:
            return
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)  # whoever asks for the result gets it


def transfer_all(transfers: Sequence[Transfer], jobs: int, bar: Task) -> None:
    """Run every transfer, at most ``jobs`` at once.

    One that fails does not hold up the others; after ``GIVE_UP`` failures the rest is not begun.

    Raises:
        HepfmError: of the one that failed; of several, how many, and the first.
    """
    stop, lock = threading.Event(), threading.Lock()
    failed: list[HepfmError] = []

    def advance(count: int) -> None:
        with lock:
            bar.advance(count)

    futures = begin_all([partial(transfer, advance, stop) for transfer in transfers], jobs)
    try:
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                continue
            if not isinstance(error, HepfmError):
                raise error
            failed.append(error)
            if len(failed) == GIVE_UP:
                break
    finally:
        stop.set()
        for future in futures:
            future.cancel()
        wait(futures, LEAVE_AFTER_S)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise HepfmError(f"{len(failed)} of {len(transfers)} downloads failed, first: {failed[0]}")
