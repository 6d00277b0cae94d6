"""Classifiers that tell two samples apart, as CaloChallenge trains and judges them (arXiv:2410.21611)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from hepfm.benchmarks.scores.classifier_inputs import Inputs
from hepfm.benchmarks.scores.outcome import enough
from hepfm.core.draws import generator, key_of, torch_generator
from hepfm.core.errors import HepfmError
from hepfm.core.progress import Task, progress
from hepfm.core.statistics import Estimate

CLIPPED = 1e-6  # probabilities are kept that far from 0 and 1
CURVE_BINS = 10
JUDGED = 2_000  # events that are judged at a time
TRAININGS = 10  # behind a published value


@dataclass(frozen=True)
class Split:
    """Events of each class to train on, to choose the epoch and calibrate by, and to judge by: fixed, as the area
    under the curve grows with the training sample."""

    train: int
    selection: int
    final: int

    @property
    def events(self) -> int:
        return self.train + self.selection + self.final


SPLITS = {
    "1-photons": Split(80_000, 20_000, 21_000),
    "1-pions": Split(80_000, 20_000, 20_800),
    "2": Split(60_000, 20_000, 20_000),
    "3": Split(60_000, 20_000, 20_000),
}


@dataclass(frozen=True)
class Training:
    """How a classifier is trained: Adam on the binary cross entropy; the epoch of best accuracy is kept."""

    epochs: int = 50
    batch: int = 1_000
    learning_rate: float = 2e-4


Build = Callable[[int, int], nn.Module]  # a network from the width of its input and the number of its outputs


def dnn(width: int, outputs: int = 1, hidden: int = 2_048, layers: int = 2) -> nn.Module:
    """CaloChallenge's network: an input layer, two hidden ones of 2,048 and an output, with LeakyReLU between."""
    sizes = [width, *[hidden] * (layers + 1)]
    blocks = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU())]
    return nn.Sequential(*blocks, nn.Linear(hidden, outputs))


@dataclass(frozen=True)
class Score:
    """How well a sample is told from the reference on events that were not trained on.

    Attributes:
        auc: area under the ROC curve of the calibrated scores; 0.5 if they cannot be told apart.
        jsd: Jensen-Shannon divergence in bits from below, 1 - BCE / ln 2 of the calibrated scores; 0 if they cannot.
        accuracy: of the calibrated scores.
        raw_auc: area before the calibration.
        curve: (2, k) share of sample events and mean calibrated score in up to ten bins.
        epoch: that was kept.
    """

    auc: float
    jsd: float
    accuracy: float
    raw_auc: float
    curve: np.ndarray
    epoch: int


@dataclass(frozen=True)
class Scores:
    """Mean and standard deviation over trainings; with one training the bootstrap error over the judged events."""

    auc: Estimate
    jsd: Estimate
    trainings: tuple[Score, ...]


def classify(
    reference: Inputs,
    sample: Inputs,
    split: Split,
    build: Build = dnn,
    training: Training | None = None,
    *,
    seeds: Sequence[int] = range(TRAININGS),
) -> Scores:
    """Train a classifier for each seed, which draws the split, the weights and the order anew.

    Args:
        reference, sample: events; as many of each as the split needs.
        split: events of each class.
        build: makes the network.
        training: how; CaloChallenge's by default.
        seeds: one training each.

    Raises:
        HepfmError: too few events, or inputs of different widths.
    """
    training = training or Training()
    for name, side in (("reference", reference), ("sample", sample)):
        enough(len(side), split.events, "events", "this classifier", name)
    if reference.width != sample.width:
        raise HepfmError(f"inputs of {reference.width} and {sample.width} numbers", "classifier")
    found, areas = [], np.zeros(0)
    with progress("train classifiers", len(seeds) * training.epochs, "epochs") as bar:
        for seed in seeds:
            score, areas = _trained((reference, sample), split, build, training, seed, bar)
            found.append(score)
    if len(found) == 1:
        errors = areas.std(axis=0, ddof=1)
    else:
        errors = np.std([(score.auc, score.jsd) for score in found], axis=0)
    means = np.mean([(score.auc, score.jsd) for score in found], axis=0)
    auc, jsd = (Estimate(float(value), float(error)) for value, error in zip(means, errors, strict=True))
    return Scores(auc, jsd, tuple(found))


def _trained(
    sides: tuple[Inputs, Inputs], split: Split, build: Build, training: Training, seed: int, bar: Task
) -> tuple[Score, np.ndarray]:
    """One training: its score, and bootstrap replicas (100, 2) of AUC and JSD."""
    parts = [drawn(len(side), split, f"{seed}/{number}") for number, side in enumerate(sides)]
    network, epoch = fitted(sides, parts, build, training, seed, bar)
    judged = []
    for which in (1, 2):
        scores = [outputs(network, side, part[which])[:, 0] for side, part in zip(sides, parts, strict=True)]
        truth = np.repeat([0.0, 1.0], [len(side) for side in scores])
        judged.append((1 / (1 + np.exp(-np.concatenate(scores).astype(np.float64))), truth))
    (selection, of_selection), (final, truth) = judged
    calibration = IsotonicRegression(out_of_bounds="clip", y_min=CLIPPED, y_max=1 - CLIPPED)
    calibrated = calibration.fit(selection, of_selection).predict(final)
    auc, jsd = judge(truth, calibrated)
    draws = generator("classifier", seed)
    again = [draws.integers(0, len(truth), len(truth)) for _ in range(100)]
    score = Score(
        auc=auc,
        jsd=jsd,
        accuracy=float(((calibrated > 0.5) == truth).mean()),
        raw_auc=float(roc_auc_score(truth, final)),
        curve=np.stack(calibration_curve(truth, calibrated, n_bins=CURVE_BINS)),
        epoch=epoch,
    )
    return score, np.array([judge(truth[index], calibrated[index]) for index in again])


def judge(truth: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and Jensen-Shannon divergence in bits of probabilities (n,) that truth (n,) is 1."""
    kept = np.clip(probability, CLIPPED, 1 - CLIPPED)
    entropy = -np.where(truth > 0.5, np.log(kept), np.log1p(-kept)).mean()
    return float(roc_auc_score(truth, probability)), float(1 - entropy / np.log(2))


def drawn(events: int, split: Split, key: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events to train on, to select by and to judge by."""
    order = generator("classifier split", key).permutation(events)[: split.events]
    first, second = split.train, split.train + split.selection
    return order[:first], order[first:second], order[second:]


def fitted(
    sides: Sequence[Inputs],
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    build: Build,
    training: Training,
    seed: int,
    bar: Task,
) -> tuple[nn.Module, int]:
    """A network trained to tell the sides apart, as it was after its best epoch, and which that was.

    One output and the best accuracy for two sides, as many outputs and the least cross entropy for more.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = len(sides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of("classifier weights", seed))
        network = build(sides[0].width, 1 if classes == 2 else classes).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    owner = np.repeat(np.arange(classes), [len(part[0]) for part in parts])
    index = np.concatenate([part[0] for part in parts])
    best, kept, epoch = -np.inf, {name: value.clone() for name, value in network.state_dict().items()}, 0
    for number in range(training.epochs):
        network.train()
        order = torch.randperm(len(owner), generator=torch_generator("classifier order", seed, number)).numpy()
        for start in range(0, len(order), training.batch):
            chosen = order[start : start + training.batch]
            if len(chosen) < 2:  # a batch norm cannot take a single event
                continue
            rows, truth = _batch(sides, owner[chosen], index[chosen])
            loss = _loss(network(rows.to(device)), truth.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        reached = _selected(network, sides, parts)
        if reached > best:
            best, epoch = reached, number + 1
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        bar.advance()
        if classes == 2 and reached == 1:
            bar.advance(training.epochs - number - 1)
            break
    network.load_state_dict(kept)
    return network.eval(), epoch


def _batch(sides: Sequence[Inputs], owner: np.ndarray, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.empty((len(owner), sides[0].width), dtype=np.float32)
    for number, side in enumerate(sides):
        rows[owner == number] = side.rows(index[owner == number])
    return torch.from_numpy(rows), torch.from_numpy(owner)


def _loss(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    if found.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(found[:, 0], truth.float())
    return F.cross_entropy(found, truth)


def _selected(
    network: nn.Module, sides: Sequence[Inputs], parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> float:
    """Accuracy of two sides, minus the cross entropy of more, on the selection split."""
    network.eval()
    found = [outputs(network, side, part[1]) for side, part in zip(sides, parts, strict=True)]
    truth = np.repeat(np.arange(len(sides)), [len(side) for side in found])
    together = np.concatenate(found)
    if len(sides) == 2:
        return float(((together[:, 0] > 0) == truth).mean())
    return -float(F.cross_entropy(torch.from_numpy(together), torch.from_numpy(truth)))


@torch.no_grad()
def outputs(network: nn.Module, side: Inputs, chosen: np.ndarray) -> np.ndarray:
    """What a network gives for events ``chosen`` (k,): (k, outputs) float32."""
    device = next(network.parameters()).device
    parts = [
        network(torch.from_numpy(side.rows(chosen[start : start + JUDGED])).to(device)).cpu().numpy()
        for start in range(0, len(chosen), JUDGED)
    ]
    return np.concatenate(parts)
