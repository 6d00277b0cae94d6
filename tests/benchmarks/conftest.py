"""Toy jets and showers with known differences."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hepfm.benchmarks.metrics import ShowerSample
from hepfm.core.observables import Constituents
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.formats.ild import ild_grid
from hepfm.ingest.geometry import Geometry, Stored

sys.path.insert(0, str(Path(__file__).parent / "support"))

JetMaker = Callable[..., Constituents]
ShowerMaker = Callable[..., ShowerSample]


def voxels_of(geometry: Geometry, showers: int, seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Energies (n, voxels) [MeV], a fifth of the voxels filled, and incident energies (n,) [GeV]."""
    draws = np.random.default_rng(seed)
    incident = draws.uniform(10, 100, showers)
    dense = draws.exponential(1, (showers, geometry.voxels)) * (draws.random((showers, geometry.voxels)) < 0.2)
    dense *= scale * 1000 * incident[:, None] / np.maximum(dense.sum(axis=1, keepdims=True), 1e-9)
    return dense.astype(np.float32), incident


@pytest.fixture(scope="session")
def toy_showers() -> ShowerMaker:
    """Makes showers in a named calorimeter: a data set of CaloChallenge, or ``ild`` in 30 x 30 cells."""

    def make(name: str = "1-photons", showers: int = 200, seed: int = 0, scale: float = 1.0) -> ShowerSample:
        geometry = ild_grid(30, 30, Stored()) if name == "ild" else DATASETS[name].geometry()
        dense, incident = voxels_of(geometry, showers, seed, scale)
        return ShowerSample.of_arrays(f"toy {name} {seed}", geometry, dense, incident)

    return make


@pytest.fixture(scope="session")
def toy_jets() -> JetMaker:
    """Makes jets of ``mean`` constituents within ``spread`` of their axis."""

    def make(jets: int = 400, seed: int = 0, mean: float = 20, spread: float = 0.1) -> Constituents:
        draws = np.random.default_rng(seed)
        lengths = 1 + draws.poisson(mean, jets)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        pt = draws.exponential(20, offsets[-1]) + 0.5
        deta, dphi = draws.normal(0, spread, (2, offsets[-1]))
        return Constituents(pt, deta, dphi, offsets)

    return make
