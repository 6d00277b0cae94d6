"""The network inside DeepSpeed: parameters and optimizer states shared out by ZeRO stage."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from hepfm.core.engine import launch
from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import ParameterGroup, TrainingConfig
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine, deepspeed
from hepfm.core.errors import HepfmError


class Step(nn.Module):
    """An objective whose forward runs in the wanted precision and returns what DeepSpeed can follow."""

    def __init__(self, objective: nn.Module, precision: str) -> None:
        super().__init__()
        self.objective = objective
        self.device_type = launch.device().type
        self.low_precision = precision == "bf16"

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.low_precision):
            losses: Losses = self.objective(batch)
        return losses.total, {name: value.detach() for name, value in losses.figures.items()}


def build(objective: nn.Module, config: TrainingConfig, universal: bool = False) -> DeepSpeedEngine:
    """Put ``objective`` into a DeepSpeed engine, with the first process's weights and buffers everywhere.

    ZeRO stage 3 takes parameters apart, so there the engine works on a copy: see :func:`hand_back`.

    Args:
        universal: the checkpoint to be loaded is a universal one.

    Raises:
        HepfmError: a setting that this network, or this machine, cannot follow.
    """
    objective = copy.deepcopy(objective) if config.zero_stage == 3 else objective
    _recompute(objective, config.activation_checkpointing)
    step = Step(objective, config.precision)
    engine, *_ = deepspeed.initialize(
        model=step,
        optimizer=adamw(objective, config),
        config=_deepspeed_config(config, universal),
        dist_init_required=False,
    )
    if config.zero_stage == 0 and launch.world() == 1:
        engine.enable_backward_allreduce = False  # it would copy all gradients there and back to sum over one process
    _broadcast_buffers(engine.module)
    if config.compile:
        engine.compile()
    return engine


def _recompute(objective: nn.Module, wanted: bool) -> None:
    """Tell the parts of the network that can recompute activations (they have ``recompute``) whether to."""
    able = [module for module in objective.modules() if hasattr(module, "recompute")]
    if wanted and not able:
        raise HepfmError("this network has no blocks that can be computed again", "--activation-checkpointing")
    for module in able:
        vars(module)["recompute"] = wanted


def adamw(module: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """torch's AdamW, fused: unlike DeepSpeed's own it needs no compiler. Vectors do not decay.

    Each of its groups holds ``scale``, what to multiply the schedule's learning rate by, and ``from_step``, the first
    update that trains it.

    Raises:
        HepfmError: an entry of ``config.groups`` matches nothing, or changes nothing.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter, names in _named(module):
        decays = parameter.ndim > 1 and not getattr(parameter, "no_weight_decay", False)
        matching = (n for n, group in enumerate(config.groups) if any(re.search(group.match, name) for name in names))
        groups.setdefault((next(matching, len(config.groups)), not decays), []).append(parameter)
    _check_groups(config, groups)
    rules = [*config.groups, ParameterGroup("")]
    settings = []
    for (number, steady), parameters in sorted(groups.items(), key=lambda item: item[0]):
        rate, decay = rules[number].learning_rate, rules[number].weight_decay
        decay = config.weight_decay if decay is None else decay
        scale = 1.0 if rate is None else rate / config.learning_rate
        own = {"weight_decay": 0.0 if steady else decay, "scale": scale, "from_step": rules[number].from_step}
        settings.append({"params": parameters, **own})
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=config.betas, fused=True)


def _named(module: nn.Module) -> Iterator[tuple[nn.Parameter, list[str]]]:
    """Trained parameters, each with all its names: a tied one has several."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(parameter, []).append(name)
    yield from names.items()


def _check_groups(config: TrainingConfig, groups: dict[tuple[int, bool], list[nn.Parameter]]) -> None:
    for number, group in enumerate(config.groups):
        where = f"groups, entry {number + 1} ({group.match!r})"
        if (number, False) not in groups and (number, True) not in groups:
            raise HepfmError("matches no trained parameter that an earlier entry has not taken", where)
        if group.learning_rate is None and (number, False) not in groups:
            raise HepfmError("sets a weight decay for vectors only, which have none", where)


def _deepspeed_config(config: TrainingConfig, universal: bool) -> dict[str, Any]:
    devices = {"offload_optimizer": config.offload_optimizer, "offload_param": config.offload_parameters}
    offload = {
        name: {
            "device": device,
            "pin_memory": launch.device().type == "cuda",
        }
        for name, device in devices.items()
        if device != "none"
    }
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only counts with it; the loss is normalised here
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip if config.zero_stage else 0.0,  # stage 0 hides the norm: see update()
        "zero_optimization": {
            "stage": config.zero_stage,
            "memory_efficient_linear": False,  # it would replace torch's linear for the whole process
            **offload,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would have to be compiled; torch's fused AdamW is used instead
        "checkpoint": {"load_universal": universal},
        "steps_per_print": sys.maxsize,
        "timers": {"throughput": {"enabled": False}},
    }


def _broadcast_buffers(module: nn.Module) -> None:
    """DeepSpeed broadcasts parameters only."""
    for buffer in module.buffers():
        if launch.world() > 1 and buffer.numel():
            flat = buffer.detach().contiguous().view(-1).view(torch.uint8)
            dist.broadcast(flat, 0)
            buffer.detach().copy_(flat.view(buffer.dtype).view(buffer.shape))


def parameter_groups(engine: DeepSpeedEngine) -> list[dict[str, Any]]:
    """The optimizer's parameter groups, in the order of :func:`adamw`."""
    assert engine.optimizer is not None
    return engine.optimizer.param_groups


def update(engine: DeepSpeedEngine, rate: float, step: int, config: TrainingConfig) -> float:
    """Clip and apply the gradients of the last micro-batches, those of update ``step``.

    Returns:
        The global norm of the gradient before clipping.
    """
    for group in parameter_groups(engine):
        since = step - group.get("from_step", 0)
        group["lr"] = rate * group["scale"]
        if since < step:  # trained from a later step on
            group["lr"] *= min((since + 1) / max(config.warmup_steps, 1), 1.0)
        if since < 0:
            for parameter in group["params"]:
                parameter.grad = None  # which AdamW passes over; several processes have summed zeros
    if config.zero_stage == 0:
        norm = float(clip_grad_norm_(engine.module.parameters(), config.clip or math.inf))
        engine.step()
        return norm
    engine.step()
    found = engine.get_global_grad_norm()
    return math.nan if found is None or found < 0 else float(found)  # DeepSpeed writes -1 for nan and inf


@torch.no_grad()
def unsharded_state(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Buffers and frozen parameters, whole: universal checkpoints hold trained parameters only."""
    state = {f"buffer {name}": value.detach().cpu() for name, value in engine.module.named_buffers()}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter]):
                state[f"parameter {name}"] = parameter.detach().cpu().clone()
    return state


@torch.no_grad()
def load_unsharded_state(engine: DeepSpeedEngine, state: dict[str, Tensor]) -> None:
    """Put back what :func:`unsharded_state` gave."""
    for name, value in engine.module.named_buffers():
        value.copy_(state[f"buffer {name}"])
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(state[f"parameter {name}"])


@torch.no_grad()
def whole_state(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Weights and buffers of the objective, on the CPU of the first process (elsewhere an empty mapping)."""
    state = {}
    trained = engine.module.objective
    for name, parameter in trained.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if launch.is_main():
                state[name] = parameter.detach().cpu().contiguous().clone()
    if launch.is_main():
        for name, value in trained.named_buffers():
            state[name] = value.detach().cpu().contiguous().clone()
    return state


@torch.no_grad()
def take_over(objective: nn.Module, state: dict[str, Tensor]) -> None:
    """Put what :func:`whole_state` gave into the plain network."""
    for name, value in [*objective.named_parameters(), *objective.named_buffers()]:
        value.copy_(state[name])


@torch.no_grad()
def hand_back(engine: DeepSpeedEngine, objective: nn.Module) -> None:
    """Give ``objective`` the engine's weights and buffers, whole and in fp32, in every process."""
    trained = engine.module.objective
    if trained is not objective:
        for (_, plain), (_, sharded) in zip(objective.named_parameters(), trained.named_parameters(), strict=True):
            with deepspeed.zero.GatheredParameters([sharded]):
                plain.copy_(sharded)
        for (_, buffer), (_, value) in zip(objective.named_buffers(), trained.named_buffers(), strict=True):
            buffer.copy_(value)
    for weights in objective.parameters():
        weights.data = weights.data.clone()  # stages 1 and 2 leave views of one flat tensor


def release(engine: DeepSpeedEngine) -> None:
    """Take hooks off the network; empty what stage 3 leaves in cycles that Python cannot see: states and groups."""
    _recompute(engine.module.objective, False)
    engine.destroy()
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is not None:
        for parameter in engine.module.parameters():
            vars(parameter).clear()
        for part in (offload, engine.optimizer, engine):
            vars(part).clear()
