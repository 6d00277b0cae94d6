"""What a training run can be told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from hepfm.core.config import to_dict
from hepfm.core.errors import HepfmError

# Settings that change neither the weights nor the logged losses, except for the order of additions.
FREE_SETTINGS = frozenset(
    {
        "accumulation",
        "activation_checkpointing",
        "checkpoint_every",
        "compile",
        "keep_checkpoints",
        "log_every",
        "nonfinite",
        "offload_optimizer",
        "offload_parameters",
        "rollbacks",
        "validate_every",
        "validation_records",
        "wandb",
    }
)
Offload = Literal["none", "cpu"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained in their own way."""

    match: str
    """Regular expression, searched for in the names of parameters (backbone.embedding.weight)."""
    learning_rate: float | None = None
    """Peak learning rate of these parameters; the schedule is the common one. None: the common peak."""
    weight_decay: float | None = None
    """Weight decay of the matrices among them; vectors have none, as elsewhere. None: the common one."""
    from_step: int = 0
    """Update (from 0) that first trains them; until then they have no gradients and no optimizer states. From there on
    their learning rate rises over warmup_steps."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained, whatever it is."""

    steps: int = 1000
    """Updates of the weights."""
    batch_records: int = 256
    """Records in one update, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches that each process splits its share of a batch into (saves memory)."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW. Some parameters can have their own, and their own weight decay, in the file of
    --config: groups: [{match: embedding, learning_rate: 0.0001, weight_decay: 0}], where match is a regular expression
    that is searched for in the parameters' names and the first group that matches counts."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises linearly from zero to its peak."""
    schedule: Literal["cosine", "wsd", "exponential", "constant"] = "cosine"
    """After warm-up: cosine decay; stable, then decay in the last part, as 1 - sqrt (wsd) or exponential; constant."""
    decay_fraction: float = 0.2
    """Share of all steps that wsd and exponential spend decaying."""
    min_learning_rate_fraction: float = 0.1
    """Final learning rate as a share of its peak (all but constant)."""
    weight_decay: float = 0.01
    """AdamW's weight decay; vectors (biases, norms) and parameters marked no_weight_decay have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the moments."""
    groups: Annotated[tuple[ParameterGroup, ...], tyro.conf.Suppress] = ()
    """Own learning rates and weight decays by parameter name, in a YAML file only. A parameter follows the first
    group that matches; a group that no parameter follows is an error."""
    ema: float = 0.0
    """Decay of a moving average of the weights (0: none); at step s at most (1 + s) / (10 + s). Validation and the
    artifact then use the averages. Each process holds its share of them, in fp32. Buffers are not averaged."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 leaves it as it is."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast); weights, gradients and optimizer stay fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 replicates, 1 shards optimizer states, 2 also gradients, 3 also weights."""
    offload_optimizer: Offload = "none"
    """ZeRO offload of the optimizer's states and work to the CPU (stages 1 to 3). It needs no compiler, on a GPU
    neither: torch's fused AdamW works on the CPU. Tested on machines without a GPU."""
    offload_parameters: Offload = "none"
    """The same for the weights (stage 3 only)."""
    activation_checkpointing: bool = False
    """Keep only each block's input and compute the rest again in the backward pass: less memory, about a third more
    work, the same results."""
    compile: bool = False
    """Use torch.compile (needs a C++ compiler, and minutes at the first step)."""
    seed: int = 0
    """Seed of all draws made in training."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    validate_every: int = 500
    """Steps between validations; 0 for none. The last step always has one."""
    validation_records: int = 1024
    """Records of the validation split that are used, the same ones each time."""
    patience: int = 0
    """Early stopping: end after so many validations in a row without a new lowest loss (0: never). With it the
    weights of the best validation are kept, and are the ones that the artifact gets."""
    nonfinite: Literal["stop", "rollback"] = "stop"
    """When loss or gradient is no number: stop, naming the records; or go back to the last whole checkpoint and leave
    that batch out for good (see skipped.json in the run's folder)."""
    rollbacks: int = 3
    """How many batches may be left out so in the whole run, before it stops."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl; the first and last step always have one."""
    wandb: bool = False
    """Log to Weights & Biases as well: offline, unless logged in."""

    def check(self, processes: int) -> None:
        """Refuse settings that cannot work with this many processes.

        Raises:
            HepfmError: names the setting.
        """
        for name in ("steps", "batch_records", "accumulation", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise HepfmError(f"must be at least 1, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        for name in ("warmup_steps", "weight_decay", "clip", "validate_every", "patience", "rollbacks"):
            if getattr(self, name) < 0:
                raise HepfmError(f"must not be negative, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        for name in ("betas", "min_learning_rate_fraction"):
            value = getattr(self, name)
            if not all(0 <= number <= 1 for number in (value if isinstance(value, tuple) else (value,))):
                raise HepfmError(f"must lie between 0 and 1, is {value}", f"--{name.replace('_', '-')}")
        if 1.0 in self.betas:
            raise HepfmError("must lie below 1", "--betas")
        if not 0 <= self.ema < 1:
            raise HepfmError(f"must lie in [0, 1), is {self.ema}", "--ema")
        if self.patience and not self.validate_every:
            raise HepfmError("needs validations", "--patience", "give --validate-every")
        if not self.learning_rate > 0:
            raise HepfmError(f"must be positive, is {self.learning_rate}", "--learning-rate")
        if self.schedule == "exponential" and not self.min_learning_rate_fraction:
            raise HepfmError("exponential decay ends above zero", "--min-learning-rate-fraction")
        if not 0 < self.decay_fraction <= 1:
            raise HepfmError(f"must lie in (0, 1], is {self.decay_fraction}", "--decay-fraction")
        self._check_groups()
        self._check_offload()
        parts = processes * self.accumulation
        if self.batch_records < parts:
            raise HepfmError(
                f"{self.batch_records} records cannot be shared by {processes} processes "
                f"x {self.accumulation} micro-batches",
                "--batch-records",
                f"at least {parts}",
            )
        if self.validate_every and self.validation_records < processes:
            raise HepfmError(
                f"{self.validation_records} records cannot be shared by {processes} processes",
                "--validation-records",
                f"at least {processes}",
            )

    def _check_groups(self) -> None:
        for number, group in enumerate(self.groups, 1):
            where = f"groups, entry {number} ({group.match!r})"
            try:
                re.compile(group.match)
            except re.error as error:
                raise HepfmError(f"no regular expression: {error}", where) from error
            if group.learning_rate is None and group.weight_decay is None and not group.from_step:
                raise HepfmError("sets neither learning_rate nor weight_decay nor from_step", where)
            if not 0 <= group.from_step < self.steps:
                raise HepfmError(f"from_step must lie in 0 to {self.steps - 1}, is {group.from_step}", where)
            if group.from_step and self.zero_stage:  # whose optimizers know one count of steps for all weights
                raise HepfmError("parameters that are trained later need ZeRO stage 0", "--zero-stage", "leave it out")
            # Chained comparisons with inf also refuse nan.
            if group.learning_rate is not None and not 0 < group.learning_rate < math.inf:
                raise HepfmError(f"learning_rate must be positive and finite, is {group.learning_rate}", where)
            if group.weight_decay is not None and not 0 <= group.weight_decay < math.inf:
                raise HepfmError(f"weight_decay must be finite and not negative, is {group.weight_decay}", where)

    def _check_offload(self) -> None:
        for name, lowest in (("offload_optimizer", 1), ("offload_parameters", 3)):
            wanted, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if wanted != "none" and self.zero_stage < lowest:
                raise HepfmError(
                    f"{wanted} needs ZeRO stage {lowest}, not {self.zero_stage}", flag, f"--zero-stage {lowest}"
                )

    def shaping(self) -> dict[str, Any]:
        """The settings that shape the result: a run continues only under the same ones."""
        free = FREE_SETTINGS - ({"validate_every", "validation_records"} if self.patience else set())
        return {name: value for name, value in to_dict(self).items() if name not in free}
