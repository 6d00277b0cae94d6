"""What generation is asked for: classes, ranges of numbers; and what each sample is told, drawn from training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.pretrain.conditions import Condition, ConditionValues, transformed
from hepfm.pretrain.survey import NAME_OF

NAMES = ("label", "data_set", "particle")  # with an option of their own, as have these:
NUMBERS = ("jet_pt", "jet_mass", "jet_eta", "jet_softdrop_mass", "incident_energy")
NEAREST = 64  # records of training that are most like a value that is asked for


@dataclass(frozen=True)
class Asked:
    """What samples are to be.

    Attributes:
        names: by condition, the names one of which it is to have.
        ranges: by condition, least and largest number; equal for one number.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def check(self, conditions: Sequence[Condition]) -> None:
        """Refuse what a backbone that is told these conditions cannot do.

        Raises:
            HepfmError: a condition that it is not told, a name or number that training did not have.
        """
        known = {condition.name: condition for condition in conditions}
        for name in (*self.names, *self.ranges):
            if name not in known:
                told = f"it is told {', '.join(known)}" if known else "it is told nothing"
                raise HepfmError(f"the backbone is not told {name}", option_of(name), told)
        for name, wanted in self.names.items():
            for one in wanted:
                if one not in known[name].names:
                    raise HepfmError(f"training had no {name} '{one}'", option_of(name), f"it had {known[name].seen}")
        for name, (low, high) in self.ranges.items():
            condition = known[name]
            if not condition.is_number:
                raise HepfmError(f"{name} is a name, not a number", "--number", f"take {option_of(name)}")
            slack = 1e-5 * max(abs(condition.low), abs(condition.high))
            if not low <= high:  # also NaN
                raise HepfmError(f"is no range: {low:g} to {high:g}", option_of(name), "give the smaller number first")
            if not (condition.low - slack <= low and high <= condition.high + slack):
                asked = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                raise HepfmError(f"{asked} lies outside training", option_of(name), f"it had {condition.seen}")


def option_of(name: str) -> str:
    """The option that asks for a condition."""
    if name.startswith("direction_"):
        return "--direction"
    return f"--{name.replace('_', '-')}" if name in (*NAMES, *NUMBERS) else f"--number {name}"


def range_of(name: str, values: Sequence[float]) -> tuple[float, float]:
    """The range that one number or two stand for.

    Raises:
        HepfmError: more numbers, or one that is not finite.
    """
    if not 1 <= len(values) <= 2 or not all(map(math.isfinite, values)):
        raise HepfmError("takes one number, or the least and the largest", option_of(name))
    return float(values[0]), float(values[-1])


def ranges_of(numbers: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges by the condition's name, of texts such as ``tau1=0.2`` and ``tau1=0.2:0.4``.

    Raises:
        HepfmError: a text that is none of these, or a condition that is asked for twice.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for text in numbers:
        column, _, values = text.partition("=")
        name = NAME_OF.get(column, column)
        try:
            read = [float(value) for value in values.split(":")]
        except ValueError as error:
            raise HepfmError(f"cannot read '{text}'", "--number", "give NAME=NUMBER or NAME=LEAST:LARGEST") from error
        if name in ranges:
            raise HepfmError(f"asks for {name} twice", "--number")
        ranges[name] = range_of(name, read)
    return ranges


class Teller:
    """Draws what each sample is told: what is asked for, the rest as it goes with that in training.

    Records of training that are as asked are drawn from. Where none is in a range, its numbers are drawn evenly from
    it; with a single number go the records whose numbers are nearest.

    Args:
        conditions: of the backbone.
        sample: what some records of training were told.
        asked: what is wanted, checked.
        seed: of the draws, which are keyed by the sample's number.
        needed: numbers that must be known.

    Raises:
        HepfmError: one of them that is not asked for, and that no record has.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        sample: ConditionValues,
        asked: Asked,
        seed: int,
        needed: Sequence[str] = (),
    ) -> None:
        self.conditions, self.asked = tuple(conditions), asked
        self._key = key_of("generate conditions", seed)
        columns, n = sample.columns(conditions), len(sample)
        self._check_data_set(columns)
        fit = np.ones(n, dtype=bool)
        for name in needed:
            if name in asked.ranges:
                continue
            fit &= np.isfinite(columns[name])
            if not fit.any():
                told = "none of the records that the backbone keeps of its training has one, and decoding needs it"
                raise HepfmError(told, option_of(name), "say which")
        self._fixed: dict[str, np.ndarray] = {}  # indices of the names asked for that no record has
        self._even: dict[str, tuple[float, float]] = {}
        places = {known.name: known for known in conditions}
        for name, wanted in asked.names.items():
            index = np.array([places[name].names.index(one) for one in wanted])
            within = fit & np.isin(columns[name], index)
            if within.any():
                fit = within
            else:
                self._fixed[name] = index
        distance = np.zeros(n)
        for name, (low, high) in asked.ranges.items():
            within = fit & (columns[name] >= low) & (columns[name] <= high)
            if low < high and within.any():
                fit = within
            else:
                self._even[name] = (low, high)
                known = places[name]
                middle = transformed(np.array([(low + high) / 2]), known.transform)
                distance += np.nan_to_num(
                    ((transformed(columns[name], known.transform) - middle) / known.std) ** 2, nan=9.0
                )
        rows = np.flatnonzero(fit)
        if self._even:
            rows = rows[np.argsort(distance[rows], kind="stable")[:NEAREST]]
        self.rows = {name: values[rows] for name, values in columns.items()}

    def _check_data_set(self, columns: Mapping[str, np.ndarray]) -> None:
        """Refuse to ask of a data set what none of its records has: the incident energy of jets."""
        known = next((known for known in self.conditions if known.kind == "data_set"), None)
        wanted = self.asked.names.get(known.name, ()) if known else ()
        if known is None or not wanted:
            return
        own = np.isin(columns[known.name], [known.names.index(name) for name in wanted])
        for name in (*self.asked.names, *self.asked.ranges):
            values = columns[name][own]
            if len(values) and not (values >= 0 if name in self.asked.names else np.isfinite(values)).any():
                raise HepfmError(f"no record of {' or '.join(wanted)} has {name}", option_of(name), "leave it out")

    def values(self, first: int, n: int) -> ConditionValues:
        """What samples ``first`` to ``first + n - 1`` are told."""
        numbers = np.arange(first, first + n)
        count = len(self.rows[self.conditions[0].name])
        drawn = np.floor(hashed_uniform(self._key, numbers, np.zeros(1, np.int64)) * count).astype(np.int64)
        columns = {}
        for place, known in enumerate(self.conditions, 1):
            uniform = hashed_uniform(self._key, numbers, np.full(1, place))
            if known.name in self._even:
                low, high = self._even[known.name]
                columns[known.name] = low + (high - low) * uniform
            elif known.name in self._fixed:
                index = self._fixed[known.name]
                columns[known.name] = index[np.floor(uniform * len(index)).astype(np.int64)]
            elif count:
                columns[known.name] = self.rows[known.name][drawn]
            else:
                columns[known.name] = np.full(n, np.nan if known.is_number else -1)
        return ConditionValues.of_columns(self.conditions, columns, n)

    def told(self) -> str:
        """What is asked for and what is drawn, in words."""
        asked = [f"{name} {' or '.join(names)}" for name, names in self.asked.names.items()]
        for name, (low, high) in self.asked.ranges.items():
            asked.append(f"{name} {low:g}" if low == high else f"{name} {low:g} to {high:g}")
        rest = [known.name for known in self.conditions if known.name not in {*self.asked.names, *self.asked.ranges}]
        parts = [f"asked for: {', '.join(asked)}"] if asked else []
        parts += [f"drawn as in training: {', '.join(rest)}"] if rest else []
        return "; ".join(parts)
