"""Protocols: which parameters of a pretrained network train, and at which rates.

scratch (random weights, the control), frozen, last-blocks, low-rank, full, unfreeze (frozen first, then full). What is
frozen has neither gradients nor optimizer states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hepfm.core.draws import key_of, torch_generator
from hepfm.core.engine.config import ParameterGroup, TrainingConfig
from hepfm.core.errors import HepfmError

ProtocolName = Literal["full", "frozen", "last-blocks", "low-rank", "unfreeze", "scratch"]
NetworkT = TypeVar("NetworkT", bound=nn.Module)
LOW_RANK_SCALE = 2.0  # alpha / r of Hu et al.
OWN: dict[ProtocolName, str] = {"last-blocks": "last_blocks", "low-rank": "rank", "unfreeze": "unfreeze_step"}
AFTER_BLOCKS = frozenset({"class_blocks", "token", "final_norm"})  # what networks call what follows their blocks


@dataclass(frozen=True)
class ProtocolConfig:
    """How a pretrained network goes on learning."""

    name: Annotated[ProtocolName, tyro.conf.arg(name="protocol")] = "full"
    """full: all weights train; frozen: none of the backbone's; last-blocks: its last --last-blocks; low-rank: adapters
    of rank --rank beside the matrices of its blocks, merged into them when the artifact is written; unfreeze: frozen
    until --unfreeze-step, then full; scratch: full, from random weights."""
    last_blocks: int = 1
    """Blocks that last-blocks trains, with what follows them."""
    rank: int = 8
    """Rank of the adapters of low-rank."""
    unfreeze_step: int = 0
    """Update from which unfreeze trains all weights; 0: after a fifth of all."""
    backbone_rate: float = 1.0
    """Learning rate of what trains of the backbone, as a share of --learning-rate."""

    def resolved(self, training: TrainingConfig, blocks: int) -> ProtocolConfig:
        """With defaults in place.

        Args:
            training: settings of the training.
            blocks: that the network has.

        Raises:
            HepfmError: a setting that cannot work; names it.
        """
        if self.name == "last-blocks" and not 1 <= self.last_blocks <= blocks:
            raise HepfmError(f"must lie in 1 to {blocks}, the network's blocks, is {self.last_blocks}", "--last-blocks")
        if self.name == "low-rank" and self.rank < 1:
            raise HepfmError(f"must be at least 1, is {self.rank}", "--rank")
        for protocol, setting in OWN.items():
            if self.name != protocol and getattr(self, setting) != getattr(ProtocolConfig, setting):
                option = f"--{setting.replace('_', '-')}"
                raise HepfmError(
                    f"is for {protocol}, not for {self.name}", option, f"leave it out, or --protocol {protocol}"
                )
        if not 0 < self.backbone_rate < math.inf:
            raise HepfmError(f"must be positive, is {self.backbone_rate}", "--backbone-rate")
        if self.name != "unfreeze":
            return self
        step = self.unfreeze_step or max(1, training.steps // 5)
        if not 0 < step < training.steps:
            raise HepfmError(f"must lie in 1 to {training.steps - 1}, is {step}", "--unfreeze-step")
        return replace(self, unfreeze_step=step)

    @property
    def frozen_until(self) -> float:
        """The first update (from 0) in which anything of the backbone trains."""
        if self.name == "frozen":
            return math.inf
        return self.unfreeze_step if self.name == "unfreeze" else 0

    def rates(self, training: TrainingConfig, match: str) -> TrainingConfig:
        """The training's settings with the learning rate of the backbone, after the user's own groups.

        Args:
            training: settings; its own groups come first.
            match: finds the names of the backbone's parameters in the objective (``^network[.]backbone[.]``).
        """
        start = self.unfreeze_step if self.name == "unfreeze" else 0
        if self.name == "frozen" or (self.backbone_rate == 1 and not start):
            return training
        rate = None if self.backbone_rate == 1 else self.backbone_rate * training.learning_rate
        own = ParameterGroup(match, learning_rate=rate, from_step=start)
        return replace(training, groups=(*training.groups, own))


def blocks_of(network: Any) -> nn.ModuleList:
    """The blocks of a network: its ``blocks``, or those of its ``transformer``.

    Raises:
        HepfmError: it has none.
    """
    blocks = getattr(network, "blocks", None)
    blocks = getattr(getattr(network, "transformer", None), "blocks", None) if blocks is None else blocks
    if not isinstance(blocks, nn.ModuleList):
        raise HepfmError("this network has no blocks, which the protocol could train some of", "--protocol")
    return blocks


def follow(network: nn.Module, config: ProtocolConfig, seed: int, always: Sequence[str] = ()) -> None:
    """Make the parameters of a pretrained network train as a resolved protocol says, in place.

    Args:
        network: any with ``blocks``; for full, unfreeze and scratch also one without.
        config: the protocol.
        seed: of the adapters' first weights.
        always: names of members that train whatever the protocol: a head, what is new.
    """
    if config.name in ("full", "unfreeze", "scratch"):
        return
    kept = {name for name, _ in network.named_parameters() if name.split(".")[0] in always}
    if config.name == "last-blocks":
        last = {parameter for block in blocks_of(network)[-config.last_blocks :] for parameter in block.parameters()}
        kept |= {name for name, value in network.named_parameters() if value in last}
        kept |= {name for name, _ in network.named_parameters() if AFTER_BLOCKS & set(name.split("."))}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in kept)
    if config.name == "low-rank":
        _add_adapters(network, config.rank, seed)


class LowRank(nn.Module):
    """W + 2 B A in place of a matrix W, A random and B zero at first (Hu et al., arXiv:2106.09685, section 4.1)."""

    def __init__(self, weight: Tensor, rank: int, draws: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        rank = min(rank, outputs, inputs)
        self.down = nn.Parameter((torch.randn(rank, inputs, generator=draws) / math.sqrt(inputs)).to(weight))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=LOW_RANK_SCALE)


def _linears(network: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in blocks_of(network).named_modules() if isinstance(part, nn.Linear)]


def _add_adapters(network: nn.Module, rank: int, seed: int) -> None:
    for name, linear in _linears(network):
        adapter = LowRank(linear.weight, rank, torch_generator("low rank", seed, name))
        parametrize.register_parametrization(linear, "weight", adapter)


def merge(network: nn.Module) -> None:
    """Put adapters into the matrices beside which they stand, if there are any; the network computes the same."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def drawn_anew(network: NetworkT, seed: int) -> NetworkT:
    """The same architecture with random weights (the control of every protocol); its buffers, statistics of the
    inputs, are kept."""
    torch.manual_seed(key_of("weights", seed))
    made = type(network)(network.config)
    made.load_state_dict(dict(network.named_buffers()), strict=False)
    return made.train(network.training)
