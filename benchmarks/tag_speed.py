"""Benchmarks ``tag-train`` and ``tag-infer``: Particle Transformer on packed jets against weaver-core's own.

Weights, jets, threads and dropout are the same. weaver-core's network reads jets padded to 128, as its loader gives
them; by default it trims a batch to about its longest jet (``trim``). Its first batches are not trimmed while training:
they are run before anything is timed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hepfm.benchmarks.synthetic import random_jets, real_multiplicities
from hepfm.benchmarks.workload import Way, Workload
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.sharded import adamw
from hepfm.core.torch_files import read_checkpoint
from hepfm.finetune.inputs import FEATURE_SETS, JetInputs
from hepfm.finetune.labelled import LabelledCorpora
from hepfm.finetune.particle_transformer import ParticleTransformer
from hepfm.finetune.weaver_weights import read_network
from hepfm.ingest.build import BLOCK_RECORDS
from hepfm.ingest.formats.jetclass import LABELS, SCHEMA
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan

BATCH_JETS = 128
CALL_BATCHES = 1
LONGEST = 128
SHARD_JETS = 2_000
NOTES = (
    "jets have the multiplicities of 500 real JetClass jets; a training step is forward, backward, clipping and AdamW "
    "with weaver-core's dropout; inputs of either are made beforehand, `loader_jets_per_s` is what making ours reaches",
)


@dataclass(frozen=True)
class Jets:
    """A batch as either network reads it."""

    packed: JetInputs
    padded: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    targets: torch.Tensor

    @classmethod
    def of(cls, packed: JetInputs, targets: torch.Tensor) -> Jets:
        lengths = packed.layout.offsets.diff().numpy()
        rows, slots = np.repeat(np.arange(len(lengths)), lengths), packed.layout.positions.numpy()
        padded = []
        for values in (packed.features, packed.vectors, torch.ones(len(rows), 1)):
            filled = torch.zeros(len(lengths), LONGEST, values.shape[1])
            filled[rows, slots] = values
            padded.append(filled.transpose(1, 2).contiguous())
        return cls(packed, (padded[0], padded[1], padded[2]), targets)


def weaver_network(trim: bool) -> nn.Module:
    """weaver-core's Particle Transformer as JetClass was trained with it, but for trim."""
    from weaver.nn.model.ParticleTransformer import ParticleTransformer as Theirs

    logging.getLogger("weaver").setLevel(logging.ERROR)
    torch.manual_seed(0)
    return Theirs(
        input_dim=17,
        num_classes=len(LABELS),
        pair_input_dim=4,
        use_pre_activation_pair=False,
        embed_dims=[128, 512, 128],
        pair_embed_dims=[64, 64, 64],
        num_heads=8,
        num_layers=8,
        num_cls_layers=2,
        cls_block_params={"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
        fc_params=[],
        trim=trim,
    )


def same_network(theirs: nn.Module, folder: Path) -> ParticleTransformer:
    """Ours with their weights, through the file that they would be published in."""
    file = folder / "weights.pt"
    torch.save(theirs.state_dict(), file)
    return read_network(read_checkpoint(file)).network


@dataclass(frozen=True)
class Train:
    """Training steps on batches; gives the jets."""

    objective: Callable[[Jets], torch.Tensor]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    clip: float
    batches: Sequence[Jets]

    @classmethod
    def of(cls, network: nn.Module, objective: Callable[[Jets], torch.Tensor], batches: Sequence[Jets]) -> Train:
        training = TrainingConfig()
        return cls(objective, network.train(), adamw(network, training), training.clip, batches)

    def __call__(self) -> int:
        for batch in self.batches:
            self.objective(batch).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(len(batch.targets) for batch in self.batches)


@dataclass(frozen=True)
class Infer:
    """Scores of batches; gives the jets."""

    scores: Callable[[Jets], torch.Tensor]
    batches: Sequence[Jets]

    @torch.no_grad()
    def __call__(self) -> int:
        for batch in self.batches:
            self.scores(batch)
        return sum(len(batch.targets) for batch in self.batches)


def _ours(network: nn.Module) -> Callable[[Jets], torch.Tensor]:
    return lambda jets: F.cross_entropy(network(jets.packed), jets.targets)


def _theirs(network: nn.Module) -> Callable[[Jets], torch.Tensor]:
    return lambda jets: F.cross_entropy(_padded(network, jets), jets.targets)


def _padded(network: nn.Module, jets: Jets) -> torch.Tensor:
    features, vectors, mask = jets.padded
    return network(features, v=vectors, mask=mask)


@contextmanager
def tag_train() -> Iterator[Workload]:
    """Training steps, packed, padded and trimmed, padded."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        batches, seconds = _batches(folder)
        networks = {trim: weaver_network(trim) for trim in (True, False)}
        ours = same_network(networks[True], folder)
        ways = {
            "packed": Way(Train.of(ours, _ours(ours), batches)),
            "weaver": Way(Train.of(networks[True], _theirs(networks[True]), batches)),
            "weaver without trim": Way(Train.of(networks[False], _theirs(networks[False]), batches)),
        }
        _past_warmup(networks[True], batches[0])
        yield _workload(ways, {"loader_jets_per_s": lambda: len(batches[0].targets) / seconds})


@contextmanager
def tag_infer() -> Iterator[Workload]:
    """Scores of jets, packed, padded and trimmed, padded."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        batches, seconds = _batches(folder)
        networks = {trim: weaver_network(trim) for trim in (True, False)}
        ours = same_network(networks[True], folder).eval()
        _past_warmup(networks[True], batches[0])
        for network in networks.values():
            network.eval()
        ways = {
            "packed": Way(Infer(lambda jets: ours(jets.packed), batches)),
            "weaver": Way(Infer(lambda jets: _padded(networks[True], jets), batches)),
            "weaver without trim": Way(Infer(lambda jets: _padded(networks[False], jets), batches)),
        }
        yield _workload(
            ways,
            {
                "loader_jets_per_s": lambda: len(batches[0].targets) / seconds,
                "largest_difference_of_logits": lambda: _difference(ours, networks[True], batches[0]),
            },
        )


@torch.no_grad()
def _difference(ours: nn.Module, theirs: nn.Module, jets: Jets) -> float:
    theirs.load_state_dict(weaver_network(True).state_dict())
    return float((ours(jets.packed) - _padded(theirs.eval(), jets)).abs().max())


@torch.no_grad()
def _past_warmup(network: nn.Module, jets: Jets) -> None:
    """weaver-core's trimming begins after five batches."""
    few = Jets(jets.packed, tuple(part[:2] for part in jets.padded), jets.targets[:2])  # type: ignore[arg-type]
    for _ in range(6):
        _padded(network.eval(), few)


def _workload(ways: dict[str, Way], figures: dict[str, Callable[[], float]]) -> Workload:
    ratios = {"weaver": ("packed", "weaver"), "weaver_without_trim": ("packed", "weaver without trim")}
    return Workload("jets/s", ways, "packed", ratios, {}, figures, NOTES)


def _batches(folder: Path) -> tuple[list[Jets], float]:
    """Batches read from a corpus as training reads them, and the seconds that one takes."""
    jobs = (Job("train", 0, None, SHARD_JETS),)
    plan = Plan({"benchmark": "tagging"}, jobs, "jets", SCHEMA, LABELS, "stored", BLOCK_RECORDS["jets"], {})
    write_corpus(folder / "corpus", plan, _random_jets)
    data = LabelledCorpora.open([folder / "corpus"])
    classes = data.classes([LABELS[0], LABELS[1]])
    batches = data.batches("train", classes, FEATURE_SETS["full"], 0)
    assert batches is not None
    batches.batch(0, BATCH_JETS)
    started = time.perf_counter()
    made = [batches.batch(n * BATCH_JETS, (n + 1) * BATCH_JETS) for n in range(1, 1 + CALL_BATCHES)]
    seconds = (time.perf_counter() - started) / CALL_BATCHES
    return [Jets.of(batch.inputs, batch.targets) for batch in made], seconds


def _random_jets(job: Job) -> Iterator[Any]:
    draws = np.random.default_rng(job.shard)
    half = job.size // 2
    for label in (0, 1):
        yield random_jets(draws, real_multiplicities(draws, half), label)
