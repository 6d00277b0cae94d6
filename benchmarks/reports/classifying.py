"""Classifiers in reports: which ones are wanted, on how many events, and what they find of each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hepfm.benchmarks.report import number
from hepfm.benchmarks.reports.marks import NOT_COMPUTED, plain_outcome
from hepfm.benchmarks.scores.classifier_inputs import Inputs
from hepfm.benchmarks.scores.classifiers import Build, Split, Training, classify
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.benchmarks.scores.posteriors import log_posteriors
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.errors import HepfmError

POSTERIOR = "posterior"


@dataclass(frozen=True)
class Wanted:
    """Which classifiers are trained, and how.

    Attributes:
        names: of them; ``posterior`` tells all samples from each other.
        split: events of each side.
        training: epochs, batches, rate.
        trainings: of each, with different splits and weights.
    """

    names: tuple[str, ...]
    split: Split
    training: Training
    trainings: int

    @classmethod
    def of(
        cls, names: tuple[str, ...], split: tuple[int, int, int] | None, published: Split, epochs: int, trainings: int
    ) -> Wanted:
        """From a command's options.

        Raises:
            HepfmError: a number below 1.
        """
        for option, value in (
            ("--epochs", epochs),
            ("--trainings", trainings),
            *(("--events", n) for n in split or ()),
        ):
            if value < 1:
                raise HepfmError(f"must be at least 1, is {value}", option)
        return cls(names, Split(*split) if split else published, Training(epochs=epochs), trainings)


@dataclass(frozen=True)
class Told:
    """What one classifier finds: outcomes of the area and the divergence by sample, with floors where possible."""

    auc: dict[str, Outcome]
    jsd: dict[str, Outcome]


@dataclass(frozen=True)
class Classified:
    """All classifiers by name, and log-posteriors by sample: (of real events, of the sample's own)."""

    told: dict[str, Told]
    posteriors: dict[str, tuple[Outcome, Outcome]]


# Makes the inputs of one side, and the network for them.
Kinds = Mapping[str, tuple[Callable[[Any], Inputs], Build]]


def classified(
    reference: Any, halves: tuple[Any, Any], samples: Mapping[str, Any], kinds: Kinds, wanted: Wanted
) -> Classified:
    """Train what is wanted.

    Args:
        reference: real side.
        halves: two halves of it, for the floor.
        samples: sides to judge, by name.
        kinds: classifiers that there are; the one called ``posterior`` gives the inputs of the log-posterior.
        wanted: which, and how.
    """
    seeds = range(wanted.trainings)
    found: dict[str, Told] = {}
    for name in wanted.names:
        if name == POSTERIOR:
            continue
        make, build = kinds[name]

        def pair(first: Any, second: Any, make: Any = make, build: Build = build) -> tuple[Outcome, Outcome]:
            try:
                scores = classify(make(first), make(second), wanted.split, build, wanted.training, seeds=seeds)
            except HepfmError as error:
                return Outcome(None, None, str(error)), Outcome(None, None, str(error))
            return Outcome(scores.auc), Outcome(scores.jsd)

        floor = pair(*halves)
        auc: dict[str, Outcome] = {}
        jsd: dict[str, Outcome] = {}
        for sample, side in samples.items():
            for place, outcome, known in zip((auc, jsd), pair(reference, side), floor, strict=True):
                note = outcome.note if known.value is not None or outcome.value is None else f"no floor: {known.note}"
                place[sample] = Outcome(outcome.value, known.value, note)
        found[name] = Told(auc, jsd)
    return Classified(found, _posteriors(reference, samples, kinds, wanted, seeds))


def _posteriors(
    reference: Any, samples: Mapping[str, Any], kinds: Kinds, wanted: Wanted, seeds: range
) -> dict[str, tuple[Outcome, Outcome]]:
    if POSTERIOR not in wanted.names:
        return {}
    make, build = kinds[POSTERIOR]
    try:
        found = log_posteriors(
            make(reference), {name: make(side) for name, side in samples.items()}, wanted.split, build,
            wanted.training, seeds=seeds,
        )  # fmt: skip
    except HepfmError as error:
        return {name: (Outcome(None, None, str(error)), Outcome(None, None, str(error))) for name in samples}
    return {name: (Outcome(item.log_posterior), Outcome(item.own)) for name, item in found.items()}


def posterior_table(found: Classified) -> Table:
    """Log-posteriors of all samples."""

    def cell(outcome: Outcome) -> Cell:
        return Cell(NOT_COMPUTED, note=outcome.note) if outcome.value is None else Cell(number(outcome.value))

    rows = tuple((Cell(name), cell(real), cell(own)) for name, (real, own) in found.posteriors.items())
    note = (
        "Mean of ln p(sample | event) of one classifier of all samples: on events of the reference (nearer to 0 is"
        " better; only compares samples of this table), and on the sample's own (near 0 if it is easily told from the"
        " others)."
    )
    return Table("Log-posterior among the samples", ("sample", "of the reference", "of its own events"), rows, note)


def as_data(found: Classified) -> dict[str, Any]:
    """Everything as plain data."""
    scores = {
        name: {
            part: {sample: plain_outcome(outcome) for sample, outcome in getattr(told, part).items()}
            for part in ("auc", "jsd")
        }
        for name, told in found.told.items()
    }
    posteriors = {
        name: {"reference": plain_outcome(real), "own": plain_outcome(own)}
        for name, (real, own) in found.posteriors.items()
    }
    return {"scores": scores, "log_posterior": posteriors}
