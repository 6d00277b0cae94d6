"""W1 of jet mass, constituents and energy flow polynomials over batches, as two groups of papers publish it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepfm.benchmarks.scores.emd import taken
from hepfm.benchmarks.scores.energy_flow import prime_polynomials
from hepfm.benchmarks.scores.outcome import enough, features
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_mass, jet_pt, multiplicity
from hepfm.core.statistics import Estimate, wasserstein_1

FEATURES = ("deta", "dphi", "pt")


@dataclass(frozen=True)
class Protocol:
    """Which jets are compared with which.

    Attributes:
        jets: of a batch.
        batches: how many.
        how: ``resampled``: both sides are drawn with replacement; ``disjoint``: the whole reference is compared with
            batches of the sample that have no jet in common.
        pooled: the error of a mean over features is the square root of the sum of their variances (EPiC-GAN's code),
            else the spread of that mean over batches.
    """

    jets: int
    batches: int
    how: Literal["resampled", "disjoint"]
    pooled: bool = False


PROTOCOLS = {
    "jetnet": Protocol(50_000, 5, "resampled"),  # arXiv:2106.11535, 2211.10295
    "epic-gan": Protocol(10_000, 5, "disjoint", pooled=True),  # arXiv:2301.08128
    "pc-jedi": Protocol(10_000, 10, "disjoint"),  # arXiv:2303.05376
    "epic-fm": Protocol(50_000, 40, "disjoint"),  # arXiv:2310.00049
}


@dataclass(frozen=True)
class Distances:
    """W1 distances: mean and spread over batches.

    Attributes:
        features: each feature's.
        mean: of the features' mean.
    """

    features: tuple[Estimate, ...]
    mean: Estimate


def protocol_of(name: str | Protocol) -> Protocol:
    """The protocol called ``name``.

    Raises:
        HepfmError: there is none.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise HepfmError(f"no protocol '{name}'", "jet metrics", f"there is: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def relative(jets: Constituents) -> Constituents:
    """Jets with each constituent's pt as a share of the jet's (of the sum of its constituents).

    Raises:
        HepfmError: a jet without momentum.
    """
    total = jet_pt(jets)
    if len(total) and not total.min() > 0:
        raise HepfmError(f"jet {int(np.argmin(total))} has no momentum", "relative pt", "leave such jets out")
    pt = np.asarray(jets.pt, dtype=np.float64) / np.repeat(total, multiplicity(jets))
    return Constituents(pt, jets.deta, jets.dphi, jets.offsets)


def w1m(
    reference: Constituents, sample: Constituents, protocol: str | Protocol = "jetnet", *, key: object = 0
) -> Estimate:
    """W1 of the jet mass, in the unit of pt; published values are of relative pt (:func:`relative`), times 1,000.

    Raises:
        HepfmError: an unknown protocol, or fewer jets than it needs.
    """
    masses = [jet_mass(side)[:, None] for side in (reference, sample)]
    return w1_features(masses[0], masses[1], protocol, key=f"w1m {key}").mean


def w1efp(
    reference: Constituents, sample: Constituents, protocol: str | Protocol = "jetnet", *, key: object = 0
) -> Distances:
    """W1 of the five energy flow polynomials of four vertices and edges; published: their mean, times 100,000."""
    values = [prime_polynomials(side) for side in (reference, sample)]
    return w1_features(values[0], values[1], protocol, key=f"w1efp {key}")


def w1_features(
    reference: np.ndarray, sample: np.ndarray, protocol: str | Protocol = "jetnet", *, key: object = 0
) -> Distances:
    """W1 of each feature of jets (n, d) and (m, d).

    Raises:
        HepfmError: an unknown protocol, fewer jets than it needs, or values that are not finite.
    """
    real, made = features(reference, "W1, reference"), features(sample, "W1, sample")
    found = [
        [wasserstein_1(real[first, column], made[second, column]) for column in range(real.shape[1])]
        for first, second in _batches(len(real), len(made), protocol_of(protocol), key)
    ]
    return _distances(np.array(found), protocol_of(protocol))


def w1p(
    reference: Constituents, sample: Constituents, protocol: str | Protocol = "jetnet", *, key: object = 0
) -> Distances:
    """W1 of the constituents' deta, dphi and pt, all constituents of a batch together.

    Published values are of relative pt, times 1,000: one for each, or their mean.

    Raises:
        HepfmError: an unknown protocol, or fewer jets than it needs.
    """
    found = []
    for first, second in _batches(len(reference), len(sample), protocol_of(protocol), f"w1p {key}"):
        real, made = taken(reference, first), taken(sample, second)
        found.append([wasserstein_1(getattr(real, name), getattr(made, name)) for name in FEATURES])
    return _distances(np.array(found), protocol_of(protocol))


def _batches(real: int, made: int, protocol: Protocol, key: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The jets of reference and sample in each batch."""
    draws = generator("jet batches", key)
    if protocol.how == "resampled":
        for name, found in (("reference", real), ("sample", made)):
            enough(found, protocol.jets, "jets", "this protocol", name)
        for _ in range(protocol.batches):
            yield draws.integers(0, real, protocol.jets), draws.integers(0, made, protocol.jets)
        return
    enough(real, protocol.jets, "jets", "this protocol", "reference")
    enough(made, protocol.jets * protocol.batches, "jets", "this protocol", "sample")
    order = draws.permutation(made)
    for batch in range(protocol.batches):
        yield np.arange(real), order[batch * protocol.jets : (batch + 1) * protocol.jets]


def _distances(found: np.ndarray, protocol: Protocol) -> Distances:
    """From distances (batches, features)."""
    means, spreads = found.mean(axis=0), found.std(axis=0)
    each = tuple(Estimate(float(value), float(error)) for value, error in zip(means, spreads, strict=True))
    error = np.linalg.norm(spreads) if protocol.pooled else found.mean(axis=1).std()
    return Distances(each, Estimate(float(means.mean()), float(error)))
