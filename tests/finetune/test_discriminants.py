"""Discriminants on judged jets: figures of summed scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hepfm.core.errors import HepfmError
from hepfm.finetune.discriminants import Discriminant, measure_discriminant
from hepfm.finetune.sophon import LABELS
from hepfm.finetune.tagging_metrics import Scored


def judged(jets: int = 3000) -> Scored:
    draws = np.random.default_rng(0)
    truth = draws.choice([0, 1, 5, 161, 178, 187], jets)
    logits = draws.normal(size=(jets, 188)) + 2 * np.eye(188)[truth]
    return Scored(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), truth, LABELS)


def test_figures_are_those_of_the_ratio_on_signal_and_background_jets() -> None:
    scored = judged()
    wanted = Discriminant.parse("X_bb+X_cc:QCD", LABELS)
    found = measure_discriminant(wanted, scored, replicas=5)
    signal, background = np.isin(scored.truth, [0, 1]), scored.truth >= 161
    assert found.jets == (signal.sum(), background.sum())
    s, b = scored.scores[:, :2].sum(1), scored.scores[:, 161:].sum(1)
    ratio = s / (s + b)
    chosen = signal | background
    assert found.auc.value == pytest.approx(roc_auc_score(signal[chosen], ratio[chosen]))
    half = np.quantile(ratio[signal], 0.5)
    assert found.rejections[1].value == pytest.approx(background.sum() / (ratio[background] > half).sum(), rel=0.05)


def test_what_is_no_discriminant_is_refused() -> None:
    for text in ("X_bb", "X_bb:", ":QCD"):
        with pytest.raises(HepfmError, match="is no discriminant"):
            Discriminant.parse(text, LABELS)
    with pytest.raises(HepfmError, match="does not know 'Hbb'"):
        Discriminant.parse("Hbb:QCD", LABELS)
    with pytest.raises(HepfmError, match="0 signal and"):
        measure_discriminant(Discriminant.parse("X_gg:QCD", LABELS), judged(), replicas=2)
