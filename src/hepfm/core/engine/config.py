"""What a training run can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hepfm.core.config import to_dict
from hepfm.core.errors import HepfmError

# Settings that change neither the weights nor the logged losses, except for the order of additions.
FREE_SETTINGS = frozenset(
    {
        "accumulation",
        "checkpoint_every",
        "compile",
        "keep_checkpoints",
        "log_every",
        "validate_every",
        "validation_records",
        "wandb",
    }
)


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
    """Peak learning rate of AdamW."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises linearly from zero to its peak."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After warm-up: cosine decay, stable then decay in the last part (wsd), or constant."""
    decay_fraction: float = 0.2
    """Share of all steps that wsd spends decaying."""
    min_learning_rate_fraction: float = 0.1
    """Final learning rate as a share of its peak (cosine and wsd)."""
    weight_decay: float = 0.01
    """AdamW's weight decay; vectors (biases, norms) and parameters marked no_weight_decay have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the moments."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 leaves it as it is."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast); weights, gradients and optimizer stay fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 replicates, 1 shards optimizer states, 2 also gradients, 3 also weights."""
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
        for name in ("warmup_steps", "weight_decay", "clip", "validate_every"):
            if getattr(self, name) < 0:
                raise HepfmError(f"must not be negative, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        for name in ("betas", "min_learning_rate_fraction"):
            value = getattr(self, name)
            if not all(0 <= number <= 1 for number in (value if isinstance(value, tuple) else (value,))):
                raise HepfmError(f"must lie between 0 and 1, is {value}", f"--{name.replace('_', '-')}")
        if 1.0 in self.betas:
            raise HepfmError("must lie below 1", "--betas")
        if not self.learning_rate > 0:
            raise HepfmError(f"must be positive, is {self.learning_rate}", "--learning-rate")
        if not 0 < self.decay_fraction <= 1:
            raise HepfmError(f"must lie in (0, 1], is {self.decay_fraction}", "--decay-fraction")
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

    def shaping(self) -> dict[str, Any]:
        """The settings that shape the result: a run continues only under the same ones."""
        return {name: value for name, value in to_dict(self).items() if name not in FREE_SETTINGS}
