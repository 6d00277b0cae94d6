"""Reasons to end before the last step: a queue's time limit, a loss that is no number, a device that is full."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from hepfm.core.engine import launch
from hepfm.core.engine.early import REQUEUE, SIGNALS
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json
from hepfm.core.runs import RunFolder


class Requeue(SystemExit):
    """Training stopped on request after a checkpoint; the process ends with exit code 75."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Tell on one line that torch got no memory; on a CPU it has no error of its own for that.

    Raises:
        HepfmError: so it was.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        parts = (part.split(": ")[-1] for part in str(error).split(". "))
        asked = next((part for part in parts if "ried to allocate" in part), "an allocation failed")
        raise HepfmError(
            f"not enough memory: {asked[0].lower()}{asked[1:]}",
            str(launch.device()),
            "raise --accumulation, take --activation-checkpointing True or a smaller network; "
            "hepfm pretrain --plan tells it beforehand",
        ) from error


class StopSignals:
    """While entered, SIGTERM and SIGUSR1 only set ``asked``, so that the step at hand is finished and saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def check_finite(run: RunFolder, step: int, positions: tuple[int, int], figures: dict[str, float]) -> None:
    """End the run if any of ``figures`` (the same in every process) is no number, telling which records did it.

    Raises:
        HepfmError: names the file that holds the positions.
    """
    if not all(map(math.isfinite, figures.values())):
        launch.on_main(lambda: _refuse(run, step, positions, figures))


def _refuse(run: RunFolder, step: int, positions: tuple[int, int], figures: dict[str, float]) -> None:
    path = run.path / f"nonfinite-step-{step:07d}.json"
    told = {name: str(value) for name, value in figures.items()}  # JSON has no nan
    write_json(path, {"step": step, "first_position": positions[0], "end_position": positions[1], **told})
    broken = " and ".join(sorted(name for name, value in figures.items() if not math.isfinite(value)))
    raise HepfmError(
        f"{broken} not finite at step {step}, records at positions {positions[0]} to {positions[1] - 1}",
        path,
        "look at these records, go on without them (--nonfinite rollback), or lower the learning rate in a new run",
    )
