"""Inclusive QCD jets selected as those of AspenOpenJets, simulated, with pileup and PUPPI if wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hepfm.core import draws, observables
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of
from hepfm.core.observables import Constituents
from hepfm.core.records import Kind
from hepfm.ingest.formats.aspenopenjets import SCHEMA
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.particle_flow import collision_columns
from hepfm.ingest.gather import gather
from hepfm.ingest.simulate import pileup as overlaying
from hepfm.ingest.simulate import puppi
from hepfm.ingest.simulate.detector import CMS, detect
from hepfm.ingest.simulate.jets import RADIUS, Jets, cluster
from hepfm.ingest.simulate.numbering import numbered
from hepfm.ingest.simulate.particles import Candidates, wrapped
from hepfm.ingest.simulate.pileup import Pool, make_pool
from hepfm.ingest.simulate.processes import COMMON, Process
from hepfm.ingest.simulate.puppi import Vertices, puppi_weights
from hepfm.ingest.simulate.pythia import Generator, require_pythia, sequence_seed
from hepfm.ingest.simulate.simulation import Simulation

# Raised whenever the same settings give other jets than before.
SIMULATION_VERSION = 3

STREAM = "QCD"
MIN_PT_GEV = 300.0
MAX_ETA = 2.5
# Runs are numbered from 1 to this (CMS's have 32 bits).
MOST_RUN = 2**31 - 1
MAX_PILEUP = 200.0

QCD = Process(STREAM, ("HardQCD:all = on", "PhaseSpace:pTHatMin = 140.", "PhaseSpace:pTHatMax = -1."))
# An event is given up if it has no parton jet of this pt [GeV] once all emissions above this scale [GeV] are made.
VETO_SCALE_GEV = 20.0
VETO_PT_GEV = 260.0
_VETO_MIN_JET_GEV, _VETO_MAX_ETA = 20.0, 3.5

_EVENTS_PER_BATCH = 200


@dataclass(frozen=True)
class AspenOpenJetsJets(Simulation):
    """Inclusive QCD jets selected as AspenOpenJets: 13 TeV, anti-kt R = 0.8, pt > 300 GeV, abs(eta) < 2.5.

    All such jets of a collision, by falling pt; unweighted events; the last collision of a sequence may lack jets.
    CMS-like parametrised detector; PUPPI weights multiply the four-vectors and are kept. No trigger, no jet energy
    correction (pt is that of the constituents), no jet identification, no scores of a tagger.
    """

    name: ClassVar[str] = "pythia aspenopenjets"
    kind: ClassVar[Kind] = "jets"
    axis: ClassVar[str] = "stored"

    pileup: float = 0.0
    """Mean number of minimum-bias interactions in the same bunch crossing, Poisson-distributed (CMS in 2016: about 23
    to 25)."""

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    @property
    def formats(self) -> tuple[str, ...]:
        return ("aspenopenjets",)

    @property
    def streams(self) -> tuple[str, ...]:
        return (STREAM,)

    def check(self) -> None:
        if not (math.isfinite(self.pileup) and 0 <= self.pileup <= MAX_PILEUP):
            raise HepfmError(f"must be between 0 and {MAX_PILEUP:g}, is {self.pileup:g}", "--pileup")
        require_pythia()

    def settings(self) -> dict[str, Any]:
        return {
            "version": SIMULATION_VERSION,
            "seed": self.seed,
            "pileup": self.pileup,
            "puppi": "apply",  # what exports ask: the weights are multiplied into the four-vectors
            "physics": digest_of(_physics()),
            **{name: metadata.version(name) for name in ("pythia8mc", "fastjet")},
        }

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        return numbered(self._jets(stream, number), records)

    def _jets(self, stream: str, number: int) -> Iterator[pa.RecordBatch]:
        generator = Generator(QCD, sequence_seed(self.seed, stream, number=number), soft_event_veto())
        rng = draws.generator("detector", self.seed, stream, number)
        drawing = draws.generator("pileup", self.seed, stream, number)
        soft = sequence_seed("minimum bias", self.seed, stream, number=number)
        pool = make_pool(soft, overlaying.POOL_EVENTS) if self.pileup else None
        run = run_of(self.seed)
        first = 1
        while True:
            candidates, weights = self._batch(generator, pool, rng, drawing)
            jets = cluster(_weighted(candidates, weights), MIN_PT_GEV)
            jets = jets.select(np.abs(jets.eta) < MAX_ETA)
            yield records_of(jets, candidates, weights, (run, number), first)
            first += _EVENTS_PER_BATCH

    def _batch(
        self, generator: Generator, pool: Pool | None, rng: np.random.Generator, drawing: np.random.Generator
    ) -> tuple[Candidates, np.ndarray]:
        """Candidates of some events, those of PUPPI weight 0 left out, and their weights."""
        particles, _ = generator.events(_EVENTS_PER_BATCH)
        vertices = Vertices(np.zeros(0, dtype=np.int64), np.zeros(0))
        if pool is not None:
            particles, vertices = pool.overlay(particles, _EVENTS_PER_BATCH, self.pileup, drawing)
        candidates = detect(particles, rng, CMS)
        weights = puppi_weights(candidates, vertices)
        return candidates.take(weights > 0), weights[weights > 0]


def run_of(seed: int) -> int:
    """The run number of all collisions of a seed: those of two seeds are others, and can be read together. With and
    without pileup the hard collisions of a seed are the same, and so are their numbers."""
    return draws.key_of("run", seed) % MOST_RUN + 1


def records_of(
    jets: Jets, candidates: Candidates, weights: np.ndarray, block: tuple[int, int], first: int
) -> pa.RecordBatch:
    """Records with the schema of AspenOpenJets, by event and falling pt.

    tau1 to tau4: N-subjettiness about exclusive-kt axes, beta 1, R0 0.8 (CMS's: the same axes after one step of
    minimisation); soft drop: beta 0, zcut 0.1.

    Args:
        jets: of the weighted candidates.
        candidates: without their weights.
        weights: PUPPI weights (N,) of the candidates.
        block: run and luminosity block.
        first: number of the event that has index 0.
    """
    chosen, weight = candidates.take(jets.index), weights[jets.index]
    lengths = np.diff(jets.offsets)
    bare_pt = np.hypot(chosen.px, chosen.py)
    deta = np.arcsinh(chosen.pz / bare_pt) - np.repeat(jets.eta, lengths)
    dphi = wrapped(np.arctan2(chosen.py, chosen.px) - np.repeat(jets.phi, lengths))
    constituents = Constituents(bare_pt * weight, deta, dphi, jets.offsets)
    points = {
        "pt": constituents.pt,
        "deta": deta,
        "dphi": dphi,
        "energy": chosen.energy * weight,
        "d0": chosen.d0,
        "d0err": chosen.d0err,
        "dz": chosen.dz,
        "dzerr": chosen.dzerr,
        "charge": chosen.charge,
        "species": chosen.species,
        "puppi_weight": weight,
    }
    order = np.lexsort((-jets.pt, jets.event))
    count = len(order)
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count) - np.searchsorted(jets.event[order], jets.event[order])
    taus = observables.nsubjettiness(constituents, (1, 2, 3, 4), R0=RADIUS)
    mass_squared = jets.energy**2 - jets.px**2 - jets.py**2 - jets.pz**2
    columns = {
        "pt": jets.pt,
        "pt_constituents": jets.pt,
        "eta": jets.eta,
        "phi": jets.phi,
        "mass": np.sqrt(np.maximum(mass_squared, 0)),
        "softdrop_mass": observables.softdrop_mass(constituents, R=RADIUS),
        **{f"tau{n}": values for n, values in taus.items()},
        **collision_columns(np.full(count, block[0]), np.full(count, block[1]), first + jets.event),
        "jet_index": rank,
        "source_file": np.zeros(count),
        "source_entry": np.arange(count),
    }
    return gather(jet_batch(SCHEMA, (), jets.offsets, points, columns), order)


def _weighted(candidates: Candidates, weights: np.ndarray) -> Candidates:
    vector = {name: getattr(candidates, name) * weights for name in ("px", "py", "pz", "energy")}
    return Candidates(**{**vars(candidates), **vector})


def soft_event_veto() -> Any:
    """Hooks that make Pythia give up events without a hard jet before their costly, soft part is generated.

    What is given up costs almost nothing, so that pTHat can begin far below the jets' pt. Of 1,612 jets above 300 GeV
    that were made with the threshold at 230 GeV, 0.2% came from events without a parton jet of 260 GeV (0.3% of those
    below 330 GeV; at 270 GeV it would be 0.8%). Of 2,720 jets made from pTHat = 100 GeV on, 0.1% came from below
    140 GeV.
    """
    module = require_pythia()

    class Veto(module.UserHooks):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            # Anti-kt, of all final partons, real masses; by Pythia's own clustering, as fjcore prints a banner.
            self._jets = module.SlowJet(-1, RADIUS, _VETO_MIN_JET_GEV, _VETO_MAX_ETA, 1, 2, None, False)

        def canVetoPT(self) -> bool:
            return True

        def scaleVetoPT(self) -> float:
            return VETO_SCALE_GEV

        def doVetoPT(self, _position: int, event: Any) -> bool:
            self._jets.analyze(event)
            return self._jets.sizeJet() == 0 or self._jets.pT(0) < VETO_PT_GEV

    return Veto()


def _physics() -> dict[str, Any]:
    """The constants that shape the records."""
    return {
        "processes": [asdict(process) for process in (QCD, overlaying.MINIMUM_BIAS)],
        "common": COMMON,
        "veto": [VETO_SCALE_GEV, VETO_PT_GEV, _VETO_MIN_JET_GEV, _VETO_MAX_ETA],
        "pileup": [overlaying.SIGMA_Z_MM, overlaying.POOL_EVENTS, overlaying.MAX_ETA],
        "puppi": [puppi.R0, puppi.MIN_DISTANCE, puppi.MIN_WEIGHT, puppi.NEUTRAL_PT_GEV, puppi.NEUTRAL_PT_SLOPE_GEV],
        "vertices": [puppi.COMPATIBLE, puppi.VERTEX_TRACKS],
        "hard": [puppi.HARD_TRACK_GEV, *puppi.HARD_NEUTRAL_GEV],
        "selection": [MIN_PT_GEV, MAX_ETA, RADIUS, _EVENTS_PER_BATCH],
    }
