"""The training recipe: set up, step, validate, save; continue after any interruption."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.batches import Batches, part, prefetch
from hepfm.core.engine.checkpoints import Checkpoints
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.meters import Clock, Sums, note
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine
from hepfm.core.engine.schedule import learning_rate
from hepfm.core.engine.sharded import build, hand_back, release, update
from hepfm.core.engine.stopping import Requeue, StopSignals, check_finite
from hepfm.core.engine.tracking import Tracker
from hepfm.core.files import locked
from hepfm.core.progress import Task, progress, say
from hepfm.core.runs import RunFolder


@dataclass
class State:
    """Where a training is."""

    step: int = 0
    """Updates done."""
    tokens: int = 0
    """Real tokens seen."""
    figures: dict[str, float] = field(default_factory=dict)
    """Last logged figures."""


@dataclass(frozen=True)
class MicroBatch:
    """One process's part of a global batch."""

    batch: Any
    tokens: int
    """Real tokens of the whole global batch."""


def train(
    objective: nn.Module,
    batches: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    run: RunFolder,
    identity: dict[str, Any],
) -> dict[str, float]:
    """Train ``objective`` in place; the same call continues an interrupted run to the same weights.

    Every process of the job calls this. Afterwards ``objective`` holds the final weights, whole and in fp32, in
    every process. Buffers that ``forward`` changes must change alike in all processes (reduce their statistics).

    Args:
        objective: ``forward(batch)`` gives :class:`~hepfm.core.engine.batches.Losses`. Its initial weights are
            the first process's.
        batches: records in reading order; update s uses positions [s * batch_records, (s + 1) * batch_records).
        validation: records of which the first ``validation_records`` are used; None for no validation.
        run: where metrics.jsonl and checkpoints/ go.
        identity: plain data that names the run's data and network; a checkpoint of another identity is refused.

    Returns:
        The last logged figures: loss and validation_loss (nats per real token), and so on.

    Raises:
        HepfmError: settings that cannot work, another run's checkpoints, a loss that is not finite, a full disk.
        Requeue: SIGTERM or SIGUSR1 came, and a checkpoint has been written.
    """
    launch.setup()
    config.check(launch.world())
    with ExitStack() as stack:
        launch.on_main(lambda: stack.enter_context(locked(run.checkpoints)))
        stop = stack.enter_context(StopSignals())
        stack.enter_context(_own_draws())
        checkpoints = Checkpoints(run.checkpoints, {**config.shaping(), **identity}, config.keep_checkpoints)
        engine, state = _start(objective, config, checkpoints)
        stack.callback(release, engine)
        launch.on_main(lambda: run.cut_metrics(state.step))
        tracker = Tracker(run, checkpoints.identity, config.wandb)
        stack.callback(tracker.close)
        micro_batches = stack.enter_context(closing(_read_ahead(batches, config, state.step)))
        task = stack.enter_context(_progress(run, config, state))
        clock = Clock()
        while state.step < config.steps:
            tokens, line, asked = _step(engine, micro_batches, config, state.step, stop)
            first = state.step * config.batch_records
            state.step += 1
            state.tokens += tokens
            check_finite(run, state.step, (first, first + config.batch_records), line)
            clock.count(tokens)
            task.advance()

            log_due = state.step == 1 or _due(state.step, config.log_every, config)
            validation_due = validation is not None and _due(state.step, config.validate_every, config)
            if log_due or validation_due:
                timing = clock.read()
                if validation is not None and validation_due:
                    line |= _validate(engine, validation, config)
                line["tokens"] = state.tokens
                state.figures |= line
                task.note(note(line, timing, config.steps - state.step))
                if launch.is_main():
                    run.log(state.step, **line, **timing)
                tracker.log(state.step, {**line, **timing})
                clock = Clock()
            if asked or _due(state.step, config.checkpoint_every, config):
                checkpoints.save(engine, state.step, state.tokens, state.figures)
            if asked:
                if launch.is_main():
                    say(f"{run.path}: stopped on request after step {state.step}; the same command continues")
                raise Requeue
        hand_back(engine, objective)
    return state.figures


def _start(objective: nn.Module, config: TrainingConfig, checkpoints: Checkpoints) -> tuple[DeepSpeedEngine, State]:
    """The engine and where to go on: from the newest whole checkpoint, or from step 0."""
    saved = checkpoints.newest()
    if saved is None:
        return build(objective, config), State()
    # Stage 0 keeps everything whole in one file; sharded states must be cut anew for another number of processes.
    universal = config.zero_stage > 0 and saved.processes != launch.world()
    if universal:
        checkpoints.reshard(saved)
    engine = build(objective, config, universal)
    checkpoints.load(engine, saved, universal)
    if launch.is_main():
        say(f"continuing from {checkpoints.folder / saved.name}")
    return engine, State(saved.step, saved.tokens, dict(saved.figures))


def _read_ahead(batches: Batches, config: TrainingConfig, step: int) -> Generator[MicroBatch, None, None]:
    """This process's micro-batches from ``step`` on: slice k = micro * processes + rank of each global batch."""
    world, parts = launch.world(), launch.world() * config.accumulation

    def read(step: int, micro: int) -> MicroBatch:
        start = step * config.batch_records
        piece = part(start, config.batch_records, micro * world + launch.rank(), parts)
        return MicroBatch(batches.batch(*piece), batches.tokens(start, start + config.batch_records))

    return prefetch(partial(read, s, micro) for s in range(step, config.steps) for micro in range(config.accumulation))


def _step(
    engine: DeepSpeedEngine, micro_batches: Iterator[MicroBatch], config: TrainingConfig, step: int, stop: StopSignals
) -> tuple[int, dict[str, float], bool]:
    """One update.

    DeepSpeed averages over processes and micro-batches, whose token counts differ; so each part of the loss goes in
    as its sum over the tokens of the whole global batch, times the number of parts.

    Returns:
        The batch's tokens, its figures per token, and whether any process was asked to stop.
    """
    engine.train()
    sums = Sums()
    parts = launch.world() * config.accumulation
    tokens = 0
    for micro in range(config.accumulation):
        item = next(micro_batches)
        tokens = item.tokens
        _seed_draws(config.seed, "train", step, micro)
        total, figures = engine(item.batch.to(launch.device()))
        engine.backward(total * (parts / tokens))
        sums.add(total, figures)
        if micro + 1 < config.accumulation:
            engine.step()
    rate = learning_rate(step, config)
    norm = update(engine, rate, config)
    line, asked = sums.over_processes(tokens, stop.asked)
    return tokens, {**line, "learning_rate": rate, "gradient_norm": norm}, asked


@torch.no_grad()
def _validate(engine: DeepSpeedEngine, validation: Batches, config: TrainingConfig) -> dict[str, float]:
    """Figures per real token of the first ``validation_records``, which the processes share."""
    world = launch.world()
    rounds = math.ceil(config.validation_records * config.accumulation / config.batch_records)
    rounds = min(rounds, config.validation_records // world)  # every process takes part in each: ZeRO 3 needs it
    tokens = validation.tokens(0, config.validation_records)
    engine.eval()
    sums = Sums()
    pieces = [
        part(0, config.validation_records, index * world + launch.rank(), rounds * world) for index in range(rounds)
    ]
    for index, batch in enumerate(prefetch(partial(validation.batch, *piece) for piece in pieces)):
        _seed_draws(config.seed, "validation", index)
        sums.add(*engine(batch.to(launch.device())))
    figures, _ = sums.over_processes(tokens, False)
    return {f"validation_{name}": value for name, value in figures.items()}


def _seed_draws(seed: int, *purpose: object) -> None:
    """torch's draws (dropout, codebook starts) depend on where they are used, so no random state needs saving."""
    torch.manual_seed(key_of(seed, *purpose, launch.rank()))


def _own_draws() -> AbstractContextManager[None]:
    """Leave the caller's random state as it was, whether or not there was a step to do."""
    here = launch.device()
    return torch.random.fork_rng(devices=[here] if here.type == "cuda" else [])


def _due(step: int, every: int, config: TrainingConfig) -> bool:
    return every > 0 and (step % every == 0 or step == config.steps)


def _progress(run: RunFolder, config: TrainingConfig, state: State) -> AbstractContextManager[Task]:
    since = f" from step {state.step}" if state.step else ""
    return progress(f"training {run.path.name}{since}", config.steps - state.step, "steps", visible=launch.is_main())
