"""Several models at once: how likely each of them is to have made a real event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.benchmarks.scores.classifier_inputs import Inputs
from hepfm.benchmarks.scores.classifiers import Build, Split, Training, dnn, drawn, fitted, outputs
from hepfm.benchmarks.scores.outcome import enough
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.statistics import Estimate

TRAININGS = 3


@dataclass(frozen=True)
class Posterior:
    """One model among those compared.

    Attributes:
        log_posterior: mean over real events of ln p(model | event), nearer to 0 is better; its negative is the NLP of
            jet papers. Comparable only within one set of models.
        own: mean over the model's own judged events of ln p(model | event): near 0 if it is easily told from the
            others, ln(1/K) if it cannot be told at all. The consistency check.
    """

    log_posterior: Estimate
    own: Estimate


def log_posteriors(
    reference: Inputs,
    models: Mapping[str, Inputs],
    split: Split,
    build: Build = dnn,
    training: Training | None = None,
    *,
    seeds: Sequence[int] = range(TRAININGS),
) -> dict[str, Posterior]:
    """Train a classifier to tell the models apart, then show it real events (arXiv:2410.21611).

    Errors: standard deviation over trainings, and the statistical error of the mean over events in quadrature.

    Args:
        reference: real events; none of them is trained on.
        models: events of each model, at least as many as the split needs.
        split: events of each model; equal, so that no model is likelier before an event is seen.
        build, training, seeds: as for :func:`hepfm.benchmarks.scores.classifiers.classify`.

    Raises:
        HepfmError: fewer than two models, too few events, or inputs of different widths.
    """
    training = training or Training()
    if len(models) < 2:
        raise HepfmError(f"{len(models)} models", "log-posterior", "it compares two or more")
    for name, side in models.items():
        enough(len(side), split.events, "events", "the log-posterior", f"model '{name}'")
        if side.width != reference.width:
            raise HepfmError(f"inputs of {side.width} numbers, the reference has {reference.width}", f"model '{name}'")
    enough(len(reference), split.final, "events", "the log-posterior", "reference")
    sides = list(models.values())
    real, own = [], []
    with progress("train classifiers", len(seeds) * training.epochs, "epochs") as bar:
        for seed in seeds:
            parts = [drawn(len(side), split, f"{seed}/{number}") for number, side in enumerate(sides)]
            network, _ = fitted(sides, parts, build, training, seed, bar)
            found = _log_probabilities(outputs(network, reference, np.arange(len(reference))), len(sides))
            real.append((found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(len(found))))
            theirs = [
                _log_probabilities(outputs(network, side, part[2]), len(sides))[:, number]
                for number, (side, part) in enumerate(zip(sides, parts, strict=True))
            ]
            own.append(
                (
                    np.array([values.mean() for values in theirs]),
                    np.array([values.std(ddof=1) / np.sqrt(len(values)) for values in theirs]),
                )
            )
    real_values, real_errors = _combined(real)
    own_values, own_errors = _combined(own)
    return {
        name: Posterior(Estimate(real_values[i], real_errors[i]), Estimate(own_values[i], own_errors[i]))
        for i, name in enumerate(models)
    }


def _log_probabilities(found: np.ndarray, classes: int) -> np.ndarray:
    """ln p (n, classes) of logits; a single one is that of the second class."""
    logits = found.astype(np.float64)
    if classes == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _combined(trainings: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], list[float]]:
    values, errors = (np.array(part) for part in zip(*trainings, strict=True))
    spread = values.std(axis=0) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0).tolist(), np.hypot(spread, errors.mean(axis=0)).tolist()
