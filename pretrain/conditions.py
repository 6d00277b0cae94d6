"""Conditions: what a backbone is told of a record (its class, its pt, the incident energy, ...) before its first token.

Each condition is one embedding; their sum is added to that of the start token, so that no token, no length and no cache
changes. Where a condition is unknown a learned vector stands for it: what is left out in training now and then, so that
a backbone that knows conditions also samples without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

ConditionKind = Literal["label", "data_set", "particle", "number"]
UNKNOWN = -1
HIDDEN = 64


@dataclass(frozen=True)
class Condition:
    """A quantity of a record that a backbone is told.

    Attributes:
        name: what users call it: ``label``, ``data_set``, ``particle``, ``jet_pt``, ``incident_energy``, ...
        kind: one of some names (a class, a corpus, the PDG id of a particle), or a number.
        column: of a token corpus; empty for the data set.
        names: what was seen in training, of the kinds that are names.
        unit: of a number.
        transform: of a number x: ``signed_log``, sign(x) ln(1 + abs(x)), or ``identity``.
        mean, std: of the transformed number in training.
        low, high: range of the number in training, in its unit.
    """

    name: str
    kind: ConditionKind
    column: str = ""
    names: tuple[str, ...] = ()
    unit: str = ""
    transform: Literal["identity", "signed_log"] = "identity"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @property
    def is_number(self) -> bool:
        return self.kind == "number"

    @property
    def seen(self) -> str:
        """What training saw of it, in words."""
        if self.is_number:
            return f"{self.low:g} to {self.high:g} {self.unit if self.unit != '1' else ''}".rstrip()
        return ", ".join(self.names)

    def standardised(self, values: torch.Tensor) -> torch.Tensor:
        """Numbers in its unit, transformed, to mean 0 and standard deviation 1 in training; NaN stays NaN."""
        if self.transform == "signed_log":
            values = torch.copysign(torch.log1p(values.abs()), values)
        return (values - self.mean) / self.std


@dataclass(frozen=True)
class ConditionValues:
    """What n records are told.

    Attributes:
        names: (n, C) int64, index into each condition's names, -1 where unknown; in the order of the conditions.
        numbers: (n, K) float32, each in its unit, NaN where unknown.
    """

    names: torch.Tensor
    numbers: torch.Tensor

    def to(self, device: torch.device | str) -> ConditionValues:
        """The same values on another device."""
        return ConditionValues(self.names.to(device, non_blocking=True), self.numbers.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def unknown(cls, conditions: Sequence[Condition], n: int) -> ConditionValues:
        """Nothing is known of ``n`` records."""
        numbers = sum(condition.is_number for condition in conditions)
        return cls(torch.full((n, len(conditions) - numbers), UNKNOWN), torch.full((n, numbers), torch.nan))

    def columns(self, conditions: Sequence[Condition]) -> dict[str, np.ndarray]:
        """(n,) by the condition's name: indices into its names, or numbers."""
        names, numbers = iter(self.names.T), iter(self.numbers.T)
        return {known.name: next(numbers if known.is_number else names).cpu().numpy() for known in conditions}

    @classmethod
    def of_columns(cls, conditions: Sequence[Condition], columns: dict[str, np.ndarray], n: int) -> ConditionValues:
        """The inverse of :meth:`columns`."""
        names = [columns[known.name] for known in conditions if not known.is_number]
        numbers = [columns[known.name] for known in conditions if known.is_number]
        told = np.stack(names, axis=1) if names else np.zeros((n, 0))
        measured = np.stack(numbers, axis=1) if numbers else np.zeros((n, 0))
        return cls(torch.from_numpy(told.astype(np.int64)), torch.from_numpy(measured.astype(np.float32)))


def transformed(values: np.ndarray, transform: str) -> np.ndarray:
    """Numbers as :meth:`Condition.standardised` transforms them."""
    return np.copysign(np.log1p(np.abs(values)), values) if transform == "signed_log" else values


class ConditionEmbedding(nn.Module):
    """The sum over the conditions of one embedding each: (n, width) of the values of n records.

    It begins as zero: a backbone that is given conditions begins as the one without.
    """

    def __init__(self, conditions: Sequence[Condition], width: int) -> None:
        super().__init__()
        self.conditions = tuple(conditions)
        self.parts = nn.ModuleDict(
            {
                known.name: _Number(known, width) if known.is_number else _Names(len(known.names), width)
                for known in self.conditions
            }
        )

    def forward(self, values: ConditionValues) -> torch.Tensor:
        names, numbers = iter(values.names.unbind(1)), iter(values.numbers.unbind(1))
        return torch.stack(
            [self.parts[known.name](next(numbers if known.is_number else names)) for known in self.conditions]
        ).sum(0)

    @torch.no_grad()
    def take(self, other: ConditionEmbedding) -> None:
        """Take over what another one learned of the same conditions; its names are among this one's."""
        for known in other.conditions:
            mine, theirs = self.parts[known.name], other.parts[known.name]
            if isinstance(mine, _Names) and isinstance(theirs, _Names):
                names = self.conditions[[own.name for own in self.conditions].index(known.name)].names
                places = [*(names.index(name) for name in known.names), len(names)]
                mine.vectors.weight[places] = theirs.vectors.weight
            else:
                mine.load_state_dict(theirs.state_dict())


class _Names(nn.Module):
    """A vector for each name, and one for unknown."""

    def __init__(self, names: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(names + 1, width)
        nn.init.zeros_(self.vectors.weight)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.vectors(torch.where(index < 0, self.vectors.num_embeddings - 1, index))


class _Number(nn.Module):
    """A smooth function of the standardised number, and a vector for unknown."""

    def __init__(self, condition: Condition, width: int) -> None:
        super().__init__()
        self.condition = condition
        self.up, self.down = nn.Linear(1, HIDDEN), nn.Linear(HIDDEN, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.up.weight)
        nn.init.normal_(self.up.bias)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        known = values.isfinite()[:, None]
        number = self.condition.standardised(values.float().nan_to_num())[:, None].to(self.up.weight.dtype)
        return torch.where(known, self.down(nn.functional.gelu(self.up(number))), self.unknown)
