"""``hepfm bench NAME``: a speed, as ratios to named references measured in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.benchmarks.corpus_build import corpus_build
from hepfm.benchmarks.corpus_read import corpus_read
from hepfm.benchmarks.corpus_scale import corpus_scale
from hepfm.benchmarks.simulate_jets import simulate_jets
from hepfm.benchmarks.simulate_showers import simulate_showers
from hepfm.benchmarks.tag_speed import tag_infer, tag_train
from hepfm.benchmarks.tokenizer_speed import tokenizer_apply, tokenizer_fit
from hepfm.benchmarks.workload import Workload, measure, write_result
from hepfm.core.errors import HepfmError

BENCHMARKS: dict[str, Callable[[], AbstractContextManager[Workload]]] = {
    "corpus-build": corpus_build,
    "corpus-read": corpus_read,
    "corpus-scale": corpus_scale,
    "simulate-jets": simulate_jets,
    "simulate-showers": simulate_showers,
    "tag-infer": tag_infer,
    "tag-train": tag_train,
    "tokenizer-apply": tokenizer_apply,
    "tokenizer-fit": tokenizer_fit,
}


@dataclass(frozen=True)
class BenchConfig:
    """Measure a speed: corpus-build, corpus-read, corpus-scale, simulate-jets, simulate-showers, tag-infer, tag-train,
    tokenizer-apply, tokenizer-fit."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """What to measure."""
    json: Path | None = None
    """File for the result; its details go beside it, into FILE.details.json."""


def main(config: BenchConfig) -> None:
    """Measure and print rates and ratios."""
    if config.name not in BENCHMARKS:
        there = f"{', '.join(BENCHMARKS)}; hepfm --help lists those with options of their own"
        raise HepfmError(f"no benchmark '{config.name}'", "", f"there is: {there}")
    with BENCHMARKS[config.name]() as workload:
        report(measure(config.name, workload), config.json)


def report(result: dict[str, Any], path: Path | None) -> None:
    """Print a result; write it and its details to files, if one is named."""
    for name, rate in result["rates"].items():
        shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        sys.stdout.write(f"{name:32} {shown:>14} {result['unit']}  +- {result['rate_spread'][name]:.0%}\n")
    for name, ratio in result["ratios"].items():
        sys.stdout.write(f"ratios.{name:25} {ratio:14,.3g}\n")
    for name, figure in result["figures"].items():
        sys.stdout.write(f"{name:32} {figure:14,.3g}\n")
    for note in result["notes"]:
        sys.stdout.write(f"note: {note}\n")
    if path is not None:
        write_result(result, path)
