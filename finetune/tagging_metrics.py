"""How good a tagger is: accuracy, area under the ROC curve, background rejection, calibration, with bootstrap errors.

Errors are standard deviations over replicas in which whole jets are drawn anew, with replacement (Efron 1979); all
figures of a replica are of the same jets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import REPLICAS, Estimate

CALIBRATION_BINS = 15
# With more classes than these, pairs of classes are too many (and most too empty): each class against the rest.
MOST_PAIRWISE = 20
# Rejections are quoted at this signal efficiency unless a class has its own (arXiv:2202.03772, table 1).
EFFICIENCY = 0.5
EFFICIENCIES = {"Hqql": 0.99, "Tbl": 0.995}
# Events that a Poisson mean is below at 95% confidence where none was seen.
POISSON_LIMIT = -math.log(0.05)


@dataclass(frozen=True)
class Scored:
    """Jets that a tagger has judged.

    Attributes:
        scores: (n, classes) probabilities.
        truth: (n,) number of each jet's class.
        classes: names, in order.
    """

    scores: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.truth), len(self.classes)):
            raise ValueError(f"scores {self.scores.shape}, {len(self.truth)} jets, {len(self.classes)} classes")
        bad = ~np.isfinite(self.scores).all(axis=1)
        if bad.any():
            raise HepfmError(
                f"scores of {int(bad.sum()):,} jets are not finite, first of jet {int(bad.argmax())}", "scores"
            )
        if not len(self.truth):
            raise HepfmError("no jet was judged", "scores")

    def number(self, name: str) -> int:
        """Number of a class.

        Raises:
            HepfmError: there is no such class.
        """
        if name not in self.classes:
            raise HepfmError(f"the head does not know '{name}'", "label", f"it knows {', '.join(self.classes)}")
        return self.classes.index(name)


@dataclass(frozen=True)
class Rejection:
    """1 / (share of background that passes) where a share ``efficiency`` of the signal does.

    Attributes:
        signal, background: names of the classes.
        efficiency: of the signal.
        value: infinite where no background jet passes.
        error: of the bootstrap, value^2 times that of the share that passes; NaN where no background jet passes.
        lower_limit: at 95% confidence, where no background jet passes; else 0.
        jets: (2,) signal and background jets.
    """

    signal: str
    background: str
    efficiency: float
    value: float
    error: float
    lower_limit: float
    jets: tuple[int, int]

    @classmethod
    def of(
        cls, signal: str, background: str, efficiency: float, share: float, error: float, jets: tuple[int, int]
    ) -> Rejection:
        """From the share of the background that passes, and its error."""
        if share == 0:
            return cls(signal, background, efficiency, math.inf, math.nan, jets[1] / POISSON_LIMIT, jets)
        return cls(signal, background, efficiency, 1 / share, error / share**2, 0.0, jets)


@dataclass(frozen=True)
class Reliability:
    """Bins of the highest score, equally wide.

    Attributes:
        jets: (bins,) jets.
        confidence: (bins,) mean highest score; NaN where empty.
        accuracy: (bins,) share of jets whose highest score is that of their class; NaN where empty.
    """

    jets: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True)
class Measured:
    """All figures of a tagger on some jets.

    Attributes:
        jets: judged.
        accuracy: share of jets whose highest score is that of their class.
        auc: mean over pairs of classes (one against one), or, with more than 20 classes, over classes (against the
            rest); ``auc_kind`` says which.
        rejections: of each signal against the background.
        calibration_error: expected calibration error of the highest score, 15 bins (Guo et al., arXiv:1706.04599).
        reliability: what it is made of.
    """

    jets: int
    accuracy: Estimate
    auc: Estimate
    auc_kind: str
    rejections: tuple[Rejection, ...]
    calibration_error: Estimate
    reliability: Reliability


def measure(
    scored: Scored,
    background: str | None = None,
    efficiencies: Sequence[float] | Mapping[str, float] = EFFICIENCIES,
    *,
    key: object = 0,
    replicas: int = REPLICAS,
) -> Measured:
    """Measure a tagger.

    Args:
        scored: jets and scores.
        background: class that the others are told apart from; by default QCD where it is a class, else the last one
            of two, else none: then there are no rejections.
        efficiencies: signal efficiencies at which rejections are quoted, all of them for every class; or one for some
            classes, and 50% for the others.
        key: names the draws.
        replicas: of the bootstrap.

    Raises:
        HepfmError: fewer than two classes have jets.
    """
    present = np.unique(scored.truth)
    if len(present) < 2:
        only = ", ".join(scored.classes[number] for number in present)
        raise HepfmError(f"all jets are of one class ({only})", "labels", "judge jets of two classes or more")
    figures: dict[object, Callable[[np.ndarray | None], float]] = {
        "accuracy": _Accuracy(scored),
        "auc": _MeanAuc(scored, present),
        "calibration": _CalibrationError(scored),
    }
    wanted = _rejections(scored, present, background, efficiencies)
    figures.update(wanted.items())
    values = {name: figure(None) for name, figure in figures.items()}
    draws = generator("tagging bootstrap", key)
    jets = len(scored.truth)
    replicated: dict[object, list[float]] = {name: [] for name in figures}
    for _ in range(replicas):
        counts = np.bincount(draws.integers(0, jets, jets), minlength=jets)
        for name, figure in figures.items():
            replicated[name].append(figure(counts))
    errors = {name: spread(drawn) for name, drawn in replicated.items()}

    def estimate(name: str) -> Estimate:
        return Estimate(values[name], errors[name])

    return Measured(
        jets=jets,
        accuracy=estimate("accuracy"),
        auc=estimate("auc"),
        auc_kind="one against one" if len(present) <= MOST_PAIRWISE else "one against the rest",
        rejections=tuple(
            Rejection.of(*name, values[name], errors[name], figure.jets) for name, figure in wanted.items()
        ),
        calibration_error=estimate("calibration"),
        reliability=reliability(scored),
    )


def spread(drawn: Sequence[float]) -> float:
    """Standard deviation over replicas; NaN where one has no finite value."""
    values = np.array(drawn)
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


class _Accuracy:
    def __init__(self, scored: Scored) -> None:
        self.right = (scored.scores.argmax(axis=1) == scored.truth).astype(np.float64)

    def __call__(self, counts: np.ndarray | None) -> float:
        return float(np.average(self.right, weights=counts))


class RocOrder:
    """Signal and background by falling score: what a ROC curve is made of.

    Jets of equal score are passed together.
    """

    def __init__(self, score: np.ndarray, jets: np.ndarray, is_signal: np.ndarray) -> None:
        order = np.argsort(-score, kind="stable")
        ordered = score[order]
        self.of_jets = jets[order]
        self.signal = is_signal[order].astype(np.float64)
        self.last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)

    def passed(self, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Signal and background (k,) that pass, for each threshold from the highest score down."""
        weights = np.ones(len(self.signal)) if counts is None else counts[self.of_jets].astype(np.float64)
        every = np.cumsum(weights)
        signal = np.cumsum(weights * self.signal)[self.last]
        return signal, every[self.last] - signal


def area(order: RocOrder, counts: np.ndarray | None) -> float:
    """Area under the ROC curve; NaN without signal or background."""
    signal, background = (np.concatenate([[0.0], part]) for part in order.passed(counts))
    total = signal[-1] * background[-1]
    if total == 0:
        return math.nan
    return float((np.diff(background) * (signal[1:] + signal[:-1])).sum() / 2 / total)


class _MeanAuc:
    """Of one class against another by the score of the one, averaged (Hand and Till 2001), or against the rest."""

    def __init__(self, scored: Scored, present: np.ndarray) -> None:
        jets = {number: np.flatnonzero(scored.truth == number) for number in present}
        everyone = np.arange(len(scored.truth))
        self.orders = []
        for one in present:
            others = [jets[other] for other in present if other != one]
            if len(present) > MOST_PAIRWISE:
                self.orders.append(RocOrder(scored.scores[:, one], everyone, scored.truth == one))
                continue
            for other in others:
                both = np.concatenate([jets[one], other])
                self.orders.append(RocOrder(scored.scores[both, one], both, scored.truth[both] == one))

    def __call__(self, counts: np.ndarray | None) -> float:
        return float(np.mean([area(order, counts) for order in self.orders]))


class PassedShare:
    """Share of the background that passes where a share ``efficiency`` of the signal does."""

    def __init__(self, ratio: np.ndarray, jets: np.ndarray, is_signal: np.ndarray, efficiency: float) -> None:
        self.order, self.efficiency = RocOrder(ratio, jets, is_signal), efficiency
        self.jets = (int(is_signal.sum()), int((~is_signal).sum()))

    def __call__(self, counts: np.ndarray | None) -> float:
        signal, background = self.order.passed(counts)
        if signal[-1] == 0 or background[-1] == 0:
            return math.nan
        # The threshold that just passes the wanted share; a rounding error must not ask for one jet more.
        at = int(np.searchsorted(signal, self.efficiency * signal[-1] * (1 - 1e-12)))
        return float(background[at] / background[-1])


def _rejections(
    scored: Scored,
    present: np.ndarray,
    background: str | None,
    efficiencies: Sequence[float] | Mapping[str, float],
) -> dict[tuple[str, str, float], PassedShare]:
    """By (signal, background, efficiency): rejections by the ratio S / (S + B) of their two scores."""
    name = background if background is not None else _default_background(scored.classes)
    if name is None:
        return {}
    number = scored.number(name)
    if number not in present:
        raise HepfmError(f"no jet of the background '{name}' was judged", "labels", "judge jets of it too")
    found: dict[tuple[str, str, float], PassedShare] = {}
    for signal in (int(other) for other in present if other != number):
        jets = np.flatnonzero((scored.truth == signal) | (scored.truth == number))
        of_signal, of_background = (scored.scores[jets, column].astype(np.float64) for column in (signal, number))
        total = of_signal + of_background
        ratio = np.divide(of_signal, total, out=np.zeros_like(total), where=total > 0)
        title = scored.classes[signal]
        if isinstance(efficiencies, Mapping):
            points: Sequence[float] = (efficiencies.get(title, EFFICIENCY),)
        else:
            points = efficiencies
        for efficiency in points:
            found[title, name, efficiency] = PassedShare(ratio, jets, scored.truth[jets] == signal, efficiency)
    return found


def _default_background(classes: Sequence[str]) -> str | None:
    if "QCD" in classes:
        return "QCD"
    return classes[-1] if len(classes) == 2 else None


def _binned(scored: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each jet (n,): bin of its highest score, that score, and whether it is its class's."""
    confidence = scored.scores.max(axis=1).astype(np.float64)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return bins, confidence, (scored.scores.argmax(axis=1) == scored.truth).astype(np.float64)


class _CalibrationError:
    def __init__(self, scored: Scored) -> None:
        self.bins, confidence, right = _binned(scored)
        self.gap = right - confidence

    def __call__(self, counts: np.ndarray | None) -> float:
        weights = self.gap if counts is None else self.gap * counts
        jets = len(self.gap) if counts is None else int(counts.sum())
        return float(np.abs(np.bincount(self.bins, weights, CALIBRATION_BINS)).sum() / jets)


def reliability(scored: Scored) -> Reliability:
    """How often the highest score is right, by its height."""
    bins, confidence, right = _binned(scored)
    jets = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        mean, share = (np.bincount(bins, values, CALIBRATION_BINS) / jets for values in (confidence, right))
    return Reliability(jets, mean, share)


def roc(score: np.ndarray, is_signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal and background efficiency (k,), from no jet to all."""
    signal, background = RocOrder(score, np.arange(len(score)), is_signal).passed(None)
    return (
        np.concatenate([[0.0], signal / max(signal[-1], 1.0)]),
        np.concatenate([[0.0], background / max(background[-1], 1.0)]),
    )
