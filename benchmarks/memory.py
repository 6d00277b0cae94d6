"""Memory of a piece of work: what its process holds beyond the page cache."""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

INTERVAL_S = 0.005
_STATUS = Path("/proc/self/status")


def peak_anonymous_mb(call: Callable[[], object]) -> float:
    """Peak of the anonymous resident memory [MB] of a fresh process while it does ``call``; NaN outside Linux.

    Pages of mapped files are not counted: they are the page cache's.

    Args:
        call: picklable.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(call, theirs))
    process.start()
    theirs.close()
    try:
        return float(mine.recv())
    except EOFError as error:
        raise RuntimeError("the work failed; its traceback is above") from error
    finally:
        process.join()


def _run(call: Callable[[], object], report: Connection) -> None:
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_S):
            peak[0] = max(peak[0], _anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
        report.send(max(peak[0], _anonymous_mb()))
    finally:
        done.set()
        watcher.join()


def _anonymous_mb() -> float:
    if not _STATUS.is_file():
        return float("nan")
    found = re.search(r"RssAnon:\s+(\d+) kB", _STATUS.read_text())
    return int(found.group(1)) / 1024 if found else float("nan")
