"""Toy jets with known differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hepfm.core.observables import Constituents

JetMaker = Callable[..., Constituents]


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
