"""The figures of a tokenizer: residuals and distances of points and records by class, and the use of its codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.benchmarks.jets import bin_edges
from hepfm.benchmarks.tokenizers.quantities import Quantity, decoded_values, original_values, quantities_of
from hepfm.benchmarks.tokenizers.sample import Reconstruction
from hepfm.core.draws import generator
from hepfm.core.progress import progress
from hepfm.core.statistics import (
    REPLICAS,
    Estimate,
    Floor,
    Histogram,
    Values,
    histogram,
    wasserstein_1_floor,
    wasserstein_1_paired,
)
from hepfm.tokenize.features import FeatureSpec
from hepfm.tokenize.quality import RELATIVE, perplexity

# 68% of a normal distribution lie within one standard deviation.
LOW, HIGH = 0.158655, 0.841345
MINIMUM_RECORDS = 20
CONTINUOUS_BITS = 32
Figure = Callable[[np.ndarray], float]
OUTER_SHARE, RESIDUAL_BINS, RESIDUAL_WIDTHS = 0.005, (8, 40), 4.0


@dataclass(frozen=True)
class Residual:
    """Decoded minus original: mean, median, and half the width of the central 68%."""

    mean: Estimate
    median: Estimate
    half_width: Estimate


@dataclass(frozen=True)
class Measured:
    """One quantity in one class.

    Attributes:
        values: how many were looked at.
        left_out: those that are undefined or null in the original or the decoded.
        residual: None with fewer than MINIMUM_RECORDS records, and of categories.
        distance: W1 of decoded and original; None likewise.
        floor: W1 of two halves of the original, scaled to its size; None likewise.
        differing: of categories, the share of values that are not the original's.
        original, decoded, residuals: binned; None of categories.
    """

    values: int
    left_out: int
    residual: Residual | None = None
    distance: Estimate | None = None
    floor: Floor | None = None
    differing: Estimate | None = None
    original: Histogram | None = None
    decoded: Histogram | None = None
    residuals: Histogram | None = None


@dataclass(frozen=True)
class Row:
    """A quantity of a record or a feature of a point, by class."""

    quantity: Quantity
    classes: dict[str, Measured]
    relative: bool = False


@dataclass(frozen=True)
class Codes:
    """The use of one id list.

    Attributes:
        name: of the list; empty if there is one.
        codes: how many there are.
        used: how many occur.
        perplexity: exp(entropy) of how often each occurs.
        entropy_bits: the entropy per id, corrected for the number of ids seen (Miller 1955).
    """

    name: str
    codes: int
    used: int
    perplexity: float
    entropy_bits: float


@dataclass(frozen=True)
class Rate:
    """Bits that the tokens of a point take.

    Attributes:
        tokens: points that were looked at.
        left_out: points that the tokenizer gives no token.
        streams: of each id list.
        bits: log2 of the codes, summed, and CONTINUOUS_BITS where a number stays one.
        entropy_bits: what an entropy coder needs that knows how often each code of a list occurs, and nothing else.
    """

    tokens: int
    left_out: int
    streams: tuple[Codes, ...]
    bits: float
    entropy_bits: float

    @property
    def use(self) -> float:
        """Share of the codes that occur, of all id lists together."""
        return sum(known.used for known in self.streams) / sum(known.codes for known in self.streams)


def measure_codes(sample: Reconstruction) -> Rate:
    """Use of the codes by the tokens of real points: there are no others."""
    streams = []
    for stream, ids in zip(sample.streams, sample.ids.T, strict=True):
        used, counts = np.unique(ids, return_counts=True)
        found = perplexity(counts)
        # Rare codes are missed: the plug-in entropy is too low by (used - 1) / 2 N nats.
        bits = (np.log(found) + (len(used) - 1) / (2 * len(ids))) / np.log(2)
        bits = min(float(bits), float(np.log2(stream.codes)))
        streams.append(Codes(stream.name, stream.codes, len(used), found, bits))
    number = CONTINUOUS_BITS if sample.continuous else 0
    return Rate(
        tokens=len(sample.ids),
        left_out=sample.left_out,
        streams=tuple(streams),
        bits=float(sum(np.log2(known.codes) for known in streams)) + number,
        entropy_bits=sum(known.entropy_bits for known in streams) + number,
    )


def measure_records(sample: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS) -> list[Row]:
    """Quantities of whole records by class."""
    chosen = quantities_of(sample)
    original, decoded = original_values(sample), decoded_values(sample)
    whose = np.arange(len(sample))
    rows = []
    with progress("compare", len(chosen), "quantities") as task:
        for quantity in chosen:
            pair = original[quantity.name], decoded[quantity.name]
            rows.append(Row(quantity, _by_class(sample, whose, pair, quantity.name, False, seed, replicas)))
            task.advance()
    return rows


def measure_features(sample: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS) -> list[Row]:
    """Features of points by class; residuals of pt and energy are relative."""
    whose, rows = sample.record, []
    with progress("compare", len(sample.features), "features") as task:
        for feature in sample.features:
            name, relative = feature.name, feature.name in RELATIVE
            pair = sample.original[name].astype(np.float64), sample.decoded[name].astype(np.float64)
            if feature.categories:
                found = _of_categories(sample, pair, f"{seed}/{name}", replicas)
            else:
                found = _by_class(sample, whose, pair, name, relative, seed, replicas)
            rows.append(Row(_feature(feature), found, relative))
            task.advance()
    return rows


def _feature(feature: FeatureSpec) -> Quantity:
    unit = "" if feature.unit == "1" else feature.unit
    axis = f"{feature.name} [{unit}]" if unit else feature.name
    return Quantity(feature.name, feature.name, axis.replace("_", " "), unit, f"{feature.name} of a point.")


def _by_class(
    sample: Reconstruction,
    whose: np.ndarray,
    pair: tuple[np.ndarray, np.ndarray],
    name: str,
    relative: bool,
    seed: int,
    replicas: int,
) -> dict[str, Measured]:
    """One quantity, of which record ``whose[i]`` has value i."""
    defined = np.isfinite(pair[0]) & np.isfinite(pair[1])
    original, decoded = (Values(values[defined], whose[defined], len(sample)) for values in pair)
    edges = bin_edges("even", original, OUTER_SHARE) if len(original.values) else np.array([0.0, 1.0])
    found = {}
    for label, chosen in sample.classes():
        values = int(np.isin(whose, chosen).sum()) if len(chosen) < len(sample) else len(whose)
        sides = (original, decoded) if len(chosen) == len(sample) else (original.of(chosen), decoded.of(chosen))
        found[label] = _measured(*sides, values, edges, relative, f"{seed}/{name}/{label}", replicas)
    return found


def _measured(
    original: Values, decoded: Values, values: int, edges: np.ndarray, relative: bool, key: str, replicas: int
) -> Measured:
    left_out = values - len(original.values)
    if len(np.unique(original.record)) < MINIMUM_RECORDS:
        return Measured(values, left_out)
    differences = decoded.values - original.values
    if relative:
        differences = differences / original.values
    residuals = Values(differences, original.record, original.records)
    sizes = (original.records, original.records)
    return Measured(
        values=values,
        left_out=left_out,
        residual=residual_of(residuals, key=key, replicas=replicas),
        distance=wasserstein_1_paired(decoded, original, key=key, replicas=replicas),
        floor=wasserstein_1_floor(original, sizes, key=key, splits=replicas),
        original=histogram(original, edges),
        decoded=histogram(decoded, edges),
        residuals=histogram(residuals, _residual_edges(differences)),
    )


def _of_categories(
    sample: Reconstruction, pair: tuple[np.ndarray, np.ndarray], key: str, replicas: int
) -> dict[str, Measured]:
    other = Values((pair[0] != pair[1]).astype(np.float64), sample.record, len(sample))
    found = {}
    for label, chosen in sample.classes():
        part = other.of(chosen)
        enough = len(np.unique(part.record)) >= MINIMUM_RECORDS
        share = estimates(part, (np.mean,), f"{key}/{label}", replicas)[0] if enough else None
        found[label] = Measured(len(part.values), 0, differing=share)
    return found


def residual_of(residuals: Values, *, key: str, replicas: int = REPLICAS) -> Residual:
    """Mean, median and half width of residuals, with bootstrap errors over records."""
    return Residual(*estimates(residuals, (np.mean, np.median, half_width), key, replicas))


def half_width(values: np.ndarray) -> float:
    """Half the width of the central 68% of values (N,)."""
    low, high = np.quantile(values, (LOW, HIGH))
    return float(high - low) / 2


def estimates(sample: Values, figures: Sequence[Figure], key: str, replicas: int = REPLICAS) -> list[Estimate]:
    """Figures of all values, with the error of drawing whole records anew, with replacement."""
    draws = generator("residuals", key)
    order = np.argsort(sample.record, kind="stable")
    values = sample.values[order]
    lengths = np.bincount(sample.record, minlength=sample.records)
    starts = np.cumsum(lengths) - lengths
    drawn = np.empty((replicas, len(figures)))
    for replica in range(replicas):
        records = draws.integers(0, sample.records, sample.records)
        count = lengths[records]
        first = np.repeat(starts[records] - np.cumsum(count) + count, count)
        chosen = values[first + np.arange(count.sum())]
        drawn[replica] = [figure(chosen) if len(chosen) else np.nan for figure in figures]
    errors = np.nanstd(drawn, axis=0, ddof=1)
    return [Estimate(float(of(values)), float(error)) for of, error in zip(figures, errors, strict=True)]


def _residual_edges(differences: np.ndarray) -> np.ndarray:
    """Bins about the median, RESIDUAL_WIDTHS half widths to either side; all alike (also zero) get a bin at all."""
    middle, width = float(np.median(differences)), half_width(differences)
    reach = RESIDUAL_WIDTHS * (width or float(np.abs(differences).max()) or 1.0)
    bins = int(np.clip(2 * len(differences) ** (1 / 3), *RESIDUAL_BINS))  # Rice's rule
    return np.linspace(middle - reach, middle + reach, bins + 1)
