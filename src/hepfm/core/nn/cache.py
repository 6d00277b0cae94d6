"""The KV cache: keys and values of the tokens that a sequence already has, so that one more costs one step."""

from __future__ import annotations

import torch

# Cached lengths are rounded up to a multiple of this many slots, and callers keep rows at such a multiple: sums then
# run in the same order whatever else is in the batch, and a row's result does not depend on its neighbours.
GRAIN = 16


class Cache:
    """Preallocated dense keys and values of ``rows`` sequences, each with its own length.

    Attributes:
        lengths: (rows,) int64, tokens that each row has.
    """

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        blocks, rows, heads, max_length, channels = shape
        self.max_length = max_length
        room = grains(max_length)
        # Zeros, not empty: slots that are not filled yet are multiplied by a weight of zero.
        self.keys = torch.zeros(blocks, rows, heads, room, channels, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def restart(self, rows: torch.Tensor) -> None:
        """Empty the rows named by ``rows`` (indices or mask), for new sequences."""
        self.lengths[rows] = 0

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the rows of these indices, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths = self.lengths[rows]

    def open(self) -> torch.Tensor:
        """Begin a step: the additive mask (rows, 1, 1, L) under which each row sees itself and what it has.

        Raises:
            ValueError: a row is full.
        """
        longest = int(self.lengths.max()) + 1
        if longest > self.max_length:
            raise ValueError(f"a row of the cache is full ({self.max_length} tokens)")
        hidden = torch.arange(grains(longest), device=self.lengths.device) > self.lengths[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=self.lengths.device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]

    def attend(self, block: int, qkv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Store the new token of each row, qkv (rows, 3, heads, d), and attend to all of its row: (rows, heads, d)."""
        query, key, value = qkv.unbind(1)
        every = torch.arange(self.rows, device=qkv.device)
        self.keys[block, every, :, self.lengths] = key.to(self.keys.dtype)
        self.values[block, every, :, self.lengths] = value.to(self.values.dtype)
        keys, values = (stored[block, :, :, : mask.shape[-1]] for stored in (self.keys, self.values))
        scores = torch.matmul(query[:, :, None], keys.transpose(2, 3)) * query.shape[-1] ** -0.5
        return torch.matmul((scores + mask).softmax(-1), values)[:, :, 0]

    def close(self) -> None:
        """End a step: every row has one more token."""
        self.lengths += 1


def grains(count: int) -> int:
    """``count`` rounded up to a multiple of GRAIN."""
    return -(-count // GRAIN) * GRAIN
