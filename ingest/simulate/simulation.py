"""What a simulation is: the one thing a new simulated sample has to provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of
from hepfm.core.records import Kind

# Files or shards of one simulation: all are planned and listed before the first is made.
MOST_PIECES = 100_000


@dataclass(frozen=True)
class Simulation(ABC):
    """Records made by a program instead of read from files.

    A simulation is picklable (worker processes make records with it). Its fields, with their docstrings, are options of
    its command. Records come in *sequences*, each named by a stream (a class of jets, a kind of particle) and a number.

    Attributes:
        name: what a user calls it (``pythia jetclass``).
        kind: the kind of record it gives.
        schema: what it provides, from :func:`hepfm.core.records.schema`.
        axis: the axis that deta and dphi refer to, for jets.
        labels: every label name, in order: the dictionary of each batch's label column.
        formats: the raw formats (``hepfm.ingest.export.raw_files``) that its records can be written in.
        geometry: of the calorimeter, for showers: plain data for the manifest.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    axis: ClassVar[str] = ""

    seed: int = 1
    """Same seed, same records, whatever the number of processes. Corpora that are to be used together, one to train and
    the other to test, need different seeds."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema: ...

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    @property
    def formats(self) -> tuple[str, ...]:
        return ()

    @property
    def geometry(self) -> dict[str, Any] | None:
        return None

    @property
    @abstractmethod
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that records are asked of."""

    @abstractmethod
    def check(self) -> None:
        """See that records can be made, before any work.

        Raises:
            HepfmError: settings that are impossible, or a program that is not installed.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain data: every setting that shapes the records, and what stands for the physics and its programs."""

    @abstractmethod
    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        """The first ``records`` records of a sequence, with this simulation's schema.

        They depend on this simulation's settings, the stream and the number alone; asked for more, a sequence begins
        with the same records. ``source_file`` is 0 (whoever writes them fills it in), ``source_entry`` rises.

        Raises:
            HepfmError: the settings give no records.
        """

    def identity(self, stream: str, number: int) -> str:
        """SHA-256 that tells a sequence from any other: the same records never come from two of them."""
        return digest_of({"simulation": self.name, "settings": self.settings(), "sequence": [stream, number]})


def check_pieces(pieces: int, what: str, option: str) -> None:
    """See that a simulation is not cut into more files or shards than a folder should hold.

    Raises:
        HepfmError: more than 100,000 ``what``; ``option`` makes them larger.
    """
    if pieces > MOST_PIECES:
        raise HepfmError(
            f"would be {pieces:,} {what}, at most {MOST_PIECES:,} are made",
            "--records",
            f"give fewer, or larger {option}",
        )


def sequence_name(stream: str, number: int) -> str:
    """Name of a sequence, and the stem of its raw file."""
    return f"{stream}_{number:03d}"
