"""What a source is: the one thing a new data set has to provide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from hepfm.core.records import Kind


class Source(Protocol):
    """A format that raw files come in.

    A source is picklable (worker processes read with it) and holds no open file. An *entry* is the unit in which its
    files are cut: a jet, a shower, or a collision event that gives any number of jets. Splits are made on runs of
    entries, so an event is never divided between them.
    """

    @property
    def name(self) -> str:
        """What a user calls it (``jetclass``)."""
        ...

    @property
    def kind(self) -> Kind:
        """The kind of record it gives."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """What it provides, from :func:`hepfm.core.records.schema`."""
        ...

    @property
    def axis(self) -> str:
        """The axis that deta and dphi refer to: ``stored``, ``constituent_sum``, or empty for showers."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label name, in order: the dictionary of each batch's label column."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain data: every setting that shapes the records. It is part of the corpus's identity."""
        ...

    def entries(self, path: Path) -> int:
        """Number of entries of a file.

        Raises:
            HepfmError: no such file, another format, or something that records need is missing from it.
        """
        ...

    def read(self, path: Path, start: int, stop: int) -> pa.RecordBatch:
        """Records of entries ``[start, stop)`` with this source's schema.

        ``source_entry`` holds the entry of each record; ``source_file`` is 0 (the builder fills it in).

        Raises:
            HepfmError: the file is damaged; the message names it and the entry.
        """
        ...
