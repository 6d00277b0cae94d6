"""A cut that follows the mass shapes it, one that does not does not; by how much, with its error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from hepfm.core.errors import HepfmError
from hepfm.finetune.sculpting import EDGES, divergence, sculpting

JETS = 4000


def spectrum(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.uniform(0, 1, JETS), 20 + draws.exponential(80, JETS)


def test_the_divergence_is_scipys() -> None:
    draws = np.random.default_rng(0)
    for _ in range(5):
        a, b = draws.integers(0, 9, (2, 30))
        assert divergence(a, b) == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-12)


def test_a_free_score_is_within_chance_and_one_of_the_mass_is_not() -> None:
    score, mass = spectrum()
    for cut in sculpting(score, mass, "softdrop_mass", (0.5, 0.1), replicas=60):
        assert cut.divergence is not None
        assert cut.divergence.value < cut.chance_upper
        assert cut.passed[0] == round(cut.share * JETS)
    for cut in sculpting(mass, mass, "softdrop_mass", (0.5, 0.1), replicas=60):
        assert cut.divergence is not None
        kept = mass >= np.quantile(mass, 1 - cut.share)
        inner = np.concatenate([[-np.inf], EDGES["softdrop_mass"], [np.inf]])
        passed, every = np.histogram(mass[kept], inner)[0], np.histogram(mass, inner)[0]
        assert cut.divergence.value == pytest.approx(jensenshannon(passed, every, base=2) ** 2, abs=1e-3)
        assert cut.divergence.value - 5 * cut.divergence.error > cut.chance_upper


def test_errors_are_the_spread_of_repeated_samples() -> None:
    found = []
    for seed in range(30):
        score, mass = spectrum(seed)
        (cut,) = sculpting(score + mass / 200, mass, "softdrop_mass", (0.2,), replicas=40)
        assert cut.divergence is not None
        found.append(cut.divergence)
    spread = np.std([item.value for item in found], ddof=1)
    assert np.mean([item.error for item in found]) == pytest.approx(spread, rel=0.4)


def test_equal_scores_pass_together_and_too_few_jets_are_no_spectrum() -> None:
    score, mass = spectrum()
    (cut,) = sculpting(np.round(score, 1), mass, "softdrop_mass", (0.01,), replicas=10)
    assert cut.passed[0] == (np.round(score, 1) == 1).sum()
    (cut,) = sculpting(score, mass, "softdrop_mass", (0.001,), replicas=10)
    assert cut.divergence is None
    mass[3] = np.nan
    with pytest.raises(HepfmError, match="without finite softdrop_mass"):
        sculpting(score, mass, "softdrop_mass")
