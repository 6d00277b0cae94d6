"""What is predicted of a masked constituent: its token, or its features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.nn.head import Head
from hepfm.pretrain.backbone import INITIAL_STD
from hepfm.pretrain.features import Statistics


class TokenTarget(nn.Module):
    """The token of the tokenizer: cross entropy [nats]."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.head = Head(width, codes, bias=False)

    def forward(self, x: Tensor, codes: Tensor, features: Tensor | None) -> Tensor:
        """Sum over constituents, of x (M, width) and their codes (M,)."""
        return self.head(x, codes)

    @property
    def products(self) -> int:
        """Parameters in matrix products."""
        return self.head.weight.numel()


class RegressionTarget(nn.Module):
    """The features, each by its kind; the loss of a constituent is the mean over its features.

    Numbers, normalised to mean 0 and standard deviation 1 in training, by the absolute difference (L1, as in MPM v2,
    arXiv:2409.12589); unknown ones (of neutrals) count 0. Categories by cross entropy, and flags (known or not) by
    binary cross entropy, in nats.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.register_buffer("mean", torch.from_numpy(statistics.mean))
        self.register_buffer("std", torch.from_numpy(statistics.std))
        self.out = nn.Linear(width, statistics.columns)
        nn.init.normal_(self.out.weight, std=INITIAL_STD)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, codes: Tensor, features: Tensor | None) -> Tensor:
        """Sum over constituents, of x (M, width) and their features (M, F)."""
        assert features is not None
        found, wanted = self.out(x).float(), (features - self.mean) / self.std
        kinds = self.statistics
        total = found.new_zeros(())
        for column, flag in kinds.numbers:
            difference = (found[:, column] - wanted[:, column]).abs()
            total = total + (difference if flag < 0 else difference * wanted[:, flag]).sum()
        for first, stop in kinds.categories:
            total = total + F.cross_entropy(found[:, first:stop], wanted[:, first:stop].argmax(-1), reduction="sum")
        for flag in kinds.flags:
            total = total + F.binary_cross_entropy_with_logits(found[:, flag], wanted[:, flag], reduction="sum")
        return total / (len(kinds.numbers) + len(kinds.categories) + len(kinds.flags))

    @property
    def products(self) -> int:
        """Parameters in matrix products."""
        return self.out.weight.numel()
