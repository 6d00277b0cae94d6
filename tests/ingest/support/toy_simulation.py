"""A simulation for tests: JetClass-like records of random numbers, in no time, without any program."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hepfm.core import draws
from hepfm.core.errors import HepfmError
from hepfm.core.records import Kind
from hepfm.ingest.formats import jetclass
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.simulate.numbering import numbered
from hepfm.ingest.simulate.simulation import Simulation
from hepfm.ingest.workers import moved

BATCH = 25


@dataclass(frozen=True)
class ToySimulation(Simulation):
    """Jets of a class and their constituents come from a generator named by (seed, class, number)."""

    name: ClassVar[str] = "toy"
    kind: ClassVar[Kind] = "jets"
    axis: ClassVar[str] = "stored"

    classes: tuple[str, ...] = ("QCD", "Tbqq")
    """Classes."""
    impossible: bool = False
    """Whether the settings are refused."""

    @property
    def schema(self) -> pa.Schema:
        return jetclass.SCHEMA

    @property
    def labels(self) -> tuple[str, ...]:
        return jetclass.LABELS

    @property
    def formats(self) -> tuple[str, ...]:
        return ("jetclass",)

    @property
    def streams(self) -> tuple[str, ...]:
        return self.classes

    def check(self) -> None:
        if self.impossible:
            raise HepfmError("cannot be simulated", "--impossible")

    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "classes": list(self.classes)}

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        return numbered(self._endless(stream, number), records)

    def _endless(self, stream: str, number: int) -> Iterator[pa.RecordBatch]:
        rng = draws.generator("toy", self.seed, stream, number)
        while True:
            yield self._batch(rng, stream)

    def _batch(self, rng: np.random.Generator, stream: str) -> pa.RecordBatch:
        lengths = rng.integers(1, 9, BATCH)
        pt = np.sort(rng.exponential(50, (BATCH, 8)).astype(np.float32) + 1)[:, ::-1]
        points = {name: rng.normal(0, 0.1, lengths.sum()) for name in ("deta", "dphi", "d0", "dz")}
        points["pt"] = pt[np.arange(8) < lengths[:, None]]
        points["energy"] = 2 * points["pt"]
        points["charge"] = points["species"] = np.zeros(lengths.sum())
        points["d0err"] = points["dzerr"] = points["d0"]
        jets = {name: rng.uniform(0.1, 1, BATCH) for name in ("tau1", "tau2", "tau3", "tau4", "eta", "phi")}
        jets |= {name: rng.uniform(50, 100, BATCH) for name in ("pt", "mass", "softdrop_mass")}
        jets["pt_constituents"] = jets["pt"]
        jets["label"] = np.full(BATCH, jetclass.LABELS.index(stream))
        jets |= {"source_file": np.zeros(BATCH), "source_entry": np.zeros(BATCH)}
        return jet_batch(jetclass.SCHEMA, jetclass.LABELS, np.concatenate(([0], np.cumsum(lengths))), points, jets)


@dataclass(frozen=True)
class KillingSimulation(ToySimulation):
    """Kills its process after so many batches of each sequence, except of those numbered below ``spared``."""

    after: int = 1
    spared: int = 0

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        for count, batch in enumerate(super().batches(stream, number, records)):
            if number >= self.spared and count == self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def square_in_steps(item: int) -> int:
    """Work that tells how far it is."""
    for _ in range(item):
        moved(1)
    return item**2
