"""Learning rates as pure functions of the step, so that nothing of them needs saving."""

from __future__ import annotations

import math

from hepfm.core.engine.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of update ``step`` (counted from 0).

    Linear warm-up, then one of: cosine decay (Loshchilov & Hutter, arXiv:1608.03983); stable, then a decay as
    1 - sqrt in the last ``decay_fraction`` of all steps (Hägele et al., arXiv:2405.18392); stable, then an exponential
    decay there (weaver-core's ``flat+decay``, which goes down once an epoch); constant.
    """
    peak = config.learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    low = peak * config.min_learning_rate_fraction
    if config.schedule == "cosine":
        done = _share(step, config.warmup_steps, config.steps)
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "constant":
        return peak
    decay_start = config.steps - round(config.decay_fraction * config.steps)
    done = _share(step, max(decay_start, config.warmup_steps), config.steps)
    if config.schedule == "wsd":
        return low + (peak - low) * (1 - math.sqrt(done))
    return peak * config.min_learning_rate_fraction**done


def _share(step: int, start: int, stop: int) -> float:
    """How much of [start, stop) is behind at ``step``: 0 before it, 1 at its last step."""
    if stop - start <= 1:
        return float(step >= start)
    return min(max((step - start) / (stop - 1 - start), 0.0), 1.0)
