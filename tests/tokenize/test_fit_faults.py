"""A fit that was killed, or that several processes share, ends as it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hepfm.core.artifacts import read_artifact
from hepfm.core.runs import read_metrics
from hepfm.ingest.corpus import Corpus

TIMING = {"seconds", "tokens_per_s", "peak_memory_mb"}
SETTINGS = {
    "codes": 64,
    "width": 16,
    "blocks": 1,
    "heads": 2,
    "steps": 60,
    "batch-records": 32,
    "checkpoint-every": 10,
    "log-every": 1,
    "validate-every": 30,
    "validation-records": 64,
}


def command(corpus: Corpus, out: Path, **more: object) -> list[str]:
    options = [f"--{name}={value}" for name, value in (SETTINGS | more).items()]
    return [sys.executable, "-m", "hepfm.cli", "tokenizer", "fit", str(corpus.path), "--out", str(out), *options]


def fit(corpus: Corpus, out: Path, **more: object) -> None:
    done = subprocess.run(command(corpus, out, **more), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def losses(run: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name not in TIMING}
        for line in read_metrics(run / "metrics.jsonl")
    ]


@pytest.mark.slow
def test_a_killed_fit_continues_to_the_same_tokenizer(corpus: Corpus, tmp_path: Path) -> None:
    fit(corpus, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(corpus, killed), stderr=subprocess.DEVNULL, env=environment())
    while not (killed / "checkpoints" / "step-0000010").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "artifact").exists()
    fit(corpus, killed)
    assert losses(killed) == losses(tmp_path / "whole")
    first, second = (read_artifact(path / "artifact").weights() for path in (tmp_path / "whole", killed))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
def test_two_processes_share_one_codebook(corpus: Corpus, tmp_path: Path) -> None:
    fit(corpus, tmp_path / "one")
    fit(corpus, tmp_path / "two", nproc=2)
    one, two = (read_artifact(tmp_path / name / "artifact").metrics() for name in ("one", "two"))
    assert two["codebook_use"] > 0.9
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=0.3)
