"""Sophon's discriminants, groups and sets of classes."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from hepfm.core.errors import HepfmError
from hepfm.finetune.sophon import LABELS, LADDERS, discriminant, ladder, members


def test_a_discriminant_is_the_ratio_of_summed_scores() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(188), 20)
    qcd = scores[:, 161:188].sum(1)
    np.testing.assert_allclose(discriminant(scores, LABELS, "X_bb", "QCD"), scores[:, 0] / (scores[:, 0] + qcd))
    both = scores[:, [0, 1]].sum(1)
    found = discriminant(scores, LABELS, ["X_bb", "X_cc"], ["QCD", "X_gg"])
    np.testing.assert_allclose(found, both / (both + qcd + scores[:, 9]))
    found = discriminant(scores, LABELS, "X_QQ", "QCD")
    np.testing.assert_allclose(found, scores[:, :9].sum(1) / (scores[:, :9].sum(1) + qcd))
    assert discriminant(np.zeros((1, 188)), LABELS, "X_bb", "QCD") == 0


def test_a_label_named_twice_counts_once() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(188), 5)
    once = discriminant(scores, LABELS, "QCD", "X_bb")
    assert np.array_equal(once, discriminant(scores, LABELS, ["QCD", "QCD_light"], "X_bb"))


def test_names_that_make_no_sense_are_refused() -> None:
    with pytest.raises(HepfmError, match="does not know 'Hbb'"):
        members("Hbb", LABELS)
    with pytest.raises(HepfmError, match="does not know 'X_QQ'"):
        members("X_QQ", ("QCD", "top"))
    with pytest.raises(HepfmError, match=r"labels are QCD, top\)$"):  # no group that this head has no label of
        members("X_QQ", ("QCD", "top"))
    with pytest.raises(HepfmError, match="signal and background"):
        discriminant(np.ones((1, 188)), LABELS, "X_bb", ["X_QQ"])
    with pytest.raises(HepfmError, match="no set of 12 classes"):
        ladder(12)


def test_the_ladder_merges_labels_step_by_step() -> None:
    for count in LADDERS:
        assert len(set(ladder(count).values())) == count
        assert tuple(ladder(count)) == LABELS
    for fine, coarse in itertools.pairwise(LADDERS):
        if fine == 188:
            continue
        parents: dict[str, set[str]] = {}
        for label in LABELS:
            parents.setdefault(ladder(fine)[label], set()).add(ladder(coarse)[label])
        assert all(len(found) == 1 for found in parents.values())
    # Sizes of classes that are published for the study these two sets come from.
    sizes = Counter(ladder(43).values())
    assert (sizes["X_PP_b"], sizes["X_PP_c"], sizes["X_PP_light"]) == (3, 3, 4)
    assert (sizes["X_YY_PPP_b"], sizes["X_YY_PPP_c"], sizes["X_YY_PPP_light"]) == (12, 8, 9)
    assert (sizes["X_YY_PPPP_b"], sizes["X_YY_PPPP_c"], sizes["X_YY_PPPP_light"]) == (12, 8, 7)
    assert Counter(ladder(17).values())["QCD"] == 27
