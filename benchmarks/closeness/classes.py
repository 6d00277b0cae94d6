"""Simulated jets against real JetClass jets, class by class: distances, what chance alone gives, median masses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepfm.benchmarks.closeness.samples import UNLABELLED, JetSample
from hepfm.benchmarks.jets import Spacing, bin_edges
from hepfm.core import observables
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.statistics import (
    Estimate,
    Floor,
    Histogram,
    Values,
    chance_floors,
    distance_estimates,
    histogram,
    median_estimate,
)
from hepfm.ingest.formats.jetclass import LABELS

# The 95% quantile of a floor needs more pairs than an error needs replicas.
REPLICAS = 200
# With fewer, the bootstrap's error of a median is worth little.
MINIMUM_JETS = 20
# JetClass's selection: jets of another are left out.
MIN_PT_GEV, MAX_PT_GEV, MAX_ETA = 500.0, 1000.0, 2.0
BACKGROUND = "QCD"
# Pictures show what lies between these quantiles of the real jets, in so many bins at least.
OUTER_SHARE, FEWEST_BINS = {"jet": 0.02, "constituent": 0.005}, {"jet": 12, "constituent": 20}
RESONANCES, EVERYTHING = "resonances", "all classes"


@dataclass(frozen=True)
class Quantity:
    """What is compared: one value a jet or a constituent, NaN where undefined. Fields as of ``jets.Observable``."""

    name: str
    title: str
    axis: str
    unit: str
    per: Literal["jet", "constituent"]
    spacing: Spacing
    definition: str
    compute: Callable[[JetSample], np.ndarray]

    def values(self, sample: JetSample) -> Values:
        """The defined values of a sample."""
        raw = np.asarray(self.compute(sample), dtype=np.float64)
        record = np.arange(len(sample)) if self.per == "jet" else sample.record
        defined = np.isfinite(raw)
        return Values(raw[defined], record[defined], len(sample))


QUANTITIES = (
    Quantity(
        "jet_pt", "jet pT", r"jet $p_{\mathrm{T}}$ [GeV]", "GeV", "jet", "even",
        "Transverse momentum of the sum of the constituents.", lambda jets: jets.pt,
    ),
    Quantity(
        "jet_mass", "mass", "jet mass [GeV]", "GeV", "jet", "even",
        "Mass of the sum of the constituents, with their stored energies.", lambda jets: jets.mass,
    ),
    Quantity(
        "softdrop_mass", "soft-drop mass", "soft-drop mass [GeV]", "GeV", "jet", "even",
        "Mass after soft drop (zcut 0.1, beta 0, Cambridge/Aachen), constituents taken as massless.",
        lambda jets: observables.softdrop_mass(jets.constituents),
    ),
    Quantity(
        "multiplicity", "multiplicity", "constituents per jet", "", "jet", "integer",
        "Number of constituents of a jet.", lambda jets: np.diff(jets.offsets),
    ),
    Quantity(
        "tau21", "τ21", r"$\tau_{21}$", "", "jet", "even",
        "N-subjettiness ratio τ2/τ1 with β = 1, R0 = 0.8 about exclusive-kT axes (E scheme), of both samples alike.",
        lambda jets: observables.tau21(jets.constituents),
    ),
    Quantity(
        "constituent_log_pt", "constituent log10 pT", r"constituent $p_{\mathrm{T}}$ [GeV]", "", "constituent",
        "log10", "Decimal logarithm of a constituent's transverse momentum in GeV: distances in decades.",
        lambda jets: np.log10(jets.constituents.pt),
    ),
    Quantity(
        "constituent_deta", "constituent Δη", r"constituent $\Delta\eta$", "", "constituent", "even",
        "Pseudorapidity of a constituent relative to the sum's.", lambda jets: jets.constituents.deta,
    ),
    Quantity(
        "constituent_dphi", "constituent Δφ", r"constituent $\Delta\phi$ [rad]", "rad", "constituent", "even",
        "Azimuth of a constituent relative to the sum's.", lambda jets: jets.constituents.dphi,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Distance:
    """A distance between simulated and real jets beside the one that chance gives."""

    estimate: Estimate
    floor: Floor

    @property
    def missed(self) -> bool:
        """Whether chance gives so much in fewer than 5% of cases."""
        return self.estimate.value > self.floor.upper


@dataclass(frozen=True)
class Compared:
    """One quantity of one class (or pool of classes)."""

    wasserstein_1: Distance
    kolmogorov_smirnov: Distance
    real: Histogram
    simulated: Histogram


@dataclass(frozen=True)
class Row:
    """A class, or a pool of classes: jets on either side and all quantities by name."""

    name: str
    real: int
    simulated: int
    quantities: Mapping[str, Compared]


@dataclass(frozen=True)
class Pair:
    """A number of the real and of the simulated sample."""

    name: str
    real: Estimate
    simulated: Estimate


@dataclass(frozen=True)
class Median:
    """Median jet masses [GeV] of a class."""

    name: str
    real: Estimate
    simulated: Estimate

    @property
    def relative(self) -> Estimate:
        """Simulated over real, minus 1."""
        ratio = self.simulated.value / self.real.value
        errors = (self.real.error / self.real.value, self.simulated.error / self.simulated.value)
        return Estimate(ratio - 1, ratio * float(np.hypot(*errors)))

    @property
    def pull(self) -> float:
        """Difference in standard deviations (both samples' errors in quadrature); 0 for equal medians."""
        return pull(self.real, self.simulated)


def pull(real: Estimate, simulated: Estimate) -> float:
    """(simulated - real) / their errors in quadrature; 0 where they are equal."""
    difference = simulated.value - real.value
    error = float(np.hypot(real.error, simulated.error))
    return 0.0 if difference == 0 else difference / error if error > 0 else float(np.copysign(np.inf, difference))


@dataclass(frozen=True)
class ClassReport:
    """What came out.

    Attributes:
        rows: classes in the order of the real sample, then pools.
        medians: masses, one a class.
        resonance_shift: mean of the resonances' relative median differences, weighted by their errors; None without.
        notes: what was left out, one line each.
    """

    rows: tuple[Row, ...]
    medians: tuple[Median, ...]
    resonance_shift: Estimate | None
    notes: tuple[str, ...]


def compare_classes(real: JetSample, simulated: JetSample, *, seed: int, replicas: int = REPLICAS) -> ClassReport:
    """Compare class by class, and pools of classes mixed as in the real sample.

    Args:
        real: JetClass jets.
        simulated: simulated jets; those beyond JetClass's selection are left out.
        seed: of bootstrap replicas.
        replicas: bootstrap replicas of each distance, and pairs of each floor.

    Raises:
        HepfmError: no class has enough jets in both.
    """
    inside, notes = _selected(simulated)
    found = [name for name in dict.fromkeys(real.label) if name != UNLABELLED]
    order = [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]
    classes, more = _common(order, real, inside)
    notes += more
    values = {q.name: (q.values(real), q.values(inside)) for q in QUANTITIES}
    groups = _groups(classes)
    rows = []
    with progress("compare classes", len(groups) * len(QUANTITIES), "distances") as bar:
        for name, group in groups.items():
            rows_real, rows_simulated = _rows_of(group, real.label, inside.label)
            compared = {}
            for quantity in QUANTITIES:
                sides = values[quantity.name]
                pair = sides[0].of(rows_real), sides[1].of(rows_simulated)
                compared[quantity.name] = _compare(quantity, *pair, f"{seed}/{name}/{quantity.name}", replicas)
                bar.advance()
            rows.append(Row(name, len(rows_real), len(rows_simulated), compared))
    medians = tuple(_median(name, real, inside, seed) for name in classes)
    shift = _weighted_mean([median.relative for median in medians if median.name != BACKGROUND])
    return ClassReport(tuple(rows), medians, shift, tuple(notes))


def _selected(simulated: JetSample) -> tuple[JetSample, list[str]]:
    axis = np.arcsinh(simulated.jet.pz / simulated.pt)
    keep = (simulated.pt > MIN_PT_GEV) & (simulated.pt < MAX_PT_GEV) & (np.abs(axis) < MAX_ETA)
    outside = len(keep) - int(keep.sum())
    if not outside:
        return simulated, []
    window = f"{MIN_PT_GEV:g} < pt < {MAX_PT_GEV:g} GeV, abs(eta) < {MAX_ETA:g}"
    return simulated.select(keep), [f"{outside:,} simulated jets beyond JetClass's selection ({window}) are left out"]


def _common(order: list[str], real: JetSample, simulated: JetSample) -> tuple[list[str], list[str]]:
    """Classes with enough jets on both sides, and a line on each other one."""
    classes, notes = [], []
    for name in order:
        counts = {"real": np.sum(real.label == name), "simulated": np.sum(simulated.label == name)}
        few = [f"{count} {side}" for side, count in counts.items() if count < MINIMUM_JETS]
        if few:
            notes.append(f"{name} is not compared: {' and '.join(few)} jets, at least {MINIMUM_JETS} are needed")
        else:
            classes.append(name)
    foreign = [name for name in dict.fromkeys(simulated.label) if name not in order]
    shown = ", ".join(name or "no label" for name in foreign[:5]) + (", ..." if len(foreign) > 5 else "")
    if not classes:
        what = f"no class has {MINIMUM_JETS} jets on both sides" + (f" (labels beside: {shown})" if foreign else "")
        raise HepfmError(
            what, "simulated and real JetClass jets", "simulate JetClass's classes, or leave --jetclass out"
        )
    if foreign:
        jets = int(np.isin(simulated.label, foreign).sum())
        notes.append(f"{jets:,} simulated jets of {len(foreign)} labels without real jets are not compared: {shown}")
    return classes, notes


def _groups(classes: list[str]) -> dict[str, list[str]]:
    """Each class by itself, then the pools that are more than one class."""
    groups = {name: [name] for name in classes}
    resonances = [name for name in classes if name != BACKGROUND]
    if len(resonances) > 1:
        groups[RESONANCES] = resonances
    if len(classes) > len(resonances) > 0:
        groups[EVERYTHING] = classes
    return groups


def _rows_of(classes: list[str], real: np.ndarray, simulated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jets of either side: all real ones, and the first simulated ones of each class in the same proportions."""
    wanted = {name: int(np.sum(real == name)) for name in classes}
    present = {name: np.flatnonzero(simulated == name) for name in classes}
    times = min(len(present[name]) / wanted[name] for name in classes)
    chosen = [present[name][: int(times * wanted[name] + 1e-9)] for name in classes]
    return np.flatnonzero(np.isin(real, classes)), np.concatenate(chosen)


def _compare(quantity: Quantity, real: Values, simulated: Values, key: str, replicas: int) -> Compared:
    edges = bin_edges(quantity.spacing, real, OUTER_SHARE[quantity.per], FEWEST_BINS[quantity.per])
    estimates = distance_estimates(simulated, real, key=key, replicas=replicas)
    floors = chance_floors(real, (real.records, simulated.records), key=key, pairs=replicas)
    return Compared(
        Distance(estimates[0], floors[0]),
        Distance(estimates[1], floors[1]),
        histogram(real, edges),
        histogram(simulated, edges),
    )


def _median(name: str, real: JetSample, simulated: JetSample, seed: int) -> Median:
    masses = [sample.mass[sample.label == name] for sample in (real, simulated)]
    estimates = [
        median_estimate(values, key=f"{seed}/{name}/{side}")
        for values, side in zip(masses, ("real", "simulated"), strict=True)
    ]
    return Median(name, *estimates)


def _weighted_mean(estimates: list[Estimate]) -> Estimate | None:
    known = [estimate for estimate in estimates if estimate.error > 0]
    if not known:
        return None
    weights = np.array([1 / estimate.error**2 for estimate in known])
    mean = float(weights @ [estimate.value for estimate in known] / weights.sum())
    return Estimate(mean, float(weights.sum() ** -0.5))
