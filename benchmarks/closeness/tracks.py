"""Displacement and species of simulated constituents against real JetClass-II jets.

JetClass-II has another jet selection, other decays, pileup 50 and PUPPI. So tracks are compared as tracks: simulated
ones are weighted to the real ones' distribution in pt and abs(eta), which their resolution depends on. What decays made
of them (tails of d0 and dz) and what pileup left (soft neutrals) stays different.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from hepfm.benchmarks.closeness.classes import REPLICAS, Distance, Pair
from hepfm.benchmarks.closeness.samples import JetSample
from hepfm.benchmarks.closeness.species import compare_species
from hepfm.benchmarks.jets import Spacing, bin_edges
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import (
    Estimate,
    Histogram,
    Values,
    chance_floors,
    distance_estimates,
    histogram,
    mean_estimate,
    quantiles_replicated,
)

# Cells of the weights, and rows of the uncertainties: about half of the real tracks lie between 2 and 30 GeV.
PT_EDGES_GEV = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 100.0, np.inf)
ETA_EDGES = (0.0, 1.0, 1.5, 2.0, np.inf)
# arcsinh(x / scale) is linear for |x| below the scale, as resolution is, and logarithmic above, as lifetimes are.
SCALE_MM = 0.1
FAR = 5.0
MINIMUM_TRACKS = 20
CORE = 0.682689  # within one standard deviation of a Gaussian


@dataclass(frozen=True)
class TrackQuantity:
    """A quantity of a track; fields as of ``classes.Quantity``."""

    name: str
    title: str
    axis: str
    unit: str
    spacing: Spacing
    definition: str
    compute: Callable[[Tracks], np.ndarray]


@dataclass(frozen=True)
class Tracks:
    """Constituents with impact parameters: (N,) each.

    Attributes:
        record: jet of each.
        records: jets in the sample.
        pt: transverse momentum [GeV].
        eta: pseudorapidity in the laboratory.
        side: +1 or -1, the sign of dphi: d0 times it is positive for what flew along the jet before it decayed.
        d0, d0err, dz, dzerr: [mm].
        weights: of each; 1 in the real sample.
    """

    record: np.ndarray
    records: int
    pt: np.ndarray
    eta: np.ndarray
    side: np.ndarray
    d0: np.ndarray
    d0err: np.ndarray
    dz: np.ndarray
    dzerr: np.ndarray
    weights: np.ndarray

    def values(self, raw: np.ndarray, keep: np.ndarray | None = None) -> Values:
        """Weighted values of the tracks where ``keep``."""
        chosen = self.weights > 0 if keep is None else keep & (self.weights > 0)
        return Values(raw[chosen], self.record[chosen], self.records, self.weights[chosen])


QUANTITIES = (
    TrackQuantity(
        "d0", "d0", r"arcsinh($d_0$ / 0.1 mm)", "", "even",
        "Transverse impact parameter as arcsinh(d0 / 0.1 mm): linear in the core, logarithmic in the tails.",
        lambda tracks: np.arcsinh(tracks.d0 / SCALE_MM),
    ),
    TrackQuantity(
        "dz", "dz", r"arcsinh($d_z$ / 0.1 mm)", "", "even",
        "Longitudinal impact parameter as arcsinh(dz / 0.1 mm).", lambda tracks: np.arcsinh(tracks.dz / SCALE_MM),
    ),
    TrackQuantity(
        "d0_pull", "d0 significance, lifetime-signed", r"arcsinh($d_0$ sign($\Delta\phi$) / $\sigma$)", "", "even",
        "d0 over its uncertainty as arcsinh, positive for a track whose origin lies along the jet: resolution on the"
        " left, lifetime on the right.", lambda tracks: np.arcsinh(tracks.side * tracks.d0 / tracks.d0err),
    ),
    TrackQuantity(
        "dz_pull", "dz significance", r"arcsinh($d_z$ / $\sigma$)", "", "even",
        "dz over its uncertainty as arcsinh.", lambda tracks: np.arcsinh(tracks.dz / tracks.dzerr),
    ),
    TrackQuantity(
        "d0_error", "log10 of the d0 uncertainty", r"$\sigma(d_0)$ [mm]", "", "log10",
        "Decimal logarithm of the uncertainty of d0 in mm: distances in decades.",
        lambda tracks: np.log10(tracks.d0err),
    ),
    TrackQuantity(
        "dz_error", "log10 of the dz uncertainty", r"$\sigma(d_z)$ [mm]", "", "log10",
        "Decimal logarithm of the uncertainty of dz in mm: distances in decades.",
        lambda tracks: np.log10(tracks.dzerr),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ComparedTracks:
    """One quantity: distances, and histograms of the real and of the weighted simulated tracks."""

    wasserstein_1: Distance
    kolmogorov_smirnov: Distance
    real: Histogram
    simulated: Histogram


@dataclass(frozen=True)
class TrackReport:
    """What came out.

    Attributes:
        tracks: real and simulated tracks.
        quantities: by name.
        widths: of d0 and dz significance: how wide their cores are, and shares beyond five standard deviations.
        errors: median uncertainty [mm] of d0 and dz in bins of track pt: by quantity, the bins that have enough.
        species: shares by kind of share (of constituents, of those above 2 GeV, of pt), one pair a species.
        species_of: which jets these are the shares of.
        notes: what was left out, one line each.
    """

    tracks: tuple[int, int]
    quantities: dict[str, ComparedTracks]
    widths: tuple[Pair, ...]
    errors: dict[str, tuple[Pair, ...]]
    species: dict[str, tuple[Pair, ...]]
    species_of: str
    notes: tuple[str, ...]


def compare_tracks(real: JetSample, simulated: JetSample, *, seed: int, replicas: int = REPLICAS) -> TrackReport:
    """Compare tracks and species; arguments as for :func:`classes.compare_classes`.

    Raises:
        HepfmError: the simulated jets have no impact parameters or species, or too few tracks.
    """
    if not simulated.tracks or simulated.species is None:
        what = "impact parameters" if not simulated.tracks else "species"
        raise HepfmError(f"have no {what}", "the simulated jets", "leave --jetclass2 out, or compare other jets")
    ours, theirs = tracks_of(simulated), tracks_of(real)
    for sample, which in ((ours, "simulated"), (theirs, "real")):
        if len(sample.pt) < MINIMUM_TRACKS:
            raise HepfmError(f"{len(sample.pt)} {which} tracks, at least {MINIMUM_TRACKS} are needed", "--jetclass2")
    total = len(theirs.pt)
    theirs, ours = matched(theirs, ours)
    lost = total - int(theirs.weights.sum())
    notes = (f"{lost:,} of {total:,} real tracks lie where no simulated one does, and are left out",) if lost else ()
    species, jets = compare_species(real, simulated, seed=seed, replicas=replicas)
    compared = {q.name: _compare(q, theirs, ours, f"{seed}/{q.name}", replicas) for q in QUANTITIES}
    return TrackReport(
        (total, len(ours.pt)),
        compared,
        _widths(theirs, ours, seed, replicas),
        {name: _by_pt(name, theirs, ours, seed, replicas) for name in ("d0err", "dzerr")},
        species,
        jets,
        notes,
    )


def tracks_of(sample: JetSample) -> Tracks:
    """The constituents that have impact parameters with an uncertainty."""
    values = sample.tracks
    keep = (values["d0err"] > 0) & (values["dzerr"] > 0) & np.isfinite(values["d0"]) & np.isfinite(values["dz"])
    return Tracks(
        record=sample.record[keep],
        records=len(sample),
        pt=sample.constituents.pt[keep],
        eta=sample.eta[keep],
        side=np.where(sample.constituents.dphi[keep] < 0, -1.0, 1.0),
        weights=np.ones(int(keep.sum())),
        **{name: array[keep] for name, array in values.items()},
    )


def matched(real: Tracks, simulated: Tracks) -> tuple[Tracks, Tracks]:
    """Both samples where both have tracks, the simulated one with the real one's shares by cell of pt and abs(eta)."""
    cells = [_cell(sample) for sample in (real, simulated)]
    number = (len(PT_EDGES_GEV) - 1) * (len(ETA_EDGES) - 1)
    counts = [np.bincount(cell, minlength=number) for cell in cells]
    ratio = counts[0] / np.maximum(counts[1], 1)
    weights = (counts[1] > 0)[cells[0]].astype(np.float64), ratio[cells[1]]
    return replace(real, weights=weights[0]), replace(simulated, weights=weights[1])


def _cell(tracks: Tracks) -> np.ndarray:
    pt = np.digitize(tracks.pt, PT_EDGES_GEV[1:-1])
    return pt * (len(ETA_EDGES) - 1) + np.digitize(np.abs(tracks.eta), ETA_EDGES[1:-1])


def _compare(quantity: TrackQuantity, real: Tracks, simulated: Tracks, key: str, replicas: int) -> ComparedTracks:
    theirs, ours = (tracks.values(quantity.compute(tracks)) for tracks in (real, simulated))
    edges = bin_edges(quantity.spacing, theirs, fewest=30)
    estimates = distance_estimates(ours, theirs, key=key, replicas=replicas)
    floors = chance_floors(theirs, (theirs.records, ours.records), key=key, pairs=replicas)
    return ComparedTracks(
        Distance(estimates[0], floors[0]),
        Distance(estimates[1], floors[1]),
        histogram(theirs, edges),
        histogram(ours, edges),
    )


def _widths(real: Tracks, simulated: Tracks, seed: int, replicas: int) -> tuple[Pair, ...]:
    """Widths of the cores of significances, 1 for a Gaussian resolution alone, and shares beyond five."""
    found: dict[str, list[Estimate]] = {}
    for side, tracks in (("real", real), ("simulated", simulated)):
        for name in ("d0", "dz"):
            significance = getattr(tracks, name) / getattr(tracks, f"{name}err")
            key = f"{seed}/{name}/{side}"
            width = _quantile(tracks.values(np.abs(significance)), CORE, key, replicas)
            found.setdefault(f"{name}: 68% lie within", []).append(width)
            if name == "d0":
                away = significance * tracks.side < 0
                width = _quantile(tracks.values(np.abs(significance), away), CORE, f"{key}/away", replicas)
                found.setdefault("d0: 68% within, of those against the jet's direction", []).append(width)
            beyond = tracks.values((np.abs(significance) > FAR).astype(np.float64))
            share = mean_estimate(beyond, key=key, replicas=replicas)
            found.setdefault(f"{name}: share beyond {FAR:g}", []).append(share)
    return tuple(Pair(name, *estimates) for name, estimates in found.items())


def _quantile(values: Values, quantile: float, key: str, replicas: int) -> Estimate:
    value, drawn = quantiles_replicated(values, (quantile,), key=key, replicas=replicas)
    return Estimate(float(value[0]), float(drawn[:, 0].std(ddof=1)))


def _by_pt(name: str, real: Tracks, simulated: Tracks, seed: int, replicas: int) -> tuple[Pair, ...]:
    pairs = []
    for low, high in pairwise(PT_EDGES_GEV):
        estimates = []
        for side, tracks in (("real", real), ("simulated", simulated)):
            values = tracks.values(getattr(tracks, name), (tracks.pt >= low) & (tracks.pt < high))
            if len(values.values) < MINIMUM_TRACKS:
                continue
            estimates.append(_quantile(values, 0.5, f"{seed}/{name}/{low}/{side}", replicas))
        if len(estimates) == 2:
            pairs.append(Pair(f"{low:g}-{high:g}" if np.isfinite(high) else f"above {low:g}", *estimates))
    return tuple(pairs)
