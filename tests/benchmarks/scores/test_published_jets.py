"""Metrics of jets against numbers that the published tools themselves gave for the same jets, and their constants.

``published/jets.npz`` holds padded jets (deta, dphi, relative pt); ``values.json`` what JetNet 0.2.5, energyflow 1.4.0
and prdc 0.2 gave for them, with the arguments. Neither is needed to run this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.emd import COVERAGE_BATCHES, COVERAGE_JETS, taken
from hepfm.benchmarks.scores.jet_batches import PROTOCOLS
from hepfm.benchmarks.scores.physics_distances import FPD_SIZES, KPD_BATCH, KPD_BATCHES, QUANTILES, SEED
from hepfm.core.draws import generator
from hepfm.core.observables import Constituents, jet_mass

HERE = Path(__file__).parent / "published"
VALUES: dict[str, Any] = json.loads((HERE / "values.json").read_text())
JETS, BATCHES = 200, 30  # of the published tool's W1 here


def packed(padded: np.ndarray) -> Constituents:
    real = padded[..., 2] > 0
    offsets = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    deta, dphi, pt = (padded[..., column][real].astype(np.float64) for column in range(3))
    return Constituents(pt, deta, dphi, offsets)


@pytest.fixture(scope="module")
def jets() -> tuple[Constituents, Constituents]:
    with np.load(HERE / "jets.npz") as file:
        return packed(file["real"]), packed(file["made"])


@pytest.fixture(scope="module")
def polynomials(jets: tuple[Constituents, Constituents]) -> tuple[np.ndarray, np.ndarray]:
    first, second = (metrics.energy_flow_polynomials(side) for side in jets)
    return first, second


def columns_of(ours: np.ndarray, theirs: np.ndarray) -> list[int]:
    """For each of their columns the one of ours that holds the same numbers."""
    apart = np.abs(ours[:, None, :] - theirs[:, :, None]).max(axis=0)
    return [int(column) for column in apart.argmin(axis=1)]


def test_energy_flow_polynomials(polynomials: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = np.array(VALUES["efps"])
    ours = polynomials[0][: len(theirs)]
    order = columns_of(ours, theirs)
    assert sorted(order) == list(range(36))
    np.testing.assert_allclose(ours[:, order], theirs, rtol=1e-6, atol=1e-12)


def test_fpd_and_kpd(polynomials: tuple[np.ndarray, np.ndarray]) -> None:
    fpd = metrics.fpd(*polynomials, metrics.Sizes(100, 300, 10, 20))
    assert [fpd.value, fpd.error] == pytest.approx(VALUES["fpd"], abs=1e-6)
    kpd = metrics.kpd(*polynomials, batch=150, batches=10)
    assert [kpd.value, kpd.error] == pytest.approx(VALUES["kpd"], abs=1e-6)


def test_precision_recall_density_coverage(polynomials: tuple[np.ndarray, np.ndarray]) -> None:
    order = columns_of(polynomials[0][:5], np.array(VALUES["efps"]))[1:6]
    found = metrics.manifolds(*(side[:, order] for side in polynomials), 5)
    for name, value in VALUES["prdc"].items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-12), name


def test_w1_over_resampled_batches_agrees_within_errors(jets: tuple[Constituents, Constituents]) -> None:
    """Means of 30 batches each: they differ by about the spread of a batch times the root of 2 / 30."""
    protocol = metrics.Protocol(JETS, BATCHES, "resampled")

    def agrees(ours: metrics.Estimate, value: float, spread: float) -> None:
        assert abs(ours.value - value) < 4 * spread * np.sqrt(2 / BATCHES)
        assert ours.error == pytest.approx(spread, rel=0.6)

    agrees(metrics.w1m(*jets, protocol), *VALUES["w1m"])
    for ours, value, spread in zip(metrics.w1p(*jets, protocol).features, *VALUES["w1p"], strict=True):
        agrees(ours, value, spread)
    found = metrics.w1efp(*jets, protocol)
    for mine, theirs in zip(
        sorted(found.features, key=lambda each: each.value),
        sorted(zip(*VALUES["w1efp"], strict=True)),
        strict=True,
    ):
        agrees(mine, *theirs)
    assert found.mean.value == pytest.approx(np.mean([part.value for part in found.features]))


@pytest.mark.parametrize("how", ["resampled", "disjoint"])
def test_a_protocol_written_out(jets: tuple[Constituents, Constituents], how: Any) -> None:
    """JetNet draws both sides with replacement; EPiC-GAN's whole reference meets batches without a jet in common."""
    masses = [jet_mass(side) for side in jets]
    found = metrics.w1m(*jets, metrics.Protocol(50, 4, how), key="k")
    draws = generator("jet batches", "w1m k")
    order = draws.permutation(300) if how == "disjoint" else None
    distances = []
    for batch in range(4):
        if order is None:
            one = masses[0][draws.integers(0, 400, 50)]
            other = masses[1][draws.integers(0, 300, 50)]
        else:
            one, other = masses[0], masses[1][order[50 * batch : 50 * batch + 50]]
        distances.append(wasserstein_distance(one, other))
    assert found.value == pytest.approx(np.mean(distances), abs=1e-9)
    assert found.error == pytest.approx(np.std(distances), abs=1e-9)


def test_coverage_and_mmd_written_out(jets: tuple[Constituents, Constituents]) -> None:
    """MMD: over real jets, the least distance; COV: distinct real jets that are nearest to a generated one."""
    found = metrics.coverage_and_mmd(*jets, jets=12, batches=3, key="k")
    draws, covered, nearest = generator("coverage", "k"), [], []
    for _ in range(3):
        real, made = (taken(side, draws.integers(0, len(side), 12)) for side in jets)
        table = [[float(metrics.energy_movers_distance(made.range(g, g + 1), real.range(r, r + 1))[0, 0])
                  for r in range(12)] for g in range(12)]  # fmt: skip
        nearest.append(sum(min(table[g][r] for g in range(12)) for r in range(12)) / 12)
        covered.append(len({row.index(min(row)) for row in table}) / 12)
    assert found.mmd.value == pytest.approx(np.mean(nearest), abs=1e-9)
    assert found.coverage.value == pytest.approx(np.mean(covered), abs=1e-12)
    assert (found.mmd.error, found.coverage.error) == pytest.approx((np.std(nearest), np.std(covered)), abs=1e-9)


def test_constants_are_the_published_ones() -> None:
    told = {name: (each.jets, each.batches, each.how, each.pooled) for name, each in PROTOCOLS.items()}
    assert told == {
        "jetnet": (50_000, 5, "resampled", False),
        "epic-gan": (10_000, 5, "disjoint", True),
        "pc-jedi": (10_000, 10, "disjoint", False),
        "epic-fm": (50_000, 40, "disjoint", False),
    }
    sizes = {name: (each.least, each.most, each.points, each.batches) for name, each in FPD_SIZES.items()}
    assert sizes == {"jetnet": (20_000, 50_000, 10, 20), "calochallenge": (10_000, 50_000, 10, 20)}
    assert (KPD_BATCH, KPD_BATCHES, QUANTILES, SEED) == (
        {"jetnet": 5_000, "calochallenge": 10_000},
        10,
        (16.275, 83.725),
        42,
    )
    assert (COVERAGE_JETS, COVERAGE_BATCHES) == (100, 10)


def test_sizes_of_batches_are_equally_spaced_in_their_inverse() -> None:
    listed = FPD_SIZES["jetnet"].listed()
    assert (listed[0], listed[-1]) == (20_000, 49_999)  # JetNet cuts off what lies behind the point
    np.testing.assert_allclose(np.diff(1 / listed), (1 / 50_000 - 1 / 20_000) / 9, rtol=1e-2)
