"""Energy mover's distance of jets (Komiske, Metodiev, Thaler, arXiv:1902.02346), exact, and what is built on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from ot.lp import emd2

from hepfm.benchmarks.scores.energy_flow import distances
from hepfm.benchmarks.scores.outcome import enough
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, multiplicity
from hepfm.core.progress import progress
from hepfm.core.statistics import Estimate
from hepfm.core.threads import at_once, threads

MOST_ITERATIONS = 1_000_000
COVERAGE_JETS, COVERAGE_BATCHES = 100, 10


def energy_movers_distance(first: Constituents, second: Constituents) -> np.ndarray:
    """EMD (n, m) of each jet of one sample to each of another, in the unit of pt; R = 1, beta = 1, not normalised.

    min over flows f of sum f_ij dR_ij, plus the difference of the jets' pt: what one jet has too much goes to a place
    at distance R = 1 of everything. Exact, by network simplex (POT), which works outside the interpreter's lock.

    Raises:
        HepfmError: a jet without momentum.
    """
    for name, jets in (("first sample", first), ("second sample", second)):
        if len(jets) and _sums(jets).min() <= 0:
            raise HepfmError(f"jet {int(_sums(jets).argmin())} has no momentum", f"EMD, {name}", "leave it out")
    rows, columns = (_split(jets) for jets in (first, second))
    found = np.empty((len(rows), len(columns)))

    def work(start: int) -> None:
        for row in range(start, len(rows), threads()):
            pt, eta, phi = rows[row]
            for column, (other_pt, other_eta, other_phi) in enumerate(columns):
                found[row, column] = _distance(pt, other_pt, distances(eta, phi, other_eta, other_phi))

    at_once([partial(work, start) for start in range(threads())])
    return found


def _sums(jets: Constituents) -> np.ndarray:
    index = np.repeat(np.arange(len(jets)), multiplicity(jets))
    return np.bincount(index, weights=jets.pt, minlength=len(jets))


def _split(jets: Constituents) -> list[list[np.ndarray]]:
    """pt, deta, dphi of each jet."""
    columns = [np.asarray(values, dtype=np.float64) for values in (jets.pt, jets.deta, jets.dphi)]
    slices = [slice(*jets.offsets[jet : jet + 2]) for jet in range(len(jets))]
    return [[values[chosen] for values in columns] for chosen in slices]


def _distance(pt: np.ndarray, other: np.ndarray, cost: np.ndarray) -> float:
    """EMD of two jets: the lighter one gets a constituent at distance 1 of all others."""
    missing = pt.sum() - other.sum()
    rows, columns = len(pt) + (missing < 0), len(other) + (missing > 0)
    full = np.ones((rows, columns))
    full[: len(pt), : len(other)] = cost
    if missing > 0:
        other = np.append(other, missing)
    elif missing < 0:
        pt = np.append(pt, -missing)
    scale = pt.sum()
    found = emd2(
        pt / scale, other / other.sum(), full, numItermax=MOST_ITERATIONS, center_dual=False, check_marginals=False
    )
    return float(found) * scale


@dataclass(frozen=True)
class Coverage:
    """Coverage and minimum matching distance.

    Attributes:
        coverage: share of distinct real jets that are nearest to a generated one.
        mmd: mean over real jets of the EMD to the nearest generated one, in the unit of pt.
    """

    coverage: Estimate
    mmd: Estimate


def coverage_and_mmd(
    reference: Constituents,
    sample: Constituents,
    jets: int = COVERAGE_JETS,
    batches: int = COVERAGE_BATCHES,
    *,
    key: object = 0,
) -> Coverage:
    """COV and MMD of the MPGAN paper (arXiv:2106.11535): mean and spread over batches of random jets.

    Args:
        reference, sample: jets; relative pt for values to compare with published ones.
        jets: drawn with replacement from either side for each batch.
        batches: how many.
        key: names the draws.

    Raises:
        HepfmError: fewer jets than a batch, or a jet without momentum.
    """
    for name, side in (("reference", reference), ("sample", sample)):
        enough(len(side), jets, "jets", "coverage", name)
    draws = generator("coverage", key)
    covered, nearest = [], []
    with progress("coverage and MMD", batches, "batches") as bar:
        for _ in range(batches):
            real, made = (taken(side, draws.integers(0, len(side), jets)) for side in (reference, sample))
            found = energy_movers_distance(made, real)
            bar.advance()
            nearest.append(found.min(axis=0).mean())
            covered.append(len(np.unique(found.argmin(axis=1))) / jets)
    return Coverage(*(Estimate(float(np.mean(values)), float(np.std(values))) for values in (covered, nearest)))


def taken(jets: Constituents, chosen: np.ndarray) -> Constituents:
    """The jets numbered ``chosen`` (k,), in this order, repeated ones included."""
    lengths = multiplicity(jets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(jets.offsets[chosen] - offsets[:-1], lengths)
    return Constituents(jets.pt[places], jets.deta[places], jets.dphi[places], offsets)
