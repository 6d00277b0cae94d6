"""``hepfm pretrain --plan``: what a pretraining will need and take, before anybody queues for the nodes."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json
from hepfm.core.progress import say
from hepfm.pretrain import measure
from hepfm.pretrain.data import TokenCorpora, VocabularyName, length_counts, terms
from hepfm.pretrain.memory import Setting, outline, parameters, predict
from hepfm.pretrain.presets import PresetName, preset
from hepfm.pretrain.run import JET_LENGTH, usual_length

STAGES: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
GB = 1e9
DAY_S = 86_400


@dataclass(frozen=True)
class PlanConfig:
    """Plan a pretraining: memory per device by ZeRO stage, tokens/s, and days for a data set. Nothing is trained.

    Give either token corpora or --jets. The speed of one device is measured here, unless --tokens-per-second states
    one that was measured elsewhere (hepfm pretrain prints it).
    """

    corpora: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")] = ()
    """Token corpora that would be trained on."""
    vocabulary: VocabularyName = "one"
    """one: all corpora are of one tokenizer. joined: the ids of several tokenizers stand side by side."""
    model: PresetName = "base"
    """Size of the backbone."""
    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs of each machine; 0: one process on each machine's CPU."""
    jets: int = 0
    """Jets of the data set, where no corpus is given."""
    constituents: float = 43.5
    """Mean constituents of a jet, where no corpus is given."""
    codes: int = 8192
    """Codes of the tokenizer, where no corpus is given."""
    epochs: float = 1.0
    """How often every jet is seen."""
    max_length: int | None = None
    """Constituents that are kept of a jet. Default: 128, of showers the hits of the longest."""
    batch_records: int = 0
    """Jets in one update over all devices; 0 for 256 on each device."""
    accumulation: int = 1
    """Micro-batches that each device splits its share into."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the matrix products."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage that the time is given for."""
    tokens_per_second: float = 0.0
    """Measured real tokens per second of one device; 0: measure this machine."""
    measured_model: PresetName | None = None
    """The model that was measured (the planned one by default); its speed is scaled by FLOPs per token."""
    network_gb_per_s: float = 25.0
    """Bandwidth [GB/s] of each device to those of other machines (25: one 200 Gbit/s adapter a GPU)."""
    json: Path | None = None
    """File for the plan as data."""

    def check(self) -> None:
        """Refuse what cannot be planned.

        Raises:
            HepfmError: names the setting.
        """
        for name in ("nodes", "max_length", "accumulation", "codes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise HepfmError(f"must be at least 1, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        for name in ("gpus", "jets", "batch_records", "tokens_per_second"):
            if getattr(self, name) < 0:
                raise HepfmError(f"must not be negative, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        for name in ("epochs", "network_gb_per_s", "constituents"):
            if not getattr(self, name) > 0:
                raise HepfmError(f"must be positive, is {getattr(self, name)}", f"--{name.replace('_', '-')}")
        if bool(self.corpora) == bool(self.jets):
            raise HepfmError("give token corpora or --jets, one of the two", "data set")
        if self.measured_model and not self.tokens_per_second:
            raise HepfmError("says of which model --tokens-per-second is, which is not given", "--measured-model")
        if self.batch < self.devices * self.accumulation:
            raise HepfmError(
                f"{self.batch:,} jets cannot be shared by {self.devices} devices x {self.accumulation} micro-batches",
                "--batch-records",
                f"at least {self.devices * self.accumulation}",
            )

    @property
    def devices(self) -> int:
        """Processes of the job."""
        return self.nodes * max(1, self.gpus)

    @property
    def batch(self) -> int:
        """Jets in one update."""
        return self.batch_records or 256 * self.devices


@dataclass(frozen=True)
class DataSet:
    """What is trained on: its size, the lengths [tokens] of some of its sequences, and points that are kept of each."""

    jets: int
    tokens: int
    codes: int
    lengths: np.ndarray
    max_length: int
    kind: Literal["jets", "showers", "records"] = "jets"


@dataclass(frozen=True)
class Speed:
    """Real tokens per second of one device, and whose figure that is."""

    tokens_per_s: float
    model: PresetName
    source: str


def main(config: PlanConfig) -> None:
    """Print the plan; with --json also as data."""
    config.check()
    data = _data(config)
    plan = make_plan(config, data, _speed(config, data))
    sys.stdout.write(_page(plan))
    if config.json is not None:
        write_json(config.json, plan)


def make_plan(config: PlanConfig, data: DataSet, speed: Speed) -> dict[str, Any]:
    """The plan as plain data: memory [bytes] by ZeRO stage, times [s], and what was assumed."""
    backbone = preset(config.model, data.codes)
    micro = max(1, config.batch // (config.devices * config.accumulation))
    lengths: np.ndarray = np.resize(data.lengths, micro)
    setting = Setting(
        backbone,
        lengths,
        processes=config.devices,
        precision=config.precision,
        accumulation=config.accumulation,
        device="cuda" if config.gpus else "cpu",
    )
    memory = [
        {"zero_stage": stage, "activation_checkpointing": keep, **asdict(found), "total": found.total}
        for stage in STAGES
        for keep in (False, True)
        for found in [predict(replace(setting, zero_stage=stage, checkpointing=keep))]
    ]
    own, theirs = flops_per_token(config.model, data), flops_per_token(speed.model, data)
    alone = speed.tokens_per_s * theirs / own
    tokens_per_step = config.batch * data.tokens / data.jets
    computing = tokens_per_step / (config.devices * alone)
    sending = exchange_seconds(parameters(backbone), config)
    step = computing + sending
    tokens = data.tokens * config.epochs
    return {
        "model": config.model,
        "parameters": parameters(backbone),
        "flops_per_token": own,
        "devices": config.devices,
        "nodes": config.nodes,
        "gpus_per_node": config.gpus,
        "data": {"jets": data.jets, "tokens": data.tokens, "epochs": config.epochs, "codes": data.codes},
        "records": data.kind,
        "batch": {"jets": config.batch, "tokens": tokens_per_step, "jets_on_a_device": micro},
        "memory": memory,
        "speed": {
            "measured": asdict(speed),
            "tokens_per_s_of_one_device": alone,
            "tokens_per_s": tokens_per_step / step,
            "efficiency": computing / step,
        },
        "time": {
            "zero_stage": config.zero_stage,
            "step_s": step,
            "exchange_s": sending,
            "steps": math.ceil(tokens / tokens_per_step),
            "days": tokens / tokens_per_step * step / DAY_S,
        },
        "assumptions": _assumptions(config, data, speed),
    }


def flops_per_token(model: PresetName, data: DataSet) -> float:
    """Forward and backward FLOPs of one token at the data set's mean length."""
    return outline(preset(model, data.codes)).flops_per_token(float(data.lengths.mean()))


def exchange_seconds(count: int, config: PlanConfig) -> float:
    """Time [s] that the devices spend on gradients (and weights) of one step.

    Ring algorithms send 2 (n - 1)/n of the fp32 gradients (all-reduce; stages 1 and 2: reduce-scatter of gradients and
    all-gather of weights, the same amount). Stage 3 gathers the weights in forward and backward of each micro-batch.
    """
    share = (config.devices - 1) / config.devices
    passes = 2.0 if config.zero_stage < 3 else 2.0 * config.accumulation + 1.0
    return passes * share * 4 * count / (config.network_gb_per_s * GB)


def _data(config: PlanConfig) -> DataSet:
    if not config.corpora:
        kept = config.max_length or JET_LENGTH
        lengths = measure.multiplicities(4096, kept) * config.constituents / measure.MULTIPLICITY[0]
        counts = terms(np.maximum(1, np.rint(lengths)).astype(np.int64), kept)
        return DataSet(config.jets, round(config.jets * float(counts.mean())), config.codes, counts, kept)
    data = TokenCorpora.open(config.corpora, config.vocabulary)
    if data.streams:
        streams = ", ".join(data.streams.labels)
        told = f"its points have several ids ({streams}), --plan reckons next-token prediction of one id a point"
        raise HepfmError(told, data.corpora[0].path, "hepfm pretrain prints parameters and tokens/s of a few --steps")
    kept = config.max_length or usual_length(data)
    histogram = length_counts(data.batches("train", kept, 0).reader)
    counts = terms(np.arange(len(histogram)), kept)
    draws = np.random.default_rng(0).choice(counts, 4096, p=histogram / histogram.sum())
    return DataSet(int(histogram.sum()), int(histogram @ counts), data.codes, draws, kept, data.kind)


def _speed(config: PlanConfig, data: DataSet) -> Speed:
    if config.tokens_per_second:
        return Speed(config.tokens_per_second, config.measured_model or config.model, "given by --tokens-per-second")
    # What a laptop can hold and finish in a minute; a GPU takes the planned model if it has the room.
    model = config.model
    if not torch.cuda.is_available() and flops_per_token(model, data) > flops_per_token("small", data):
        model = "small"
    records = 256 if torch.cuda.is_available() else 64
    training = TrainingConfig(steps=4, batch_records=records, warmup_steps=0, validate_every=0)
    trial = measure.Trial(model, data.codes, data.max_length, 1, replace(training, precision=config.precision))
    say(f"measuring {model} here: {training.steps} steps of {records} jets, {config.precision}")
    found = measure.measure(trial)[0]
    return Speed(found.tokens_per_s, model, f"measured here on {found.device}, {records} jets a step")


def _assumptions(config: PlanConfig, data: DataSet, speed: Speed) -> list[str]:
    said = [
        f"speed of one device: {speed.tokens_per_s:,.0f} real tokens/s of {speed.model}, {speed.source}",
        "every device keeps that speed at its share of the batch; reading the data costs nothing beside it",
        f"exchange: {config.network_gb_per_s:g} GB/s a device, ring algorithms, fp32, none of it hidden behind "
        "computing; no other job on the network",
        "next-token prediction; memory: fp32 weights, gradients and AdamW moments, activations of the mean batch; on "
        "top come "
        + (
            "fragmentation, the CUDA context (about 0.5 GB) and NCCL's buffers (about 1 GB)"
            if config.gpus
            else "libraries (about 0.3 GB) and what the C library's heap keeps (up to a third)"
        ),
        "checkpoints, validation, start-up and time in the queue come on top",
    ]
    if config.gpus and "on CPU" in speed.source:
        said.insert(
            1,
            "that is a CPU, the plan is for GPUs: give --tokens-per-second of one of them",
        )
    if speed.model != config.model:
        said.append(f"{config.model} computes at as many FLOP/s as {speed.model} (larger models usually do better)")
    if not config.corpora:
        said.append(
            f"jets of {config.constituents:g} constituents on average, spread like simulated jets' (lognormal, "
            f"deviation 40%), cut at {data.max_length}; one stop each"
        )
    return said


def _page(plan: dict[str, Any]) -> str:
    kind, data, batch, speed, time = plan["records"], plan["data"], plan["batch"], plan["speed"], plan["time"]
    rows = [
        f"{plan['model']}: {plan['parameters']:,} parameters, {plan['flops_per_token'] / 1e6:,.1f} MFLOP per token",
        f"data: {data['jets']:,} {kind}, {data['tokens']:,} tokens, {data['epochs']:g} epochs",
        f"devices: {plan['devices']} ({plan['nodes']} nodes); a step: {batch['jets']:,} {kind}, "
        f"{batch['tokens']:,.0f} tokens, {batch['jets_on_a_device']} {kind} at a time on a device",
        "",
        "memory of a device [GB]   weights  gradients  optimizer  activations  buffers    total",
    ]
    for row in plan["memory"]:
        kind = "  recomputing" if row["activation_checkpointing"] else f"ZeRO {row['zero_stage']}"
        names = (
            ("weights", 9),
            ("gradients", 10),
            ("optimizer", 10),
            ("activations", 12),
            ("buffers", 8),
            ("total", 8),
        )
        rows.append(f"{kind:24}" + " ".join(f"{row[name] / GB:{width}.2f}" for name, width in names))
    rows += [
        "",
        f"ZeRO {time['zero_stage']}: {speed['tokens_per_s']:,.0f} tokens/s "
        f"({speed['tokens_per_s_of_one_device']:,.0f} of a device alone, {speed['efficiency']:.0%} of it here), "
        f"{time['step_s']:.3g} s a step ({time['exchange_s']:.3g} s exchange)",
        f"{time['steps']:,.0f} step{'s' if time['steps'] > 1 else ''}: "
        f"{time['days']:.3g} days ({time['days'] * 24:.3g} hours)",
        "",
        *(f"assumed: {text}" for text in plan["assumptions"]),
    ]
    return "\n".join(rows) + "\n"
