"""SIGTERM and SIGUSR1 before training has begun: nothing is lost, so the process ends at once and asks to come again.

A handler of Python's alone would wait until the main thread comes back from what it is in (the import of torch, the
meeting of all processes), which may be longer than a queue waits before it kills.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL: the same command again continues
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def requeue_on_signals() -> None:
    """From now on these signals end the process with exit code 75, wherever it is, until another handler is set.

    Only the first call, in the main thread, does anything.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(SIGNALS[0]) is _in_python:
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)  # written to by the C handler itself
    for number in SIGNALS:
        signal.signal(number, _in_python)
    threading.Thread(target=_listen, args=(reading, writing), name="early signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a launcher may hold them back until now


def hold_signals() -> None:
    """Hold these signals back in a new process until :func:`requeue_on_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _listen(reading: socket.socket, _writing: socket.socket) -> None:
    while number := reading.recv(1):
        if number[0] in SIGNALS and signal.getsignal(number[0]) is _in_python:
            _end()


def _in_python(_number: int, _frame: FrameType | None) -> None:
    _end()


def _end() -> None:
    sys.stdout.flush()
    os.write(2, b"hepfm: stopped by a signal while not training; the same command continues\n")
    os._exit(REQUEUE)
