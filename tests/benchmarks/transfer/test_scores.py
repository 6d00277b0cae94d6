"""Distances over seeds, with errors."""

from __future__ import annotations

import numpy as np
import pytest

from hepfm.benchmarks.transfer.scores import over_seeds
from hepfm.core.statistics import Estimate


def test_errors_are_the_spread_of_seeds_but_no_less_than_each_has() -> None:
    assert over_seeds([Estimate(2.0, 0.3)]) == Estimate(2.0, 0.3)
    far = over_seeds([Estimate(1.0, 0.1), Estimate(2.0, 0.1), Estimate(3.0, 0.1)])
    assert (far.value, far.error) == (pytest.approx(2.0), pytest.approx(1 / np.sqrt(3)))
    near = over_seeds([Estimate(2.0, 0.3), Estimate(2.0, 0.4)])
    assert (near.value, near.error) == (pytest.approx(2.0), pytest.approx(0.25))
