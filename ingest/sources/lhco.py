"""The LHC Olympics 2020 (Zenodo 6466204, arXiv:2101.08320) as jet records: events clustered to jets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import tyro

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.progress import say
from hepfm.ingest.event_jets import EventJets, cluster
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.four_vectors import FourVectors, in_pt_order, kept_entries, origin
from hepfm.ingest.formats.lhco import FEATURES, PARTICLE_COLUMNS, FeatureFile, ParticleFile
from hepfm.ingest.formats.windows import OpenFiles, check_range
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

Unlabelled = Literal["unknown", "background", "signal"]

QUANTITIES = ("pt", "pt_constituents", "eta", "phi", "mass", "label", "event_id", "jet_index")
TAUS = ("tau1", "tau2", "tau3")
POINTS = ("pt", "deta", "dphi", "energy")
BACKGROUND = "QCD"
# As in the data set's own example; the trigger asks for 1,200 GeV.
MIN_JET_PT_GEV = 20.0
# Largest distance between a jet's momentum here and in the features file, as a share of it: roundings of float32.
TOLERANCE = 1e-3
CHECKED_EVENTS = 256
PIECE_EVENTS = 1_024
OPEN_FILES = 16
_FEATURE_WIDTHS = (len(FEATURES), len(FEATURES) + 1)
_PARTICLE_WIDTHS = tuple(PARTICLE_COLUMNS + others for others in (0, 1, *_FEATURE_WIDTHS))
# A table called "table" is the top-tagging landscape's.
_TABLE = re.compile(r"(?!table/)[^/]+/table")
_BLOCK = re.compile(r"[^/]+/block\d+_values")


@dataclass(frozen=True)
class LhcOlympicsSource(Source):
    """Reader of LHC Olympics events: an entry is an event and gives its leading anti-kt jets.

    Particles are massless (the files hold pt, eta, phi or px, py, pz alone; which of these is told by the numbers, not
    by the names: see ``hepfm.ingest.formats.lhco``). A jet is the sum of its constituents (axis
    ``constituent_sum``, E scheme): pt, eta, phi and mass [GeV]; a mass that is but rounding (or of a negative square)
    is 0. ``event_id`` is the event's entry in its file, ``jet_index`` counts its jets from the highest pt. Events
    with fewer jets above 20 GeV than asked for are left out and counted.
    """

    radius: float = 1.0
    """Radius of the anti-kt jets."""
    jets: int = 2
    """Jets of an event to keep, the highest in pt; events with fewer (above 20 GeV) are left out."""
    signal_label: str = "signal"
    """Name of the label of signal events; that of background is QCD."""
    unlabelled: Unlabelled = "unknown"
    """Class of events in files without a label column: background for the extra QCD sample, unknown for black boxes."""
    features: Path | None = None
    """Features file of the events (*.features.h5, or the extra QCD sample itself), in the same order: adds tau1 to
    tau3. Jets have to agree with its jets to 0.1% of their momentum. For one file of events, 2 jets, radius 1."""
    features_sha256: Annotated[str, tyro.conf.Suppress] = ""
    """Checksum of the features file (found)."""

    name = "lhco"
    kind = "jets"
    axis = "constituent_sum"

    def __post_init__(self) -> None:
        taus = TAUS if self.features else ()
        object.__setattr__(self, "schema", records.schema("jets", POINTS, QUANTITIES + taus))
        object.__setattr__(self, "labels", (BACKGROUND, self.signal_label))

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """True for features files as well, whose reading says where they belong."""
        if any(_TABLE.fullmatch(path) and "values_block_0" in fields for path, fields in contents.fields.items()):
            return True
        shapes = [shape for path, shape in contents.arrays.items() if _BLOCK.fullmatch(path)]
        return any(len(shape) == 2 and shape[1] in _PARTICLE_WIDTHS + _FEATURE_WIDTHS for shape in shapes)

    def bind(self, files: Sequence[Path]) -> LhcOlympicsSource:
        """Check the options, tell what the files' numbers are, and check that the features file belongs to the events.

        Raises:
            HepfmError: impossible options; a bad file; a features file of other events.
        """
        if not self.radius > 0:
            raise HepfmError("must be above 0", "--radius")
        if self.jets < 1:
            raise HepfmError("must be at least 1", "--jets")
        if self.signal_label == BACKGROUND:
            raise HepfmError("is the background's name", "--signal-label", "choose another")
        for path in files:
            opened = _PARTICLES.get(path)
            if opened.named not in (None, opened.coordinates):
                say(f"{path.name}: columns are called {opened.named} but hold {opened.coordinates}; read as these")
            if opened.unread:
                say(f"{path.name}: not read: {', '.join(opened.unread)}")
        return self if self.features is None else self._bind_features(self.features, files)

    def settings(self) -> dict[str, Any]:
        chosen = {
            "radius": self.radius,
            "jets": self.jets,
            "signal_label": self.signal_label,
            "unlabelled": self.unlabelled,
        }
        return chosen | ({"features": self.features_sha256} if self.features else {})

    def entries(self, path: Path) -> int:
        return _PARTICLES.get(path).entries

    def keys(self, path: Path) -> np.ndarray:
        """Of the bits of the event's two leading particles; the file has to be decoded once for it."""
        return _PARTICLES.get(path).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of events [start, stop), those of an event one after another in descending pt.

        Holds 1,024 events of 700 padded particles at a time.
        """
        tally = tally or Tally()
        check_range(path, start, stop, self.entries(path))
        bounds = [*range(start, max(stop, start + 1), PIECE_EVENTS), stop]
        return pa.concat_batches([self._read(path, *piece, tally) for piece in pairwise(bounds)])

    def _read(self, path: Path, start: int, stop: int, tally: Tally) -> pa.RecordBatch:
        opened = _PARTICLES.get(path)
        events = opened.read(start, stop)
        kept = np.flatnonzero(kept_entries(opened.faults(events), start, path, tally))
        particles = opened.vectors(events.particles[kept])
        found = self._leading(cluster(particles, self.radius, MIN_JET_PT_GEV), len(kept))
        tally.count(f"events with {self.jets} jets above {MIN_JET_PT_GEV:g} GeV", len(found.event) // self.jets)
        # Events from here on: places in [start, stop) of those that have their jets.
        event = kept[found.event]
        constituents = _taken(particles, found)
        points, jets = constituents.quantities()
        columns = {
            **jets,
            "label": self._label(events.label)[event],
            "event_id": start + event,
            "jet_index": found.rank,
            **origin(start + event),
        }
        strange = np.zeros(stop - start, dtype=bool)
        if self.features:
            features = _FEATURES.get(self.features).read(start, stop)
            order = _match(features, event, constituents)
            columns |= {name: features[name][event, order] for name in TAUS}
            strange[event[order < 0]] = True
        batch = jet_batch(self.schema, self.labels, found.offsets, in_pt_order(points, found.offsets), columns)
        good = kept_entries({"its jets are not those of the features file": strange}, start, path, tally)[event]
        return batch if good.all() else batch.filter(pa.array(good))

    def _leading(self, found: EventJets, events: int) -> EventJets:
        enough = np.bincount(found.event, minlength=events) >= self.jets
        return found.select(enough[found.event] & (found.rank < self.jets))

    def _label(self, label: np.ndarray) -> np.ndarray:
        """Index in ``labels`` (n,), -1 where it is unknown."""
        without = {"unknown": -1, "background": 0, "signal": 1}[self.unlabelled]
        return np.where(np.isnan(label), without, np.nan_to_num(label)).astype(np.int64)

    def _bind_features(self, features: Path, files: Sequence[Path]) -> LhcOlympicsSource:
        if len(files) != 1 or self.jets != len(FEATURES) // 7 or self.radius != 1:
            raise HepfmError(
                "a features file is for one file of events, 2 jets and radius 1",
                "--features",
                "leave it out, or build a corpus of each file and merge them",
            )
        events, found = _PARTICLES.get(files[0]).entries, _FEATURES.get(features).entries
        if events != found:
            raise HepfmError(f"has {found:,} events, {files[0].name} has {events:,}", features, "is it the right one?")
        bound = replace(self, features_sha256=sha256_file(features))
        tally = Tally(on_bad="skip")
        bound.read(files[0], 0, min(events, CHECKED_EVENTS), tally)
        if 2 * len(tally.rejected) > min(events, CHECKED_EVENTS):
            what = f"{len(tally.rejected)} of the first {min(events, CHECKED_EVENTS)} events are not those of"
            raise HepfmError(f"{what} {files[0].name}: {tally.rejected[0].what}", features, "is it the right one?")
        return bound


def _taken(particles: FourVectors, found: EventJets) -> FourVectors:
    px, py, pz, energy = (part[found.particle] for part in (particles.px, particles.py, particles.pz, particles.energy))
    return FourVectors(px, py, pz, energy, found.offsets)


def _match(features: dict[str, np.ndarray], event: np.ndarray, constituents: FourVectors) -> np.ndarray:
    """Which jet (j,) of the features file each jet is: 0 or 1; -1 for the jets of an event that disagree.

    Two jets of nearly the same pt may stand in either order.

    Args:
        features: (n, 2) by quantity, of n events.
        event: (j,) event of each jet; jets of an event stand in pairs.
        constituents: of the jets.
    """
    theirs = np.stack([features[name][event[::2]] for name in ("px", "py", "pz")], axis=2)
    sums = [
        np.add.reduceat(part, constituents.offsets[:-1]) if len(event) else np.zeros(0)
        for part in (constituents.px, constituents.py, constituents.pz)
    ]
    ours = np.stack(sums, axis=1).reshape(-1, 2, 3)
    order = np.full((len(ours), 2), -1)
    for wanted in ((1, 0), (0, 1)):
        distance = np.linalg.norm(ours - theirs[:, wanted], axis=2)
        near = (distance <= TOLERANCE * np.linalg.norm(ours, axis=2)).all(axis=1)
        order[near] = wanted
    return order.reshape(-1)


_PARTICLES = OpenFiles(OPEN_FILES, ParticleFile)
_FEATURES = OpenFiles(OPEN_FILES, FeatureFile)
