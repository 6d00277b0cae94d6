"""A small network on ragged records with known answers: what the engine's tests train, here or in processes."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hepfm.core.config import from_dict
from hepfm.core.engine import launch
from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine
from hepfm.core.engine.train import train
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder, read_metrics

CODES = 17
MEASURED = {"seconds", "tokens_per_s", "of_peak", "peak_memory_mb"}
SMALL = {
    "steps": 12,
    "batch_records": 16,
    "log_every": 1,
    "validation_records": 20,
    "validate_every": 6,
    "warmup_steps": 3,
    "learning_rate": 0.01,
    "weight_decay": 0.3,
    "checkpoint_every": 4,
}


class Batch(NamedTuple):
    """Tokens of the records at positions [start, stop), and whether loss or gradient is to go wrong."""

    tokens: Tensor
    start: int
    stop: int
    bad: Tensor
    bad_gradient: bool

    def to(self, device: torch.device) -> Batch:
        return self._replace(tokens=self.tokens.to(device), bad=self.bad.to(device))


class Records:
    """Record i holds 1 to 13 tokens that follow from i.

    ``bad`` names a position whose loss is infinite, ``bad_gradient`` one whose loss is finite and its gradient not.
    """

    def __init__(self, bad: Sequence[int] = (), bad_gradient: int | None = None) -> None:
        self.bad, self.bad_gradient = list(bad), bad_gradient

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return 1 + (np.arange(start, stop) * 7919) % 13

    def batch(self, start: int, stop: int) -> Batch:
        lengths = self.lengths(start, stop)
        records = np.repeat(np.arange(start, stop), lengths)
        within = np.concatenate([np.arange(length) for length in lengths])
        tokens = torch.from_numpy((records * 5 + within * 3) % CODES)
        bad = torch.from_numpy(np.isin(records, self.bad))
        return Batch(tokens, start, stop, bad, self.bad_gradient in range(start, stop))

    def tokens(self, start: int, stop: int) -> int:
        return int(self.lengths(start, stop).sum())


class Toy(nn.Module):
    """Predicts a function of each token and counts tokens. With ``noisy``: dropout, and a running mean.

    With ``record`` it adds a line "start stop" with the positions it is trained on to that file.
    """

    def __init__(self, noisy: bool, record: Path | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(CODES, 24)
        self.hidden = nn.Linear(24, 40)
        self.norm = nn.LayerNorm(40)
        self.out = nn.Linear(40, CODES)
        self.frozen = nn.Parameter(torch.rand(40), requires_grad=False)
        self.register_buffer("mean", torch.zeros(40))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.noisy, self.record = noisy, record
        self.recompute = False

    def forward(self, batch: Batch) -> Losses:
        tokens = batch.tokens
        if self.training:
            self._count(tokens)
            self._record(batch)
        embedded = self.embedding(tokens)
        again = self.recompute and torch.is_grad_enabled()
        hidden = checkpoint(self.block, embedded, use_reentrant=False) if again else self.block(embedded)
        if self.noisy:
            hidden = hidden + 0.1 * self.mean.tanh()
            if self.training:
                self._update_mean(hidden.detach().float().sum(0))
        logits = self.out(hidden).float()
        answers = (tokens * 3 + 1) % CODES
        losses = F.cross_entropy(logits, answers, reduction="none") * torch.where(batch.bad, torch.inf, 1.0)
        if batch.bad_gradient:
            losses = losses + (logits.sum() * 0).sqrt()
        return Losses(losses.sum(), {"accuracy": (logits.argmax(-1) == answers).sum()})

    def block(self, embedded: Tensor) -> Tensor:
        hidden = self.norm(torch.relu(self.hidden(embedded))) * self.frozen
        return F.dropout(hidden, 0.1, self.training and self.noisy)

    def _record(self, batch: Batch) -> None:
        if self.record:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with self.record.open("a") as file:
                file.write(f"{batch.start} {batch.stop}\n")

    @torch.no_grad()
    def _update_mean(self, total: Tensor) -> None:
        torch.distributed.all_reduce(total)
        self.mean.mul_(0.9).add_(total, alpha=1e-3)

    @torch.no_grad()
    def _count(self, tokens: Tensor) -> None:
        count = torch.tensor(len(tokens))
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
        self.seen.add_(count)


def fit(
    out: Path,
    noisy: bool = False,
    bad: Sequence[int] = (),
    bad_gradient: int | None = None,
    record: str = "",
    **settings: object,
) -> dict[str, Tensor]:
    """Train the toy in ``out`` and return its final state; positions go to OUT/RECORD/RANK.txt."""
    toy = Toy(noisy, out / record / f"{launch.rank()}.txt" if record else None)
    config = from_dict(TrainingConfig, {**SMALL, **settings})
    train(toy, Records(bad, bad_gradient), Records(), config, RunFolder(out), {"data": "toy"})
    return {name: value.clone() for name, value in toy.state_dict().items()}


def dump_gradients(path: Path) -> None:
    """Write the gradients of each update (the last one stays) to ``path``, before they are clipped and applied."""
    from deepspeed.utils import safe_get_full_grad

    from hepfm.core.engine.sharded import update

    def dump_and_update(engine: DeepSpeedEngine, *arguments: object) -> float:
        named = engine.module.objective.named_parameters()
        found = {name: safe_get_full_grad(weight) for name, weight in named if weight.requires_grad}
        if launch.is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, path)
        return update(engine, *arguments)

    vars(sys.modules["hepfm.core.engine.train"])["update"] = dump_and_update


def fail_saving(step: int, how: str) -> None:
    """Let the checkpoint of ``step`` fail: the disk is "full" (no file may grow over 3 kB), or "kill"."""
    original = torch.save

    def save(data: object, path: str, *arguments: object, **options: object) -> None:
        if f"step-{step:07d}" in str(path):
            if how == "kill":
                Path(path).write_bytes(b"half of a file")
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        original(data, path, *arguments, **options)

    vars(torch)["save"] = save


def curve(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without timing and memory."""
    lines = read_metrics(RunFolder(out).metrics)
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-6, msg=name)


def note_threads(out: Path) -> None:
    """Write the names of this process's threads, which outlive the training, to OUT/threads-RANK.txt."""
    names = sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"threads-{launch.rank()}.txt").write_text("\n".join(names))


def main() -> None:
    """``engine_toy.py OUT JSON``: fit with the arguments in JSON (and "processes"); rank 0 writes OUT/final.pt.

    With "each" in JSON, a mapping of names to further arguments, all are fitted one after the other, in OUT/NAME.
    """
    out, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    launch.relaunch(arguments.pop("processes", 1), [sys.executable, *sys.argv])
    gradients, fault = arguments.pop("gradients", False), arguments.pop("fault", None)
    if fault:
        fail_saving(*fault)
    if sys.platform == "linux":
        atexit.register(note_threads, out)  # registered first, called last
    for name, more in arguments.pop("each", {"": {}}).items():
        if gradients:
            dump_gradients(out / name / "gradients.pt")
        try:
            state = fit(out / name, **arguments, **more)
        except HepfmError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(2) from None
        if launch.is_main():
            torch.save(state, out / name / "final.pt")


if __name__ == "__main__":
    main()
