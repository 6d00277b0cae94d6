"""Correlations, conditional response and the ILD set."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores import showers as module
from hepfm.benchmarks.scores.ild import LAYER_EDGES, RING_EDGES
from hepfm.core.errors import HepfmError


def test_correlations_are_pearsons_and_a_constant_layer_has_none() -> None:
    draws = np.random.default_rng(0)
    energy = draws.normal(size=(500, 4)) @ draws.normal(size=(4, 4))
    np.testing.assert_allclose(metrics.layer_correlations(energy), np.corrcoef(energy, rowvar=False), atol=1e-12)
    energy[:, 2] = 3.0
    found = metrics.layer_correlations(energy)
    assert np.isnan(found[2]).all()
    assert np.isfinite(np.delete(np.delete(found, 2, 0), 2, 1)).all()
    assert metrics.correlation_difference(energy, energy, replicas=5).value == 0
    shuffled = np.stack([draws.permutation(column) for column in energy.T], axis=1)
    broken = metrics.correlation_difference(energy, shuffled)
    assert broken.value > 5 * broken.error


def test_the_floor_of_correlations_is_what_chance_gives() -> None:
    draws = np.random.default_rng(3)
    mixing = draws.normal(size=(5, 5))
    real = draws.normal(size=(4_000, 5)) @ mixing
    chance = [
        metrics.correlation_difference(real, draws.normal(size=(1_000, 5)) @ mixing, replicas=2).value
        for _ in range(60)
    ]
    floor = metrics.correlation_floor(real, (4_000, 1_000))
    assert floor.value == pytest.approx(np.mean(chance), rel=0.2)
    assert np.mean(np.array(chance) < floor.upper) > 0.8


def test_without_any_correlation_there_is_no_difference_of_zero() -> None:
    with pytest.raises(HepfmError, match="no two layers"):
        metrics.correlation_difference(np.ones((60, 3)), np.ones((60, 3)))


def test_response_and_resolution_by_energy_are_those_that_were_put_in() -> None:
    draws = np.random.default_rng(1)
    incident = draws.uniform(10, 100, (2, 20_000))

    def response(energy: np.ndarray, shift: float, stochastic: float) -> np.ndarray:
        return shift * (1 + stochastic / np.sqrt(energy) * draws.normal(size=len(energy)))

    real = (incident[0], response(incident[0], 1.0, 0.2))
    made = (incident[1], response(incident[1], 1.03, 0.4))
    bins = metrics.conditional_response(real, made)
    assert len(bins) == 10
    for part in bins:
        ratio, widths = part.response_ratio, part.resolution_ratio
        assert ratio is not None
        assert widths is not None
        assert ratio.value == pytest.approx(1.03, abs=5 * ratio.error)
        assert widths.value == pytest.approx(2, abs=5 * widths.error)
        assert part.resolution is not None
        expected = part.resolution[0].value / np.sqrt(2 * part.showers[0])
        assert part.resolution[0].error == pytest.approx(expected, rel=0.2)


def test_each_of_a_few_energies_is_a_bin_and_an_empty_one_is_told() -> None:
    energies = np.repeat([1.0, 2.0, 4.0], 30)
    draws = np.random.default_rng(2)
    sample = (energies[:70], draws.normal(1, 0.1, 70))
    bins = metrics.conditional_response((energies, draws.normal(1, 0.1, 90)), sample)
    assert [(part.low, part.high, part.showers) for part in bins] == [
        (1, 1, (30, 30)),
        (2, 2, (30, 30)),
        (4, 4, (30, 10)),
    ]
    assert bins[2].response is None
    assert bins[2].note == "30 and 10 showers, at least 20 are needed"


def test_ild_observables_are_those_of_the_definition(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("ild", 12, scale=0.03)
    found = metrics.ild_observables(sample, axis=(0.0, 40.0))
    dense = np.concatenate([hits.dense(27_000) for hits in sample.chunks(0.1)]).reshape(12, 30, 30, 30)
    x, z = (getattr(sample.geometry.layers[0], axis).centres for axis in ("cell_a", "cell_b"))
    total = dense.sum(axis=(1, 2, 3))
    radius = np.hypot(x[:, None], z - 40)
    incident = np.concatenate([hits.incident for hits in sample.chunks()])
    expected = {
        "centre x": (dense * x[:, None]).sum(axis=(1, 2, 3)) / total,
        "centre depth": (dense * np.arange(30)[:, None, None]).sum(axis=(1, 2, 3)) / total,
        "centre z": (dense * z).sum(axis=(1, 2, 3)) / total,
        "occupancy": (dense > 0).sum(axis=(1, 2, 3)),
        "sampling fraction": total / incident / 1000,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.columns[name][:, 0], values, rtol=1e-9, err_msg=name)
    layers = [dense[:, low : high if high < 29 else 30].sum(axis=(1, 2, 3)) for low, high in pairwise(LAYER_EDGES)]
    np.testing.assert_allclose(found.columns["energy in depth"], np.stack(layers, axis=1))
    rings = [(dense * ((radius >= low) & (radius < high))).sum(axis=(1, 2, 3)) for low, high in pairwise(RING_EDGES)]
    np.testing.assert_allclose(found.columns["energy in rings"], np.stack(rings, axis=1))
    assert sum(values.shape[1] for values in found.columns.values()) + 1 == 26
    np.testing.assert_array_equal(np.sort(found.cells), np.sort(dense[dense > 0]))


def test_cells_are_chosen_the_same_in_any_chunks(toy_showers, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("ild", 12, scale=0.03)
    whole = metrics.ild_observables(sample, cells=1_000)
    monkeypatch.setattr(module, "CHUNK_SHOWERS", 5)
    assert len(whole.cells) == 1_000
    np.testing.assert_array_equal(np.sort(whole.cells), np.sort(metrics.ild_observables(sample, cells=1_000).cells))


def test_ild_scores_are_w1_of_standardised_observables(toy_showers) -> None:  # type: ignore[no-untyped-def]
    real, made = (
        metrics.ild_observables(toy_showers("ild", 80, seed=seed, scale=0.03 + 0.002 * seed)) for seed in (0, 1)
    )
    scores = {score.name: score.outcome for score in metrics.ild_scores(real, made, batch=80, batches=1)}
    a, b = (side.columns["sampling fraction"][:, 0] for side in (real, made))
    value = scores["sampling fraction"].value
    assert value is not None
    assert value.value == pytest.approx(wasserstein_distance(a / a.std(), b / a.std()))
    assert scores["sampling fraction"].floor is None
    assert "no floor" in scores["sampling fraction"].note
    with pytest.raises(HepfmError, match="needs 500,000"):
        metrics.ild_scores(real, made)
