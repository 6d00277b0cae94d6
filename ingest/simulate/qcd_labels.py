"""JetClass-II's names of QCD jets, from the quarks in a jet."""

from __future__ import annotations

import numpy as np

from hepfm.ingest.formats.jetclass2 import LABELS
from hepfm.ingest.simulate.jets import RADIUS, Jets, meetings
from hepfm.ingest.simulate.particles import Quarks

# Softer quarks do not count (production code of the data set, ``FatJetMatching``).
MIN_QUARK_PT_GEV = 10.0
# Flavours that are counted, by |PDG id|, in the order of the names; two of a kind or more are alike.
FLAVOURS = {"b": 5, "c": 4, "s": 3}
MOST = 2


def _name(counts: tuple[int, ...]) -> str:
    return "QCD_" + ("".join(flavour * count for flavour, count in zip(FLAVOURS, counts, strict=True)) or "light")


_LABEL = np.array([LABELS.index(_name(counts)) for counts in np.ndindex(*[MOST + 1] * len(FLAVOURS))])


def qcd_labels(jets: Jets, quarks: Quarks, radius: float = RADIUS) -> np.ndarray:
    """Index (n,) in JetClass-II's labels: how many b, c and s quarks each jet has, of each none, one, or more.

    Counted are quarks and antiquarks as they enter hadronisation (Pythia's status 71), with pt above 10 GeV, within
    ``radius`` of the jet's axis. A g -> b bbar of which one quark is too soft or too far gives ``QCD_b``.

    Args:
        jets: any jets.
        quarks: quarks about to hadronise, ordered by event.
        radius: how far from the axis a quark may be.
    """
    quarks = quarks.take((quarks.pt > MIN_QUARK_PT_GEV) & np.isin(np.abs(quarks.pdg), list(FLAVOURS.values())))
    jet, quark = meetings(jets, quarks.event)
    near = jets.distance(jet, quarks.eta[quark], quarks.phi[quark]) < radius
    label = np.zeros(len(jets.event), dtype=np.int64)
    for flavour in FLAVOURS.values():
        mine = near & (np.abs(quarks.pdg[quark]) == flavour)
        label = label * (MOST + 1) + np.minimum(np.bincount(jet[mine], minlength=len(label)), MOST)
    return _LABEL[label]
