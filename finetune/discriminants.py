"""Discriminants on judged jets: ROC, rejection, and whether a cut on one shapes the spectrum of mass or pt."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Sculpting:
    """What a cut on a discriminant does to the background's spectrum of mass or pt.

    Attributes:
        efficiency: of the signal, at the cut.
        kept: share of the background that passes.
        distance: Kolmogorov-Smirnov distance of the spectra before and after; 0 where nothing is shaped.
        chance: 95% quantile of the distance that as many background jets drawn at random show.
    """

    efficiency: float
    kept: float
    distance: float
    chance: float


def sculpting(
    values: np.ndarray, truth: np.ndarray, quantity: np.ndarray, efficiency: float, *, key: object = 0
) -> Sculpting:
    """How a cut at a signal efficiency shapes a quantity (n,) of background jets.

    Args:
        values, truth: from :func:`values_and_truth`.
        quantity: mass or pt of each jet.
        efficiency: of the signal.
        key: names the draws of the chance level.

    Raises:
        HepfmError: no signal or background.
    """
    signal, background = values[truth == 1], truth == 0
    if not len(signal) or not background.any():
        raise HepfmError("there is no signal or no background", "sculpting")
    threshold = np.sort(signal)[::-1][max(math.ceil(efficiency * len(signal)) - 1, 0)]
    found = quantity[background].astype(np.float64)
    passed = found[values[background] >= threshold]
    if not len(passed):
        return Sculpting(efficiency, 0.0, math.nan, math.nan)
    draws = generator("sculpting", key)
    chance = [_distance(draws.choice(found, len(passed), replace=False), found) for _ in range(REPLICAS)]
    return Sculpting(efficiency, len(passed) / len(found), _distance(passed, found), float(np.quantile(chance, 0.95)))


def _distance(part: np.ndarray, whole: np.ndarray) -> float:
    """Largest difference of the distribution functions of some values and of all values."""
    places = np.sort(whole)
    of_part, of_whole = (
        np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (part, whole)
    )
    return float(np.abs(of_part - of_whole).max())
