"""Everything that is measured on two samples of jets, the classifiers aside, in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hepfm.benchmarks.scores.emd import COVERAGE_BATCHES, COVERAGE_JETS, coverage_and_mmd
from hepfm.benchmarks.scores.energy_flow import PRIME_4, PRODUCTS
from hepfm.benchmarks.scores.jet_batches import PROTOCOLS, Protocol, protocol_of, w1_features, w1m, w1p
from hepfm.benchmarks.scores.jet_values import JetSide
from hepfm.benchmarks.scores.one_dimensional import quantiled_kl_estimate, quantiled_kl_floor
from hepfm.benchmarks.scores.outcome import Outcome, attempt, enough
from hepfm.benchmarks.scores.shower_relations import correlation_difference, correlation_floor
from hepfm.benchmarks.scores.suite_parts import (
    MANIFOLD_EVENTS,
    Kept,
    Seconds,
    feature_manifolds,
    of_the_first,
    outcomes_of,
    physics_distances,
    plain,
)
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_pt
from hepfm.core.statistics import REPLICAS, Estimate, Values, wasserstein_1_estimate, wasserstein_1_floor

FEWEST_JETS = 50
UNIT_FACTOR = 30.0  # between median pt of jets in the same unit
GROUPS = ("wasserstein", "quantiled_kl", "batched", "distances", "manifolds", "transport")


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
        correlation: mean absolute difference of the correlations of the quantities of jets.
        protocol: name or settings of the one that was taken.
    """

    wasserstein: dict[str, Outcome]
    quantiled_kl: dict[str, Outcome]
    batched: dict[str, Outcome]
    distances: dict[str, Outcome]
    manifolds: dict[str, Outcome]
    transport: dict[str, Outcome]
    correlation: Outcome
    protocol: str

    def to_data(self) -> dict[str, Any]:
        """As JSON; what could not be computed has no value but a note."""
        return {name: plain(value) for name, value in vars(self).items()}


def jet_scores(
    reference: Constituents | JetSide,
    sample: Constituents | JetSide,
    protocol: str | Protocol = "jetnet",
    *,
    seed: int = 0,
    replicas: int = REPLICAS,
    without: Collection[str] = (),
    seconds: Seconds | None = None,
) -> JetScores:
    """All metrics of jets (but classifiers) of a sample against real jets.

    Args:
        reference, sample: jets; as a :class:`JetSide`, what is computed from them is kept for the next comparison.
        protocol: of the batches of W1M, W1P and W1EFP.
        seed: of all draws.
        replicas: of bootstraps, and splits for floors.
        without: groups of :data:`GROUPS` that are left out.
        seconds: takes the time of each group.

    Raises:
        HepfmError: values that cannot be a constituent's, fewer than 50 jets, jets without momentum, another unit, or
            an unknown protocol. A metric that needs more jets than there are is told as such in its place.
    """
    chosen = protocol_of(protocol)
    left_out, clock = frozenset(without), seconds or Seconds()
    real, made = (side if isinstance(side, JetSide) else JetSide(side) for side in (reference, sample))
    check_jets(real.jets, made.jets)
    with clock.of("quantities"):
        for side in (real, made):
            _ = side.values  # clustered here, so that its time is not another part's
    with clock.of("correlation"):
        correlation = _correlation(real, made, seed, replicas)
    if left_out.isdisjoint({"batched", "distances", "manifolds"}):
        with clock.of("polynomials"):
            for side in (real, made):
                _ = side.polynomials
    found: dict[str, dict[str, Outcome]] = {}
    groups: dict[str, Callable[[], dict[str, Outcome]]] = {
        "wasserstein": lambda: {
            key: _wasserstein(real.values[key], made.values[key], f"{seed}/{key}", replicas) for key in real.values
        },
        "quantiled_kl": lambda: {
            key: _quantiled_kl(real.values[key], made.values[key], f"{seed}/{key}", replicas) for key in real.values
        },
        "batched": lambda: _batched(real, made, chosen, seed),
        "distances": lambda: physics_distances(real.polynomials, made.polynomials, "jetnet", seed, real.kept),
        "manifolds": lambda: _jet_manifolds(*_scaled(real.polynomials, made.polynomials), seed, real.kept),
        "transport": lambda: _transport(real, made, seed),
    }
    for name, compute in groups.items():
        if name in left_out:
            found[name] = {}
            continue
        with clock.of(name):
            found[name] = compute()
    return JetScores(**found, correlation=correlation, protocol=name_of(chosen))


def name_of(protocol: Protocol) -> str:
    """Name of a known protocol, or its settings."""
    return next((known for known, settings in PROTOCOLS.items() if settings == protocol), str(asdict(protocol)))


def _batched(real: JetSide, made: JetSide, protocol: Protocol, seed: int) -> dict[str, Outcome]:
    """W1M, W1P and W1EFP, with floors between halves of the reference."""

    def kept(name: str, compute: Callable[[], Any]) -> Any:
        return real.kept.once((name, str(protocol), seed), compute)

    columns = [PRODUCTS.index((graph,)) for graph in PRIME_4]
    primes = [side.polynomials[:, columns] for side in (real, made)]
    half = _halves(real.jets, seed)
    real_halves = [real.relative.select(chosen_jets) for chosen_jets in half]
    prime_halves = [primes[0][chosen_jets] for chosen_jets in half]
    return {
        "w1m": attempt(
            lambda: w1m(real.relative, made.relative, protocol, key=seed),
            lambda: kept("w1m", lambda: w1m(real_halves[0], real_halves[1], protocol, key=f"floor {seed}")),
        ),
        **outcomes_of(
            ("w1p", "w1p_deta", "w1p_dphi", "w1p_pt"),
            lambda: _each(w1p(real.relative, made.relative, protocol, key=seed)),
            lambda: kept("w1p", lambda: _each(w1p(real_halves[0], real_halves[1], protocol, key=f"floor {seed}"))),
        ),
        **outcomes_of(
            ("w1efp",),
            lambda: _each(w1_features(primes[0], primes[1], protocol, key=f"w1efp {seed}"))[:1],
            lambda: kept(
                "w1efp",
                lambda: _each(w1_features(prime_halves[0], prime_halves[1], protocol, key=f"w1efp floor {seed}"))[:1],
            ),
        ),
    }


def complete(side: JetSide) -> np.ndarray:
    """All quantities (k, 7) of the jets in which every one is defined."""
    columns = np.column_stack(list(side.quantities.values()))
    return columns[np.isfinite(columns).all(axis=1)]


def _correlation(real: JetSide, made: JetSide, seed: int, replicas: int) -> Outcome:
    sides = [complete(side) for side in (real, made)]
    return attempt(
        lambda: correlation_difference(sides[0], sides[1], key=seed, replicas=replicas),
        lambda: correlation_floor(sides[0], (len(sides[0]), len(sides[1])), key=seed, splits=max(2, replicas)),
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


def _scaled(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features standardised with the reference."""
    spread = real.std(axis=0)
    spread[spread == 0] = 1
    return (real - real.mean(axis=0)) / spread, (made - real.mean(axis=0)) / spread


def _jet_manifolds(real: np.ndarray, made: np.ndarray, seed: int, kept: Kept) -> dict[str, Outcome]:
    found = feature_manifolds(real[:MANIFOLD_EVENTS], made[:MANIFOLD_EVENTS], seed, kept)
    return of_the_first(found, MANIFOLD_EVENTS, max(len(real), len(made)), "jets")


def _transport(real: JetSide, made: JetSide, seed: int) -> dict[str, Outcome]:
    def listed(first: Constituents, second: Constituents) -> list[Estimate]:
        found = coverage_and_mmd(first, second, COVERAGE_JETS, COVERAGE_BATCHES, key=seed)
        return [found.coverage, found.mmd]

    half = [real.relative.select(chosen) for chosen in _halves(real.jets, seed)]
    return outcomes_of(
        ("coverage", "mmd"),
        lambda: listed(real.relative, made.relative),
        lambda: real.kept.once(("transport", seed), lambda: listed(half[0], half[1])),
    )
