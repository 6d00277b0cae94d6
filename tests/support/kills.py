"""A training that is killed with -9 and given again ends as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hepfm.core.runs import RunFolder, read_metrics

TIMEOUT_S = 300
MEASURED = ("seconds", "tokens_per_s", "of_peak", "peak_memory_mb")  # what differs from run to run


def begin(words: Sequence[object], out: Path, **environment: str) -> subprocess.Popen[bytes]:
    """``hepfm WORDS --out OUT`` in a process group of its own."""
    command = [sys.executable, "-m", "hepfm.cli", *map(str, words), "--out", str(out)]
    return subprocess.Popen(command, start_new_session=True, env={**os.environ, **environment})


def finish(words: Sequence[object], out: Path, **environment: str) -> None:
    """Give the command and let it end."""
    assert begin(words, out, **environment).wait(timeout=TIMEOUT_S) == 0


def kill(words: Sequence[object], out: Path, lines: int, **environment: str) -> None:
    """Give the command, and kill -9 it and all it started when its log has that many lines."""
    process, metrics = begin(words, out, **environment), RunFolder(out).metrics
    deadline = time.monotonic() + TIMEOUT_S
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def assert_same_run(found: Path, expected: Path) -> None:
    """The artifacts' weights and the logs are the same to the bit, but for times and memory."""
    weights = [(run / "artifact/model.safetensors").read_bytes() for run in (found, expected)]
    assert weights[0] == weights[1]
    logs = [
        [{name: value for name, value in line.items() if name not in MEASURED} for line in read_metrics(run.metrics)]
        for run in (RunFolder(found), RunFolder(expected))
    ]
    assert logs[0] == logs[1]
