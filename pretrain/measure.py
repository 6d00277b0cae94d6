"""Measure a few steps of a real training: tokens per second, and memory by phase, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from hepfm.core.config import from_dict
from hepfm.core.draws import generator
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.pretrain.presets import PresetName

if TYPE_CHECKING:
    from hepfm.pretrain.data import TokenBatch

INTERVAL_S = 0.002
MULTIPLICITY = (43.5, 17.5)  # mean and standard deviation of the constituents of simulated jets (README)
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Trial:
    """What is measured.

    Attributes:
        model: the backbone.
        codes: codes of the tokenizer.
        max_length: constituents that are kept of a jet.
        processes: on this machine.
        training: its steps are all run; the first does not count for the speed.
    """

    model: PresetName
    codes: int = 8192
    max_length: int = 128
    processes: int = 1
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class Measured:
    """What was found, in one of the processes.

    Attributes:
        tokens_per_s: real tokens of all processes, in the steps after the first.
        libraries: memory [bytes] after a step of a negligible network, before there is a real one.
        peak: the largest memory [bytes] during building, training and saving; of a GPU, what torch allocated there.
        device: the name of the device.
    """

    tokens_per_s: float
    libraries: float
    peak: float
    device: str


def multiplicities(records: int, max_length: int) -> np.ndarray:
    """Constituents (records,) like those of simulated jets: a lognormal of their mean and spread."""
    mean, deviation = MULTIPLICITY
    width = np.sqrt(np.log1p((deviation / mean) ** 2))
    drawn = generator("multiplicities").lognormal(np.log(mean) - width**2 / 2, width, records)
    return np.clip(np.rint(drawn), 1, max_length).astype(np.int64)


def measure(trial: Trial, give_back: bool = False) -> list[Measured]:
    """Run the trial; the result of each process.

    Args:
        trial: what is run.
        give_back: the C library returns what is freed at once. That is slower, but the peak is then what is in use and
            not how an allocator happens to keep gaps, which differs between machines by a third.

    Raises:
        HepfmError: it cannot be run here.
    """
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hepfm.pretrain.measure", folder, json.dumps(asdict(trial))]
        heap = {"MALLOC_MMAP_THRESHOLD_": "65536"} if give_back else {}  # glibc's tunable, in bytes
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **heap})
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise HepfmError(f"the measurement of {trial.model} ended with exit code {done.returncode}: {last}")
        files = sorted(Path(folder).glob("rank-*.json"))
        return [Measured(**json.loads(file.read_text())) for file in files]


class Synthetic:
    """Records of uniformly drawn codes; a step takes the same number of them as of real ones."""

    def __init__(self, codes: int, max_length: int) -> None:
        self.codes, self.max_length = codes, max_length
        self.lengths = multiplicities(4096, max_length)

    def _lengths(self, start: int, stop: int) -> np.ndarray:
        return self.lengths[np.arange(start, stop) % len(self.lengths)]

    def batch(self, start: int, stop: int) -> TokenBatch:
        from hepfm.pretrain.data import pack

        offsets = np.concatenate([[0], np.cumsum(self._lengths(start, stop))])
        codes = generator("codes", start).integers(0, self.codes, offsets[-1])
        return pack(codes, offsets, self.codes, self.max_length)

    def tokens(self, start: int, stop: int) -> int:
        from hepfm.pretrain.data import terms

        return int(terms(self._lengths(start, stop), self.max_length).sum())


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The largest anonymous resident memory [bytes] of this process while entered, as the only item (Linux).

    A busy machine may pass over a peak between two looks. The kernel does not, but counts mapped files as well, of
    which the most that was seen is taken off: either bound is below the truth, so the larger one holds.
    """
    found, done = [anonymous_memory()], threading.Event()
    mapped = _status("RssFile") + _status("RssShmem")

    def watch() -> None:
        nonlocal mapped
        while not done.wait(INTERVAL_S):
            mapped = max(mapped, _status("RssFile") + _status("RssShmem"))
            found[0] = max(found[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found[0] = max(found[0], anonymous_memory(), _status("VmHWM") - mapped)


def anonymous_memory() -> float:
    """Resident memory [bytes] without mapped files; NaN outside Linux."""
    return _status("RssAnon")


def _status(name: str) -> float:
    """What the kernel says of this process [bytes]; NaN outside Linux."""
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.is_file() else None
    return 1024.0 * int(found.group(1)) if found else float("nan")


def _first_step() -> None:
    """What libraries set up when they are first used."""
    import torch

    from hepfm.core.nn.transformer import TransformerConfig
    from hepfm.pretrain.backbone import Backbone, BackboneConfig

    network = Backbone(BackboneConfig(8, TransformerConfig(width=32, blocks=1, heads=1)))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    batch = Synthetic(8, 8).batch(0, 8)
    network.loss(batch.inputs, batch.targets, batch.layout).backward()
    optimizer.step()


def main() -> None:
    """``FOLDER JSON``: run the trial in as many processes as it says; each writes its result."""
    folder, trial = Path(sys.argv[1]), from_dict(Trial, json.loads(sys.argv[2]))
    launch.relaunch(trial.processes, [sys.executable, "-m", "hepfm.pretrain.measure", *sys.argv[1:]])

    import torch

    from hepfm.core.engine.train import train
    from hepfm.core.runs import RunFolder, read_metrics
    from hepfm.pretrain.backbone import Backbone
    from hepfm.pretrain.next_token import NextToken
    from hepfm.pretrain.presets import preset

    launch.setup()
    _first_step()
    libraries = anonymous_memory()
    training = replace(trial.training, log_every=1, checkpoint_every=trial.training.steps)
    run = RunFolder(folder / "run")
    launch.on_main(lambda: run.path.mkdir())
    batches = Synthetic(trial.codes, trial.max_length)
    with peak_memory() as peak:
        objective = NextToken(Backbone(preset(trial.model, trial.codes)))
        train(objective, batches, None, training, run, {})
    lines = read_metrics(run.metrics)
    tokens = lines[-1]["tokens"] - lines[0]["tokens"]
    seconds = sum(line["seconds"] for line in lines[1:])
    here = launch.device()
    name = "CPU"
    if here.type == "cuda":
        name, libraries, peak[0] = torch.cuda.get_device_name(here), 0.0, torch.cuda.max_memory_allocated(here)
    found = Measured(tokens / seconds if seconds else float("nan"), libraries, peak[0], name)
    (folder / f"rank-{launch.rank()}.json").write_text(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
