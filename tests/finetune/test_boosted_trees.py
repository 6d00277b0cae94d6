"""Trees kept as arrays give what scikit-learn's give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from hepfm.core.artifacts import read_artifact
from hepfm.core.draws import key_of
from hepfm.core.errors import HepfmError
from hepfm.finetune.boosted_tagger import TreesTagger, save_trees
from hepfm.finetune.boosted_trees import FEATURES, BoostedTreesConfig, Trees
from hepfm.finetune.tagger import load_tagger


def sample(classes: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(classes)
    truth = draws.integers(0, classes, 600)
    inputs = draws.normal(size=(600, len(FEATURES))) + truth[:, None] * draws.normal(size=len(FEATURES))
    inputs[draws.random(inputs.shape) < 0.1] = np.nan
    return inputs, truth


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_are_scikit_learns(classes: int) -> None:
    inputs, truth = sample(classes)
    config = BoostedTreesConfig(classes=classes, rounds=12, leaves=9)
    theirs = HistGradientBoostingClassifier(
        max_iter=12, max_leaf_nodes=9, early_stopping=False, random_state=key_of("boosted trees", 5) % (1 << 31)
    ).fit(inputs, truth)
    ours = Trees.fit(config, inputs, truth, 5)
    np.testing.assert_allclose(ours.probabilities(inputs), theirs.predict_proba(inputs), rtol=0, atol=1e-12)


def test_an_artifact_gives_them_back_and_refuses_other_arrays(tmp_path: Path) -> None:
    inputs, truth = sample(3)
    trees = Trees.fit(BoostedTreesConfig(classes=3, rounds=3), inputs, truth, 0)
    names = ("a", "b", "c")
    tagger = TreesTagger(trees, names, {name: name for name in names})
    save_trees(tmp_path / "trees", tagger, provenance={}, metrics={}, card="")
    loaded, _ = load_tagger(tmp_path / "trees")
    assert isinstance(loaded, TreesTagger)
    assert np.array_equal(loaded.trees.probabilities(inputs), trees.probabilities(inputs))
    weights = read_artifact(tmp_path / "trees").weights()
    weights["left"] = weights["left"] * 0  # a walk that would never end
    with pytest.raises(HepfmError, match="not those of trees"):
        Trees.from_weights(trees.config, weights, "trees")
