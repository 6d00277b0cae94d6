"""Metrics of showers with CaloChallenge's and CaloClouds' constants, written out once more."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores import ild
from hepfm.benchmarks.scores.classifiers import CLIPPED, CURVE_BINS, TRAININGS, drawn
from hepfm.benchmarks.scores.posteriors import TRAININGS as POSTERIOR_TRAININGS
from hepfm.benchmarks.scores.shower_histograms import observables_of
from hepfm.ingest.formats.calochallenge import DATASETS


def dense_of(sample: metrics.ShowerSample) -> np.ndarray:
    dense = np.concatenate([hits.dense(sample.geometry.voxels) for hits in sample.chunks()])
    return np.where(dense < sample.geometry.threshold, 0, dense)


# Rings and sectors of each layer, and the layers' numbers.
CELLS = {
    "1-photons": ([(8, 1), (16, 10), (19, 10), (5, 1), (5, 1)], [0, 1, 2, 3, 12], 1.0),
    "1-pions": (
        [(8, 1), (10, 10), (10, 10), (5, 1), (15, 10), (16, 10), (10, 1)],
        [0, 1, 2, 3, 12, 13, 14],
        1.0,
    ),
    "2": ([(9, 16)] * 45, list(range(45)), 0.5e-3 / 0.033),
    "3": ([(18, 50)] * 45, list(range(45)), 0.5e-3 / 0.033),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_layers_and_thresholds(name: str) -> None:
    cells, numbers, threshold = CELLS[name]
    geometry = DATASETS[name].geometry()
    assert [tuple(int(part) for part in shape) for shape in geometry.shape] == cells
    assert [layer.id for layer in geometry.layers] == numbers
    assert geometry.threshold == pytest.approx(threshold, rel=1e-3)
    if name in ("2", "3"):
        width = {"2": 4.65, "3": 2.325}[name]
        np.testing.assert_allclose(geometry.layers[7].cell_a.edges, width * np.arange(cells[0][0] + 1), rtol=1e-6)


@pytest.mark.parametrize(("name", "width"), [("1-photons", 30), ("1-pions", 46), ("2", 362), ("3", 362)])
def test_every_input_of_the_high_level_classifier(toy_showers, name: str, width: int) -> None:  # type: ignore[no-untyped-def]
    """A loop over layers and voxels, in the order and units of the challenge's script."""
    sample = toy_showers(name, 3)
    geometry, dense = sample.geometry, dense_of(sample)
    incident = np.concatenate([hits.incident for hits in sample.chunks()]) * 1000
    columns: dict[str, list[np.ndarray]] = {key: [] for key in ("E", "eta", "phi", "weta", "wphi", "empty", "r", "wr")}
    for number, (layer, shape) in enumerate(zip(geometry.layers, geometry.shape, strict=True)):
        energy = dense[:, geometry.first_voxel[number] : geometry.first_voxel[number + 1]]
        rings, sectors = int(shape[0]), int(shape[1])
        edges = np.array(layer.cell_a.edges)
        total = energy.sum(axis=1)
        columns["E"].append(total)
        columns["empty"].append(1 - (energy > 0).mean(axis=1))
        moments = {axis: np.zeros((2, len(energy))) for axis in ("eta", "phi", "r")}
        for voxel in range(rings * sectors):  # the ring runs fastest
            radius = (edges[voxel % rings] + edges[voxel % rings + 1]) / 2
            alpha = -np.pi + (voxel // rings + 0.5) * 2 * np.pi / sectors
            for axis, place in (("eta", radius * np.cos(alpha)), ("phi", radius * np.sin(alpha)), ("r", radius)):
                moments[axis] += np.stack([place * energy[:, voxel], place**2 * energy[:, voxel]])
        for axis, width_name in (("eta", "weta"), ("phi", "wphi"), ("r", "wr")):
            if axis != "r" and sectors == 1:
                continue
            mean, square = moments[axis] / (total + 1e-16)
            columns[axis].append(mean / 100)
            columns[width_name].append(np.sqrt(np.clip(square - mean**2, 0, None)) / 100)
    energies = np.stack(columns["E"])
    expected = np.stack(
        [
            np.log10(incident),
            *np.log10(energies + 1e-8),
            *columns["eta"],
            *columns["phi"],
            *columns["weta"],
            *columns["wphi"],
            np.log10(energies.sum(axis=0) + 1e-8),
            *columns["empty"],
            *columns["r"],
            *columns["wr"],
        ],
        axis=1,
    )
    found = metrics.shower_features(sample).inputs()
    assert found.shape == (3, width)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def expected_range(data_set: str, group: str, layer: int) -> tuple[float, float, int]:
    """Low, high and bins of every linear histogram (calo evaluation script's table)."""
    one, wide = data_set.startswith("1"), layer in (12, 13)
    far = layer in (12, 13, 14)
    if group in ("centre eta", "centre phi"):
        reach = (500 if wide else 100) if one else 30
        return -reach, reach, 100
    if group in ("width eta", "width phi"):
        return 0, (400 if wide else 100) if one else 30, 100
    if group == "centre r":
        return 0, (1500 if far else 500) if one else 42, 100
    if group == "width r":
        return 0, (1500 if far else 500) if one else 20, 100
    assert group == "sparsity"
    return 0, 1, 20


@pytest.mark.parametrize("name", ["1-photons", "1-pions", "2", "3"])
def test_ranges_of_every_histogram(toy_showers, name: str) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(name, 4)
    features = metrics.shower_features(sample)
    found = [item for item, _, _ in observables_of(features, sample.geometry)]
    seen: dict[str, list[int]] = {}
    for item in found:
        assert item.edges is not None
        if item.group == "response":
            np.testing.assert_allclose(item.edges, np.linspace(0.5, 1.5, 101))
        elif item.group == "layer energy":
            assert item.layer is not None
            place = features.layers.index(item.layer)
            highest = features.layer_energy[:, place].max()
            np.testing.assert_allclose(item.edges, np.geomspace(sample.geometry.threshold, highest, 40))
        else:
            assert item.layer is not None
            low, high, bins = expected_range(name, item.group, item.layer)
            np.testing.assert_allclose(item.edges, np.linspace(low, high, bins + 1), err_msg=item.name)
        seen.setdefault(item.group, []).append(-1 if item.layer is None else item.layer)
    layers, angular = (
        CELLS[name][1],
        [n for n, (_, sectors) in zip(CELLS[name][1], CELLS[name][0], strict=True) if sectors > 1],
    )
    assert seen.pop("response") == [-1]
    for group, numbers in seen.items():
        assert numbers == (angular if group.split()[1:] in (["eta"], ["phi"]) else layers), group
    edges = metrics.voxel_edges(features, sample.geometry)
    np.testing.assert_allclose(edges, np.geomspace(sample.geometry.threshold, dense_of(sample).max(), 50))


@pytest.mark.parametrize("name", ["1-photons", "1-pions"])
def test_response_at_each_energy_of_data_set_1(toy_showers, name: str) -> None:  # type: ignore[no-untyped-def]
    """Energies 2^8 to 2^22 MeV; 20 bins in 0.4-1.4, of photons from 4,096 MeV in 0.9-1.1."""
    sample = toy_showers(name, 60)
    features = metrics.shower_features(sample)
    found = metrics.separation_powers(features, features, sample.geometry, replicas=2, floors=False)
    parts = [part.observable for part in found if part.observable.part is not None]
    assert [round(1000 * (part.part or 0)) for part in parts] == [2**power for power in range(8, 23)]
    for part in parts:
        assert part.edges is not None
        narrow = name == "1-photons" and (part.part or 0) >= 4.096
        np.testing.assert_allclose(part.edges, np.linspace(0.9, 1.1, 21) if narrow else np.linspace(0.4, 1.4, 21))


def test_separation_power_by_hand() -> None:
    """Shares 1/2, 1/2, 0 and 0, 1/4, 3/4: half of 1/2 + (1/4)^2/(3/4) + 3/4."""
    found = metrics.separation_power(np.array([2, 2, 0]), np.array([0, 5, 15]))
    assert found == pytest.approx((1 / 2 + 1 / 12 + 3 / 4) / 2, abs=1e-12)


def test_voxels_of_prdc_are_logarithms_with_a_tenth_of_an_mev_for_nothing(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("2", 3)
    dense = dense_of(sample)
    np.testing.assert_allclose(metrics.log_voxels(sample), np.log10(np.where(dense == 0, 0.1, dense)))


def test_the_ild_set_has_its_published_constants_and_batches(toy_showers) -> None:  # type: ignore[no-untyped-def]
    assert ild.LAYER_EDGES == (0, 8, 11, 13, 15, 16, 18, 19, 21, 24, 29)
    assert ild.RING_EDGES == (0, 6.558, 9.849, 12.96, 17.028, 23.434, 33.609, 40.119, 48.491, 68.808, 300)
    assert (ild.AXIS, ild.BATCH, ild.BATCHES) == ((0.0, 40.0), 50_000, 10)
    sides = [metrics.ild_observables(toy_showers("ild", 60, seed=seed, scale=0.03)) for seed in (0, 1)]
    scores = {score.name: score.outcome.value for score in metrics.ild_scores(*sides, batch=6, batches=10, key="k")}
    for name, width in (("sampling fraction", 1), ("energy in rings", 10)):
        columns = [side.columns[name] for side in sides]
        order = metrics_order(name)
        real, made = ((side[order] - columns[0].mean(axis=0)) / columns[0].std(axis=0) for side in columns)
        batches = []
        for batch in range(10):
            here = slice(6 * batch, 6 * batch + 6)
            batches.append(np.mean([wasserstein_distance(real[here, k], made[here, k]) for k in range(width)]))
        value = scores[name]
        assert value is not None
        assert (value.value, value.error) == pytest.approx((np.mean(batches), np.std(batches)), abs=1e-9)


def metrics_order(name: str) -> np.ndarray:
    """The order in which the showers of one observable come into batches."""
    from hepfm.core.draws import generator

    return generator("ild batches", "k", name).permutation(60)


def isotonic(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pool adjacent violators: scores in order, and the least-squares non-decreasing values at them."""
    order = np.argsort(scores)
    blocks: list[list[float]] = []
    for value in truth[order]:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    fitted = np.concatenate([np.full(int(size), mean) for mean, size in blocks])
    return scores[order], fitted


class Known(torch.nn.Module):
    """A network that is not trained: its outputs are linear in the input."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        weights = torch.tensor([[0.7, -0.2], [-0.4, 0.5], [0.1, 0.3]])
        self.last = torch.nn.Linear(2, outputs)
        self.last.weight.data = weights[:outputs].clone()
        self.last.bias.data = torch.tensor([0.1, -0.2, 0.0])[:outputs].clone()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(rows)


def test_area_and_divergence_after_isotonic_calibration_written_out() -> None:
    """Calibrated on the selection split by pooling adjacent violators, clipped at 1e-6, judged on the final split."""
    draws = np.random.default_rng(8)
    values = [draws.normal(shift, 1, (300, 2)).astype(np.float32) for shift in (0.0, 0.8)]
    split = metrics.Split(50, 120, 130)
    sides = [metrics.Table(part) for part in values]
    found = metrics.classify(
        *sides, split, lambda _width, outputs: Known(outputs), metrics.Training(epochs=0), seeds=[3]
    )
    scores: list[list[np.ndarray]] = [[], []]
    for number, part in enumerate(values):
        for place, chosen in enumerate(drawn(300, split, f"3/{number}")[1:]):
            logit = part[chosen].astype(np.float64) @ [0.7, -0.2] + 0.1
            scores[place].append(1 / (1 + np.exp(-logit)))
    truth = [np.repeat([0.0, 1.0], [len(part) for part in each]) for each in scores]
    x, y = isotonic(np.concatenate(scores[0]), truth[0])
    calibrated = np.clip(np.interp(np.concatenate(scores[1]), x, y), 1e-6, 1 - 1e-6)
    ones, zeros = calibrated[truth[1] == 1], calibrated[truth[1] == 0]
    area = ((ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()) / (len(ones) * len(zeros))
    entropy = -(np.log(ones).sum() + np.log(1 - zeros).sum()) / len(calibrated)
    assert found.trainings[0].auc == pytest.approx(area, abs=1e-4)  # logits are float32
    assert found.trainings[0].jsd == pytest.approx(1 - entropy / np.log(2), abs=1e-4)


def test_log_posteriors_written_out() -> None:
    """Three models and a network that is not trained: mean of ln softmax over real events, and over own final ones."""
    draws = np.random.default_rng(9)
    real = draws.normal(size=(80, 2)).astype(np.float32)
    models = {
        name: draws.normal(shift, 1, (90, 2)).astype(np.float32) for name, shift in (("a", 0), ("b", 1), ("c", 2))
    }
    split = metrics.Split(40, 20, 30)
    found = metrics.log_posteriors(
        metrics.Table(real),
        {name: metrics.Table(part) for name, part in models.items()},
        split,
        lambda _width, outputs: Known(outputs),
        metrics.Training(epochs=0),
        seeds=[4],
    )

    def ln(rows: np.ndarray) -> np.ndarray:
        logits = rows.astype(np.float64) @ np.array([[0.7, -0.2], [-0.4, 0.5], [0.1, 0.3]]).T + [0.1, -0.2, 0.0]
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    for number, (name, part) in enumerate(models.items()):
        assert found[name].log_posterior.value == pytest.approx(ln(real)[:, number].mean(), abs=1e-6)
        own = part[drawn(90, split, f"4/{number}")[2]]
        assert found[name].own.value == pytest.approx(ln(own)[:, number].mean(), abs=1e-6)


def test_networks_and_trainings_have_their_published_constants() -> None:
    network = list(metrics.dnn(30))
    kinds = [type(part).__name__ for part in network]
    assert kinds == ["Linear", "LeakyReLU"] * 3 + ["Linear"]
    assert all(part.negative_slope == 0.01 for part in network if isinstance(part, torch.nn.LeakyReLU))
    training = metrics.Training()
    assert (training.epochs, training.batch, training.learning_rate) == (50, 1_000, 2e-4)
    assert {name: (split.train, split.selection, split.final) for name, split in metrics.SPLITS.items()} == {
        "1-photons": (80_000, 20_000, 21_000),
        "1-pions": (80_000, 20_000, 20_800),
        "2": (60_000, 20_000, 20_000),
        "3": (60_000, 20_000, 20_000),
    }
    assert (CLIPPED, CURVE_BINS, TRAININGS, POSTERIOR_TRAININGS) == (1e-6, 10, 10, 3)


def test_widths_and_convolutions_of_the_resnet() -> None:
    image = metrics.Image.of(DATASETS["3"].geometry())
    assert (image.layers, image.slow, image.fast) == (45, 50, 18)
    convolutions = [part for part in metrics.ResNet3d(image).modules() if isinstance(part, torch.nn.Conv3d)]
    first = convolutions[0]
    assert (first.kernel_size, first.stride, first.out_channels) == ((7, 7, 7), (2, 2, 2), 32)
    three = [part for part in convolutions if part.kernel_size == (3, 3, 3)]
    assert [part.out_channels for part in three] == [width for width in (32, 64, 64, 128) for _ in range(4)]
    assert len(three) + 2 == 18  # with the first convolution and the last layer
    assert [b - a for a, b in pairwise([0, 4, 8, 12, 16])] == [4] * 4
