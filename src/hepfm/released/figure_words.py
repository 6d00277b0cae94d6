"""What the figures of a card mean, and their units."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

# Names of figures -> unit, and what they are. The first that fits tells.
WORDS: tuple[tuple[str, str, str], ...] = (
    ("accuracy", "", "share of the judged jets whose highest score is that of their class"),
    ("auc", "", "area under the ROC curve, mean of each class against each other (1: told apart always; 0.5: never)"),
    (
        "calibration_error",
        "",
        "mean difference of the highest score and the share of jets that it is right for (15 bins)",
    ),
    (r"rejection_of_(\w+?)_at_.*_lower_limit", "", "no jet of the background passed: limit at 95% confidence"),
    (
        r"rejection_of_(\w+?)_at_.*",
        "",
        "1 / (share of the background that passes the cut which keeps so much of the signal)",
    ),
    ("judged_(jets|showers)", "", "records that the figures are of: generated ones, or of taggers held-out ones"),
    ("parameters", "", "numbers that training changes"),
    ("steps", "", "updates of the weights"),
    ("best_step", "", "update after which validation was best, whose weights these are"),
    (r"last_batch_\w+", "", "of the last batch of training alone"),
    ("tokens", "", "terms of the loss in all updates: tokens and stops (of taggers: jets)"),
    ("flops_per_token", "FLOP", "floating-point operations of training a token, forward and backward"),
    ("validation_accuracy", "", "the same share on the validation split"),
    ("validation_loss", "nats", "loss on the validation split, a token (of taggers: a jet)"),
    (r"validation_\w+_loss", "nats", "part of the loss: of what stands in its name, a term of its own"),
    (r"\w+_w1_gev", "GeV", "Wasserstein-1 distance of generated and held-out jets"),
    (r"\w+_w1", "", "Wasserstein-1 distance of generated and held-out jets, in the quantity's own numbers"),
    (
        r"separation_power_\w+",
        "",
        "1/2 sum (p - q)^2 / (p + q) over a histogram: 0 equal, 1 disjoint; mean over layers or rings with one each",
    ),
    (r"layer_correlations", "", "mean absolute difference of the correlations of the layers' energies"),
    (
        r"classifier_\w+_auc",
        "",
        "area under the ROC curve of a network that is trained to tell generated from simulated (0.5: it cannot)",
    ),
    (
        r"response_ratio_\w+",
        "",
        "generated over simulated: mean of visible over incident energy, at incident energies of the range in GeV",
    ),
    (
        r"resolution_ratio_\w+",
        "",
        "generated over simulated: width of the response over its mean, at incident energies of the range in GeV",
    ),
)


def unit_of(figure: str) -> str:
    """Unit of a figure; empty where it has none."""
    return next((unit for pattern, unit, _ in WORDS if re.fullmatch(pattern, figure)), "")


def meanings(figures: Iterable[str]) -> list[str]:
    """A line for each kind of figure that comes, Markdown, in the order in which they come first."""
    lines: dict[str, list[str]] = {}
    for figure in figures:
        told = next((told for pattern, _, told in WORDS if re.fullmatch(pattern, figure)), "")
        if told:
            lines.setdefault(told, []).append(figure)
    return [f"- {_named(found)}: {told}." for told, found in lines.items()]


def _named(figures: list[str]) -> str:
    if len(figures) < 3:
        return ", ".join(f"`{figure}`" for figure in figures)
    words = [figure.split("_") for figure in figures]
    begins = "_".join([*_shared(words), ""])
    ends = "_".join(["", *_shared([each[::-1] for each in words])[::-1]])
    return f"`{begins}...{ends}`"


def _shared(words: list[list[str]]) -> list[str]:
    """The words that all begin with."""
    return [several[0] for several in itertools.takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))]
