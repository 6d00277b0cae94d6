"""Generation as published for OmniJet-alpha (arXiv:2403.05618) and OmniJet-alpha_C (arXiv:2501.05534): no cache.

Each step reads the whole sequences anew, with explicit attention under a stored mask, and computes the logits of the
whole vocabulary at every position; all sequences run through all steps and are cut at their stop afterwards.
"""

from __future__ import annotations

import math

import torch

from hepfm.pretrain.backbone import Backbone


class FullRecompute:
    """The published sampler around a backbone's own weights.

    Args:
        backbone: without positions, as the published ones are.
        rows: sequences of a batch.
        longest: most tokens that are read.
    """

    def __init__(self, backbone: Backbone, rows: int, longest: int) -> None:
        if backbone.config.transformer.positions != "none":
            raise ValueError("the published networks have no positions")
        self.backbone, self.rows = backbone, rows
        device = next(backbone.parameters()).device
        self.ahead = torch.ones(longest, longest, dtype=torch.bool, device=device).triu(1)
        self.begin = torch.full((rows, 1), backbone.start, device=device)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (rows, t, vocabulary) after each token of sequences (rows, t)."""
        backbone, (rows, length) = self.backbone, ids.shape

        def mix(qkv: torch.Tensor) -> torch.Tensor:
            query, key, value = qkv.unflatten(0, (rows, length)).transpose(1, 3).unbind(2)  # (rows, heads, t, d)
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(self.ahead[:length, :length], -torch.inf).softmax(-1)
            return (weights @ value).transpose(1, 2).flatten(0, 1)

        x = backbone.embedding(ids.flatten())
        for block in backbone.transformer.blocks:
            x = block(x, mix)
        return backbone.head(backbone.transformer.final_norm(x)).unflatten(0, (rows, length))

    @torch.no_grad()
    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Sequences (rows, t + 1): one more token each, drawn at temperature 1 from all but the start token."""
        logits = self.logits(ids)[:, -1]
        logits[:, self.backbone.start] = -torch.inf
        return torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], 1)

    def generate(self, steps: int) -> torch.Tensor:
        """Sequences (rows, steps) of tokens, start left out."""
        ids = self.begin
        for _ in range(steps):
            ids = self.step(ids)
        return ids[:, 1:]

    def step_at(self, length: int) -> torch.Tensor:
        """The step that reads sequences of this length; what the tokens are does not matter for its cost."""
        return self.step(self.begin.expand(-1, length))


def share_of_steps(steps: int) -> tuple[int, int, int]:
    """Three of the steps 1 to ``steps`` whose mean is that of all, of any quantity a + b t + c t^2 of step t.

    Mean and variance of t are theirs, up to rounding: (T + 1) / 2 and (T + 1) / 2 +- sqrt((T^2 - 1) / 8).
    """
    middle, away = (steps + 1) / 2, math.sqrt((steps**2 - 1) / 8)
    return round(middle - away), round(middle), round(middle + away)
