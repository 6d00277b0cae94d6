"""Generator-level columns of records: the jet of stable particles, and the resonances that a jet comes from."""

from __future__ import annotations

import numpy as np

from hepfm.core import observables
from hepfm.ingest.formats.jetclass2 import RESONANCES
from hepfm.ingest.simulate.jets import RADIUS, Jets, cluster, constituents_of, meetings
from hepfm.ingest.simulate.particles import NEUTRINOS, Particles
from hepfm.ingest.simulate.resonances import Resonances

MIN_PT_GEV = 50.0
_QUANTITIES = ("pdg_id", "pt", "eta", "phi", "mass")

Columns = dict[str, np.ndarray]


def generator_jets(jets: Jets, particles: Particles) -> tuple[Columns, Columns]:
    """Columns ``generator_jet_*`` (n,), and where each is known.

    The jet of stable particles but neutrinos (anti-kt, R = 0.8, pt above 50 GeV) that is nearest to the axis, if it is
    within 0.8; soft drop as for the jets themselves.
    """
    seen = np.isin(particles.event, jets.event) & ~np.isin(np.abs(particles.pdg), NEUTRINOS)
    particles = particles.take(seen)
    generated = cluster(particles, MIN_PT_GEV)
    jet, other = meetings(jets, generated.event)
    distance = jets.distance(jet, generated.eta[other], generated.phi[other])
    order = np.lexsort((-distance, jet))
    nearest = np.full(len(jets.event), -1)
    order = order[distance[order] < RADIUS]
    nearest[jet[order]] = other[order]  # of several, the last one stays: the nearest
    known = nearest >= 0
    matched, place = np.unique(nearest[known], return_inverse=True)
    chosen = np.zeros(len(generated.event), dtype=bool)
    chosen[matched] = True
    generated = generated.select(chosen)
    values = {
        "pt": generated.pt,
        "eta": generated.eta,
        "phi": generated.phi,
        "mass": generated.mass,
        "softdrop_mass": observables.softdrop_mass(constituents_of(generated, particles)),
    }
    columns = {}
    for name, value in values.items():
        columns[f"generator_jet_{name}"] = np.zeros(len(jets.event))
        columns[f"generator_jet_{name}"][known] = value[place]
    return columns, dict.fromkeys(columns, known)


def resonance_columns(resonances: tuple[Resonances, ...], source: np.ndarray) -> tuple[Columns, Columns]:
    """Columns ``resonance_*`` (n,) of jets from the resonances numbered ``source`` (n,), and where each is known.

    Args:
        resonances: X, and the two Y if there are any; nothing for jets without a resonance.
        source: number of the X of each jet.
    """
    columns, known = {}, {}
    for place, name in enumerate(RESONANCES):
        there = place < len(resonances)
        for quantity in _QUANTITIES:
            column = f"resonance_{name}_{quantity}"
            values = getattr(resonances[place], quantity)[source] if there else np.zeros(len(source))
            columns[column], known[column] = values, np.full(len(source), there)
    return columns, known
