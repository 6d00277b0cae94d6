"""JetClass-II's jets, simulated: resonances of free mass and QCD, by the data set's 188 labels.

Labels follow the rules of the data set's production code (:mod:`.resonance_labels`, :mod:`.qcd_labels`). What differs:

- no pileup, where JetClass-II has 50 collisions a crossing on average, and so no PUPPI; its jets have 0.83-0.92 of the
  pt of the generated jet, these 0.96-0.97 (medians of the parts; 100 public jets);
- hard processes: pairs of X from two gluons, drawn in :mod:`.resonance_events`, instead of MadGraph's 2HDM; masses are
  continuous, and the two jets of an event follow one another in a sequence;
- QCD: one run biased in pt (:mod:`.qcd_events`) instead of runs of many thresholds, and Pythia's own parton densities;
- jets between 120 and 200 GeV, which JetClass-II keeps and Sophon does not train on, are not made;
- files have no list of generated particles (``genpart_*``), and of ``aux_genpart_*`` X and Y only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hepfm.core import draws
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of
from hepfm.core.records import Kind
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass2 import GENERATOR_SCHEMA, LABELS
from hepfm.ingest.simulate import qcd_events, resonance_events, resonances
from hepfm.ingest.simulate.detector import detect
from hepfm.ingest.simulate.generator_level import generator_jets, resonance_columns
from hepfm.ingest.simulate.jets import Jets, cluster, quantities_of
from hepfm.ingest.simulate.numbering import numbered
from hepfm.ingest.simulate.particles import Particles, Quarks
from hepfm.ingest.simulate.pythia import require_pythia, sequence_seed
from hepfm.ingest.simulate.qcd_events import QcdGenerator
from hepfm.ingest.simulate.qcd_labels import qcd_labels
from hepfm.ingest.simulate.resonance_events import four_prong_modes, modes_for, two_prong_modes
from hepfm.ingest.simulate.resonance_labels import resonance_labels
from hepfm.ingest.simulate.resonances import ResonanceGenerator, Resonances
from hepfm.ingest.simulate.simulation import Simulation

# Raised whenever the same settings give other jets than before.
SIMULATION_VERSION = 3

MIN_PT_GEV, MAX_PT_GEV = 200.0, 2_500.0
MAX_ETA = 2.5

_MODES = {"Res2P": two_prong_modes, "Res34P": four_prong_modes}
ENRICHED = "QCDFlavour"
PARTS = (*_MODES, "QCD", ENRICHED)

_EVENTS_PER_BATCH = 100
# The rarest label that QCD gives at its natural rate comes once in some 10,000 events.
_FRUITLESS_BATCHES = 1_000

Labelling = Callable[[Jets], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class JetClass2Jets(Simulation):
    """JetClass-II's 188 labels: resonances X of 15-500 GeV to two products, or over two Y to four; and QCD.

    13 TeV, anti-kt R = 0.8, 200 < pt < 2,500 GeV, abs(eta) < 2.5, CMS-like parametrised detector. No pileup and no
    PUPPI, where JetClass-II has 50 collisions a crossing. Jets that hold too few of the decay products for a label are
    dropped.
    """

    name: ClassVar[str] = "pythia jetclass2"
    kind: ClassVar[Kind] = "jets"
    axis: ClassVar[str] = "stored"

    parts: tuple[str, ...] = PARTS
    """Parts: Res2P (15 labels), Res34P (146), QCD (27, at natural rates), QCDFlavour (27, with gluons that split to
    quarks more often)."""
    keep: tuple[str, ...] = ()
    """Labels to keep, like X_bb X_YY_bbcq QCD_cc; default all."""

    @property
    def schema(self) -> pa.Schema:
        return GENERATOR_SCHEMA

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS

    @property
    def formats(self) -> tuple[str, ...]:
        return ("jetclass2",)

    @property
    def streams(self) -> tuple[str, ...]:
        """The parts that have labels to keep."""
        return tuple(part for part in self.parts if self._kept & _labels_of_part(part))

    def check(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                raise HepfmError(f"'{name}' is no part", "--parts", f"parts: {', '.join(PARTS)}")
        for name in self.keep:
            if name not in LABELS:
                raise HepfmError(f"JetClass-II has no label '{name}'", "--keep", "they are like X_bb, X_YY_bbc, QCD_cc")
        if not self.streams or len(set(self.parts)) != len(self.parts):
            raise HepfmError("name at least one part that has the labels to keep, and each only once", "--parts")
        require_pythia()

    def settings(self) -> dict[str, Any]:
        return {
            "version": SIMULATION_VERSION,
            "parts": list(self.parts),
            "keep": list(self.keep),
            "seed": self.seed,
            "physics": digest_of(_PHYSICS),
            **{name: metadata.version(name) for name in ("pythia8mc", "fastjet")},
        }

    def identity(self, stream: str, number: int) -> str:
        # The other parts that are asked for do not change a sequence.
        settings = {**self.settings(), "parts": [stream], "keep": self._chosen(stream)}
        return digest_of({"simulation": self.name, "settings": settings, "sequence": [stream, number]})

    def batches(self, stream: str, number: int, records: int) -> Iterator[pa.RecordBatch]:
        return numbered(self._jets(stream, number), records)

    @property
    def _kept(self) -> set[str]:
        return set(self.keep or LABELS)

    def _chosen(self, part: str) -> list[str]:
        """The labels of a part that are asked for, in order; none if all are."""
        there = _labels_of_part(part)
        return [] if there <= self._kept else sorted(there & self._kept)

    def _jets(self, part: str, number: int) -> Iterator[pa.RecordBatch]:
        events = self._events(part, number)
        rng = draws.generator("detector", self.name, *self._key(part), number)
        kept = np.isin(LABELS, list(self._kept))
        fruitless = 0
        while fruitless < _FRUITLESS_BATCHES:
            particles, labelling, found = next(events)
            candidates = detect(particles, rng)
            jets = cluster(candidates, MIN_PT_GEV)
            jets = jets.select((jets.pt < MAX_PT_GEV) & (np.abs(jets.eta) < MAX_ETA))
            labels, sources = labelling(jets)
            chosen = (labels >= 0) & kept[labels]
            jets = jets.select(chosen)
            fruitless = 0 if chosen.any() else fruitless + 1
            points, columns = quantities_of(jets, candidates)
            columns["label"] = labels[chosen]
            truth, known = resonance_columns(found, sources[chosen])
            generated, there = generator_jets(jets, particles)
            columns |= truth | generated
            yield jet_batch(GENERATOR_SCHEMA, LABELS, jets.offsets, points, columns, known | there)
        raise HepfmError(f"no jet in {fruitless * _EVENTS_PER_BATCH:,} events", f"{part}, labels {' '.join(self.keep)}")

    def _key(self, part: str) -> tuple[object, ...]:
        """Names the random numbers of a part. Other labels, other jets: else two corpora might share jets unseen."""
        return (self.seed, part, *self._chosen(part))

    def _events(self, part: str, number: int) -> Iterator[tuple[Particles, Labelling, tuple[Resonances, ...]]]:
        key = (self.name, *self._key(part))
        seed = sequence_seed(*key, number=number)
        if part in _MODES:
            modes = modes_for(_MODES[part](), self._kept)
            resonant = ResonanceGenerator(modes, seed, draws.generator("hard events", *key, number), part)
            while True:
                particles, products, found = resonant.events(_EVENTS_PER_BATCH)
                yield particles, partial(resonance_labels, products=products), found
        qcd = QcdGenerator(part == ENRICHED, seed, part)
        while True:
            particles, quarks = qcd.events(_EVENTS_PER_BATCH)
            yield particles, partial(_labels_without_resonance, quarks=quarks), ()


def _labels_without_resonance(jets: Jets, quarks: Quarks) -> tuple[np.ndarray, np.ndarray]:
    return qcd_labels(jets, quarks), np.full(len(jets.event), -1)


def _labels_of_part(part: str) -> set[str]:
    if part in _MODES:
        return set().union(*(mode.labels for mode in _MODES[part]()))
    return {label for label in LABELS if label.startswith("QCD_")}


_PHYSICS = {
    "modes": {part: [asdict(mode) for mode in modes()] for part, modes in _MODES.items()},
    "resonances": [resonances.SETTINGS, resonance_events.RANGES],
    "qcd": [qcd_events.SETTINGS, qcd_events.ENRICHED],
}
