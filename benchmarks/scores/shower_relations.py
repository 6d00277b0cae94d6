"""Between the quantities of a shower: correlations of layers, and the response at each incident energy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hepfm.benchmarks.scores.outcome import enough
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import REPLICAS, SPLITS, Estimate, Floor

FEWEST_SHOWERS = 50
FEWEST_OF_ENERGY = 20
DISCRETE = 30  # different incident energies up to which each is a bin of its own
BINS = 10


def layer_correlations(energy: np.ndarray) -> np.ndarray:
    """Pearson correlations (L, L) of the energies (n, L) of layers; NaN for a layer whose energy never changes."""
    spread = energy.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(spread > 0, (energy - energy.mean(axis=0)) / spread, np.nan)
    found = scaled.T @ scaled / len(energy)
    return np.clip(found, -1, 1)


def correlation_difference(
    reference: np.ndarray, sample: np.ndarray, *, key: object = 0, replicas: int = REPLICAS
) -> Estimate:
    """Mean absolute difference of the correlations of different layers (n, L), (m, L), with its bootstrap error.

    Pairs of which either sample has no correlation are left out.

    Raises:
        HepfmError: fewer than 50 showers, other layers, or no pair of layers with a correlation in both.
    """
    for name, side in (("reference", reference), ("sample", sample)):
        enough(len(side), FEWEST_SHOWERS, "showers", "a correlation", name)
    if reference.shape[1] != sample.shape[1]:
        raise HepfmError(f"{reference.shape[1]} and {sample.shape[1]} layers", "layer correlations")
    draws = generator("correlations", key)
    found = _apart(reference, sample)
    if not np.isfinite(found):
        raise HepfmError("no two layers have energies that vary in both samples", "layer correlations")
    drawn = [
        _apart(*(side[draws.integers(0, len(side), len(side))] for side in (reference, sample)))
        for _ in range(replicas)
    ]
    return Estimate(found, float(np.nanstd(drawn, ddof=1)))


def correlation_floor(real: np.ndarray, sizes: tuple[int, int], *, key: object = 0, splits: int = SPLITS) -> Floor:
    """What :func:`correlation_difference` shows between two disjoint parts of the real showers (n, L) of these sizes.

    Where there are too few, both parts shrink alike, and the difference is multiplied by the root of the share.

    Raises:
        HepfmError: fewer than 50 showers, or no pair of layers with a correlation.
    """
    enough(len(real), FEWEST_SHOWERS, "real showers", "a floor", "layer correlations")
    share = min(1.0, len(real) / sum(sizes))
    left, right = max(2, int(sizes[0] * share)), max(2, int(sizes[1] * share))
    draws = generator("correlation floor", key)
    found = np.empty(splits)
    for split in range(splits):
        drawn = draws.permutation(len(real))
        found[split] = _apart(real[drawn[:left]], real[drawn[left : left + right]])
    if not np.isfinite(found).all():
        raise HepfmError("no two layers have energies that vary in its parts", "layer correlations")
    found *= np.sqrt(share)
    upper = float(np.quantile(found, 0.95))
    return Floor(float(found.mean()), float(found.std(ddof=1)), upper, (left, right), float(np.sqrt(share)))


def _apart(reference: np.ndarray, sample: np.ndarray) -> float:
    upper = np.triu_indices(reference.shape[1], 1)
    apart = np.abs(layer_correlations(reference) - layer_correlations(sample))[upper]
    apart = apart[np.isfinite(apart)]
    return float(apart.mean()) if len(apart) else float("nan")


@dataclass(frozen=True)
class EnergyBin:
    """Visible over incident energy of showers between two incident energies [GeV].

    Attributes:
        low, high: of the bin; equal for a single energy.
        showers: (reference, sample) how many.
        response: (reference, sample) mean; None where there are fewer than 20 showers.
        resolution: (reference, sample) standard deviation over mean; None likewise.
        note: why there are none.
    """

    low: float
    high: float
    showers: tuple[int, int]
    response: tuple[Estimate, Estimate] | None
    resolution: tuple[Estimate, Estimate] | None
    note: str = ""

    @property
    def response_ratio(self) -> Estimate | None:
        """Mean response of the sample over that of the reference."""
        return None if self.response is None else _ratio(*self.response)

    @property
    def resolution_ratio(self) -> Estimate | None:
        """Resolution of the sample over that of the reference; None where the reference has none."""
        return None if self.resolution is None else _ratio(*self.resolution)


def _ratio(reference: Estimate, sample: Estimate) -> Estimate | None:
    if not reference.value > 0 or not sample.value > 0:
        return None
    ratio = sample.value / reference.value
    relative = np.hypot(reference.error / reference.value, sample.error / sample.value)
    return Estimate(ratio, ratio * float(relative))


def energy_edges(incident: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Edges of bins of incident energy [GeV]: equal shares of the reference, or one bin for each of a few energies."""
    different = np.unique(incident)
    if len(different) <= DISCRETE:
        middle = np.sqrt(different[1:] * different[:-1])
        return np.concatenate([[0.0], middle, [np.inf]])
    inner = np.quantile(incident, np.linspace(0, 1, bins + 1))
    inner[-1] = np.nextafter(inner[-1], np.inf)
    return inner


def conditional_response(
    reference: tuple[np.ndarray, np.ndarray], sample: tuple[np.ndarray, np.ndarray], edges: np.ndarray | None = None
) -> list[EnergyBin]:
    """Mean and resolution of the response in bins of incident energy.

    Args:
        reference, sample: incident energy (n,) [GeV] and response (n,) of each.
        edges: of the bins; :func:`energy_edges` by default.

    Raises:
        HepfmError: no showers.
    """
    for name, (incident, _) in (("reference", reference), ("sample", sample)):
        enough(len(incident), 1, "showers", "a response", name)
    edges = energy_edges(reference[0]) if edges is None else edges
    found = []
    for low, high in pairwise(edges):
        values = [side[1][(side[0] >= low) & (side[0] < high)] for side in (reference, sample)]
        real = reference[0][(reference[0] >= low) & (reference[0] < high)]
        limits = (float(real.min()), float(real.max())) if len(real) else (float(low), float(high))
        counts = (len(values[0]), len(values[1]))
        if min(counts) < FEWEST_OF_ENERGY:
            note = f"{counts[0]} and {counts[1]} showers, at least {FEWEST_OF_ENERGY} are needed"
            found.append(EnergyBin(*limits, counts, None, None, note))
            continue
        means = (_mean(values[0]), _mean(values[1]))
        if min(mean.value for mean in means) <= 0:
            found.append(EnergyBin(*limits, counts, means, None, "no resolution without a response"))
            continue
        found.append(EnergyBin(*limits, counts, means, (_resolution(values[0]), _resolution(values[1]))))
    return found


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _resolution(values: np.ndarray) -> Estimate:
    """Standard deviation over mean; the error of the former from the fourth moment, as tails make it larger."""
    mean, spread = values.mean(), values.std(ddof=1)
    if spread == 0:
        return Estimate(0.0, 0.0)
    size = len(values)
    fourth = ((values - mean) ** 4).mean()
    variance = max((fourth - spread**4 * (size - 3) / (size - 1)) / size, 0.0)
    of_spread = np.sqrt(variance) / (2 * spread)
    relative = np.hypot(of_spread / spread, spread / np.sqrt(size) / mean)
    return Estimate(float(spread / mean), float(spread / mean * relative))
