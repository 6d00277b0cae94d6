"""Discriminants on judged jets: area under the ROC curve, and rejection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import REPLICAS, Estimate
from hepfm.finetune.sophon import discriminant, members
from hepfm.finetune.tagging_metrics import PassedShare, Rejection, RocOrder, Scored, area, spread

EFFICIENCIES = (0.3, 0.5)


@dataclass(frozen=True)
class Discriminant:
    """Which labels are signal and which background.

    Attributes:
        signal, background: labels or groups.
    """

    signal: tuple[str, ...]
    background: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, labels: Sequence[str]) -> Discriminant:
        """From ``SIGNAL+...:BACKGROUND+...``.

        Raises:
            HepfmError: it is not that, or names what the head does not know.
        """
        signal, colon, background = text.partition(":")
        if not colon or not signal or not background:
            raise HepfmError(f"'{text}' is no discriminant", "--discriminants", "write SIGNAL:BACKGROUND, as X_bb:QCD")
        made = cls(tuple(signal.split("+")), tuple(background.split("+")))
        discriminant(np.ones((1, len(labels))), labels, made.signal, made.background)
        return made

    @property
    def name(self) -> str:
        return f"{'+'.join(self.signal)} : {'+'.join(self.background)}"


@dataclass(frozen=True)
class MeasuredDiscriminant:
    """A discriminant's figures.

    Attributes:
        name: of it.
        jets: (2,) signal and background jets.
        auc: area under the ROC curve.
        rejections: at each efficiency.
    """

    name: str
    jets: tuple[int, int]
    auc: Estimate
    rejections: tuple[Rejection, ...]


def values_and_truth(wanted: Discriminant, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) of a discriminant, and 1 for signal jets, 0 for background, -1 for others (n,)."""
    values = discriminant(scored.scores, scored.classes, wanted.signal, wanted.background)
    side = np.full(len(scored.classes), -1)
    for kind, names in ((0, wanted.background), (1, wanted.signal)):
        for name in names:
            side[[scored.number(label) for label in members(name, scored.classes)]] = kind
    return values, side[scored.truth]


def measure_discriminant(
    wanted: Discriminant,
    scored: Scored,
    efficiencies: Sequence[float] = EFFICIENCIES,
    *,
    key: object = 0,
    replicas: int = REPLICAS,
) -> MeasuredDiscriminant:
    """Area and rejections of a discriminant, with bootstrap errors.

    Raises:
        HepfmError: no jet of signal or background was judged.
    """
    values, truth = values_and_truth(wanted, scored)
    jets = np.flatnonzero(truth >= 0)
    counts = int((truth == 1).sum()), int((truth == 0).sum())
    if not all(counts):
        raise HepfmError(
            f"{counts[0]} signal and {counts[1]} background jets were judged", wanted.name, "judge jets of both"
        )
    is_signal = truth[jets] == 1
    order = RocOrder(values[jets], jets, is_signal)
    cuts = [PassedShare(values[jets], jets, is_signal, efficiency) for efficiency in efficiencies]
    figures: list[Callable[[np.ndarray | None], float]] = [lambda counts: area(order, counts), *cuts]
    draws = generator("discriminant bootstrap", wanted.name, key)
    every = len(scored.truth)
    drawn = np.array(
        [
            [figure(again) for figure in figures]
            for again in (np.bincount(draws.integers(0, every, every), minlength=every) for _ in range(replicas))
        ]
    )
    found = [figure(None) for figure in figures]
    errors = [spread(column) for column in drawn.T]
    signal, background = "+".join(wanted.signal), "+".join(wanted.background)
    rejections = tuple(
        Rejection.of(signal, background, efficiency, share, error, counts)
        for efficiency, share, error in zip(efficiencies, found[1:], errors[1:], strict=True)
    )
    return MeasuredDiscriminant(wanted.name, counts, Estimate(found[0], errors[0]), rejections)
