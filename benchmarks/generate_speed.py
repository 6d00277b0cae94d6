"""``hepfm bench generate-jets`` and ``generate-showers``: generation against the published procedure, and by the timing
protocol of CaloChallenge.

Weights are random, those of both procedures the same, and so are threads and device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hepfm.benchmarks.bench import report
from hepfm.benchmarks.full_recompute import FullRecompute, share_of_steps
from hepfm.benchmarks.synthetic import real_multiplicities
from hepfm.benchmarks.workload import Way, Workload, machine, measure
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json
from hepfm.core.nn.cache import Cache
from hepfm.core.progress import Task, progress
from hepfm.core.versions import versions
from hepfm.finetune.generator import Generator
from hepfm.finetune.sampler import generate
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.presets import preset

IN_FLIGHT = 256  # sequences at a time, as by default of hepfm generate
STEPS = 3  # that are timed about each of the three lengths


@dataclass(frozen=True)
class Kind:
    """What is generated.

    Attributes:
        unit: one of them.
        codes: of the tokenizer.
        length: most tokens, the stop left out.
        rows: in flight.
        published_rows: batch of the published procedure.
        checked: rows and tokens at which the share of steps is compared with all of them.
    """

    unit: str
    codes: int
    length: int
    rows: int
    published_rows: int
    checked: tuple[int, int]


JETS = Kind("jet", 8_192, 128, 256, 256, (4, 128))
SHOWERS = Kind("shower", 65_536, 700, 128, 8, (2, 100))
SHARE = (
    "full recompute: timed at three of its steps, whose mean is that of all if step t costs a + b t + c t^2; "
    "formula_over_all_steps is that estimate over the time of all steps at a small size"
)
NOTES_JETS = (
    "OmniJet-alpha's network (6.57 M parameters), 8,192 codes, batch 256; the published procedure runs all 128 steps",
    "cached: jets have the multiplicities of 500 real JetClass jets, finished rows are replaced; cached all tokens: "
    "every jet has 128",
    SHARE,
)
NOTES_SHOWERS = (
    "OmniJet-alpha_C's network (36.0 M parameters), 65,536 codes, 700 hits a shower, batch 8 as published; cached: 128 "
    "showers in flight, timed at steps about the same three lengths",
    SHARE,
)


@dataclass(frozen=True)
class GenerateJetsConfig:
    """Measure generation of jets (OmniJet-alpha, 128 tokens at most, batch 256) against the published procedure, which
    computes everything anew at each of 128 steps (ratios.full_recompute: jets as long as real ones are;
    ratios.full_recompute_all_tokens: 128 tokens each). Or, with --calls, milliseconds a jet by CaloChallenge's timing
    protocol."""

    calls: tuple[int, ...] = ()
    """Time calls for so many jets, on one thread; CaloChallenge's are 1 100 10000."""
    repetitions: int = 10
    """How often each call is timed: mean and standard deviation."""
    model: str | None = None
    """Backbone to time calls of, decoding included; default: OmniJet-alpha's network, tokens only, jets of real
    lengths."""
    repeats: int = 3
    """Measurements of each rate, of which the median counts (without --calls)."""
    json: Path | None = None
    """File for the result."""


@dataclass(frozen=True)
class GenerateShowersConfig:
    """Measure generation of showers of 700 hits (OmniJet-alpha_C's network, 65,538 tokens) against the published
    procedure, which computes everything anew at each step (ratios.full_recompute). Or, with --calls, milliseconds a
    shower by CaloChallenge's timing protocol."""

    calls: tuple[int, ...] = ()
    """Time calls for so many showers, on one thread; CaloChallenge's are 1 100 10000."""
    repetitions: int = 10
    """How often each call is timed: mean and standard deviation."""
    model: str | None = None
    """Backbone to time calls of, decoding included; default: OmniJet-alpha_C's network, tokens only, 700 hits."""
    repeats: int = 3
    """Measurements of each rate, of which the median counts (without --calls)."""
    json: Path | None = None
    """File for the result."""


def jets(config: GenerateJetsConfig) -> None:
    """Measure and print rates and ratios, or milliseconds a jet."""
    _main("generate-jets", config, JETS, generate_jets)


def showers(config: GenerateShowersConfig) -> None:
    """Measure and print rates and ratios, or milliseconds a shower."""
    _main("generate-showers", config, SHOWERS, generate_showers)


def _main(name: str, config: GenerateJetsConfig | GenerateShowersConfig, kind: Kind, workload: Any) -> None:
    for option in ("repetitions", "repeats"):
        if getattr(config, option) < 1:
            raise HepfmError(f"must be at least 1, is {getattr(config, option)}", f"--{option}")
    if any(call < 1 for call in config.calls):
        raise HepfmError(f"must be at least 1, are {' '.join(map(str, config.calls))}", "--calls")
    if config.model and not config.calls:
        raise HepfmError("is timed by calls", "--model", "give --calls 1 100 10000")
    if config.calls:
        _tell_timing(timing(name, config, kind), config.json)
        return
    with workload() as made:
        report(measure(name, made, config.repeats), config.json)


def network(kind: Kind) -> Backbone:
    """OmniJet-alpha's network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return Backbone(preset("omnijet-alpha", kind.codes)).eval().to(launch.device())


class RealLengths:
    """A backbone that stops as often after each number of tokens as jets of given lengths (n,) do."""

    def __init__(self, backbone: Backbone, lengths: np.ndarray) -> None:
        self.backbone, self.start, self.stop = backbone, backbone.start, backbone.stop
        counts = np.bincount(lengths).astype(np.float64)
        share = counts / np.maximum(counts[::-1].cumsum()[::-1], 1)  # of those that are at least so long
        with np.errstate(divide="ignore"):
            odds = np.log(share) - np.log1p(-share)
        self.odds = torch.from_numpy(np.clip(odds, -1e4, 1e4)).float().to(launch.device())

    def new_cache(self, rows: int, max_length: int) -> Cache:
        return self.backbone.new_cache(rows, max_length)

    def step(self, inputs: torch.Tensor, cache: Cache, begin: torch.Tensor | None = None) -> torch.Tensor:
        tokens = cache.lengths.clamp(max=len(self.odds) - 1)
        logits = self.backbone.step(inputs, cache, begin)
        logits[:, self.stop] = logits[:, : self.start].logsumexp(-1) + self.odds[tokens]
        return logits


class Begun:
    """A backbone whose sequences have some tokens already when they begin: the sampler's steps at that length."""

    def __init__(self, backbone: Backbone, rows: int, tokens: int, steps: int) -> None:
        self.backbone, self.start, self.stop = backbone, backbone.start, backbone.stop
        self.cache = _BegunCache(backbone.new_cache(rows, tokens + steps), tokens)

    def new_cache(self, rows: int, max_length: int) -> Cache:
        self.cache.lengths[:] = self.cache.tokens
        return self.cache

    def step(self, inputs: torch.Tensor, cache: Cache, begin: torch.Tensor | None = None) -> torch.Tensor:
        return self.backbone.step(inputs, cache, begin)


class _BegunCache(Cache):
    def __init__(self, cache: Cache, tokens: int) -> None:
        vars(self).update(vars(cache))
        self.tokens = tokens

    def restart(self, rows: torch.Tensor) -> None:
        self.lengths[rows] = self.tokens


def cached(backbone: Any, n: int, rows: int, length: int, shortest: int = 1, first: int = 0) -> int:
    """Generate sequences, from number ``first`` on; gives how many."""
    task = _silent()
    with torch.no_grad():
        made = generate(backbone, n, 0, max_length=length, min_length=shortest, batch=rows, first=first, task=task)
    _wait()
    return len(made.offsets) - 1


def _silent() -> Task:
    return Task("", 0, "")


def _wait() -> None:
    if launch.device().type == "cuda":
        torch.cuda.synchronize()


def _recomputed(reference: FullRecompute, lengths: tuple[int, ...]) -> None:
    for length in lengths:
        reference.step_at(length)
    _wait()


def formula_over_all_steps(backbone: Backbone, rows: int, length: int) -> float:
    """Time of the published procedure as estimated from three steps over that of all its steps, medians of three."""
    reference = FullRecompute(backbone, rows, length)
    share = share_of_steps(length)
    ratios = []
    _recomputed(reference, share)
    for _ in range(3):
        estimate = length / len(share) * _seconds(partial(_recomputed, reference, share))
        ratios.append(estimate / _seconds(partial(reference.generate, length)))
    return float(np.median(ratios))


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - started


def _published(backbone: Backbone, kind: Kind) -> Way:
    """Three steps of the published procedure; units as if all had been done."""
    reference, share = FullRecompute(backbone, kind.published_rows, kind.length), share_of_steps(kind.length)
    return Way(partial(_recomputed, reference, share), kind.published_rows * len(share) / kind.length)


@contextmanager
def generate_jets(kind: Kind = JETS) -> Iterator[Workload]:
    """Jets of real lengths and of all tokens, by the sampler and as published."""
    backbone = network(kind)
    real = RealLengths(backbone, real_multiplicities(np.random.default_rng(0), 500).clip(max=kind.length))
    ways = {
        "cached": Way(partial(cached, real, 4 * kind.rows, kind.rows, kind.length)),
        "cached all tokens": Way(partial(cached, backbone, kind.rows, kind.rows, kind.length, kind.length)),
        "full recompute": _published(backbone, kind),
    }
    ratios = {
        "full_recompute": ("cached", "full recompute"),
        "full_recompute_all_tokens": ("cached all tokens", "full recompute"),
    }
    yield _workload(kind, backbone, ways, ratios, NOTES_JETS)


@contextmanager
def generate_showers(kind: Kind = SHOWERS) -> Iterator[Workload]:
    """Showers by the sampler, and as published."""
    backbone = network(kind)
    begun = [Begun(backbone, kind.rows, length - STEPS // 2, STEPS) for length in share_of_steps(kind.length)]

    def steps() -> float:
        for one in begun:
            cached(one, kind.rows, kind.rows, STEPS, STEPS)
        return kind.rows * STEPS * len(begun) / kind.length

    ways = {"cached": Way(steps), "full recompute": _published(backbone, kind)}
    yield _workload(kind, backbone, ways, {"full_recompute": ("cached", "full recompute")}, NOTES_SHOWERS)


def _workload(
    kind: Kind,
    backbone: Backbone,
    ways: dict[str, Way],
    ratios: dict[str, tuple[str, str]],
    notes: tuple[str, ...],
) -> Workload:
    figures: dict[str, Callable[[], float]] = {
        "formula_over_all_steps": partial(formula_over_all_steps, backbone, *kind.checked),
        "parameters": lambda: float(backbone.parameters_count),
    }
    return Workload(f"{kind.unit}s/s", ways, "cached", ratios, {}, figures, notes)


def timing(name: str, config: GenerateJetsConfig | GenerateShowersConfig, kind: Kind) -> dict[str, Any]:
    """Milliseconds a record of calls for so many records, mean and standard deviation of repetitions, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call = _calls(config.model, kind)
        times: dict[int, list[float]] = {}
        call(1, 0)  # what is done once only
        with progress(f"bench {name}", len(config.calls) * config.repetitions, "calls") as task:
            for n in config.calls:
                times[n] = []
                for repetition in range(config.repetitions):  # each of other records: one's length is not all's
                    times[n].append(1e3 * _seconds(partial(call, n, repetition * n)) / n)
                    task.advance()
    finally:
        torch.set_num_threads(threads)
    spread = {n: float(np.std(values, ddof=1)) if len(values) > 1 else None for n, values in times.items()}
    return {
        "name": name,
        "value": float(np.mean(times[config.calls[-1]])),
        "unit": f"ms/{kind.unit}",
        "calls": {str(n): {"value": float(np.mean(values)), "std": spread[n]} for n, values in times.items()},
        "repetitions": config.repetitions,
        "in_flight": IN_FLIGHT,
        "model": config.model,
        "device": str(launch.device()),
        "threads": 1,
        "machine": machine(),
        "versions": versions(),
    }


def _calls(model: str | None, kind: Kind) -> Callable[[int, int], Any]:
    """Generates so many records, from a number on."""
    if model is None:
        backbone = network(kind)
        if kind is SHOWERS:
            return lambda n, first: cached(backbone, n, IN_FLIGHT, kind.length, kind.length, first)
        real = RealLengths(backbone, real_multiplicities(np.random.default_rng(0), 500).clip(max=kind.length))
        return lambda n, first: cached(real, n, IN_FLIGHT, kind.length, first=first)
    generator = Generator(model, batch=IN_FLIGHT)
    if generator.records.kind != f"{kind.unit}s":
        raise HepfmError(f"generates {generator.records.kind}, not {kind.unit}s", generator.artifact.path)
    return lambda n, first: [len(batch) for batch in generator.batches(first, first + n, _silent())]


def _tell_timing(result: dict[str, Any], path: Path | None) -> None:
    for n, found in result["calls"].items():
        spread = "" if found["std"] is None else f"+- {found['std']:.2g}"
        sys.stdout.write(f"{n:>8} at once {found['value']:14,.4g} {result['unit']} {spread}\n")
    sys.stdout.write(
        f"note: {result['device']}, one thread, {result['repetitions']} repetitions, at most {result['in_flight']} in "
        "flight\n"
    )
    if path is not None:
        write_json(path, result)
