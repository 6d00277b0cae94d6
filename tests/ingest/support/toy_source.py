"""A source for tests: a file is a line of JSON that says how many entries it has and of which class.

In a module of its own, so that worker processes can import it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.draws import hashed_uniform
from hepfm.core.errors import HepfmError
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

LABELS = ("qcd", "top", "higgs")
SCHEMA = records.schema("jets", ("pt", "deta", "dphi", "d0", "species"), ("pt", "eta", "label"))


@dataclass(frozen=True)
class ToySource(Source):
    """Jets whose every value is a function of (file's seed, entry, constituent)."""

    name: str = "toy"
    kind: records.Kind = "jets"
    axis: str = "stored"
    labels: tuple[str, ...] = LABELS
    schema: pa.Schema = SCHEMA

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return False

    def entries(self, path: Path) -> int:
        return self._header(path)["entries"]

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        header = self._header(path)
        entry = np.arange(start, stop)
        if header.get("events"):  # an event gives none, one or two jets
            entry = np.repeat(entry, entry % 3)
        seed, n = header["seed"], len(entry)
        copy = np.arange(n)
        lengths = (1 + 8 * hashed_uniform(seed, entry, copy - copy)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rank = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        of = np.repeat(entry, lengths)

        def draw(number: int) -> np.ndarray:
            return hashed_uniform(seed + number, of, rank).astype(np.float32)

        species = np.floor(5 * draw(4)).astype(np.int8)
        constituents = [
            pa.array((100 / (1 + rank)).astype(np.float32)),
            pa.array(draw(1) - np.float32(0.5)),
            pa.array(draw(2) - np.float32(0.5)),
            pa.array(draw(3), mask=species == 1),
            pa.DictionaryArray.from_arrays(pa.array(species), pa.array(records.SPECIES)),
        ]
        item = self.schema.field("constituents").type
        points = pa.StructArray.from_arrays(constituents, fields=list(item.value_type))
        label = np.full(n, LABELS.index(header["label"]), dtype=np.int16)
        pt = (500 + 500 * hashed_uniform(seed + 5, entry)).astype(np.float32)
        pt[entry == header.get("bad", -1)] = np.nan
        columns = [
            pa.ListArray.from_arrays(pa.array(offsets), points, type=item),
            pa.array(pt),
            pa.array((4 * hashed_uniform(seed + 6, entry) - 2).astype(np.float32)),
            pa.DictionaryArray.from_arrays(pa.array(label), pa.array(LABELS)),
            pa.array(np.zeros(n, dtype=np.int32)),
            pa.array(entry.astype(np.int64)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _header(self, path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise HepfmError("is not a toy file", path) from error


@dataclass(frozen=True)
class DyingSource(ToySource):
    """Kills the worker process that reads with it."""

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        assert multiprocessing.parent_process() is not None, "would kill the test itself"
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class KillingSource(ToySource):
    """Kills the build whose worker reads with it, before one of that worker's reads and writes; the worker goes on."""

    events: int = 1

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        if not _EVENTS:
            fsync = os.fsync

            def counted(descriptor: int) -> None:
                self._count()
                fsync(descriptor)

            os.fsync = counted
        self._count()
        return super().read(path, start, stop, tally)

    def _count(self) -> None:
        _EVENTS.append(1)
        parent = multiprocessing.parent_process()
        assert parent is not None, "would kill the test itself"
        if len(_EVENTS) == self.events:
            assert parent.pid is not None
            os.kill(parent.pid, signal.SIGKILL)


_EVENTS: list[int] = []  # reads and writes of this worker process so far


@dataclass(frozen=True)
class GatedSource(ToySource):
    """Says that it begins to read, by a file, and then waits until another one is there."""

    begun: str = ""
    gate: str = ""

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        Path(self.begun).touch()
        while not Path(self.gate).exists():
            time.sleep(0.01)
        return super().read(path, start, stop, tally)


def write_files(folder: Path, entries: tuple[int, ...], **extra: Any) -> list[Path]:
    """Toy files of the given sizes, classes in turn; ``extra`` goes into the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, count in enumerate(entries):
        header = {"entries": count, "label": LABELS[number % len(LABELS)], "seed": 1000 * number}
        if number == len(entries) - 1:
            header.update(extra)
        files.append(folder / f"{number:03d}.toy")
        files[-1].write_text(json.dumps(header))
    return files
