"""JetClass-II's names of resonance jets, from the decay products that lie in a jet.

Rules as in the data set's public production code (jet-universe/jetclass2_generation, ``FatJetMatching``): a product of
X or of its daughters Y is in the jet if it leaves its decay (before it radiates) within 0.8 of the jet's axis.
X -> 2 products: both must be in the jet. X -> YY: three or four of the products must be, and the name spells these, in
whatever order; a neutrino from Y is never asked to be in the jet, but is part of the name. A tau counts as hadronic,
electron or muon by its decay; in the latter two cases its electron or muon must be in the jet. Where a list of products
is the name of no label (two leptonically decaying taus, a Y of which only one tau is in the jet, ...), that resonance
gives the jet no label. Of several resonances that would, the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations, product

import numpy as np

from hepfm.ingest.formats.jetclass2 import LABELS
from hepfm.ingest.simulate.jets import RADIUS, Jets, meetings, ranges
from hepfm.ingest.simulate.particles import Products

TAUS = ("tauh", "taue", "taum")
NEUTRINO = "v"
KINDS = ("b", "c", "s", "q", "g", "e", "m", *TAUS, NEUTRINO)
_SPELLING = re.compile("|".join(sorted(KINDS, key=len, reverse=True)))

# A list of products as one number: how often each kind is in it, a digit each, and whether there are daughters Y.
_PLACE = 5 ** np.arange(len(KINDS))
_IN_PAIRS = 5 ** len(KINDS)

# What |PDG id| is called. A tau is tauh until its decay is known.
_OF_PDG = {
    1: "q", 2: "q", 3: "s", 4: "c", 5: "b", 21: "g", 11: "e", 13: "m", 15: "tauh", 12: "v", 14: "v", 16: "v",
}  # fmt: skip
_KIND_OF_PDG = np.full(max(_OF_PDG) + 1, -1)
_KIND_OF_PDG[list(_OF_PDG)] = [KINDS.index(name) for name in _OF_PDG.values()]


def kinds_of(pdg: np.ndarray) -> np.ndarray:
    """Index in :data:`KINDS` (n,) of decay products with these PDG ids; all taus are ``tauh``."""
    return _KIND_OF_PDG[np.abs(pdg)]


def products_of(label: str) -> tuple[str, ...]:
    """The kinds of products, of :data:`KINDS`, that a label ``X_...`` spells."""
    return tuple(_SPELLING.findall(label.removeprefix("X_").removeprefix("YY_")))


def key_of_products(products: Iterable[str], in_pairs: bool) -> int:
    """The number that stands for a list of products in any order; ``in_pairs``: they come from daughters Y."""
    return sum(int(_PLACE[KINDS.index(name)]) for name in products) + _IN_PAIRS * in_pairs


_RESONANT = tuple(index for index, label in enumerate(LABELS) if label.startswith("X_"))
_KEYS = np.array([key_of_products(products_of(LABELS[i]), LABELS[i].startswith("X_YY_")) for i in _RESONANT])
_ORDER = np.argsort(_KEYS)


def labels_of(keys: np.ndarray) -> np.ndarray:
    """Index (n,) in JetClass-II's labels for numbers of :func:`key_of_products`; -1 where no label is spelled so."""
    at = np.minimum(np.searchsorted(_KEYS, keys, sorter=_ORDER), len(_KEYS) - 1)
    return np.where(_KEYS[_ORDER[at]] == keys, np.array(_RESONANT)[_ORDER[at]], -1)


def reachable(products: tuple[str, ...]) -> set[str]:
    """Labels that jets from X -> 2 or X -> YY -> 4 products can have; ``tau`` stands for any decay of a tau."""
    in_pairs = len(products) == 4
    found: set[int] = set()
    for kinds in product(*(TAUS if name == "tau" else (name,) for name in products)):
        seen = [kinds] + [kept for kept in combinations(kinds, 3) if in_pairs]
        keys = np.array([key_of_products(kept, in_pairs) for kept in seen])
        found |= set(labels_of(keys).tolist())
    return {LABELS[index] for index in found - {-1}}


def resonance_labels(jets: Jets, products: Products, radius: float = RADIUS) -> tuple[np.ndarray, np.ndarray]:
    """Label of each jet and the resonance it is from.

    Args:
        jets: any jets.
        products: decay products, ordered by event and resonance; ``resonance`` counts them from 0 without a gap.
        radius: how far from the axis a product may be.

    Returns:
        Index (n,) in JetClass-II's labels and number of the resonance (n,), both -1 for a jet without a label.
    """
    starts = np.flatnonzero(np.diff(products.resonance, prepend=-1))
    counts = np.diff(np.append(starts, len(products)))
    # Every jet meets every resonance of its event, and all of its products.
    jet, resonance = meetings(jets, products.event[starts])
    meeting, member = ranges(starts[resonance], counts[resonance])
    kind = products.kind[member]
    near = jets.distance(jet[meeting], products.eta[member], products.phi[member]) < radius
    spelled = near | (kind == KINDS.index(NEUTRINO))
    keys = np.bincount(meeting, _PLACE[kind] * spelled, len(jet)).astype(np.int64)
    found = labels_of(keys + _IN_PAIRS * (counts[resonance] == 4))
    labels, sources = np.full(len(jets.event), -1), np.full(len(jets.event), -1)
    # The first meeting of a jet that gives a label comes last here, and stays.
    valid = np.flatnonzero(found >= 0)[::-1]
    labels[jet[valid]], sources[jet[valid]] = found[valid], resonance[valid]
    return labels, sources
