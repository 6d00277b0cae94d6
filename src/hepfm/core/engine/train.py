"""The training recipe: set up, step, validate, save; continue after any interruption."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.averages import Averages
from hepfm.core.engine.batches import Batches, part, prefetch
from hepfm.core.engine.checkpoints import Checkpoints, State
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.meters import Clock, Sums, forget_peak_memory, note, peak_memory_mb
from hepfm.core.engine.peak import peak_of_job
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine
from hepfm.core.engine.schedule import learning_rate
from hepfm.core.engine.sharded import adamw, build, hand_back, release, take_over, update, whole_state
from hepfm.core.engine.skips import RollBack, Skips
from hepfm.core.engine.stopping import Requeue, StopSignals, check_finite
from hepfm.core.engine.tracking import Tracker
from hepfm.core.errors import HepfmError
from hepfm.core.files import locked
from hepfm.core.progress import Task, progress, say
from hepfm.core.runs import RunFolder


@dataclass(frozen=True)
class MicroBatch:
    """One process's part of a global batch."""

    batch: Any
    tokens: int
    """Real tokens of the whole global batch."""


@dataclass(frozen=True)
class Job:
    """What stays the same, however often a training goes back to a checkpoint."""

    objective: nn.Module
    batches: Batches
    validation: Batches | None
    config: TrainingConfig
    run: RunFolder
    checkpoints: Checkpoints
    stop: StopSignals
    tracker: Tracker
    clock: Clock


def train(
    objective: nn.Module,
    batches: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    run: RunFolder,
    identity: dict[str, Any],
    flops_per_token: float = 0.0,
) -> dict[str, float]:
    """Train ``objective`` in place; the same call continues an interrupted run to the same weights.

    Every process of the job calls this. Afterwards ``objective`` holds the final weights, whole and in fp32, in
    every process: with ``ema`` the averages, with ``patience`` those of the best validation. Buffers that ``forward``
    changes must change alike in all processes (reduce their statistics).

    Args:
        objective: ``forward(batch)`` gives :class:`~hepfm.core.engine.batches.Losses`. Its initial weights are
            the first process's.
        batches: records in reading order; update s uses positions [b * batch_records, (b + 1) * batch_records), where
            b is s plus the batches before it that had to be left out (see :mod:`~hepfm.core.engine.skips`).
        validation: records of which the first ``validation_records`` are used; None for no validation.
        run: where metrics.jsonl and checkpoints/ go.
        identity: plain data that names the run's data and network; a checkpoint of another identity is refused.
        flops_per_token: of the forward and the backward pass; 0 leaves the fraction of peak out of the log.

    Returns:
        The last logged figures: loss and validation_loss (nats per real token), and so on; with ``patience`` the
        validation figures of the best step, and best_step.

    Raises:
        HepfmError: settings that cannot work, another run's checkpoints, a loss that is not finite, a full disk.
        Requeue: SIGTERM or SIGUSR1 came, and a checkpoint has been written.
    """
    launch.setup()
    check(objective, validation, config)
    with ExitStack() as stack:
        launch.on_main(lambda: stack.enter_context(locked(run.checkpoints)))
        stop = stack.enter_context(StopSignals())
        stack.enter_context(_own_draws())
        shaping, usual = config.shaping(), TrainingConfig().shaping()
        checkpoints = Checkpoints(run.checkpoints, {**shaping, **identity}, config.keep_checkpoints, usual)
        tracker = Tracker(run, checkpoints.identity, config.wandb)
        stack.callback(tracker.close)
        clock = _clock(flops_per_token, config)
        forget_peak_memory()
        job = Job(objective, batches, validation, config, run, checkpoints, stop, tracker, clock)
        while True:
            try:
                return _continue(job)
            except RollBack:
                continue


def check(objective: nn.Module, validation: Batches | None, config: TrainingConfig) -> None:
    """Refuse settings that :func:`train` would refuse: for callers that write something before.

    Raises:
        HepfmError: names the setting.
    """
    config.check(launch.world())
    if config.patience and validation is None:
        raise HepfmError("needs a validation split", "--patience")
    adamw(objective, config)  # looks for the parameters of its groups


def _continue(job: Job) -> dict[str, float]:
    """From the newest whole checkpoint, or from step 0, to the end."""
    config, run, checkpoints = job.config, job.run, job.checkpoints
    with ExitStack() as stack:
        skips = Skips(run)
        engine, averages, state = _start(job.objective, config, checkpoints)
        stack.callback(release, engine)
        launch.on_main(lambda: run.cut_metrics(state.step))
        micro_batches = stack.enter_context(closing(_read_ahead(job.batches, config, state.step, skips)))
        task = stack.enter_context(_progress(run, config, state))
        job.clock.restart()
        while not _ended(state, config):
            tokens, line, asked = _step(engine, micro_batches, config, state.step, job.stop)
            _check(job, skips, state.step, line)
            if averages:
                averages.update(state.step)
            state.step += 1
            state.tokens += tokens
            job.clock.count(tokens)
            task.advance()

            log_due = state.step == 1 or _due(state.step, config.log_every, config)
            validation_due = job.validation is not None and _due(state.step, config.validate_every, config)
            if log_due or validation_due:
                timing = {**job.clock.read(), "peak_memory_mb": peak_memory_mb()}
                if job.validation is not None and validation_due:
                    with averages.in_use() if averages else nullcontext():
                        found = _validate(engine, job.validation, config)
                        if config.patience and state.best.judge(state.step, found):
                            checkpoints.keep_best(whole_state(engine))
                    line |= found
                line["tokens"] = state.tokens
                state.figures |= line
                task.note(note(line, timing, config.steps - state.step))
                if launch.is_main():
                    run.log(state.step, **line, **timing)
                job.tracker.log(state.step, {**line, **timing})
                job.clock.restart()
            if asked or _ended(state, config) or _due(state.step, config.checkpoint_every, config):
                checkpoints.save(engine, state, averages)
            if asked:
                if launch.is_main():
                    say(f"{run.path}: stopped on request after step {state.step}; the same command continues")
                raise Requeue
        _finish(job, engine, averages, state)
    return {**state.figures, **state.best.summary()}


def _start(
    objective: nn.Module, config: TrainingConfig, checkpoints: Checkpoints
) -> tuple[DeepSpeedEngine, Averages | None, State]:
    """The engine, the averages of its weights, and where to go on."""
    saved = checkpoints.newest()
    # Stage 0 keeps everything whole in one file; sharded states must be cut anew for another number of processes.
    universal = saved is not None and config.zero_stage > 0 and saved.processes != launch.world()
    if saved is not None and universal:
        checkpoints.reshard(saved)
    engine = build(objective, config, universal)
    averages = Averages(engine, config.ema) if config.ema else None
    if saved is None:
        if config.nonfinite == "rollback":  # the first batch may be a bad one
            checkpoints.save(engine, State(), averages)
        return engine, averages, State()
    checkpoints.load(engine, saved, universal, averages)
    if launch.is_main():
        say(f"continuing from {checkpoints.folder / saved.name}")
    return engine, averages, saved.state


def _ended(state: State, config: TrainingConfig) -> bool:
    return state.step >= config.steps or bool(config.patience and state.best.worse >= config.patience)


def _check(job: Job, skips: Skips, step: int, line: dict[str, float]) -> None:
    """What to do if loss or gradient of update ``step`` (the same in every process) is no number."""
    config = job.config
    finite = all(map(math.isfinite, line.values()))
    if not finite and config.nonfinite == "rollback" and len(skips.entries) < config.rollbacks:
        skips.add(step, config.batch_records, line, config.rollbacks)
    first = skips.batch(step) * config.batch_records
    check_finite(job.run, step + 1, (first, first + config.batch_records), line)


def _finish(job: Job, engine: DeepSpeedEngine, averages: Averages | None, state: State) -> None:
    """Give the caller's network the weights that count."""
    if averages:
        averages.put()
    hand_back(engine, job.objective)
    if state.best.step:
        take_over(job.objective, job.checkpoints.best())
        if launch.is_main():
            early = f"stopped early after step {state.step}; " if state.step < job.config.steps else ""
            say(
                f"{job.run.path}: {early}the weights are those of step {state.best.step}, the best validation "
                f"(loss {state.best.figures['validation_loss']:.4f})"
            )


def _clock(flops_per_token: float, config: TrainingConfig) -> Clock:
    if not flops_per_token:
        return Clock()
    peak, source = peak_of_job(config.precision)
    if launch.is_main():
        say(
            f"of_peak is tokens/s x {flops_per_token:.4g} FLOPs per token / {peak:.4g} FLOP/s, the {config.precision} "
            f"peak of {launch.world()} devices ({source})"
        )
    return Clock(flops_per_token, peak)


def _read_ahead(batches: Batches, config: TrainingConfig, step: int, skips: Skips) -> Generator[MicroBatch, None, None]:
    """This process's micro-batches from ``step`` on: slice k = micro * processes + rank of each global batch."""
    world, parts = launch.world(), launch.world() * config.accumulation

    def read(step: int, micro: int) -> MicroBatch:
        start = skips.batch(step) * config.batch_records
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
    norm = update(engine, rate, step, config)
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
