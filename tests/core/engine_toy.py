"""A small network on ragged records with known answers: what the engine's tests train, here or in processes."""

from __future__ import annotations

import atexit
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.config import from_dict
from hepfm.core.engine import launch
from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.train import train
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder

CODES = 17
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


class Records:
    """Record i holds 1 to 13 tokens that follow from i. ``bad`` names a position whose loss is infinite."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return 1 + (np.arange(start, stop) * 7919) % 13

    def batch(self, start: int, stop: int) -> Tensor:
        lengths = self.lengths(start, stop)
        records = np.repeat(np.arange(start, stop), lengths)
        within = np.concatenate([np.arange(length) for length in lengths])
        tokens = torch.from_numpy((records * 5 + within * 3) % CODES)
        return torch.where(torch.from_numpy(records == self.bad), -1, tokens)

    def tokens(self, start: int, stop: int) -> int:
        return int(self.lengths(start, stop).sum())


class Toy(nn.Module):
    """Predicts a function of each token and counts tokens. With ``noisy``: dropout, and a running mean."""

    def __init__(self, noisy: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(CODES, 24)
        self.hidden = nn.Linear(24, 40)
        self.norm = nn.LayerNorm(40)
        self.out = nn.Linear(40, CODES)
        self.frozen = nn.Parameter(torch.rand(40), requires_grad=False)
        self.register_buffer("mean", torch.zeros(40))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.noisy = noisy

    def forward(self, tokens: Tensor) -> Losses:
        weights = torch.where(tokens < 0, torch.inf, 1.0)
        tokens = tokens.clamp(min=0)
        if self.training:
            self._count(tokens)
        hidden = self.norm(torch.relu(self.hidden(self.embedding(tokens)))) * self.frozen
        if self.noisy:
            hidden = F.dropout(hidden + 0.1 * self.mean.tanh(), 0.1, self.training)
            if self.training:
                self._update_mean(hidden.detach().float().sum(0))
        logits = self.out(hidden).float()
        answers = (tokens * 3 + 1) % CODES
        losses = F.cross_entropy(logits, answers, reduction="none")
        return Losses((losses * weights).sum(), {"accuracy": (logits.argmax(-1) == answers).sum()})

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


def fit(out: Path, noisy: bool = False, bad: int | None = None, **settings: object) -> dict[str, Tensor]:
    """Train the toy in ``out`` and return its final state."""
    toy = Toy(noisy)
    config = from_dict(TrainingConfig, {**SMALL, **settings})
    train(toy, Records(bad), Records(), config, RunFolder(out), {"data": "toy"})
    return {name: value.clone() for name, value in toy.state_dict().items()}


def note_threads(out: Path) -> None:
    """Write the names of this process's threads, which outlive the training, to OUT/threads-RANK.txt."""
    names = sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"threads-{launch.rank()}.txt").write_text("\n".join(names))


def main() -> None:
    """``engine_toy.py OUT JSON``: fit with the arguments in JSON (and "processes"); rank 0 writes OUT/final.pt."""
    out, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    launch.relaunch(arguments.pop("processes", 1), [sys.executable, *sys.argv])
    if sys.platform == "linux":
        atexit.register(note_threads, out)  # registered first, called last
    try:
        state = fit(out, **arguments)
    except HepfmError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    if launch.is_main():
        torch.save(state, out / "final.pt")


if __name__ == "__main__":
    main()
