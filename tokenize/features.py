"""Features: what becomes of a quantity of a point before a tokenizer sees it, and the exact way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hepfm.core.errors import HepfmError
from hepfm.core.records import SPECIES

# The root mean square of a feature may differ by this factor between two corpora of the same meaning (jets of 100 GeV
# and of 1 TeV, radius 0.4 and 0.8); MeV for GeV, degrees for radians or relative for absolute pt differ by more.
SIZE_FACTOR = 20.0


@dataclass(frozen=True)
class Transform:
    """An invertible function of a feature's values, and the values it can take."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    inverse_tensor: Callable[[Tensor], Tensor]
    lowest: float
    """Values must be larger than this."""


TRANSFORMS = {
    "identity": Transform(np.positive, np.positive, torch.positive, -math.inf),
    "log": Transform(np.log, np.exp, torch.exp, 0.0),
    # sign(x) ln(1 + |x|): linear near 0, logarithmic in the tails. (A tanh cannot be undone there in single precision.)
    "signed_log": Transform(
        lambda x: np.copysign(np.log1p(np.abs(x)), x),
        lambda x: np.copysign(np.expm1(np.abs(x)), x),
        lambda x: torch.copysign(torch.expm1(x.abs()), x),
        -math.inf,
    ),
}


@dataclass(frozen=True)
class FeatureSpec:
    """One feature: ``(transform(value / inner) - shift) * scale``, or which of some categories a value is.

    Attributes:
        name: the quantity of a point (see :mod:`hepfm.core.records`).
        unit: its unit in the corpus.
        transform: name in TRANSFORMS.
        shift: subtracted after the transform.
        scale: multiplied last.
        inner: divided by before the transform, in the quantity's unit.
        integer: whether values are whole numbers: decoding rounds.
        allowed: least and largest value there can be (first and last cell of a detector): others are refused, and
            decoding stays within.
        categories: what the value can be (names, or whole numbers); the feature is the index of one of them.
        null_with: nulls are allowed, and are in all quantities that name the same group here at once; empty refuses
            nulls.
        seen: min, max, mean and std of the values the tokenizer was fitted on; empty before and of categories.
    """

    name: str
    unit: str
    transform: str = "identity"
    shift: float = 0.0
    scale: float = 1.0
    inner: float = 1.0
    integer: bool = False
    allowed: tuple[float, float] | None = None
    categories: tuple[str | int, ...] = ()
    null_with: str = ""
    seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """The feature that ``asdict`` described."""
        allowed = data.get("allowed")
        tuples = {"categories": tuple(data.get("categories", ())), "allowed": allowed and tuple(allowed)}
        return cls(**{**data, **tuples})

    @property
    def width(self) -> int:
        """Columns of it: one, or one a category."""
        return len(self.categories) or 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Physical values to the feature, in float64; NaN stays NaN. Categories give their index."""
        if self.categories:
            return self._indices(values)
        wide = values.astype(np.float64) / self.inner
        return (TRANSFORMS[self.transform].forward(wide) - self.shift) * self.scale

    def decode(self, feature: np.ndarray) -> np.ndarray:
        """The feature to physical values, in float64; NaN stays NaN."""
        if self.categories:
            return self._codes[np.clip(feature, 0, self.width - 1).astype(np.int64)].astype(np.float64)
        values = TRANSFORMS[self.transform].inverse(feature.astype(np.float64) / self.scale + self.shift) * self.inner
        values = np.round(values) if self.integer else values
        return values if self.allowed is None else np.clip(values, *self.allowed)

    def decode_tensor(self, feature: Tensor) -> Tensor:
        """The feature to physical values, differentiable (neither rounded nor a category)."""
        return TRANSFORMS[self.transform].inverse_tensor(feature / self.scale + self.shift) * self.inner

    @property
    def dtype(self) -> type[np.generic]:
        """Type of decoded values: float32; int8 of categories, int16 of other whole numbers."""
        return np.int8 if self.categories else np.int16 if self.integer else np.float32

    @property
    def _codes(self) -> np.ndarray:
        """(width,) the number that stands for each category in records: for names their index in SPECIES."""
        return np.array([SPECIES.index(known) if isinstance(known, str) else known for known in self.categories])

    def _indices(self, values: np.ndarray) -> np.ndarray:
        """Index of each value's category, as float64.

        Raises:
            HepfmError: a value that is none of them.
        """
        codes = self._codes
        order = np.argsort(codes)
        place = np.clip(np.searchsorted(codes, values, sorter=order), 0, len(codes) - 1)
        index = order[place]
        bad = codes[index] != values
        if bad.any():
            first = int(np.argmax(bad))
            raise HepfmError(
                f"{self.name} is {_told(self, values[first])} in {int(bad.sum())} points (first: {first})",
                "records",
                f"the tokenizer knows {', '.join(map(str, self.categories))}",
            )
        return index.astype(np.float64)

    def check_finite(self, values: np.ndarray) -> None:
        """Refuse values that have no feature.

        Raises:
            HepfmError: names value and point.
        """
        if self.categories:
            return  # told by encode
        lowest = TRANSFORMS[self.transform].lowest
        bad = ~(np.isfinite(values) & (values > lowest))
        if self.allowed is not None:
            bad |= (values < self.allowed[0]) | (values > self.allowed[1])
        if self.null_with:
            bad &= ~np.isnan(values)
        if bad.any():
            first = int(np.argmax(bad))
            raise HepfmError(
                f"{self.name} is {values[first]} {self.unit} in {int(bad.sum())} points (first: {first})",
                "records",
                f"the tokenizer takes finite values{self.above}",
            )

    @property
    def above(self) -> str:
        """What values it takes, for messages."""
        if self.allowed is not None:
            return f" from {self.allowed[0]:g} to {self.allowed[1]:g} {self.unit}".rstrip()
        lowest = TRANSFORMS[self.transform].lowest
        return f" above {lowest:g} {self.unit}" if lowest > -math.inf else ""

    def fitted(self, name: str, known: Mapping[str, Any], where: object) -> FeatureSpec:
        """This feature with the range that a corpus's statistics give it.

        Raises:
            HepfmError: there is no value, or the same everywhere.
        """
        if not known.get("count"):
            raise HepfmError(f"'{name}' has no value in the train split", where, "fit on another corpus")
        names = [value for value, count in known.get("values", {}).items() if count]
        if len(names) == 1:
            raise HepfmError(f"'{name}' is {names[0]} everywhere", where, "fit on another corpus")
        if not names and known["min"] == known["max"]:
            raise HepfmError(f"'{name}' is {known['min']} {self.unit} everywhere", where, "fit on another corpus")
        if self.categories:
            return self
        seen = {key: float(known[key]) for key in ("min", "max", "mean", "std")}
        return replace(self, seen=seen)

    def check(self, name: str, known: Mapping[str, Any], where: object) -> None:
        """Refuse nulls, values without a feature, and numbers of another size than those fitted on.

        Raises:
            HepfmError: names the quantity, what the tokenizer takes it for, and what the corpus says.
        """
        if known["nulls"] and not self.null_with:
            total = known["nulls"] + known["count"]
            raise HepfmError(
                f"'{name}' is null in {known['nulls']:,} of {total:,} points", where, "the tokenizer takes every point"
            )
        if not known["count"]:
            return
        if self.categories:
            self._check_categories(name, known, where)
            return
        if not known["min"] > TRANSFORMS[self.transform].lowest or (self.allowed and known["min"] < self.allowed[0]):
            raise HepfmError(
                f"'{name}' goes down to {known['min']:g}", where, f"the tokenizer takes values{self.above}"
            )
        if self.allowed is not None and known["max"] > self.allowed[1]:
            raise HepfmError(f"'{name}' goes up to {known['max']:g}", where, f"the tokenizer takes values{self.above}")
        # A few displaced tracks, of meters, decide the mean square of impact parameters: it says nothing of the unit.
        if not self.seen or self.transform == "signed_log":
            return
        here, fitted = _size(known), _size(self.seen)
        if not 1 / SIZE_FACTOR < here / fitted < SIZE_FACTOR:
            raise HepfmError(
                f"'{name}' has values of about {here:.3g}, the tokenizer was fitted on about {fitted:.3g} {self.unit} "
                "(root mean square): not the same quantity or unit",
                where,
                f"build the corpus with {self.name} in [{self.unit}], as the tokenizer takes it",
            )

    def _check_categories(self, name: str, known: Mapping[str, Any], where: object) -> None:
        there = [value for value, count in known.get("values", {}).items() if count] or [known["min"], known["max"]]
        unknown = [str(value) for value in there if value not in self.categories]
        if unknown:
            raise HepfmError(
                f"'{name}' is also {', '.join(unknown)}",
                where,
                f"the tokenizer knows {', '.join(map(str, self.categories))}",
            )


def _told(feature: FeatureSpec, value: float) -> str:
    """A value in words."""
    if np.isnan(value) or (value < 0 and isinstance(feature.categories[0], str)):
        return "null"
    return SPECIES[int(value)] if isinstance(feature.categories[0], str) else f"{value:g}"


def _size(known: Mapping[str, Any]) -> float:
    return math.hypot(known["mean"], known["std"])


# OmniJet-alpha's features (Birk, Hallin, Kasieczka, arXiv:2403.05618), without its cuts on deta and dphi: every
# constituent gets a token, so that tokens and constituents stay aligned.
KINEMATIC = (
    FeatureSpec("pt", "GeV", "log", shift=1.8),
    FeatureSpec("deta", "1", scale=3.0),
    FeatureSpec("dphi", "rad", scale=3.0),
)
# Impact parameters are linear below 0.05 mm, about the resolution of a track of 1 to 10 GeV, and logarithmic above;
# neutrals have none, so the four are null together. Charges of particle-flow candidates are -1, 0 and 1.
TRACK = tuple(
    FeatureSpec(name, "mm", "signed_log", scale=0.5, inner=0.05, null_with="track")
    for name in ("d0", "d0err", "dz", "dzerr")
)
FULL = (
    *KINEMATIC,
    *TRACK,
    FeatureSpec("charge", "e", categories=(-1, 0, 1)),
    FeatureSpec("species", "", categories=SPECIES),
)
