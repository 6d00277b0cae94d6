"""Classifiers find what is there, nothing where there is nothing, and say it in the published way."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from hepfm.benchmarks import metrics
from hepfm.core.errors import HepfmError

SPLIT = metrics.Split(400, 200, 400)
QUICK = metrics.Training(epochs=6, batch=100, learning_rate=3e-3)


def small(width: int, outputs: int) -> torch.nn.Module:
    return metrics.dnn(width, outputs, hidden=16)


def table(shift: float, seed: int, events: int = 1000) -> metrics.Table:
    return metrics.Table(np.random.default_rng(seed).normal(shift, 1, (events, 3)))


def test_what_is_the_same_cannot_be_told_and_what_is_not_can() -> None:
    """Normal distributions shifted by 1 in three dimensions: the best area is Phi(sqrt(3 / 2)) = 0.890."""
    same = metrics.classify(table(0, 1), table(0, 2), SPLIT, small, QUICK, seeds=range(2))
    assert same.auc.value == pytest.approx(0.5, abs=0.06)
    assert abs(same.jsd.value) < 0.06
    other = metrics.classify(table(0, 1), table(1, 2), SPLIT, small, QUICK, seeds=range(2))
    assert other.auc.value == pytest.approx(0.89, abs=0.03)
    assert 0.3 < other.jsd.value < 0.5
    assert len(other.trainings) == 2
    assert other.auc.error == pytest.approx(np.std([part.auc for part in other.trainings]))


def test_a_seed_gives_the_same_training_and_its_error_is_that_of_the_judged_events() -> None:
    once, again = (metrics.classify(table(0, 1), table(0.3, 2), SPLIT, small, QUICK, seeds=[5]) for _ in range(2))
    assert once.auc == again.auc
    assert 0.01 < once.auc.error < 0.03  # 1 / sqrt(12 x 400) x sqrt(2) at an area of a half


def test_area_and_divergence_are_those_of_their_definitions() -> None:
    draws = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], 50)
    probability = draws.random(100)
    area, divergence = metrics.judge(truth, probability)
    assert area == pytest.approx(roc_auc_score(truth, probability))
    assert divergence == pytest.approx(1 - log_loss(truth, probability) / np.log(2))
    assert metrics.judge(truth, truth)[1] == pytest.approx(1, abs=1e-5)
    assert metrics.judge(truth, np.full(100, 0.5)) == pytest.approx((0.5, 0))


def test_the_network_is_the_published_one() -> None:
    assert [tuple(part.weight.shape) for part in metrics.dnn(362) if isinstance(part, torch.nn.Linear)] == [
        (2048, 362),
        (2048, 2048),
        (2048, 2048),
        (1, 2048),
    ]


@pytest.mark.parametrize("normed", [False, True])
def test_voxel_inputs_are_those_of_the_definition(toy_showers, normed: bool) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(showers=9)
    inputs = metrics.Voxels(sample, normed)
    geometry = sample.geometry
    dense = np.concatenate([hits.dense(geometry.voxels) for hits in sample.chunks(geometry.threshold)])
    incident = np.concatenate([hits.incident for hits in sample.chunks()]) * 1000
    edges = geometry.first_voxel
    layers = np.stack([dense[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)
    scale = np.repeat(layers + 1e-16, np.diff(edges), axis=1) if normed else incident[:, None]
    last = [np.log10(layers + 1e-8)] if normed else []
    expected = np.concatenate([np.log10(incident)[:, None], dense / scale, *last], axis=1)
    assert inputs.width == expected.shape[1]
    np.testing.assert_allclose(inputs.rows(np.array([8, 0, 3])), expected[[8, 0, 3]], rtol=1e-6)


def test_the_resnet_tells_a_displaced_shower_and_has_the_published_shape(toy_showers) -> None:  # type: ignore[no-untyped-def]
    """Convolutions 7^3 x 32, then 4 x (2 x 3^3) x widths, shortcuts of 1^3, norms, and a last layer of 129 weights."""
    image = metrics.Image.of(toy_showers("2", 2).geometry)
    assert (image.layers, image.slow, image.fast) == (45, 16, 9)
    network = metrics.ResNet3d(image)
    widths = [(32, 32), (32, 64), (64, 64), (64, 128)]
    expected = 343 * 32 + 2 * 32
    for a, b in widths:
        expected += 27 * (a * b + 3 * b * b) + 4 * 2 * b
        expected += 0 if (a, b) in ((32, 32), (64, 64)) else a * b + 2 * b
    expected += 64 * 64 + 2 * 64  # the third stage halves the picture, so its shortcut is a convolution, too
    expected += 128 + 1 + 1 + 2
    assert sum(part.numel() for part in network.parameters()) == expected
    rows = torch.from_numpy(metrics.Voxels(toy_showers("2", 4)).rows(np.arange(4)))
    assert network(rows).shape == (4, 1)
    with pytest.raises(HepfmError, match="different cells"):
        metrics.Image.of(toy_showers(showers=1).geometry)


@pytest.mark.slow
def test_the_resnet_learns(toy_showers) -> None:  # type: ignore[no-untyped-def]
    """Showers with all energy in the front half against such in the back half."""
    sample = toy_showers("2", 120)
    dense = np.concatenate([hits.dense(6480) for hits in sample.chunks()])
    front, back = dense.copy(), dense.copy()
    front[:, 3240:], back[:, :3240] = 0, 0
    sides = [
        metrics.Voxels(metrics.ShowerSample.of_arrays(name, sample.geometry, part, np.full(120, 50.0)))
        for name, part in (("front", front), ("back", back))
    ]
    training = metrics.Training(epochs=4, batch=20, learning_rate=1e-3)
    build = metrics.resnet(metrics.Image.of(sample.geometry))
    found = metrics.classify(*sides, metrics.Split(60, 30, 30), build, training, seeds=[0])
    assert found.auc.value > 0.95


def test_the_model_that_is_nearest_is_the_likeliest() -> None:
    models = {"near": table(0.1, 1), "far": table(2.0, 2), "farther": table(-3.0, 3)}
    found = metrics.log_posteriors(table(0, 4), models, SPLIT, small, QUICK, seeds=range(2))
    assert found["near"].log_posterior.value > -0.5
    assert found["near"].log_posterior.value > found["far"].log_posterior.value + 1
    assert found["far"].log_posterior.value > found["farther"].log_posterior.value
    assert all(-0.5 < part.own.value < 0 for part in found.values())


def test_models_that_are_alike_share_the_probability() -> None:
    models = {"one": table(0, 1), "two": table(0, 2)}
    found = metrics.log_posteriors(table(0, 3), models, SPLIT, small, QUICK, seeds=range(2))
    for part in found.values():
        assert part.log_posterior.value == pytest.approx(-np.log(2), abs=0.1)
        assert part.own.value == pytest.approx(-np.log(2), abs=0.1)


def test_what_cannot_be_classified_is_told() -> None:
    with pytest.raises(HepfmError, match="sample: 900 events are too few: this classifier needs 1,000"):
        metrics.classify(table(0, 1), table(0, 2, 900), SPLIT)
    with pytest.raises(HepfmError, match="inputs of 3 and 2 numbers"):
        metrics.classify(table(0, 1), metrics.Table(np.zeros((1000, 2))), SPLIT)
    with pytest.raises(HepfmError, match="NaN or infinite"):
        metrics.Table(np.full((3, 2), np.nan))
    with pytest.raises(HepfmError, match="compares two or more"):
        metrics.log_posteriors(table(0, 1), {"one": table(0, 2)}, SPLIT)
