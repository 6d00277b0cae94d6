"""Figures of a tagger are those of scikit-learn and of counting; errors are those of repeated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from hepfm.core.errors import HepfmError
from hepfm.finetune.tagging_metrics import MOST_PAIRWISE, Scored, measure, roc


def scored(jets: int = 3000, classes: int = 4, seed: int = 0, rounded: bool = False) -> Scored:
    """Scores that know something of the class."""
    draws = np.random.default_rng(seed)
    truth = draws.integers(0, classes, jets)
    logits = draws.normal(size=(jets, classes)) + 1.5 * np.eye(classes)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if rounded:  # many equal scores
        scores = np.round(scores, 1) + 0.01
    names = ("QCD", *(f"class {number}" for number in range(1, classes)))
    return Scored(scores, truth, names)


@pytest.mark.parametrize("rounded", [False, True])
def test_the_area_is_scikit_learns_one_against_one(rounded: bool) -> None:
    sample = scored(rounded=rounded)
    found = measure(sample, replicas=2)
    pairs = []
    for one in range(4):
        for other in range(4):
            if one != other:
                jets = np.isin(sample.truth, [one, other])
                pairs.append(roc_auc_score(sample.truth[jets] == one, sample.scores[jets, one]))
    assert found.auc.value == pytest.approx(np.mean(pairs), abs=1e-12)
    if not rounded:  # scikit-learn wants rows that add up to one
        theirs = roc_auc_score(sample.truth, sample.scores, multi_class="ovo")
        assert found.auc.value == pytest.approx(theirs, abs=1e-12)
    assert found.auc_kind == "one against one"


def test_many_classes_are_judged_against_the_rest() -> None:
    sample = scored(2000, MOST_PAIRWISE + 2)
    found = measure(sample, replicas=2)
    assert found.auc.value == pytest.approx(roc_auc_score(sample.truth, sample.scores, multi_class="ovr"), abs=1e-12)
    assert found.auc_kind == "one against the rest"


def test_rejection_is_counted_at_the_threshold_that_passes_the_wanted_share() -> None:
    sample = scored(4000)
    found = measure(sample, efficiencies=(0.3, 0.5), replicas=2)
    assert [(item.signal, item.efficiency) for item in found.rejections] == [
        (f"class {number}", efficiency) for number in (1, 2, 3) for efficiency in (0.3, 0.5)
    ]
    for item in found.rejections:
        signal = sample.number(item.signal)
        ratio = sample.scores[:, signal] / (sample.scores[:, signal] + sample.scores[:, 0])
        own, background = ratio[sample.truth == signal], ratio[sample.truth == 0]
        threshold = np.sort(own)[::-1][math.ceil(item.efficiency * len(own)) - 1]
        assert item.value == pytest.approx(len(background) / (background >= threshold).sum())
        assert item.jets == (len(own), len(background))
        share, passed, _ = roc_curve(
            np.repeat([1, 0], [len(own), len(background)]), np.concatenate([own, background]), drop_intermediate=False
        )
        assert 1 / item.value == pytest.approx(np.interp(item.efficiency, passed, share), abs=2 / len(background))


def test_classes_have_the_fields_own_working_points() -> None:
    draws = np.random.default_rng(0)
    names = ("QCD", "Hbb", "Hqql", "Tbl")
    sample = Scored(draws.dirichlet(np.ones(4), 1000), draws.integers(0, 4, 1000), names)
    found = measure(sample, replicas=2)
    assert {item.signal: item.efficiency for item in found.rejections} == {"Hbb": 0.5, "Hqql": 0.99, "Tbl": 0.995}


def test_a_rejection_without_a_background_jet_is_a_limit() -> None:
    scores = np.array([[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 50)
    found = measure(Scored(scores, np.repeat([0, 1], 50), ("QCD", "top")), efficiencies=(0.5,), replicas=5)
    (item,) = found.rejections
    assert item.value == math.inf
    assert math.isnan(item.error)
    assert item.lower_limit == pytest.approx(50 / 2.9957, rel=1e-3)
    assert found.accuracy.value == 1
    assert found.auc.value == 1


def test_errors_are_the_spread_of_independent_samples() -> None:
    found = measure(scored(1500), replicas=100)
    many = [measure(scored(1500, seed=seed), replicas=2) for seed in range(1, 60)]
    for name in ("accuracy", "auc", "calibration_error"):
        spread = np.std([getattr(item, name).value for item in many])
        assert 0.6 < getattr(found, name).error / spread < 1.6, name
    spread = np.std([1 / item.rejections[0].value for item in many])  # of the share that passes: a few jets
    rejection = found.rejections[0]
    assert 0.5 < rejection.error / rejection.value**2 / spread < 2


def test_equal_keys_give_equal_errors() -> None:
    assert measure(scored(), key=1, replicas=5).auc == measure(scored(), key=1, replicas=5).auc
    assert measure(scored(), key=1, replicas=5).auc != measure(scored(), key=2, replicas=5).auc


def test_calibration_is_nought_for_honest_scores_and_the_gap_for_boasting_ones() -> None:
    draws = np.random.default_rng(0)
    scores = draws.dirichlet(np.ones(3), 20_000)
    truth = (draws.random((20_000, 1)) > scores.cumsum(1)).sum(1)
    honest = measure(Scored(scores, truth, ("a", "b", "c")), replicas=20)
    assert honest.calibration_error.value < 0.02
    assert honest.rejections == ()  # three classes, none of them QCD
    boasting = np.where(scores == scores.max(1, keepdims=True), 0.98, 0.01)
    found = measure(Scored(boasting, truth, ("a", "b", "c")), replicas=2)
    assert found.calibration_error.value == pytest.approx(0.98 - found.accuracy.value, abs=1e-9)
    assert found.reliability.jets.sum() == 20_000
    assert found.reliability.accuracy[-1] == pytest.approx(found.accuracy.value)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
def test_the_roc_curve_is_that_of_counting(jets: list[tuple[int, bool]]) -> None:
    score, signal = np.array([s for s, _ in jets]), np.array([b for _, b in jets])
    kept, passed = roc(score, signal)
    for number, threshold in enumerate(sorted(set(score.tolist()), reverse=True), 1):
        assert kept[number] == pytest.approx((score[signal] >= threshold).sum() / max(signal.sum(), 1))
        assert passed[number] == pytest.approx((score[~signal] >= threshold).sum() / max((~signal).sum(), 1))


def test_what_cannot_be_judged_is_refused() -> None:
    sample = scored()
    with pytest.raises(HepfmError, match="one class"):
        measure(Scored(sample.scores[:5], np.zeros(5, dtype=int), sample.classes))
    with pytest.raises(HepfmError, match="does not know 'Zqq'"):
        measure(sample, background="Zqq")
    with pytest.raises(HepfmError, match="no jet of the background"):
        measure(Scored(sample.scores, np.maximum(sample.truth, 1), sample.classes))
    scores = sample.scores.copy()
    scores[7] = np.nan
    with pytest.raises(HepfmError, match="first of jet 7"):
        Scored(scores, sample.truth, sample.classes)
