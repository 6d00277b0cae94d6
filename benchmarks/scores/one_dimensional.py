"""Divergences of binned one-dimensional samples, with bootstrap errors and floors. W1 is in core/statistics.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array, hstack
from scipy.special import rel_entr

from hepfm.benchmarks.scores.outcome import enough
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import REPLICAS, SPLITS, Estimate, Floor, Values, checked, separation_power

KL_BINS = 30
KL_FLOOR = 1e-10  # probability of an empty bin of the sample
PUBLISHED_EDGES, PUBLISHED_RANGE, PUBLISHED_FLOOR = 50, (0.001, 0.999), 1e-8
VALUES_PER_BIN = 10

# Divergence of the contents (bins,) of reference and sample.
Divergence = Callable[[np.ndarray, np.ndarray], float]


def quantile_edges(reference: np.ndarray, bins: int = KL_BINS) -> np.ndarray:
    """Edges of bins that hold equal shares of the reference, the outer ones at -inf and inf; equal edges once.

    Raises:
        HepfmError: fewer than 10 values a bin, or one that is not finite.
    """
    values = checked(reference, "quantiled KL, reference")
    enough(len(values), VALUES_PER_BIN * bins, "values of the reference", f"a quantiled KL of {bins} bins")
    inner = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.concatenate([[-np.inf], inner, [np.inf]])


def kl_divergence(reference: np.ndarray, sample: np.ndarray) -> float:
    """KL(p || q) [nats] of contents (bins,): p = counts / N of the reference, q = counts / N + 1e-10 of the sample.

    Raises:
        HepfmError: different bins, or one side without content.
    """
    p, q = _shares(reference, sample)
    return float(rel_entr(p, q + KL_FLOOR).sum())


def quantiled_kl(reference: np.ndarray, sample: np.ndarray, bins: int = KL_BINS) -> float:
    """KL divergence [nats] in bins of equal shares of the reference, with open outer bins, so that it sees tails.

    As OmniJet-alpha_C's successors define it: :func:`quantile_edges` and :func:`kl_divergence`, 30 bins.
    """
    edges = quantile_edges(reference, bins)
    values = checked(sample, "quantiled KL, sample")
    return kl_divergence(*(np.bincount(_bins(part, edges), minlength=len(edges) - 1) for part in (reference, values)))


def quantiled_kl_published(reference: np.ndarray, sample: np.ndarray, edges: int = PUBLISHED_EDGES) -> float:
    """The quantiled KL of OmniJet-alpha's code (arXiv:2403.05618), for comparison with published values only.

    Edges are ``edges`` quantiles of the reference from 0.1% to 99.9%; what lies outside is dropped; *densities* plus
    1e-8, normalised to 1, stand for probabilities. It does not see a sample's outliers, and is no divergence of the
    distributions.

    Raises:
        HepfmError: equal edges (a discrete quantity), or no value of the sample between them.
    """
    real, values = checked(reference, "published KL, reference"), checked(sample, "published KL, sample")
    found = np.quantile(real, np.linspace(*PUBLISHED_RANGE, edges))
    if (np.diff(found) <= 0).any():
        raise HepfmError("equal quantiles: bins without width have no density", "published KL", "use the open one")
    densities = []
    for side, part in (("reference", real), ("sample", values)):
        counts = np.histogram(part, found)[0]
        if not counts.sum():
            raise HepfmError(f"no value of the {side} lies between the reference's quantiles", "published KL")
        density = counts / counts.sum() / np.diff(found) + PUBLISHED_FLOOR
        densities.append(density / density.sum())
    return float(rel_entr(*densities).sum())


def _shares(reference: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(sample, dtype=np.float64)
    if a.shape != b.shape or not a.sum() > 0 or not b.sum() > 0:
        raise HepfmError(f"bins {a.shape} and {b.shape} with contents {a.sum():g} and {b.sum():g}", "KL divergence")
    return a / a.sum(), b / b.sum()


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value, -1 outside; the last edge belongs to the last bin, as NumPy's histogram has it."""
    place = np.searchsorted(edges, values, side="right") - 1
    last = len(edges) - 1
    place[values == edges[-1]] = last - 1
    return np.where(place < last, place, -1)


class Binned:
    """A sample in bins, by record, so that records can be drawn anew.

    Args:
        sample: values.
        edges: (bins + 1,) ascending; values outside are left out.
    """

    def __init__(self, sample: Values, edges: np.ndarray) -> None:
        self.records, self.bins = sample.records, len(edges) - 1
        place = _bins(sample.values, edges)
        inside = place >= 0
        weights = np.ones(len(place)) if sample.weights is None else sample.weights
        self._by_record = csr_array(
            (weights[inside], (place[inside], sample.record[inside])), shape=(self.bins, self.records)
        )

    @classmethod
    def of_contents(cls, contents: np.ndarray) -> Binned:
        """From what each record has in each bin (records, bins)."""
        found = cls.__new__(cls)
        found.records, found.bins = contents.shape
        found._by_record = csr_array(contents.T, dtype=np.float64)
        return found

    @classmethod
    def pooled(cls, first: Binned, second: Binned) -> Binned:
        """The records of both, in the same bins."""
        found = cls.__new__(cls)
        found.records, found.bins = first.records + second.records, first.bins
        found._by_record = csr_array(hstack([first._by_record, second._by_record], format="csr"))
        return found

    @property
    def contents(self) -> np.ndarray:
        """(bins,) contents."""
        return self.weighted(np.ones(self.records))

    @property
    def squares(self) -> np.ndarray:
        """(bins,) sums over records of squared contents: the variances of the contents."""
        return self._by_record.multiply(self._by_record).sum(axis=1)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """(bins,) contents if record i counts ``weights[i]`` times."""
        return self._by_record @ weights.astype(np.float64)


def divergence_estimate(
    divergence: Divergence, reference: Binned, sample: Binned, *, key: object, replicas: int = REPLICAS
) -> Estimate:
    """A divergence and its bootstrap error: records of both sides are drawn anew, the bins stay.

    Raises:
        HepfmError: the divergence is not defined for these contents.
    """
    draws = generator("binned bootstrap", key)
    found = divergence(reference.contents, sample.contents)
    drawn = []
    for _ in range(replicas):
        contents = [side.weighted(_counts(draws, side.records)) for side in (reference, sample)]
        if all(part.any() for part in contents):
            drawn.append(divergence(*contents))
    return Estimate(found, float(np.std(drawn, ddof=1)) if len(drawn) > 1 else float("nan"))


def _counts(draws: np.random.Generator, records: int) -> np.ndarray:
    return np.bincount(draws.integers(0, records, records), minlength=records)


def divergence_floor(
    divergence: Divergence, real: Binned, sizes: tuple[int, int], *, key: object, splits: int = SPLITS
) -> Floor:
    """The divergence of two disjoint parts of the real sample with as many records as a comparison.

    Where it has too few records, both sides shrink alike and the divergence is multiplied by the share: by chance
    alone, a divergence that is quadratic in p - q (KL, separation power) falls as 1/n + 1/m.

    Raises:
        HepfmError: fewer than 2 real records.
    """
    share = min(1.0, real.records / sum(sizes))
    left, right = max(1, int(sizes[0] * share)), max(1, int(sizes[1] * share))
    enough(real.records, 2, "real records", "a floor", key)
    draws = generator("binned floor", key)
    found = []
    for _ in range(splits):
        drawn = draws.permutation(real.records)
        sides = []
        for part in (drawn[:left], drawn[left : left + right]):
            chosen = np.zeros(real.records)
            chosen[part] = 1.0
            sides.append(real.weighted(chosen))
        if all(side.any() for side in sides):
            found.append(divergence(*sides) * share)
    if len(found) < 2:
        raise HepfmError("its halves have no content in these bins", key)
    values = np.array(found)
    upper = float(np.quantile(values, 0.95))
    return Floor(float(values.mean()), float(values.std(ddof=1)), upper, (left, right), share)


def divergence_limit(
    divergence: Divergence, reference: Binned, sample: Binned, *, key: object, splits: int = SPLITS
) -> float:
    """The divergence that 95% of random exchanges of records between reference and sample stay below.

    A permutation test: where both come from one distribution, a larger one is seen in 5% of all cases, in bins with few
    records, too, where :func:`divergence_floor` of a reference that has to be halved lies too low.
    """
    pooled, records = Binned.pooled(reference, sample), reference.records + sample.records
    draws = generator("binned permutations", key)
    found = []
    for _ in range(splits):
        first = np.zeros(records)
        first[draws.permutation(records)[: reference.records]] = 1.0
        sides = pooled.weighted(first), pooled.weighted(1 - first)
        if all(side.any() for side in sides):
            found.append(divergence(*sides))
    return float(np.quantile(found, 0.95)) if found else float("inf")


def quantiled_kl_estimate(
    reference: Values, sample: Values, *, key: object, bins: int = KL_BINS, replicas: int = REPLICAS
) -> Estimate:
    """:func:`quantiled_kl` with its bootstrap error."""
    edges = quantile_edges(reference.values, bins)
    sides = Binned(reference, edges), Binned(sample, edges)
    return divergence_estimate(kl_divergence, *sides, key=key, replicas=replicas)


def quantiled_kl_floor(
    real: Values, sizes: tuple[int, int], *, key: object, bins: int = KL_BINS, splits: int = SPLITS
) -> Floor:
    """What :func:`quantiled_kl` shows between two real samples of these sizes."""
    edges = quantile_edges(real.values, bins)
    return divergence_floor(kl_divergence, Binned(real, edges), sizes, key=key, splits=splits)


def separation_power_estimate(
    reference: Values, sample: Values, edges: np.ndarray, *, key: object, replicas: int = REPLICAS
) -> Estimate:
    """Separation power inside ``edges`` with its bootstrap error; what lies outside is not seen."""
    sides = Binned(reference, edges), Binned(sample, edges)
    return divergence_estimate(separation_power, *sides, key=key, replicas=replicas)


def separation_power_floor(
    real: Values, sizes: tuple[int, int], edges: np.ndarray, *, key: object, splits: int = SPLITS
) -> Floor:
    """What separation power shows between two real samples of these sizes."""
    return divergence_floor(separation_power, Binned(real, edges), sizes, key=key, splits=splits)
