"""Probes: classifiers of labels on a backbone's frozen features, trained along as a cheap quality meter.

A probe's weights, moments and gradients are buffers, not parameters: the engine's optimizer, its clipping by the global
norm and ZeRO do not see them, so that the backbone's weights are the same to the bit with and without probes, while
checkpoints and resuming hold them as they hold all buffers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.draws import torch_generator
from hepfm.core.nn.ragged import Layout

ProbeName = Literal["linear", "class-attention"]
Weights = Mapping[str, Tensor]

ATTENTION_WIDTH, ATTENTION_HEADS = 128, 4
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Probe(nn.Module):
    """One classifier with its own Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), constant learning rate.

    The gradient of an update is summed over its micro-batches and processes, and applied when the next update begins;
    so the outcome does not depend on how a batch is shared out.

    Args:
        name: ``linear`` (the mean over a jet's tokens, then linear) or ``class-attention`` (one learned query for each
            head, as in CaiT, arXiv:2103.17239, then linear).
        width: of the features.
        classes: number of labels.
        learning_rate: of Adam.
        seed: of the first weights.
    """

    weights: Tensor
    first: Tensor
    second: Tensor
    gradient: Tensor
    jets: Tensor
    pending: Tensor
    updates: Tensor

    def __init__(self, name: ProbeName, width: int, classes: int, learning_rate: float, seed: int = 0) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.shapes, self.logits = KINDS[name](width, classes)
        draws = torch_generator("probe", name, seed)
        # The last layer begins without an opinion.
        scale = {
            part: 0.0 if part in ("out", "bias") else 1 / math.sqrt(shape[-1]) for part, shape in self.shapes.items()
        }
        start = [scale[part] * torch.randn(shape, generator=draws) for part, shape in self.shapes.items()]
        self.register_buffer("weights", torch.cat([part.flatten() for part in start]))
        for moment in ("first", "second", "gradient"):
            self.register_buffer(moment, torch.zeros_like(self.weights))
        self.register_buffer("jets", torch.zeros(()))  # that the gradient is a sum over
        self.register_buffer("pending", torch.tensor(-1))  # number of the update that the gradient belongs to
        self.register_buffer("updates", torch.tensor(0))  # applied so far

    def forward(self, features: Tensor, layout: Layout, labels: Tensor, update: int = 0) -> tuple[Tensor, Tensor]:
        """Judge jets; in training also learn from them.

        Args:
            features: (T, width) of the packed tokens.
            layout: which token belongs to which jet.
            labels: (n,) int64, -1 where unknown: these count nowhere.
            update: number of the update that the jets belong to.

        Returns:
            Pairs (sum, labelled jets): of correct answers, and of the cross entropy [nats].
        """
        features = F.layer_norm(features.detach().float(), features.shape[-1:])
        with torch.autocast(features.device.type, enabled=False), torch.set_grad_enabled(self.training):
            if self.training and update != int(self.pending):
                self._step(update)
            weights = self.weights.clone().requires_grad_(self.training)
            known = labels >= 0
            logits = self.logits(self._parts(weights), features, layout)[known]
            loss = F.cross_entropy(logits, labels[known], reduction="sum")
            if self.training:
                self._collect(torch.autograd.grad(loss, weights)[0], known.sum())
        count = known.sum().float()
        correct = (logits.argmax(-1) == labels[known]).sum().float()
        return torch.stack([correct, count]), torch.stack([loss.detach(), count])

    def _parts(self, flat: Tensor) -> Weights:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), flat.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    @torch.no_grad()
    def _collect(self, gradient: Tensor, jets: Tensor) -> None:
        total = torch.cat([gradient, jets.reshape(1).to(gradient.dtype)])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        self.gradient += total[:-1]
        self.jets += total[-1]

    @torch.no_grad()
    def _step(self, update: int) -> None:
        """The update of what has been collected, if that is anything; ``update`` begins."""
        if self.jets > 0:
            gradient = self.gradient / self.jets
            self.updates += 1
            self.first.lerp_(gradient, 1 - BETAS[0])
            self.second.lerp_(gradient.square(), 1 - BETAS[1])
            first, second = (
                moment / (1 - beta ** float(self.updates))
                for moment, beta in zip((self.first, self.second), BETAS, strict=True)
            )
            self.weights -= self.learning_rate * first / (second.sqrt() + EPSILON)
        self.gradient.zero_()
        self.jets.zero_()
        self.pending.fill_(update)


class Probes(nn.Module):
    """Several probes on the same features."""

    def __init__(
        self, names: Sequence[ProbeName], width: int, classes: int, learning_rate: float, seed: int = 0
    ) -> None:
        super().__init__()
        kinds = {_label(name): Probe(name, width, classes, learning_rate, seed) for name in dict.fromkeys(names)}
        self.each = nn.ModuleDict(kinds)

    @torch.compiler.disable
    def forward(self, features: Tensor, layout: Layout, labels: Tensor, update: int = 0) -> dict[str, Tensor]:
        """Figures of all of them, as pairs; see :meth:`Probe.forward`."""
        figures = {}
        for name, probe in self.each.items():
            figures[f"probe_{name}_accuracy"], figures[f"probe_{name}_loss"] = probe(features, layout, labels, update)
        return figures

    def nothing(self, device: torch.device) -> dict[str, Tensor]:
        """The figures where nothing is judged."""
        return {
            f"probe_{name}_{what}": torch.zeros(2, device=device) for name in self.each for what in ("accuracy", "loss")
        }


def _label(name: str) -> str:
    return name.replace("-", "_")


Logits = Callable[[Weights, Tensor, Layout], Tensor]
Kind = tuple[dict[str, tuple[int, ...]], Logits]


def _linear(width: int, classes: int) -> Kind:
    def logits(weights: Weights, features: Tensor, layout: Layout) -> Tensor:
        jet, counts = _jets(layout)
        pooled = _sums(features, jet, layout.sequences) / counts.clamp(min=1)[:, None]
        return F.linear(pooled, weights["out"], weights["bias"])

    return {"out": (classes, width), "bias": (classes,)}, logits


def _class_attention(width: int, classes: int) -> Kind:
    heads, inner = ATTENTION_HEADS, ATTENTION_WIDTH
    shapes = {"query": (heads, inner // heads), "key": (inner, width), "value": (inner, width)}

    def logits(weights: Weights, features: Tensor, layout: Layout) -> Tensor:
        jet, _ = _jets(layout)
        key, value = (F.linear(features, weights[name]).unflatten(1, (heads, -1)) for name in ("key", "value"))
        scores = (key * weights["query"]).sum(-1)
        highest = scores.new_full((layout.sequences, heads), -torch.inf)
        highest.scatter_reduce_(0, jet[:, None].expand_as(scores), scores.detach(), "amax")
        shares = (scores - highest[jet]).exp()
        total = _sums(shares, jet, layout.sequences).clamp(min=torch.finfo(torch.float32).tiny)
        pooled = (_sums(shares[..., None] * value, jet, layout.sequences) / total[..., None]).flatten(1)
        return F.linear(F.layer_norm(pooled, pooled.shape[-1:]), weights["out"], weights["bias"])

    return {**shapes, "out": (classes, inner), "bias": (classes,)}, logits


KINDS: dict[ProbeName, Callable[[int, int], Kind]] = {"linear": _linear, "class-attention": _class_attention}


def _jets(layout: Layout) -> tuple[Tensor, Tensor]:
    """Jet (T,) of each token, and tokens (n,) of each jet."""
    counts = layout.offsets.diff()
    every = torch.arange(layout.sequences, device=counts.device)
    return every.repeat_interleave(counts, output_size=layout.tokens), counts


def _sums(values: Tensor, jet: Tensor, jets: int) -> Tensor:
    """Sums (n, ...) over the tokens (T, ...) of each jet."""
    return values.new_zeros(jets, *values.shape[1:]).index_add(0, jet, values)
