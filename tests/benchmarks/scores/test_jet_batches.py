"""W1M, W1P and W1EFP in the protocols of the papers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores.jet_batches import PROTOCOLS
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents, jet_mass, jet_pt

WHOLE = metrics.Protocol(300, 1, "disjoint")


def shifted(jets: Constituents, by: float) -> Constituents:
    return Constituents(jets.pt, jets.deta + by, jets.dphi, jets.offsets)


def test_the_protocols_have_their_published_sizes() -> None:
    assert (PROTOCOLS["jetnet"].jets, PROTOCOLS["jetnet"].batches) == (50_000, 5)
    assert (PROTOCOLS["epic-gan"].jets, PROTOCOLS["epic-gan"].batches) == (10_000, 5)


def test_a_batch_of_all_jets_gives_the_plain_distances(toy_jets) -> None:  # type: ignore[no-untyped-def]
    real, made = (metrics.relative(toy_jets(jets=300, seed=seed, spread=0.1 + 0.02 * seed)) for seed in (0, 1))
    masses = [jet_mass(side) for side in (real, made)]
    assert metrics.w1m(real, made, WHOLE).value == pytest.approx(wasserstein_distance(*masses), abs=1e-9)
    found = metrics.w1p(real, made, WHOLE)
    for number, name in enumerate(("deta", "dphi", "pt")):
        expected = wasserstein_distance(getattr(real, name), getattr(made, name))
        assert found.features[number].value == pytest.approx(expected, abs=1e-9)
    assert found.mean.value == pytest.approx(np.mean([part.value for part in found.features]))
    efps = [metrics.prime_polynomials(side) for side in (real, made)]
    expected = np.mean([wasserstein_distance(efps[0][:, i], efps[1][:, i]) for i in range(5)])
    assert metrics.w1efp(real, made, WHOLE).mean.value == pytest.approx(expected, abs=1e-9)


def test_relative_jets_have_pt_one(toy_jets) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_allclose(jet_pt(metrics.relative(toy_jets(jets=20))), 1)
    with pytest.raises(HepfmError, match="jet 1 has no momentum"):
        metrics.relative(Constituents(np.ones(1), np.zeros(1), np.zeros(1), np.array([0, 1, 1])))


def test_a_shift_of_all_constituents_is_found_in_every_protocol(toy_jets) -> None:  # type: ignore[no-untyped-def]
    jets = toy_jets(jets=300)
    for how in ("resampled", "disjoint"):
        found = metrics.w1p(jets, shifted(jets, 0.5), metrics.Protocol(100, 3, how))
        assert found.features[0].value == pytest.approx(0.5, abs=0.02)
        assert found.features[2].value < 2
        assert found.features[0].error < 0.02


def test_disjoint_batches_have_no_jet_in_common_and_need_enough(toy_jets) -> None:  # type: ignore[no-untyped-def]
    values = np.arange(30.0)[:, None]
    reference = np.zeros((10, 1))
    found = metrics.w1_features(reference, values, metrics.Protocol(10, 3, "disjoint"))
    assert found.mean.value == pytest.approx(values.mean())
    with pytest.raises(HepfmError, match="sample: 30 jets are too few: this protocol needs 40"):
        metrics.w1_features(reference, values, metrics.Protocol(10, 4, "disjoint"))
    with pytest.raises(HepfmError, match="reference: 300 jets are too few: this protocol needs 50,000"):
        metrics.w1m(toy_jets(jets=300), toy_jets(jets=300))
    with pytest.raises(HepfmError, match=r"no protocol 'mine'.*jetnet, epic-gan"):
        metrics.w1m(toy_jets(jets=300), toy_jets(jets=300), "mine")


def test_epic_gan_adds_the_spreads_of_features_in_quadrature() -> None:
    draws = np.random.default_rng(0)
    values = draws.normal(size=(60, 2))
    plain, pooled = (
        metrics.w1_features(values, values, metrics.Protocol(20, 3, "disjoint", pooled=pooled))
        for pooled in (False, True)
    )
    assert pooled.mean.error == pytest.approx(np.hypot(*(part.error for part in pooled.features)))
    assert plain.mean.value == pooled.mean.value
    assert plain.mean.error != pooled.mean.error
