"""What a source is: the one thing a new data set has to provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.records import Kind
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally


class Source(ABC):
    """A format that raw files come in.

    A source is picklable (worker processes read with it) and holds no open file. An *entry* is the unit in which its
    files are cut: a jet, a shower, or a collision event that gives any number of jets. Splits are made on runs of
    entries, so an event is never divided between them.

    A source with settings is a frozen dataclass: its fields, with their docstrings, are options of ``hepfm ingest``.

    Attributes:
        name: what a user calls it (``jetclass``).
        kind: the kind of record it gives.
        schema: what it provides, from :func:`hepfm.core.records.schema`.
        axis: the axis that deta and dphi refer to: ``stored``, ``constituent_sum``, or empty for showers.
        labels: every label name, in order: the dictionary of each batch's label column.
        geometry: of the calorimeter, for showers: plain data for the manifest.
        shares_events: neighbouring entries may belong to one collision (:meth:`keys` tells which).
    """

    name: str
    kind: Kind
    schema: pa.Schema
    axis: str = ""
    labels: tuple[str, ...] = ()
    geometry: dict[str, Any] | None = None
    shares_events: bool = False

    @classmethod
    @abstractmethod
    def recognises(cls, contents: Contents) -> bool:
        """Does a file with these contents look like this format? Judged by names and shapes alone."""

    def bind(self, files: Sequence[Path]) -> Source:
        """This source with all that the files decide (layout, what is provided, geometry) fixed.

        Raises:
            HepfmError: a file of another format, files that differ in layout, or settings that do not fit them.
        """
        return self

    def settings(self) -> dict[str, Any]:
        """Plain data: every setting that shapes the records. It is part of the corpus's identity."""
        return {}

    @abstractmethod
    def entries(self, path: Path) -> int:
        """Number of entries of a file.

        Raises:
            HepfmError: no such file, another format, truncated, or something that records need is missing from it.
        """

    def keys(self, path: Path) -> np.ndarray | None:
        """A 64-bit key (entries,) uint64 of each entry: what equal keys have in common must not come twice.

        For collision data it is made of run, luminosity block and event, so that jets of a collision share it and the
        same collision in two files is found; elsewhere of quantities whose bits tell one jet from any other.
        None if the format has nothing of the kind that is cheap to read. See :func:`hepfm.ingest.keys.key`.
        """
        return None

    @abstractmethod
    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Records of entries ``[start, stop)`` with this source's schema.

        ``source_entry`` holds the entry of each record; ``source_file`` is 0 (the builder fills it in).

        Args:
            path: the file.
            start, stop: range of entries.
            tally: is told the source's own cuts and bad entries; by default something bad is an error.

        Raises:
            HepfmError: the file is damaged; the message names it and the entry.
        """
