"""Features and histograms of showers are CaloChallenge's, whatever the geometry and the chunks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores import showers as module
from hepfm.benchmarks.scores.shower_histograms import observables_of
from hepfm.benchmarks.scores.showers import check_units
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.geometry import Bins


def dense_of(sample: metrics.ShowerSample) -> np.ndarray:
    return np.concatenate([hits.dense(sample.geometry.voxels) for hits in sample.chunks()])


def by_definition(sample: metrics.ShowerSample) -> dict[str, np.ndarray]:
    """The features layer by layer from dense voxels, in the words of the evaluation script."""
    geometry, dense = sample.geometry, dense_of(sample)
    dense[dense < geometry.threshold] = 0
    found: dict[str, list[np.ndarray]] = {}
    for number, layer in enumerate(geometry.layers):
        energy = dense[:, geometry.first_voxel[number] : geometry.first_voxel[number + 1]]
        edges, sectors = np.array(layer.cell_a.edges), layer.cell_b.cells  # type: ignore[union-attr]
        middle = (edges[1:] + edges[:-1]) / 2
        alpha = -np.pi + 2 * np.pi * (np.arange(sectors) + 0.5) / sectors
        radius = np.tile(middle, sectors)
        positions = {
            "r": radius,
            "eta": radius * np.cos(np.repeat(alpha, len(middle))),
            "phi": radius * np.sin(np.repeat(alpha, len(middle))),
        }
        total = energy.sum(axis=1)
        found.setdefault("layer_energy", []).append(total)
        found.setdefault("sparsity", []).append(1 - (energy > 0).mean(axis=1))
        for axis, place in positions.items():
            if axis == "r" or sectors > 1:
                mean = (energy * place).sum(axis=1) / (total + 1e-16)
                square = (energy * place**2).sum(axis=1) / (total + 1e-16)
                found.setdefault(f"centre_{axis}", []).append(mean)
                found.setdefault(f"width_{axis}", []).append(np.sqrt(np.clip(square - mean**2, 0, None)))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


@pytest.mark.parametrize(("name", "inputs"), [("1-photons", 30), ("1-pions", 46), ("2", 362)])
def test_features_are_those_of_the_definition(toy_showers, name: str, inputs: int) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(name, 20)
    found = metrics.shower_features(sample)
    for feature, expected in by_definition(sample).items():
        np.testing.assert_allclose(getattr(found, feature), expected, rtol=1e-9, atol=1e-6, err_msg=feature)
    assert found.inputs().shape == (20, inputs)
    np.testing.assert_allclose(found.inputs()[:, 0], np.log10(found.incident * 1000))


def test_one_voxel_by_hand() -> None:
    """All energy in the second ring of the third sector of ten in layer 1 of data set 1: 2-4 mm, alpha = -pi/2."""
    geometry = DATASETS["1-photons"].geometry()
    dense = np.zeros((1, 368))
    dense[0, 8 + 2 * 16 + 1] = 50.0
    dense[0, 8] = 0.5  # below the threshold of 1 MeV
    found = metrics.shower_features(metrics.ShowerSample.of_arrays("hand", geometry, dense, np.array([0.1])))
    assert found.layer_energy[0].tolist() == [0, 50, 0, 0, 0]
    assert found.centre_r[0, 1] == pytest.approx(3)
    assert found.centre_eta[0] == pytest.approx([0, 0], abs=1e-12)
    assert found.centre_phi[0] == pytest.approx([-3, 0])
    assert found.width_r[0] == pytest.approx([0] * 5, abs=1e-6)
    assert found.sparsity[0] == pytest.approx([1, 1 - 1 / 160, 1, 1, 1])
    assert found.response == pytest.approx([0.5])


def test_chunks_do_not_matter(toy_showers, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(showers=50)
    whole = metrics.shower_features(sample)
    monkeypatch.setattr(module, "CHUNK_SHOWERS", 7)
    in_parts = metrics.shower_features(sample)
    np.testing.assert_array_equal(whole.inputs(), in_parts.inputs())
    assert whole.highest == in_parts.highest
    assert len(metrics.shower_features(sample.limited(10))) == 10


def test_a_file_and_its_arrays_are_the_same_sample(toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(showers=30)
    incident = np.concatenate([hits.incident for hits in sample.chunks()])
    with h5py.File(tmp_path / "showers.hdf5", "w") as file:
        file["showers"] = dense_of(sample).astype(np.float32)
        file["incident_energies"] = incident[:, None] * 1000
    read = metrics.read_showers(tmp_path / "showers.hdf5", limit=20)
    assert read.showers == 20
    ours, theirs = metrics.shower_features(read), metrics.shower_features(sample.limited(20))
    np.testing.assert_allclose(ours.inputs(), theirs.inputs(), rtol=1e-12)
    metrics.check_alike(sample, read)


def test_a_grid_has_features_too(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("ild", 10, scale=0.03)
    found = metrics.shower_features(sample)
    dense = dense_of(sample).reshape(10, 30, 30, 30)
    dense[dense < 0.1] = 0
    x = sample.geometry.layers[0].cell_a.centres
    expected = (dense.sum(axis=(1, 3)) * x).sum(axis=1) / dense.sum(axis=(1, 2, 3))
    weighted = (found.centre_eta * found.layer_energy).sum(axis=1) / found.total
    np.testing.assert_allclose(weighted, expected, rtol=1e-9)


def test_rings_of_a_grid_are_as_wide_as_a_cell(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("ild", 60, scale=0.03)
    found = metrics.shower_features(sample)
    dense = dense_of(sample).reshape(60, 30, 30, 30)
    dense[dense < 0.1] = 0
    layer = sample.geometry.layers[0]
    assert layer.cell_a is not None
    assert layer.cell_b is not None
    x, z = layer.cell_a.centres, layer.cell_b.centres
    ring = np.floor(np.hypot(x[:, None], z[None]) / layer.cell_a.width).astype(int)
    expected = np.stack([dense[:, :, ring == number].sum(axis=(1, 2)) for number in range(ring.max() + 1)], axis=1)
    np.testing.assert_allclose(found.ring_energy, expected, rtol=1e-6)
    parts = metrics.separation_powers(found, found, sample.geometry, replicas=2, floors=False)
    names = [part.observable.name for part in parts if part.observable.group == "ring energy"]
    assert names[:2] == ["ring energy, ring 0", "ring energy, ring 1"]
    other = toy_showers("2", 5)
    published = observables_of(metrics.shower_features(other), other.geometry)
    assert not any("ring" in observable.name for observable, *_ in published)


def test_separation_powers_are_those_of_the_histograms(toy_showers) -> None:  # type: ignore[no-untyped-def]
    reference, sample = toy_showers(showers=150), toy_showers(showers=120, seed=1, scale=1.05)
    real, made = metrics.shower_features(reference), metrics.shower_features(sample)
    found = {
        part.observable.name: part
        for part in metrics.separation_powers(real, made, reference.geometry, replicas=10, floors=False)
    }

    def expected(a: np.ndarray, b: np.ndarray, edges: np.ndarray) -> float:
        p, q = (np.histogram(part, edges, density=True)[0] * np.diff(edges) for part in (a, b))
        return float(0.5 * ((p - q) ** 2 / (p + q + 1e-16)).sum())

    cases = {
        "response": (real.response, made.response, np.linspace(0.5, 1.5, 101)),
        "layer energy, layer 12": (
            real.layer_energy[:, 4],
            made.layer_energy[:, 4],
            np.logspace(0, np.log10(real.layer_energy[:, 4].max()), 40),
        ),
        "centre phi, layer 2": (real.centre_phi[:, 1], made.centre_phi[:, 1], np.linspace(-100, 100, 101)),
        "width eta, layer 1": (real.width_eta[:, 0], made.width_eta[:, 0], np.linspace(0, 100, 101)),
        "centre r, layer 12": (real.centre_r[:, 4], made.centre_r[:, 4], np.linspace(0, 1500, 101)),
        "width r, layer 3": (real.width_r[:, 3], made.width_r[:, 3], np.linspace(0, 500, 101)),
        "sparsity, layer 2": (real.sparsity[:, 2], made.sparsity[:, 2], np.linspace(0, 1, 21)),
    }
    for name, case in cases.items():
        value = found[name].outcome.value
        assert value is not None, name
        assert value.value == pytest.approx(expected(*case), abs=1e-6), name
        assert value.error > 0
    edges = metrics.voxel_edges(real, reference.geometry)
    spectra = [metrics.voxel_spectrum(side, edges) for side in (reference, sample)]
    voxels = metrics.voxel_separation(*spectra, edges, replicas=5)
    assert voxels.outcome.value is not None
    assert voxels.outcome.value.value == pytest.approx(expected(dense_of(reference), dense_of(sample), edges), abs=1e-9)
    assert voxels.outcome.floor is not None


def test_a_response_without_showers_of_its_energy_has_no_value(toy_showers) -> None:  # type: ignore[no-untyped-def]
    """The toy's energies lie in 10-100 GeV: 4 of data set 1's 15 bins have showers; the others are no 0."""
    real = metrics.shower_features(toy_showers(showers=400))
    found = metrics.separation_powers(real, real, toy_showers().geometry, replicas=5, floors=False)
    parts = {part.observable.part: part.outcome for part in found if part.observable.part is not None}
    assert len(parts) == 15
    assert [energy for energy, outcome in parts.items() if outcome.value] == [16.384, 32.768, 65.536]
    assert "0 showers are too few, at least 50 are needed" in parts[4194.304].note


@pytest.mark.parametrize("name", ["2", "1-pions"])
def test_other_cells_are_told(toy_showers, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HepfmError, match=r"another binning.* the reference CaloChallenge data set 1, photons"):
        metrics.check_alike(toy_showers(showers=3), toy_showers(name, 3))


def test_other_edges_of_as_many_cells_are_told(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(showers=3)
    layer = sample.geometry.layers[1]
    moved = replace(layer, cell_a=Bins.irregular(tuple(1.1 * layer.cell_a.edges)))
    layers = (sample.geometry.layers[0], moved, *sample.geometry.layers[2:])
    other = replace(sample, geometry=replace(sample.geometry, layers=layers))
    with pytest.raises(HepfmError, match="other edges of cell_a in layer 1"):
        metrics.check_alike(sample, other)


def test_other_incident_energies_and_units_are_told() -> None:
    draws = np.random.default_rng(0)
    energies = draws.uniform(10, 100, 2000)
    metrics.check_energies(energies, draws.uniform(10, 100, 3000), "alike")
    with pytest.raises(HepfmError, match=r"sample 'low': has other incident energies: 10\.\d+-90\.?\d* GeV"):
        metrics.check_energies(energies, draws.uniform(10, 90, 2000), "low")
    with pytest.raises(HepfmError, match="deposits are in MeV"):
        check_units(np.full(10, 0.9), np.full(10, 0.9e-3), "in GeV")


def test_values_that_are_no_energies_are_told(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers(showers=10)
    dense = dense_of(sample)
    dense[7, 5] = np.nan
    bad = metrics.ShowerSample.of_arrays("bad", sample.geometry, dense, np.full(10, 50.0))
    with pytest.raises(HepfmError, match="bad: an energy of shower 7 is nan"):
        metrics.shower_features(bad)
    lost = metrics.ShowerSample.of_arrays("lost", sample.geometry, dense, np.zeros(10))
    with pytest.raises(HepfmError, match=r"an energy of shower 7 is nan|the incident energy of shower 0"):
        metrics.shower_features(lost)
    with pytest.raises(HepfmError, match="holds no showers"):
        metrics.shower_features(metrics.ShowerSample.of_arrays("none", sample.geometry, dense[:0], np.zeros(0)))
    with pytest.raises(HepfmError, match="has 368 voxels"):
        metrics.ShowerSample.of_arrays("cut", sample.geometry, dense[:, 1:], np.zeros(10))
