"""Several transfers at once, under one progress bar: a failure is told at the end, Ctrl-C ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from hepfm.core.errors import HepfmError
from hepfm.core.progress import Task

# Moves one thing: told the bytes gained through the first argument, asked to end through the second.
Transfer = Callable[[Callable[[int], None], threading.Event], object]

GIVE_UP = 8  # failures; then it is the network or the server, not a file


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

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(transfer, advance, stop) for transfer in transfers]
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
            pool.shutdown(wait=True, cancel_futures=True)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise HepfmError(f"{len(failed)} of {len(transfers)} downloads failed, first: {failed[0]}")
