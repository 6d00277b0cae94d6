"""Shares of particle-flow species in simulated jets against real JetClass-II jets.

Shares depend on the jet's momentum (soft tracks are lost) and on leptons among the decay products, so jets are compared
that are alike in both. Pileup with PUPPI, which the real ones have, remains.
"""

from __future__ import annotations

import re

import numpy as np

from hepfm.benchmarks.closeness.classes import Pair
from hepfm.benchmarks.closeness.samples import JetSample
from hepfm.core import records
from hepfm.core.statistics import Estimate, Values, mean_estimate

SOFT_GEV = 2.0
# Shares have some 45 constituents a jet, so fewer jets suffice than for a median of one value a jet.
MINIMUM_JETS = 10
# Labels of decays to electrons, muons, taus: JetClass's two, and JetClass-II's by the last part of their names.
LEPTONIC = re.compile(r"^(Hqql|Tbl|X_.*(e|m|tau)[^_]*)$")


def compare_species(
    real: JetSample, simulated: JetSample, *, seed: int, replicas: int
) -> tuple[dict[str, tuple[Pair, ...]], str]:
    """Shares by kind of share (of constituents, of those above 2 GeV, of pt), one pair a species; and of which jets.

    Jets of decays without leptons are compared, in the range of jet pt that both samples have; all jets where that
    leaves fewer than 10 of either.
    """
    low, high = max(real.pt.min(), simulated.pt.min()), min(real.pt.max(), simulated.pt.max())
    chosen = []
    for sample in (real, simulated):
        hadronic = np.array([LEPTONIC.match(name) is None for name in sample.label], dtype=bool)
        chosen.append(sample.select(hadronic & (sample.pt >= low) & (sample.pt <= high)))
    if min(map(len, chosen)) >= MINIMUM_JETS:
        window = f"with {low:.0f} < pt < {high:.0f} GeV and no lepton in the decay"
    else:
        chosen, window = [real, simulated], "of any momentum and decay, as too few are alike"
    sides = dict(zip(("real", "simulated"), chosen, strict=True))
    note = f"Of {len(chosen[0]):,} real and {len(chosen[1]):,} simulated jets {window}"
    return _shares(sides, seed, replicas), note


def _shares(sides: dict[str, JetSample], seed: int, replicas: int) -> dict[str, tuple[Pair, ...]]:
    found = np.unique(np.concatenate([np.asarray(sample.species) for sample in sides.values()]))
    shares: dict[str, tuple[Pair, ...]] = {}
    for kind in ("of constituents", f"above {SOFT_GEV:g} GeV", "of pt"):
        pairs = []
        for index in found[found >= 0]:
            estimates, numbers = [], []
            for side, sample in sides.items():
                pt = sample.constituents.pt
                weights = pt if kind == "of pt" else (pt > SOFT_GEV) * 1.0 if "above" in kind else np.ones(len(pt))
                mine = (np.asarray(sample.species) == index).astype(np.float64)
                values = Values(mine, sample.record, len(sample), weights)
                estimates.append(mean_estimate(values, key=f"{seed}/{kind}/{index}/{side}", replicas=replicas))
                numbers.append(weights.sum() ** 2 / (weights**2).sum())
            pairs.append(Pair(records.SPECIES[index], *_at_least_binomial(estimates, numbers)))
        shares[kind] = tuple(pairs)
    return shares


def _at_least_binomial(estimates: list[Estimate], numbers: list[float]) -> list[Estimate]:
    """Errors no smaller than binomial ones of ``numbers`` constituents at the larger of the shares.

    Few jets may hold no muon at all, and then no bootstrap replica does either.
    """
    share = max(estimate.value for estimate in estimates)
    variance = share * (1 - share)
    return [
        Estimate(estimate.value, max(estimate.error, (variance / number) ** 0.5))
        for estimate, number in zip(estimates, numbers, strict=True)
    ]
