"""What becomes of entries on their way to records: how many pass each cut, and which are refused and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hepfm.core.errors import HepfmError

OnBad = Literal["stop", "skip"]


@dataclass(frozen=True)
class Rejected:
    """An entry that was refused: its file (index into the list of sources), and what is wrong with it."""

    file: int
    entry: int
    what: str


@dataclass
class Tally:
    """The cut flow of a stretch of entries, and the entries that were refused in it.

    A reader tells it what it finds; whether something bad stops the build or is left out is decided here alone.

    Attributes:
        on_bad: ``stop`` or ``skip``.
        flow: counts by name, in the order in which they were first told.
        rejected: the refused entries; the builder lists them beside the corpus.
        file: index of the file that is being read; the builder sets it.
    """

    on_bad: OnBad = "stop"
    flow: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    file: int = 0

    def count(self, name: str, number: int) -> None:
        """Add to a count: what is left after a cut, or how often something happened."""
        self.flow[name] = self.flow.get(name, 0) + int(number)

    def reject(self, what: str, entries: np.ndarray, path: Path) -> None:
        """Refuse entries; the caller leaves out the records of these.

        Args:
            what: what is wrong ("a candidate index lies outside its table").
            entries: (n,) entries of the file; nothing happens if there is none.
            path: the file.

        Raises:
            HepfmError: ``on_bad`` is ``stop``; names the file and the first entry.
        """
        if not len(entries):
            return
        if self.on_bad == "stop":
            raise HepfmError(what, f"{path}, entry {int(entries[0])}", "--on-bad skip leaves such entries out")
        self.count(f"rejected: {what}", len(entries))
        self.rejected += [Rejected(self.file, entry, what) for entry in np.asarray(entries).tolist()]
