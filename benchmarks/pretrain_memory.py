"""``hepfm bench pretrain-memory``: the memory that ``hepfm pretrain --plan`` predicts against what training takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hepfm.benchmarks.workload import machine
from hepfm.core.engine.batches import part
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.files import write_json
from hepfm.core.progress import progress
from hepfm.core.versions import versions
from hepfm.pretrain.data import terms
from hepfm.pretrain.measure import Measured, Trial, measure, multiplicities
from hepfm.pretrain.memory import Setting, predict
from hepfm.pretrain.presets import PresetName, preset

MB = 1e6


@dataclass(frozen=True)
class PretrainMemoryConfig:
    """Measure the peak memory of a few training steps and one checkpoint, by preset, processes and ZeRO stage."""

    models: tuple[PresetName, ...] = ("tiny", "small")
    """Backbones."""
    processes: tuple[int, ...] = (1, 2)
    """Numbers of processes on this machine."""
    stages: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
    """ZeRO stages."""
    batch_records: int = 64
    """Jets in one update, over all processes."""
    codes: int = 8192
    """Codes of the tokenizer."""
    max_length: int = 128
    """Constituents that are kept of a jet."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products."""
    json: Path | None = None
    """File for the result."""


def main(config: PretrainMemoryConfig) -> None:
    """Measure, compare and print a table."""
    training = TrainingConfig(
        steps=3, batch_records=config.batch_records, warmup_steps=0, validate_every=0, precision=config.precision
    )
    trials = [
        Trial(model, config.codes, config.max_length, processes, replace(training, zero_stage=stage))
        for model in config.models
        for processes in config.processes
        for stage in config.stages
    ]
    rows = []
    with progress("bench pretrain-memory", len(trials), "trainings") as task:
        for trial in trials:
            rows.append(compare(trial, measure(trial, give_back=True)))
            task.advance()
    sys.stdout.write("model      processes  ZeRO   libraries  predicted   measured  ratio  ratio without libraries\n")
    for row in rows:
        sys.stdout.write(
            f"{row['model']:10} {row['processes']:9}  {row['zero_stage']:4}  {row['libraries'] / MB:7,.0f} MB "
            f"{row['predicted'] / MB:7,.0f} MB {row['measured'] / MB:7,.0f} MB  {row['predicted_over_measured']:5.2f}  "
            f"{row['predicted_over_measured_without_libraries']:5.2f}\n"
        )
    if config.json is not None:
        result = {"name": "pretrain-memory", "unit": "bytes", "rows": rows}
        write_json(config.json, {**result, "machine": machine(), "versions": versions()})


def compare(trial: Trial, found: list[Measured]) -> dict[str, Any]:
    """Prediction and measurement [bytes] of the process that took most."""
    most = max(range(len(found)), key=lambda rank: found[rank].peak)
    training = trial.training
    kinds: Literal["cpu", "cuda"] = "cpu" if found[most].device == "CPU" else "cuda"
    lengths = terms(multiplicities(4096, trial.max_length), trial.max_length)
    parts = trial.processes * training.accumulation
    shares = [
        lengths[np.arange(*part(step * training.batch_records, training.batch_records, most, parts)) % len(lengths)]
        for step in range(training.steps)
    ]
    guess = max(
        predict(
            Setting(
                preset(trial.model, trial.codes),
                share,
                zero_stage=training.zero_stage,
                processes=trial.processes,
                precision=training.precision,
                accumulation=training.accumulation,
                device=kinds,
            )
        ).total
        for share in shares
    )
    libraries, peak = found[most].libraries, found[most].peak
    return {
        "model": trial.model,
        "processes": trial.processes,
        "zero_stage": training.zero_stage,
        "libraries": libraries,
        "predicted": guess + libraries,
        "measured": peak,
        "predicted_over_measured": (guess + libraries) / peak,
        "predicted_over_measured_without_libraries": guess / (peak - libraries),
    }
