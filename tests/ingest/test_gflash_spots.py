"""Spots hold the energy of their layers, lie where the radial profile says, and end in the right cells."""

from __future__ import annotations

import numpy as np
import pytest

from hepfm.ingest.geometry import Geometry
from hepfm.ingest.gflash.detectors import DETECTORS
from hepfm.ingest.gflash.longitudinal import Profiles
from hepfm.ingest.gflash.radial import radial_shape, relative_depth
from hepfm.ingest.gflash.readout import deposits, voxel_of
from hepfm.ingest.gflash.showers import Showers, draw_showers
from hepfm.ingest.gflash.spots import Spots, draw_spots, layer_energies
from hepfm.ingest.gflash.stack import Stack, stack_of

STOCHASTIC = 0.17


@pytest.fixture(scope="module")
def stack() -> Stack:
    return stack_of(DETECTORS["ild"])


def alike(count: int, energy: float = 50.0) -> Showers:
    """Showers that do not differ before sampling."""
    one = np.ones(count)
    return Showers(Profiles(energy * one, 0.0 * one, 4.5 * one, 6.5 * one, 4.5 * one), np.arange(count))


def test_spots_hold_exactly_the_energy_of_their_layers(stack: Stack) -> None:
    showers = draw_showers(stack.medium, "photon", np.linspace(10, 90, 50), np.random.default_rng(1))
    spots = draw_spots(stack, STOCHASTIC, showers, np.random.default_rng(2))
    energies = layer_energies(stack, STOCHASTIC, showers, np.random.default_rng(2))  # the same first draws
    layers = len(stack.seen)
    found = np.bincount(spots.particle * layers + spots.layer, spots.energy, 50 * layers).reshape(50, layers)
    expected = np.stack([np.bincount(showers.particle, energies[:, layer], 50) for layer in range(layers)], axis=1)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_sampling_makes_layers_fluctuate_by_the_stochastic_term(stack: Stack) -> None:
    energies = layer_energies(stack, STOCHASTIC, alike(20_000), np.random.default_rng(3))
    mean = 50 * alike(1).profiles.fractions(stack.edges)[0]
    assert energies.mean(axis=0) == pytest.approx(mean, rel=0.05, abs=0.002)
    assert energies.var(axis=0) == pytest.approx(STOCHASTIC**2 * mean, rel=0.1, abs=2e-4)
    # Layers fluctuate on their own, so that all together give c/sqrt(E).
    assert energies.sum(axis=1).std() / 50 == pytest.approx(STOCHASTIC / np.sqrt(50), rel=0.03)


def test_number_of_spots_is_that_of_the_formula(stack: Stack) -> None:
    # 10.3/0.17 x 50^0.959 = 2,581; at least one in each layer with energy adds some.
    spots = draw_spots(stack, STOCHASTIC, alike(200), np.random.default_rng(4))
    assert len(spots.energy) / 200 == pytest.approx(2_581, rel=0.02)


@pytest.mark.parametrize("layer", [3, 12, 25])
def test_radii_follow_the_profile_at_their_depth(stack: Stack, layer: int) -> None:
    showers = alike(3_000)
    spots = draw_spots(stack, STOCHASTIC, showers, np.random.default_rng(5))
    radius = np.sort(spots.radius[spots.layer == layer]) / stack.moliere[layer]
    profile = alike(1).profiles
    tau = relative_depth(profile, stack.middles[layer : layer + 1])
    expected = radial_shape(stack.medium, profile.energy, tau).inside(radius)[0]
    found = (np.arange(len(radius)) + 0.5) / len(radius)
    assert np.abs(found - expected).max() < 1.95 / np.sqrt(len(radius))  # Kolmogorov-Smirnov, 0.1%
    assert len(radius) > 5_000


def test_azimuths_are_uniform(stack: Stack) -> None:
    turn = np.sort(draw_spots(stack, STOCHASTIC, alike(100), np.random.default_rng(6)).turn)
    assert 0 <= turn[0] <= turn[-1] < 1
    assert np.abs(turn - (np.arange(len(turn)) + 0.5) / len(turn)).max() < 1.95 / np.sqrt(len(turn))


class TestReadout:
    @pytest.mark.parametrize("name", sorted(DETECTORS))
    def test_a_spot_falls_in_the_cell_that_the_geometry_says(self, name: str) -> None:
        detector, geometry, rng = DETECTORS[name], DETECTORS[name].geometry(), np.random.default_rng(7)
        spots = some_spots(2_000, len(geometry.layers), rng)
        angle = 2 * np.pi * spots.turn.astype(np.float64)
        if geometry.kind == "cylinder":  # sectors are counted from -pi, turns from the same place
            angle -= np.pi
        x, y = spots.radius * np.cos(angle), spots.radius * np.sin(angle)
        expected = geometry.locate(spots.layer, x, y)
        found = voxel_of(spots, detector.cells)
        assert (found != expected).mean() < 2e-3  # within rounding of an edge
        assert (found < 0).any()
        assert (found >= 0).any()

    def test_nothing_is_lost_but_what_falls_beside(self, stack: Stack) -> None:
        detector, geometry = DETECTORS["ild"], DETECTORS["ild"].geometry()
        spots = draw_spots(stack, STOCHASTIC, alike(20), np.random.default_rng(8))
        voxel = voxel_of(spots, detector.cells)
        dense = deposits(spots, voxel, np.full(30, 1e3), 20, geometry.voxels)
        beside = np.bincount(spots.particle[voxel < 0], spots.energy[voxel < 0], 20)
        total = np.bincount(spots.particle, spots.energy, 20)
        assert dense.sum(axis=1) / 1e3 + beside == pytest.approx(total)
        assert 0 < beside.sum() < 0.05 * total.sum()

    def test_signals_are_scaled_by_layer(self) -> None:
        geometry: Geometry = DETECTORS["ild"].geometry()
        one = np.ones(2, dtype=np.float32)
        spots = Spots(np.array([0, 1]), np.array([2, 5]), one, 0 * one, np.array([3.0, 4.0]))
        dense = deposits(spots, voxel_of(spots, DETECTORS["ild"].cells), np.arange(30.0), 2, geometry.voxels)
        assert dense.sum(axis=1) == pytest.approx([6.0, 20.0])
        assert np.flatnonzero(dense[1] > 0) // 900 == [5]


def some_spots(count: int, layers: int, rng: np.random.Generator) -> Spots:
    return Spots(
        particle=np.zeros(count, dtype=np.int64),
        layer=rng.integers(0, layers, count),
        radius=rng.exponential(25, count).astype(np.float32),
        turn=rng.random(count, dtype=np.float32),
        energy=np.ones(count),
    )
