"""A moving average of the weights, of which each process holds its share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hepfm.core.engine import launch
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine
from hepfm.core.errors import HepfmError

FILE = "averages.safetensors"


class Averages:
    """e <- d e + (1 - d) w after each update, from the first weights on.

    At step s (from 0), d = min(decay, (1 + s) / (10 + s)): the long memory sets in slowly, as in TensorFlow's
    ExponentialMovingAverage; Polyak and Juditsky, SIAM J. Control Optim. 30 (1992) 838, is the idea. Whatever the
    ZeRO stage, a process holds 1/processes of the averages, in fp32, where its weights are: the same elements that
    ZeRO 3 gives it. Nothing but the averages needs saving, and these are saved whole, for any number of processes.
    """

    def __init__(self, engine: DeepSpeedEngine, decay: float) -> None:
        self._engine, self._decay = engine, decay
        named = engine.module.objective.named_parameters()
        self._weights: dict[str, Any] = {name: weight for name, weight in named if weight.requires_grad}
        self._shares = self._own_shares()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._shares, [_share(weight) for weight in self._weights.values()], 1 - decay)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The network with the averages as its weights; afterwards it has its own again, to the bit."""
        own = self._own_shares()
        self.put()
        try:
            yield
        finally:
            self._put(own)

    def put(self) -> None:
        """Make the averages the network's weights."""
        self._put(self._shares)

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """The whole averages by parameter name, on the CPU of the first process (elsewhere an empty mapping)."""
        found = {}
        for (name, weight), share in zip(self._weights.items(), self._shares, strict=True):
            whole = _whole(weight, share)
            if launch.is_main():
                found[name] = whole.cpu()
        return found

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], where: object) -> None:
        """Take over this process's share of what :meth:`state` gave.

        Raises:
            HepfmError: an average is missing.
        """
        for (name, weight), share in zip(self._weights.items(), self._shares, strict=True):
            if name not in state or state[name].shape != _shape(weight):
                raise HepfmError(f"has no average of '{name}' of this shape", where)
            flat = state[name].reshape(-1)[_own(weight)]
            share[: flat.numel()].copy_(flat)

    def _own_shares(self) -> list[Tensor]:
        return [_share(weight).detach().clone() for weight in self._weights.values()]

    @torch.no_grad()
    def _put(self, shares: list[Tensor]) -> None:
        """Make the weights of all processes those of ``shares``."""
        optimizer: Any = self._engine.optimizer
        gathered = getattr(optimizer, "persistent_parameters", None)
        if gathered is not None:  # stage 3: nothing that was gathered before may outlive the change
            optimizer.parameter_offload.partition_all_parameters()
        for weight, share in zip(self._weights.values(), shares, strict=True):
            if _is_sharded(weight):
                weight.ds_tensor.copy_(share)
            else:
                weight.copy_(_whole(weight, share))
        if gathered:
            gathered[0].all_gather(gathered)


def _is_sharded(weight: Any) -> bool:
    """Whether ZeRO 3 has taken the parameter apart."""
    return hasattr(weight, "ds_tensor")


def _shape(weight: Any) -> torch.Size:
    return weight.ds_shape if _is_sharded(weight) else weight.shape


def _own(weight: Any) -> slice:
    """Which elements of the flat parameter are this process's."""
    count = _shape(weight).numel()
    length = -(-count // launch.world())
    return slice(min(count, launch.rank() * length), min(count, (launch.rank() + 1) * length))


def _share(weight: Any) -> Tensor:
    """This process's elements (ZeRO 3 fills the last process's up to equal lengths)."""
    return weight.ds_tensor if _is_sharded(weight) else weight.detach().view(-1)[_own(weight)]


def _whole(weight: Any, share: Tensor) -> Tensor:
    """The parameter that the processes' shares make up."""
    shape = _shape(weight)
    length = -(-shape.numel() // launch.world())
    filled = torch.zeros(length, dtype=share.dtype, device=launch.device())
    filled[: share.numel()] = share
    parts = [torch.empty_like(filled) for _ in range(launch.world())]
    dist.all_gather(parts, filled)
    return torch.cat(parts)[: shape.numel()].view(shape)
