"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_INTERVAL_S = 10.0


def say(message: str) -> None:
    """One line for the user, on stderr: stdout stays free for results."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class Task:
    """A piece of work with a known length. ``advance`` moves it on, ``note`` shows figures beside it."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self.text = ""

    def advance(self, count: int = 1) -> None:
        self.done += count

    def note(self, text: str) -> None:
        self.text = text


class _BarTask(Task):
    def __init__(self, description: str, total: int, unit: str, progress: Progress) -> None:
        super().__init__(description, total, unit)
        self._progress = progress
        self._id = progress.add_task(description, total=total, unit=unit, text="")

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self._progress.update(self._id, completed=self.done)

    def note(self, text: str) -> None:
        super().note(text)
        self._progress.update(self._id, text=text)


class _LineTask(Task):
    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        self._started = self._last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_S and self.done < self.total:
            self._last = now
            self.line()

    def line(self) -> None:
        seconds = time.monotonic() - self._started
        share = 100 * self.done / self.total if self.total else 100
        rate = self.done / seconds if seconds else 0.0
        text = f"  {self.text}" if self.text else ""
        say(
            f"{self.description}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f}%)"
            f"  {seconds:.0f} s  {rate:,.1f}/s{text}"
        )


@contextmanager
def progress(description: str, total: int, unit: str, visible: bool = True) -> Iterator[Task]:
    """Show the progress of ``total`` units of work.

    Args:
        description: what is being done ("ingest", "pretrain").
        total: how many units there are.
        unit: what one unit is ("entries", "steps").
        visible: False on ranks other than the first.
    """
    if not visible:
        yield Task(description, total, unit)
    elif sys.stderr.isatty():
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
            yield _BarTask(description, total, unit, bar)
    else:
        task = _LineTask(description, total, unit)
        yield task
        task.line()
