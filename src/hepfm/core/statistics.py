"""Distances between samples, their statistical errors, and the floor that two real samples leave between them.

Values can belong to records (constituents to jets). Values of one record are correlated, so whatever is drawn anew
here (bootstrap replicas, splits of the real sample) is drawn by whole records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError

REPLICAS = 100
SPLITS = 100


@dataclass(frozen=True)
class Values:
    """Values of one quantity, and the record that each belongs to.

    Attributes:
        values: (N,) finite numbers.
        record: (N,) record of each value, in [0, records).
        records: how many records were looked at (some may have no value).
        weights: (N,) non-negative weight of each value; None if all weigh the same.
    """

    values: np.ndarray
    record: np.ndarray
    records: int
    weights: np.ndarray | None = None

    @classmethod
    def per_record(cls, values: np.ndarray, name: object = "values") -> Values:
        """One value a record."""
        return cls(checked(values, name), np.arange(len(values)), len(values))

    @classmethod
    def per_point(cls, values: np.ndarray, offsets: np.ndarray, name: object = "values") -> Values:
        """One value a point; record i owns ``values[offsets[i]:offsets[i + 1]]``."""
        records = len(offsets) - 1
        return cls(checked(values, name), np.repeat(np.arange(records), np.diff(offsets)), records)

    def first(self, records: int) -> Values:
        """The values of the first ``records`` records."""
        keep = self.record < records
        weights = None if self.weights is None else self.weights[keep]
        return Values(self.values[keep], self.record[keep], min(records, self.records), weights)

    def of(self, chosen: np.ndarray) -> Values:
        """The values of the records numbered ``chosen`` (m,), each named once; they become records 0 to m - 1."""
        place = np.full(self.records, -1)
        place[chosen] = np.arange(len(chosen))
        keep = place[self.record] >= 0
        weights = None if self.weights is None else self.weights[keep]
        return Values(self.values[keep], place[self.record[keep]], len(chosen), weights)


@dataclass(frozen=True)
class Estimate:
    """A number and its statistical error (one standard deviation)."""

    value: float
    error: float


@dataclass(frozen=True)
class Floor:
    """The distance that two samples of one distribution show by chance.

    Attributes:
        value: its mean over random splits of the real sample, or over pairs of samples drawn from it.
        error: its standard deviation over them.
        upper: the 95% quantile: a sample at a smaller distance cannot be told from a real one.
        records: (2,) records on either side of each split or pair.
        scale: factor that the distances were multiplied with, because a split had fewer records than the comparison.
    """

    value: float
    error: float
    upper: float
    records: tuple[int, int]
    scale: float


def checked(values: np.ndarray, name: object) -> np.ndarray:
    """The values as float64.

    Raises:
        HepfmError: none there, or one that is not finite; says how many.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise HepfmError(f"needs a non-empty list of values, got shape {values.shape}", name)
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise HepfmError(f"{bad:,} of {len(values):,} values are NaN or infinite", name, "leave them out and say so")
    return values


def wasserstein_1(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of two one-dimensional samples, exact for any sizes, in the unit of the values.

    W1 = integral ``|F_a(x) - F_b(x)|`` dx, with F the empirical distribution functions (Vallender 1974).
    """
    a, b = checked(a, "first sample"), checked(b, "second sample")
    if len(a) == len(b):
        return float(np.abs(np.sort(a) - np.sort(b)).mean())
    pooled = np.concatenate([a, b])
    order = np.argsort(pooled, kind="stable")
    steps = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))])
    return _area(pooled[order], steps[order])


def _area(ordered: np.ndarray, steps: np.ndarray) -> float:
    """Integral of |sum of the steps so far| over the ordered values."""
    return float(np.abs(np.cumsum(steps[:-1])) @ np.diff(ordered))


def wasserstein_1_estimate(a: Values, b: Values, *, key: object, replicas: int = REPLICAS) -> Estimate:
    """Wasserstein-1 distance with its bootstrap error.

    The error is the standard deviation over replicas in which the records of both samples are drawn anew, with
    replacement (Efron 1979). Replicas lie further apart than the samples, so their mean is no estimate.

    Args:
        a: one sample.
        b: the other.
        key: names the draws; equal keys give equal errors.
        replicas: number of replicas.
    """
    error = _replicas(a, b, (_area,), key, replicas).std(ddof=1)
    return Estimate(_area_between(a, b), float(error))


def wasserstein_1_paired(a: Values, b: Values, *, key: object, replicas: int = REPLICAS) -> Estimate:
    """Wasserstein-1 distance of two samples whose record i is the same record, once changed, with its bootstrap error.

    A replica draws the records of both samples together: what they share does not count as chance.

    Raises:
        HepfmError: the samples differ in records.
    """
    if a.records != b.records:
        raise HepfmError(f"{a.records} and {b.records} records are no pairs", key)
    draws = generator("paired bootstrap", key)
    pooled = np.concatenate([a.values, b.values])
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    record = np.concatenate([a.record, b.record + a.records])[order]
    totals = [_totals(sample) for sample in (a, b)]
    distances = np.empty(replicas)
    for replica in range(replicas):
        counts = np.bincount(draws.integers(0, a.records, a.records), minlength=a.records)
        factors = [counts / max(counts @ total, 1.0) for total in totals]
        distances[replica] = _area(ordered, np.concatenate([factors[0], -factors[1]])[record])
    return Estimate(wasserstein_1(a.values, b.values), float(distances.std(ddof=1)))


def distance_estimates(a: Values, b: Values, *, key: object, replicas: int = REPLICAS) -> tuple[Estimate, Estimate]:
    """Wasserstein-1 and Kolmogorov-Smirnov distance, the largest ``|F_a(x) - F_b(x)|``, with their bootstrap errors.

    Equal values step together, so both hold for whole numbers, too. Arguments and errors as for
    :func:`wasserstein_1_estimate`; the replicas are the same ones.
    """
    areas, gaps = _replicas(a, b, (_area, _largest_gap), key, replicas).std(axis=0, ddof=1)
    return Estimate(_area_between(a, b), float(areas)), Estimate(_distance(a, b, _largest_gap), float(gaps))


# A distance from the ordered values of both samples and the steps of F_a - F_b at them.
Measure = Callable[[np.ndarray, np.ndarray], float]


def _largest_gap(ordered: np.ndarray, steps: np.ndarray) -> float:
    """Largest |sum of the steps so far| where a value is the last of its equals."""
    last = np.append(ordered[1:] != ordered[:-1], True)
    return float(np.abs(np.cumsum(steps)[last]).max())


def _area_between(a: Values, b: Values) -> float:
    plain = a.weights is None and b.weights is None
    return wasserstein_1(a.values, b.values) if plain else _distance(a, b, _area)


def _distance(a: Values, b: Values, measure: Measure) -> float:
    steps = [_weights(sample) / _weights(sample).sum() for sample in (a, b)]
    pooled = np.concatenate([checked(a.values, "first sample"), checked(b.values, "second sample")])
    order = np.argsort(pooled, kind="stable")
    return measure(pooled[order], np.concatenate([steps[0], -steps[1]])[order])


def _replicas(a: Values, b: Values, measures: Sequence[Measure], key: object, replicas: int) -> np.ndarray:
    """Distances (replicas, measures) after the records of both samples are drawn anew."""
    draws = generator("bootstrap", key)
    pooled = np.concatenate([a.values, b.values])
    order = np.argsort(pooled, kind="stable")
    ordered, record = pooled[order], np.concatenate([a.record, b.record + a.records])[order]
    own = np.concatenate([_weights(a), _weights(b)])[order]
    totals = [_totals(sample) for sample in (a, b)]
    distances = np.empty((replicas, len(measures)))
    for replica in range(replicas):
        factors = [_resampled(total, len(total), draws) for total in totals]
        steps = np.concatenate([factors[0], -factors[1]])[record] * own
        distances[replica] = [measure(ordered, steps) for measure in measures]
    return distances


def _weights(sample: Values) -> np.ndarray:
    return np.ones(len(sample.values)) if sample.weights is None else sample.weights


def _totals(sample: Values) -> np.ndarray:
    """Weight of each record."""
    return np.bincount(sample.record, weights=sample.weights, minlength=sample.records)


def _resampled(totals: np.ndarray, records: int, draws: np.random.Generator) -> np.ndarray:
    """Factor on the weight of every value of each record, if ``records`` are drawn; all weights then add up to one."""
    counts = np.bincount(draws.integers(0, len(totals), records), minlength=len(totals))
    total = counts @ totals
    return counts / (total if total > 0 else 1)


def chance_floors(real: Values, sizes: tuple[int, int], *, key: object, pairs: int = REPLICAS) -> tuple[Floor, Floor]:
    """Wasserstein-1 and Kolmogorov-Smirnov distance of two samples drawn from the real one, of the sizes given.

    Whole records are drawn, with replacement: either side may be as large as in a comparison, or larger than the real
    sample, and nothing is scaled. It is the bootstrap's estimate of what chance gives two samples of one distribution.

    Args:
        real: the real sample.
        sizes: (2,) records to draw for either side.
        key: names the draws.
        pairs: number of pairs.
    """
    draws = generator("chance", key)
    order = np.argsort(real.values, kind="stable")
    ordered, record, own = real.values[order], real.record[order], _weights(real)[order]
    totals = _totals(real)
    areas, gaps = np.empty(pairs), np.empty(pairs)
    for pair in range(pairs):
        factors = [_resampled(totals, size, draws) for size in sizes]
        steps = (factors[0] - factors[1])[record] * own
        areas[pair], gaps[pair] = _area(ordered, steps), _largest_gap(ordered, steps)
    return _floor(areas, sizes), _floor(gaps, sizes)


def _floor(distances: np.ndarray, sizes: tuple[int, int]) -> Floor:
    return Floor(
        value=float(distances.mean()),
        error=float(distances.std(ddof=1)),
        upper=float(np.quantile(distances, 0.95)),
        records=sizes,
        scale=1.0,
    )


def quantiles_replicated(
    sample: Values, quantiles: Sequence[float], *, key: object, replicas: int = REPLICAS
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted quantiles (k,) of a sample, and those (replicas, k) after its records are drawn anew.

    A quantile is the first value at which the weights so far reach its share of their sum.
    """
    draws = generator("quantiles", key)
    order = np.argsort(sample.values, kind="stable")
    ordered, record, own = sample.values[order], sample.record[order], _weights(sample)[order]
    totals = _totals(sample)

    def at(weights: np.ndarray) -> np.ndarray:
        reached = np.cumsum(weights)
        places = np.searchsorted(reached, np.array(quantiles) * reached[-1])
        return ordered[np.minimum(places, len(ordered) - 1)]

    drawn = [at(_resampled(totals, len(totals), draws)[record] * own) for _ in range(replicas)]
    return at(own), np.stack(drawn)


def mean_estimate(sample: Values, *, key: object, replicas: int = REPLICAS) -> Estimate:
    """Weighted mean of all values, with its bootstrap error over records: what is in a record goes together."""
    draws = generator("mean", key)
    own = _weights(sample)
    part = np.bincount(sample.record, weights=sample.values * own, minlength=sample.records)
    whole = _totals(sample)
    drawn = np.empty(replicas)
    for replica in range(replicas):
        counts = np.bincount(draws.integers(0, sample.records, sample.records), minlength=sample.records)
        total = counts @ whole
        drawn[replica] = counts @ part / (total if total > 0 else 1)
    return Estimate(float(part.sum() / whole.sum()), float(drawn.std(ddof=1)))


def median_estimate(values: np.ndarray, *, key: object, replicas: int = 1_000) -> Estimate:
    """Median of one value a record, with its bootstrap error."""
    values = checked(values, key)
    draws = generator("median", key)
    medians = np.median(values[draws.integers(0, len(values), (replicas, len(values)))], axis=1)
    return Estimate(float(np.median(values)), float(medians.std(ddof=1)))


def wasserstein_1_floor(real: Values, sizes: tuple[int, int], *, key: object, splits: int = SPLITS) -> Floor:
    """Wasserstein-1 distance of two disjoint real samples with as many records as the samples of a comparison.

    ``real`` is split at random ``splits`` times. Where it has fewer records than both sizes together, both sides
    shrink alike, and the distance is multiplied by the square root of the share: by chance alone, W1 falls as
    sqrt(1/n + 1/m) (del Barrio, Gine, Matran 1999).

    Raises:
        HepfmError: fewer than 2 real records.
    """
    share = min(1.0, real.records / sum(sizes))
    left, right = max(1, int(sizes[0] * share)), max(1, int(sizes[1] * share))
    if left + right > real.records:
        raise HepfmError(f"a floor needs 2 real records, got {real.records}", key)
    draws = generator("floor", key)
    order = np.argsort(real.values, kind="stable")
    ordered, record = real.values[order], real.record[order]
    lengths = np.bincount(real.record, minlength=real.records)
    distances = np.empty(splits)
    for split in range(splits):
        weights = np.zeros(real.records)
        drawn = draws.permutation(real.records)
        for side, sign in ((drawn[:left], 1.0), (drawn[left : left + right], -1.0)):
            weights[side] = sign / max(int(lengths[side].sum()), 1)
        distances[split] = _area(ordered, weights[record])
    distances *= np.sqrt(share)
    return Floor(
        value=float(distances.mean()),
        error=float(distances.std(ddof=1)),
        upper=float(np.quantile(distances, 0.95)),
        records=(left, right),
        scale=float(np.sqrt(share)),
    )


@dataclass(frozen=True)
class Histogram:
    """Shares of a sample by bin, with what lies outside.

    Attributes:
        edges: (bins + 1,).
        share: (bins,) share of all values, those outside included.
        error: (bins,) statistical error of the share.
        below: share of the values below the first edge.
        above: share above the last edge (the last edge itself belongs to the last bin).
    """

    edges: np.ndarray
    share: np.ndarray
    error: np.ndarray
    below: float
    above: float


def histogram(sample: Values, edges: np.ndarray) -> Histogram:
    """Bin a sample; the variance of a bin is the sum over records of its squared counts (or sums of weights)."""
    bins = len(edges) - 1
    place = np.searchsorted(edges, sample.values, side="right")
    place[sample.values == edges[-1]] = bins
    counts = np.bincount(place, weights=sample.weights, minlength=bins + 2)
    cells, cell = np.unique(place * np.int64(sample.records) + sample.record, return_inverse=True)
    by_record = np.bincount(cell, weights=sample.weights).astype(np.float64)
    variance = np.bincount(cells // sample.records, weights=by_record**2, minlength=bins + 2)
    total = counts.sum() or 1
    return Histogram(
        edges=edges,
        share=counts[1:-1] / total,
        error=np.sqrt(variance[1:-1]) / total,
        below=float(counts[0] / total),
        above=float(counts[-1] / total),
    )


def separation_power(a: np.ndarray, b: np.ndarray) -> float:
    """Triangular discrimination of two binned distributions: 0 where they are alike, 1 where they do not overlap.

    S = 1/2 sum (p - q)^2/(p + q) of the shares p, q of contents (bins,) inside the range (arXiv:2009.03796, eq. 15).

    Raises:
        HepfmError: different bins, or a distribution without content.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or not a.sum() > 0 or not b.sum() > 0:
        raise HepfmError(f"bins {a.shape} and {b.shape} with contents {a.sum():g} and {b.sum():g}", "separation power")
    p, q = a / a.sum(), b / b.sum()
    filled = p + q > 0
    return float(0.5 * ((p - q)[filled] ** 2 / (p + q)[filled]).sum())
