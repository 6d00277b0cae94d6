"""Constants of the quark-gluon data sets of EnergyFlow (Zenodo 3164691, 3066475; arXiv:1810.05165)."""

from __future__ import annotations

import numpy as np

from hepfm.core.records import SPECIES

# PDG ids of stable generated particles: charge [e] of the id itself (not of its antiparticle), species.
_PARTICLES = {
    22: (0, "photon"),
    11: (-1, "electron"),
    13: (-1, "muon"),
    130: (0, "neutral_hadron"),
    2112: (0, "neutral_hadron"),
    211: (1, "charged_hadron"),
    321: (1, "charged_hadron"),
    2212: (1, "charged_hadron"),
}
_IDS = np.array(sorted(_PARTICLES))
_CHARGES = np.array([_PARTICLES[number][0] for number in _IDS.tolist()], dtype=np.int8)
_SPECIES = np.array([SPECIES.index(_PARTICLES[number][1]) for number in _IDS.tolist()], dtype=np.int8)


def charge_and_species(pdg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Charge (N,) int8 and index in ``records.SPECIES`` (N,) int8 of PDG ids (N,); species -1 for an unknown id."""
    size = np.abs(pdg)
    place = np.minimum(np.searchsorted(_IDS, size), len(_IDS) - 1)
    known = _IDS[place] == size  # False for NaN
    charge = np.where(known, _CHARGES[place] * np.sign(pdg), 0).astype(np.int8)
    return charge, np.where(known, _SPECIES[place], -1).astype(np.int8)
