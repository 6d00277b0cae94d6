"""Jets of whole collision events, clustered with fastjet many events at a time."""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np

import hepfm.core.clustering  # noqa: F401  (keeps fastjet's banner off stdout)
from hepfm.ingest.formats.four_vectors import FourVectors


@dataclass(frozen=True)
class EventJets:
    """Jets in order of event and, within one, of descending pt.

    Attributes:
        event: (j,) event that a jet belongs to.
        rank: (j,) 0 for the jet of highest pt of its event, and so on.
        offsets: (j + 1,) particles of jet i are ``particle[offsets[i]:offsets[i + 1]]``.
        particle: indices of particles.
    """

    event: np.ndarray
    rank: np.ndarray
    offsets: np.ndarray
    particle: np.ndarray

    def select(self, kept: np.ndarray) -> EventJets:
        """The jets for which ``kept`` (j,) is true."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[kept])])
        return EventJets(self.event[kept], self.rank[kept], offsets, self.particle[np.repeat(kept, lengths)])


def cluster(particles: FourVectors, radius: float, min_pt: float) -> EventJets:
    """Anti-kt jets (E scheme; arXiv:0802.1189) of events.

    Args:
        particles: of all events; event i owns ``offsets[i]:offsets[i + 1]``. All finite.
        radius: of the jets.
        min_pt: least transverse momentum of a jet [GeV].
    """
    names = ["px", "py", "pz", "E"]
    parts = (particles.px, particles.py, particles.pz, particles.energy)
    content = ak.contents.RecordArray([ak.contents.NumpyArray(part) for part in parts], names)
    content.parameters["__record__"] = "Momentum4D"
    events = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(particles.offsets), content))
    sequence = fastjet.ClusterSequence(events, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    found = sequence.inclusive_jets(min_pt=min_pt)
    members = ak.flatten(sequence.constituent_index(min_pt=min_pt), axis=1)
    event = np.repeat(np.arange(len(events)), ak.to_numpy(ak.num(found)))
    lengths = ak.to_numpy(ak.num(members))
    # fastjet counts particles within their event.
    particle = ak.to_numpy(ak.flatten(members)).astype(np.int64) + np.repeat(particles.offsets[event], lengths)
    flat = ak.flatten(found)
    return _ordered(event, np.hypot(ak.to_numpy(flat.px), ak.to_numpy(flat.py)), lengths, particle)


def _ordered(event: np.ndarray, pt: np.ndarray, lengths: np.ndarray, particle: np.ndarray) -> EventJets:
    order = np.lexsort((-pt, event))
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    # Particle k of jet i, in the new order, stood at starts[order[i]] + k.
    taken = np.arange(offsets[-1]) + np.repeat(starts[order] - offsets[:-1], lengths[order])
    first = np.searchsorted(event, event)
    return EventJets(event, np.arange(len(event)) - first, offsets, particle[taken])
