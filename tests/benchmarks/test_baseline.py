"""The baseline has the training jets' token frequencies and mean length, and nothing else of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hepfm.benchmarks.baseline import independent_tokens


def test_frequencies_and_mean_length_are_those_of_the_training_jets() -> None:
    draws = np.random.default_rng(0)
    tokens = draws.choice(8, 40_000, p=np.arange(1, 9) / 36)
    drawn, offsets = independent_tokens(tokens, jets=1000, codes=8, n=20_000, max_length=10_000, seed=1)
    assert len(offsets) == 20_001
    # 1,000 stops in 41,000 tokens; a first stop is drawn again, so the mean length is 41.
    assert abs(np.diff(offsets).mean() - 41) < 1
    shares = np.bincount(drawn, minlength=8) / len(drawn)
    assert np.abs(shares - np.bincount(tokens, minlength=8) / len(tokens)).max() < 0.003
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


@given(st.integers(1, 50), st.integers(1, 30), st.integers(0, 1000))
def test_every_jet_has_a_constituent_and_none_too_many(n: int, max_length: int, seed: int) -> None:
    drawn, offsets = independent_tokens(np.array([3, 3, 1]), jets=2, codes=5, n=n, max_length=max_length, seed=seed)
    lengths = np.diff(offsets)
    assert len(lengths) == n
    assert (lengths >= 1).all()
    assert (lengths <= max_length).all()
    assert set(drawn) <= {1, 3}
    again, _ = independent_tokens(np.array([3, 3, 1]), jets=2, codes=5, n=n, max_length=max_length, seed=seed)
    assert np.array_equal(drawn, again)
