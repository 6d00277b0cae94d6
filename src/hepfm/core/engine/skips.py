"""Batches that a run leaves out because they gave a loss or a gradient that is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, write_json
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder


class RollBack(Exception):
    """Go on from the last whole checkpoint."""


class Skips:
    """The run's skipped.json: batch b holds the records at positions [b * batch_records, (b + 1) * batch_records).

    The file is written before the run goes back, and is never shortened: whatever interrupts the run later, update s
    uses the s-th batch that is not listed, on each way through it.
    """

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path / "skipped.json"
        self.entries: list[dict[str, Any]] = launch.on_main(lambda: _read(self._path))

    def batch(self, step: int) -> int:
        """Which batch update ``step`` (from 0) uses."""
        for left_out in sorted(entry["batch"] for entry in self.entries):
            step += step >= left_out
        return step

    def add(self, step: int, records: int, figures: dict[str, float], allowed: int) -> None:
        """Leave out the batch of update ``step`` (from 0), which holds ``records`` records and gave ``figures``.

        Raises:
            RollBack: in every process, once the file is written.
        """
        batch = self.batch(step)
        entry = {
            "step": step + 1,
            "batch": batch,
            "first_position": batch * records,
            "end_position": (batch + 1) * records,
            **{name: str(value) for name, value in figures.items()},  # JSON has no nan
        }
        self.entries.append(entry)
        launch.on_main(lambda: write_json(self._path, self.entries))
        if launch.is_main():
            say(
                f"{self._path}: not finite at step {step + 1}: back to the last checkpoint, without the records at "
                f"positions {batch * records} to {(batch + 1) * records - 1} ({len(self.entries)} of at most {allowed} "
                "such batches)"
            )
        raise RollBack


def _read(path: Path) -> list[dict[str, Any]]:
    entries = read_json(path) if path.exists() else []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and type(entry.get("batch")) is int and entry["batch"] >= 0 for entry in entries
    ):
        raise HepfmError(
            "does not list batches that were left out",
            path,
            "put back the file that the run wrote, or start a new run: without it other batches would be used",
        )
    return entries
