"""The ten classes of JetClass, simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, ClassVar

import pyarrow as pa

from hepfm.core import draws
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of
from hepfm.core.records import Kind
from hepfm.ingest.formats import jetclass
from hepfm.ingest.simulate.detector import detect
from hepfm.ingest.simulate.jets import cluster, in_acceptance, matched, records_of
from hepfm.ingest.simulate.numbering import numbered
from hepfm.ingest.simulate.processes import COMMON, LABELS, Process, process_for
from hepfm.ingest.simulate.pythia import Generator, require_pythia, sequence_seed
from hepfm.ingest.simulate.simulation import Simulation
from hepfm.ingest.simulate.veto import early_veto

# Raised whenever the same settings give other jets than before.
SIMULATION_VERSION = 4

_EVENTS_PER_BATCH = 200
_FRUITLESS_BATCHES = 25


@dataclass(frozen=True)
class JetClassJets(Simulation):
    """JetClass's classes, each as its decay: 13 TeV, anti-kt R = 0.8, 500 < pt < 1000 GeV, abs(eta) < 2, no pileup.

    Jets of a resonance hold all its visible decay products within 0.8 of their axis. CMS-like parametrised detector.
    """

    name: ClassVar[str] = "pythia jetclass"
    kind: ClassVar[Kind] = "jets"
    axis: ClassVar[str] = "stored"

    classes: tuple[str, ...] = LABELS
    """Classes: QCD, Hbb, Hcc, Hgg, H4q, Hqql, Zqq, Wqq, Tbqq, Tbl."""

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
        for label in self.classes:
            process_for(label)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise HepfmError("name at least one class, and each only once", "--classes")
        require_pythia()

    def settings(self) -> dict[str, Any]:
        rows = {label: {**asdict(process_for(label)), "common": COMMON} for label in self.classes}
        return {
            "version": SIMULATION_VERSION,
            "classes": list(self.classes),
            "seed": self.seed,
            "physics": digest_of(rows),
            **{name: metadata.version(name) for name in ("pythia8mc", "fastjet")},
        }

    def identity(self, stream: str, number: int) -> str:
        # The other classes that are asked for do not change a sequence.
        row = {**asdict(process_for(stream)), "common": COMMON}
        settings = {**self.settings(), "classes": [stream], "physics": digest_of(row)}
        return digest_of({"simulation": self.name, "settings": settings, "sequence": [stream, number]})

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        return numbered(self._jets(process_for(stream), number), records)

    def _jets(self, process: Process, number: int) -> Iterator[pa.RecordBatch]:
        veto = early_veto(require_pythia(), process)
        generator = Generator(process, sequence_seed(self.seed, process.label, number=number), veto)
        rng = draws.generator("detector", self.seed, process.label, number)
        fruitless = 0
        while fruitless < _FRUITLESS_BATCHES:
            particles, partons = generator.events(_EVENTS_PER_BATCH)
            candidates = detect(particles, rng)
            jets = cluster(candidates)
            jets = jets.select(in_acceptance(jets))
            if process.products:
                jets = jets.select(matched(jets, partons, process.products))
            fruitless = 0 if len(jets.event) else fruitless + 1
            yield records_of(jets, candidates, process.label)
        raise HepfmError(f"no jet in {fruitless * _EVENTS_PER_BATCH:,} events", f"class {process.label}")
