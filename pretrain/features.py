"""Continuous features of constituents as a backbone's input: the tokenizer's transforms, normalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hepfm.tokenize.contract import KNOWN, FeatureContract

SMALLEST_STD = 1e-6  # a column that varies less is left as it is


class FeatureEmbedding(nn.Module):
    """Columns (C, F) of constituents to (C, width): normalised, then linear.

    Attributes:
        mean, std: (F,) of the columns in training; buffers, so that an artifact carries them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.weight = nn.Parameter(torch.empty(width, features))
        self.bias = nn.Parameter(torch.zeros(width))

    def set_statistics(self, statistics: Statistics) -> None:
        """Normalise by these from now on."""
        self.mean.copy_(torch.from_numpy(statistics.mean))
        self.std.copy_(torch.from_numpy(statistics.std))

    def normalised(self, features: Tensor) -> Tensor:
        """Columns (C, F) of mean 0 and standard deviation 1 in training."""
        return (features - self.mean) / self.std

    def physical(self, normalised: np.ndarray) -> np.ndarray:
        """The columns (C, F) that :meth:`normalised` takes to these."""
        return normalised * self.std.cpu().numpy() + self.mean.cpu().numpy()

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(self.normalised(features), self.weight, self.bias)


@dataclass(frozen=True)
class Statistics:
    """What the columns of continuous features are.

    Attributes:
        mean, std: (F,) float32 of each column; 0 and 1 where it is a category's or a flag.
        numbers: (column, column of the flag that says whether it is known or -1) of each number.
        categories: first and last column + 1 of each category.
        flags: columns of the flags.
    """

    mean: np.ndarray
    std: np.ndarray
    numbers: tuple[tuple[int, int], ...]
    categories: tuple[tuple[int, int], ...]
    flags: tuple[int, ...]

    @classmethod
    def of(cls, contract: FeatureContract, features: np.ndarray) -> Statistics:
        """Of a contract's columns, by a sample (C, F) of constituents; unknown values do not count."""
        flags = {name: contract.width - len(contract.groups) + at for at, name in enumerate(contract.groups)}
        mean, std = np.zeros(contract.width, np.float32), np.ones(contract.width, np.float32)
        numbers, categories = [], []
        for feature in contract.features:
            place = contract.place(feature.name)
            if feature.categories:
                categories.append((place.start, place.stop))
                continue
            flag = flags.get(feature.null_with, -1)
            numbers.append((place.start, flag))
            known = features[:, place.start] if flag < 0 else features[features[:, flag] > KNOWN, place.start]
            if len(known) and known.std() > SMALLEST_STD:
                mean[place.start], std[place.start] = known.mean(dtype=np.float64), known.std(dtype=np.float64)
        return cls(mean, std, tuple(numbers), tuple(categories), tuple(flags.values()))

    @property
    def columns(self) -> int:
        """F."""
        return len(self.mean)
