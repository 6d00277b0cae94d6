"""What is measured on samples of jets: observables, their distances to a reference, and floors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepfm.benchmarks.scores.jet_values import JetSide
from hepfm.core import observables
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, concatenate
from hepfm.core.progress import progress
from hepfm.core.statistics import (
    Estimate,
    Floor,
    Histogram,
    Values,
    histogram,
    wasserstein_1_estimate,
    wasserstein_1_floor,
)

MINIMUM_JETS = 50
OUTER_SHARE = 0.002
UNIT_FACTOR = 100.0

Spacing = Literal["even", "integer", "log10"]


@dataclass(frozen=True)
class Observable:
    """A quantity of a jet or of a constituent.

    Attributes:
        name: in report.json.
        title: in the page.
        axis: on plots, with unit, as mathtext.
        unit: of the distance; empty for a pure number.
        per: whether a jet or a constituent has one value.
        spacing: of the bins; for ``log10`` the values are log10 of what the axis shows.
        definition: one sentence.
        compute: values, NaN where undefined.
    """

    name: str
    title: str
    axis: str
    unit: str
    per: Literal["jet", "constituent"]
    spacing: Spacing
    definition: str
    compute: Callable[[JetSide], np.ndarray]

    def values(self, side: JetSide) -> Values:
        """The defined values of a sample."""
        jets = side.jets
        raw = np.asarray(self.compute(side), dtype=np.float64)
        lengths = np.ones(len(jets), dtype=np.int64) if self.per == "jet" else observables.multiplicity(jets)
        record = np.repeat(np.arange(len(jets)), lengths)
        defined = np.isfinite(raw)
        return Values(raw[defined], record[defined], len(jets))

    def undefined(self, values: Values, jets: Constituents) -> int:
        """How many values of a sample are undefined."""
        return (len(jets) if self.per == "jet" else len(jets.pt)) - len(values.values)


def _quantity(name: str) -> Callable[[JetSide], np.ndarray]:
    return lambda side: side.quantity(name)


def _log_pt(side: JetSide) -> np.ndarray:
    pt = np.asarray(side.jets.pt, dtype=np.float64)
    return np.log10(np.where(pt > 0, pt, np.nan))


OBSERVABLES = (
    Observable(
        "jet_pt", "Jet pT", r"jet $p_{\mathrm{T}}$ [GeV]", "GeV", "jet", "even",
        "Transverse momentum of the sum of the constituents, taken as massless.", _quantity("jet_pt"),
    ),
    Observable(
        "jet_mass", "Jet mass", "jet mass [GeV]", "GeV", "jet", "even",
        "Invariant mass of the sum of the constituents, taken as massless.", _quantity("jet_mass"),
    ),
    Observable(
        "multiplicity", "Multiplicity", "constituents per jet", "", "jet", "integer",
        "Number of constituents of a jet.", _quantity("multiplicity"),
    ),
    Observable(
        "tau21", "τ21", r"$\tau_{21}$", "", "jet", "even",
        "N-subjettiness ratio τ2/τ1 with β = 1, R0 = 0.8 about exclusive-kT axes (E scheme); undefined where τ1 = 0,"
        " as in jets with one constituent.", _quantity("tau21"),
    ),
    Observable(
        "constituent_log_pt", "Constituent log10 pT", r"constituent $p_{\mathrm{T}}$ [GeV]", "", "constituent", "log10",
        "Decimal logarithm of the transverse momentum of a constituent in GeV: the distance is in decades;"
        " undefined for pT = 0.", _log_pt,
    ),
    Observable(
        "constituent_deta", "Constituent Δη", r"constituent $\Delta\eta$", "", "constituent", "even",
        "Pseudorapidity of a constituent relative to its jet's axis.", lambda side: side.jets.deta,
    ),
    Observable(
        "constituent_dphi", "Constituent Δφ", r"constituent $\Delta\phi$ [rad]", "rad", "constituent", "even",
        "Azimuth of a constituent relative to its jet's axis.", lambda side: side.jets.dphi,
    ),
)  # fmt: skip
SUBSTRUCTURE = (
    Observable(
        "tau32", "τ32", r"$\tau_{32}$", "", "jet", "even",
        "N-subjettiness ratio τ3/τ2, as τ21; undefined where τ2 = 0, as in jets with up to two constituents.",
        _quantity("tau32"),
    ),
    Observable(
        "d2", "D2", r"$D_2$", "", "jet", "even",
        "Ratio of energy correlation functions e3/e2³ with β = 1; undefined where e2 = 0.", _quantity("d2"),
    ),
    Observable(
        "softdrop_mass", "Soft-drop mass", "soft-drop mass [GeV]", "GeV", "jet", "even",
        "Mass after soft drop with z_cut = 0.1, β = 0, R0 = 0.8 on the Cambridge-Aachen jet (fastjet).",
        _quantity("softdrop_mass"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One sample beside the reference in one observable.

    Attributes:
        distance: Wasserstein-1 distance to the reference; None where it cannot be computed.
        floor: what two real samples of these sizes show; None likewise.
        undefined: values that the observable does not define, and that were left out.
        histogram: the sample in the bins of the reference.
        note: why something could not be computed.
    """

    distance: Estimate | None
    floor: Floor | None
    undefined: int
    histogram: Histogram
    note: str = ""

    @property
    def compatible(self) -> bool | None:
        """Whether the sample cannot be told from a real one by this distance (at most the floor's 95% quantile)."""
        if self.distance is None or self.floor is None:
            return None
        return self.distance.value <= self.floor.upper


@dataclass(frozen=True)
class Measured:
    """One observable of the reference and of every sample."""

    observable: Observable
    reference: Histogram
    undefined: int
    samples: dict[str, Comparison]

    def times_better(self, sample: str, baseline: str) -> Estimate | None:
        """Distance of the baseline over that of the sample, errors taken as independent."""
        own, other = self.samples[sample].distance, self.samples[baseline].distance
        if own is None or other is None or own.value == 0 or other.value == 0:
            return None
        ratio = other.value / own.value
        return Estimate(ratio, ratio * float(np.hypot(own.error / own.value, other.error / other.value)))


def measure(
    reference: JetSide,
    samples: Mapping[str, JetSide],
    floor_reference: Constituents | None,
    observables_of: Sequence[Observable] = OBSERVABLES,
    *,
    seed: int,
    replicas: int,
) -> list[Measured]:
    """Compare samples with a reference in observables.

    Args:
        reference: real jets.
        samples: jets to judge, by name.
        floor_reference: further real jets, disjoint from ``reference``, for the floor.
        observables_of: what to compare.
        seed: of bootstrap replicas and splits.
        replicas: bootstrap replicas per distance, and splits per floor.

    Raises:
        HepfmError: no sample, too few jets, values that are not finite, or other units.
    """
    if not samples:
        raise HepfmError("no sample to compare with the reference", "evaluate jets", "name one or several samples")
    _check("reference", reference.jets)
    for name, side in samples.items():
        _check(f"sample '{name}'", side.jets)
        _check_units(name, side.jets, reference.jets)
    real = reference
    if floor_reference is not None:
        real = JetSide(concatenate([reference.jets, floor_reference.check("floor reference")]))
    measured = []
    with progress("evaluate", len(observables_of) * len(samples), "distances") as bar:
        for observable in observables_of:
            pool = observable.values(real)
            judge = _Judge(pool, pool.first(len(reference)), observable, f"{seed}/{observable.name}", replicas)
            compared = {}
            for name, side in samples.items():
                values = observable.values(side)
                compared[name] = judge.compare(values, observable.undefined(values, side.jets))
                bar.advance()
            undefined = observable.undefined(judge.reference, reference.jets)
            measured.append(Measured(observable, histogram(judge.reference, judge.edges), undefined, compared))
    return measured


class _Judge:
    """Compares samples with the reference in one observable; samples of one size share their floor."""

    def __init__(self, pool: Values, reference: Values, observable: Observable, key: str, replicas: int) -> None:
        self.pool, self.reference, self.key, self.replicas = pool, reference, key, replicas
        self.edges = bin_edges(observable.spacing, reference)
        self._floors: dict[int, Floor] = {}

    def compare(self, sample: Values, undefined: int) -> Comparison:
        binned = histogram(sample, self.edges)
        for which, values in (("reference", self.reference), ("sample", sample)):
            having = len(np.unique(values.record))
            if having < MINIMUM_JETS:
                note = f"defined in only {having} jets of the {which}; at least {MINIMUM_JETS} are needed"
                return Comparison(None, None, undefined, binned, note)
        distance = wasserstein_1_estimate(sample, self.reference, key=self.key, replicas=self.replicas)
        return Comparison(distance, self._floor(sample.records), undefined, binned)

    def _floor(self, records: int) -> Floor:
        if records not in self._floors:
            sizes = (self.reference.records, records)
            self._floors[records] = wasserstein_1_floor(self.pool, sizes, key=self.key, splits=self.replicas)
        return self._floors[records]


def bin_edges(spacing: Spacing, reference: Values, outer: float = OUTER_SHARE, fewest: int = 10) -> np.ndarray:
    """Edges over the bulk of the reference and a margin beside it, finer for a larger reference (Rice's rule).

    Args:
        spacing: of the bins.
        reference: values; the bulk is what lies between their ``outer`` and 1 - ``outer`` quantile.
        outer: share left out on either side.
        fewest: bins at least.
    """
    if len(reference.values) == 0:
        return np.array([0.0, 1.0])
    low, high = np.quantile(reference.values, [outer, 1 - outer])
    margin = 0.15 * (high - low) or 0.5
    floor = 0.0 if reference.values.min() >= 0 else -np.inf
    low, high = max(low - margin, floor), high + margin
    bins = int(np.clip(2 * reference.records ** (1 / 3), fewest, 40))
    if spacing == "integer":
        step = max(1, int(np.ceil((high - low) / bins)))
        return np.arange(np.floor(low), high + step, step) - 0.5
    return np.linspace(low, high, bins + 1)


def _check(what: str, jets: Constituents) -> None:
    jets.check(what)
    if len(jets) < MINIMUM_JETS:
        raise HepfmError(f"{len(jets)} jets are too few: at least {MINIMUM_JETS} are needed", what)
    if len(jets.pt) == 0:
        raise HepfmError("no jet has a constituent", what)


def _check_units(name: str, jets: Constituents, reference: Constituents) -> None:
    """Jets a hundred times harder or softer than the reference are in another unit."""
    own, real = (float(np.median(observables.jet_pt(sample))) for sample in (jets, reference))
    if own > UNIT_FACTOR * real or real > UNIT_FACTOR * own:
        raise HepfmError(
            f"the median jet pt is {own:.4g} GeV, in the reference {real:.4g} GeV: another unit, or other jets",
            f"sample '{name}'",
            "hepfm's unit is GeV",
        )
