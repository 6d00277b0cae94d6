"""Everything that is measured on two samples of jets or of showers, the classifiers aside, in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hepfm.benchmarks.scores import shower_histograms, shower_relations
from hepfm.benchmarks.scores.emd import COVERAGE_BATCHES, COVERAGE_JETS, coverage_and_mmd
from hepfm.benchmarks.scores.energy_flow import PRIME_4, PRODUCTS, energy_flow_polynomials
from hepfm.benchmarks.scores.ild import ild_observables, ild_scores
from hepfm.benchmarks.scores.jet_batches import PROTOCOLS, Protocol, protocol_of, relative, w1_features, w1m, w1p
from hepfm.benchmarks.scores.jet_values import constituent_quantities, defined, jet_quantities
from hepfm.benchmarks.scores.manifolds import Manifolds, manifolds
from hepfm.benchmarks.scores.one_dimensional import quantiled_kl_estimate, quantiled_kl_floor
from hepfm.benchmarks.scores.outcome import Outcome, attempt, enough
from hepfm.benchmarks.scores.physics_distances import FPD_SIZES, KPD_BATCH, fpd, halves, kpd
from hepfm.benchmarks.scores.shower_features import ShowerFeatures, shower_features
from hepfm.benchmarks.scores.showers import ShowerSample, check_alike, check_energies
from hepfm.benchmarks.scores.showers import check_units as check_response
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_pt
from hepfm.core.statistics import REPLICAS, Estimate, Values, wasserstein_1_estimate, wasserstein_1_floor

FEWEST_JETS = 50
UNIT_FACTOR = 30.0  # between median pt of jets in the same unit
VOXEL_FLOOR = 0.1  # MeV that stands for an empty voxel under a logarithm
MANIFOLD_EVENTS = 20_000  # of either side at most: the time goes with the square of their number
MOST_VOXEL_BYTES = 2 << 30  # of both samples' voxels as PRDC takes them


@dataclass(frozen=True)
class JetScores:
    """What two samples of jets show, by name.

    Attributes:
        wasserstein: W1 of each quantity, in its unit.
        quantiled_kl: KL divergence [nats] of each quantity in 30 open quantile bins.
        batched: W1M, W1P (and by feature), W1EFP in a published protocol, on relative pt.
        distances: FPD and KPD on 36 energy flow polynomials.
        manifolds: precision, recall, density, coverage on the same polynomials, normalised as for FPD.
        transport: COV and MMD with exact EMD, on relative pt.
        protocol: name or settings of the one that was taken.
    """

    wasserstein: dict[str, Outcome]
    quantiled_kl: dict[str, Outcome]
    batched: dict[str, Outcome]
    distances: dict[str, Outcome]
    manifolds: dict[str, Outcome]
    transport: dict[str, Outcome]
    protocol: str

    def to_data(self) -> dict[str, Any]:
        """As JSON; what could not be computed has no value but a note."""
        return {name: _plain(value) for name, value in vars(self).items()}


def jet_scores(
    reference: Constituents,
    sample: Constituents,
    protocol: str | Protocol = "jetnet",
    *,
    seed: int = 0,
    replicas: int = REPLICAS,
) -> JetScores:
    """All metrics of jets (but classifiers) of a sample against real jets.

    Raises:
        HepfmError: values that cannot be a constituent's, fewer than 50 jets, jets without momentum, another unit, or
            an unknown protocol. A metric that needs more jets than there are is told as such in its place.
    """
    chosen = protocol_of(protocol)
    check_jets(reference, sample)
    sides = (reference, sample)
    real, made = ({**defined(jet_quantities(side)), **constituent_quantities(side)} for side in sides)
    own = [relative(side) for side in sides]
    polynomials = [energy_flow_polynomials(side) for side in own]
    columns = [PRODUCTS.index((graph,)) for graph in PRIME_4]
    primes = [values[:, columns] for values in polynomials]
    half = _halves(reference, seed)
    real_halves = [own[0].select(chosen_jets) for chosen_jets in half]
    prime_halves = [primes[0][chosen_jets] for chosen_jets in half]
    batched = {
        "w1m": attempt(
            lambda: w1m(own[0], own[1], chosen, key=seed),
            lambda: w1m(real_halves[0], real_halves[1], chosen, key=f"floor {seed}"),
        ),
        **_parts(
            ("w1p", "w1p_deta", "w1p_dphi", "w1p_pt"),
            lambda: _each(w1p(own[0], own[1], chosen, key=seed)),
            lambda: _each(w1p(real_halves[0], real_halves[1], chosen, key=f"floor {seed}")),
        ),
        **_parts(
            ("w1efp",),
            lambda: _each(w1_features(primes[0], primes[1], chosen, key=f"w1efp {seed}"))[:1],
            lambda: _each(w1_features(prime_halves[0], prime_halves[1], chosen, key=f"w1efp floor {seed}"))[:1],
        ),
    }
    name = next((known for known, settings in PROTOCOLS.items() if settings == chosen), str(asdict(chosen)))
    return JetScores(
        wasserstein={key: _wasserstein(real[key], made[key], f"{seed}/{key}", replicas) for key in real},
        quantiled_kl={key: _quantiled_kl(real[key], made[key], f"{seed}/{key}", replicas) for key in real},
        batched=batched,
        distances=_physics(polynomials[0], polynomials[1], "jetnet", seed),
        manifolds=_jet_manifolds(*_scaled(polynomials[0], polynomials[1]), seed),
        transport=_transport(own[0], own[1], real_halves, seed),
        protocol=name,
    )


def check_jets(reference: Constituents, sample: Constituents) -> None:
    """See that two samples of jets can be compared.

    Raises:
        HepfmError: as for :func:`jet_scores`.
    """
    for name, side in (("reference", reference), ("sample", sample)):
        side.check(name)
        enough(len(side), FEWEST_JETS, "jets", "a comparison", name)
    real, made = (float(np.median(jet_pt(side))) for side in (reference, sample))
    if made > UNIT_FACTOR * real or real > UNIT_FACTOR * made:
        raise HepfmError(
            f"the median jet pt is {made:.4g}, in the reference {real:.4g}: another unit, or other jets", "sample"
        )


def _halves(jets: Constituents, seed: int) -> list[np.ndarray]:
    """Flags of the jets in either random half."""
    drawn = generator("halves", seed).permutation(len(jets)) < len(jets) // 2
    return [drawn, ~drawn]


def _each(found: Any) -> list[Estimate]:
    return [found.mean, *found.features]


def _parts(
    names: tuple[str, ...], value: Callable[[], list[Estimate]], floor: Callable[[], list[Estimate]]
) -> dict[str, Outcome]:
    """Outcomes of a metric that gives several numbers at once."""
    try:
        values = value()
    except HepfmError as error:
        return {name: Outcome(None, None, str(error)) for name in names}
    try:
        floors: list[Estimate | None] = [*floor()]
        note = ""
    except HepfmError as error:
        floors, note = [None] * len(names), f"no floor: {error}"
    return {name: Outcome(values[i], floors[i], note) for i, name in enumerate(names)}


def _wasserstein(real: Values, made: Values, key: str, replicas: int) -> Outcome:
    def value() -> Estimate:
        _told(real, made)
        return wasserstein_1_estimate(made, real, key=key, replicas=replicas)

    return attempt(value, lambda: wasserstein_1_floor(real, (real.records, made.records), key=key, splits=replicas))


def _quantiled_kl(real: Values, made: Values, key: str, replicas: int) -> Outcome:
    def value() -> Estimate:
        _told(real, made)
        return quantiled_kl_estimate(real, made, key=key, replicas=replicas)

    return attempt(value, lambda: quantiled_kl_floor(real, (real.records, made.records), key=key, splits=replicas))


def _told(real: Values, made: Values) -> None:
    for name, side in (("reference", real), ("sample", made)):
        enough(len(np.unique(side.record)), FEWEST_JETS, "jets with this quantity", "a comparison", name)


def _physics(real: np.ndarray, made: np.ndarray, rules: str, seed: int) -> dict[str, Outcome]:
    """FPD and KPD of features with floors between halves of the reference."""
    sizes, batch = FPD_SIZES[rules], KPD_BATCH[rules]
    first, second = halves(real, generator("physics distances", seed))
    return {
        "fpd": attempt(lambda: fpd(real, made, sizes), lambda: fpd(first, second, sizes)),
        "kpd": attempt(lambda: kpd(real, made, batch), lambda: kpd(first, second, batch)),
    }


def _scaled(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features standardised with the reference."""
    spread = real.std(axis=0)
    spread[spread == 0] = 1
    return (real - real.mean(axis=0)) / spread, (made - real.mean(axis=0)) / spread


def _manifolds(real: np.ndarray, made: np.ndarray, seed: int) -> dict[str, Outcome]:
    def listed(found: Manifolds) -> list[Estimate]:
        return [found.precision, found.recall, found.density, found.coverage]

    return _parts(
        ("precision", "recall", "density", "coverage"),
        lambda: listed(manifolds(real, made, key=seed)),
        lambda: listed(manifolds(*halves(real, generator("manifold halves", seed)), key=seed)),
    )


def _jet_manifolds(real: np.ndarray, made: np.ndarray, seed: int) -> dict[str, Outcome]:
    found = _manifolds(real[:MANIFOLD_EVENTS], made[:MANIFOLD_EVENTS], seed)
    return _of_the_first(found, MANIFOLD_EVENTS, max(len(real), len(made)), "jets")


def _of_the_first(found: dict[str, Outcome], taken: int, there: int, events: str) -> dict[str, Outcome]:
    """Told in the notes, if not all events were taken."""
    if there <= taken:
        return found
    told = f"of the first {taken:,} {events}"
    return {
        name: Outcome(outcome.value, outcome.floor, "; ".join(filter(None, [outcome.note, told])))
        for name, outcome in found.items()
    }


def _transport(real: Constituents, made: Constituents, half: list[Constituents], seed: int) -> dict[str, Outcome]:
    def listed(first: Constituents, second: Constituents) -> list[Estimate]:
        found = coverage_and_mmd(first, second, COVERAGE_JETS, COVERAGE_BATCHES, key=seed)
        return [found.coverage, found.mmd]

    return _parts(("coverage", "mmd"), lambda: listed(real, made), lambda: listed(half[0], half[1]))


@dataclass(frozen=True)
class ShowerScores:
    """What two samples of showers show.

    Attributes:
        separation: every histogram with its separation power.
        means: mean over layers of the separation powers of each group.
        correlation: mean absolute difference of the correlations of layer energies.
        distances: FPD and KPD on the high-level features.
        manifolds: precision, recall, density, coverage on log10 voxels.
        response: visible over incident energy by incident energy.
        ild: the ILD set, for grids.
    """

    separation: list[shower_histograms.Separation]
    means: dict[str, Outcome]
    correlation: Outcome
    distances: dict[str, Outcome]
    manifolds: dict[str, Outcome]
    response: list[shower_relations.EnergyBin]
    ild: dict[str, Outcome] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """As JSON; what could not be computed has no value but a note."""
        histograms = {part.observable.name: _plain(part.outcome) for part in self.separation}
        rest = {name: _plain(value) for name, value in vars(self).items() if name not in ("separation", "response")}
        bins = [
            {
                **{name: _plain(value) for name, value in vars(part).items()},
                "response_ratio": _plain(part.response_ratio),
                "resolution_ratio": _plain(part.resolution_ratio),
            }
            for part in self.response
        ]
        return {"separation": histograms, **rest, "response": bins}


def shower_scores(
    reference: ShowerSample, sample: ShowerSample, *, seed: int = 0, replicas: int = REPLICAS
) -> ShowerScores:
    """All metrics of showers (but classifiers) of a sample against real showers, read in chunks.

    Raises:
        HepfmError: other cells, units or incident energies than the reference's, values that cannot be a shower's, or
            fewer than 50 showers. A metric that needs more showers is told as such in its place.
    """
    check_alike(reference, sample)
    geometry = reference.geometry
    sample = replace(sample, geometry=geometry)  # one threshold for both
    real, made = shower_features(reference), shower_features(sample)
    check_showers(real, made, sample.name)
    separation = shower_histograms.separation_powers(real, made, geometry, key=seed, replicas=replicas)
    separation.append(_voxels(reference, sample, real, seed, replicas))
    ild: dict[str, Outcome] = {}
    if geometry.kind == "grid":
        ild = _ild(reference, sample, seed)
    correlation = attempt(
        lambda: shower_relations.correlation_difference(
            real.layer_energy, made.layer_energy, key=seed, replicas=replicas
        ),
        lambda: shower_relations.correlation_floor(
            real.layer_energy, (len(real), len(made)), key=seed, splits=max(2, replicas)
        ),
    )
    return ShowerScores(
        separation=separation,
        means=_means(separation),
        correlation=correlation,
        distances=_physics(real.inputs(), made.inputs(), "calochallenge", seed),
        manifolds=_voxel_manifolds(reference, sample, seed),
        response=shower_relations.conditional_response((real.incident, real.response), (made.incident, made.response)),
        ild=ild,
    )


def check_showers(reference: ShowerFeatures, sample: ShowerFeatures, name: str) -> None:
    """See that two samples of showers can be compared.

    Raises:
        HepfmError: as for :func:`shower_scores`.
    """
    for which, side in (("reference", reference), (f"sample '{name}'", sample)):
        enough(len(side), shower_histograms.FEWEST_SHOWERS, "showers", "a comparison", which)
    check_energies(reference.incident, sample.incident, name)
    check_response(reference.response, sample.response, name)


def _voxels(
    reference: ShowerSample, sample: ShowerSample, real: ShowerFeatures, seed: int, replicas: int
) -> shower_histograms.Separation:
    edges = shower_histograms.voxel_edges(real, reference.geometry)
    spectra = [shower_histograms.voxel_spectrum(side, edges) for side in (reference, sample)]
    return shower_histograms.voxel_separation(spectra[0], spectra[1], edges, key=seed, replicas=replicas)


def _means(separation: list[shower_histograms.Separation]) -> dict[str, Outcome]:
    """Mean over layers of each group, as published; those without a value are left out and counted."""
    groups: dict[str, list[Outcome]] = {}
    for part in separation:
        if part.observable.part is None:
            groups.setdefault(part.observable.group, []).append(part.outcome)
    found = {}
    for group, outcomes in groups.items():
        known = [outcome for outcome in outcomes if outcome.value is not None]
        note = "" if len(known) == len(outcomes) else f"{len(outcomes) - len(known)} of {len(outcomes)} have no value"
        if not known:
            found[group] = Outcome(None, None, note)
            continue
        value = _mean([outcome.value for outcome in known if outcome.value is not None])
        floors = [outcome.floor for outcome in known if outcome.floor is not None]
        floor = _mean([Estimate(part.value, part.error) for part in floors]) if len(floors) == len(known) else None
        found[group] = Outcome(value, floor, note)
    return found


def _mean(values: list[Estimate]) -> Estimate:
    """Mean over layers; its error takes layers as fully correlated, which is the safe side."""
    return Estimate(*(float(np.mean([getattr(value, name) for value in values])) for name in ("value", "error")))


def _voxel_manifolds(reference: ShowerSample, sample: ShowerSample, seed: int) -> dict[str, Outcome]:
    most = min(MANIFOLD_EVENTS, MOST_VOXEL_BYTES // (16 * reference.geometry.voxels))
    values = [log_voxels(side.limited(most)) for side in (reference, sample)]
    found = _manifolds(values[0], values[1], seed)
    return _of_the_first(found, most, max(reference.showers, sample.showers), "showers")


def log_voxels(sample: ShowerSample) -> np.ndarray:
    """log10 of the voxels (n, voxels) [MeV], empty ones taken as 0.1 MeV: CaloChallenge's features for PRDC."""
    found, start = np.empty((sample.showers, sample.geometry.voxels)), 0
    for hits in sample.chunks(sample.geometry.threshold):
        dense = hits.dense(sample.geometry.voxels)
        found[start : start + len(hits)] = np.log10(np.where(dense > 0, dense, VOXEL_FLOOR))
        start += len(hits)
    return found


def _ild(reference: ShowerSample, sample: ShowerSample, seed: int) -> dict[str, Outcome]:
    """The ILD set about the axis of the grid, in ten batches of as many showers as there are."""
    try:
        sides = [ild_observables(side, (0.0, 0.0), key=seed) for side in (reference, sample)]
        batch = min(len(side) for side in sides) // 10
        return {score.name: score.outcome for score in ild_scores(sides[0], sides[1], batch, key=seed)}
    except HepfmError as error:
        return {"ILD": Outcome(None, None, str(error))}


def _plain(value: Any) -> Any:
    """Plain data: numbers, texts, lists and dictionaries."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
