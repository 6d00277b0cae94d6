"""``hepfm bench pretrain-step``: training steps of backbones, packed and padded to 128 slots, and the machine's rate.

Network, weights, jets, engine and threads are the same. Rates are real tokens a second, of whole steps: reading a batch
from a corpus, forward, backward, clipping, update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from hepfm.benchmarks.bench import report
from hepfm.benchmarks.padded import LONGEST
from hepfm.benchmarks.padded_backbone import PaddedNextToken, PaddedTokens, flop_bound, mean_length
from hepfm.benchmarks.synthetic import TOKEN_SCHEMA, TOKENS, real_multiplicities
from hepfm.benchmarks.workload import REPEATS, Way, Workload, measure
from hepfm.core.engine import launch
from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine
from hepfm.core.engine.sharded import build, release, update
from hepfm.core.errors import HepfmError
from hepfm.core.records import ORIGIN
from hepfm.ingest.build import BLOCK_RECORDS
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.reader import Reader
from hepfm.pretrain.backbone import Backbone
from hepfm.pretrain.data import COLUMN, TokenBatch, TokenBatches
from hepfm.pretrain.next_token import NextToken
from hepfm.pretrain.presets import PresetName, preset

CODES = 8_192
CORPUS_JETS = 50_000
# Jets of a step on a CPU: the larger the network, the fewer, so that a step takes seconds. On a GPU all have the most.
STEP_JETS = {"tiny": 256, "omnijet-alpha": 256, "small": 96, "base": 48, "large": 16, "xl": 8}
GPU_JETS = 512
PRODUCT_SIZES = {"cpu": (1_024, 2_048), "cuda": (4_096, 8_192)}
PRODUCTS, READS = 8, 20  # of a call
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RATE = 1e-4
NOTES = (
    "tokens are real ones, stop included; operations of one: 6 a weight in matrix products, 12 blocks width length for "
    "attention (Backbone.flops_per_token)",
    "matmul: tokens a second if all operations ran at the rate of large square matrix products of the same type",
)


@dataclass(frozen=True)
class PretrainStepConfig:
    """Measure whole training steps of backbones on packed tokens: against the same network on jets padded to 128 slots
    (ratios.padded; ratios.of_flop_bound is its share of what padding costs in operations), against the machine's rate
    of matrix products (ratios.matmul_peak), and what reading costs (ratios.input)."""

    model: tuple[PresetName, ...] = ("omnijet-alpha", "small")
    """Backbones, with 8,192 codes."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Types of matrix products."""
    repeats: int = REPEATS
    """Measurements of each rate, of which the median counts."""
    json: Path | None = None
    """File for the result."""


def main(config: PretrainStepConfig) -> None:
    """Measure and print rates and ratios."""
    for name in ("model", "precision"):
        if not getattr(config, name):
            raise HepfmError("names nothing to measure", f"--{name}")
    if config.repeats < 1:
        raise HepfmError(f"must be at least 1, is {config.repeats}", "--repeats")
    with pretrain_step(config) as workload:
        report(measure("pretrain-step", workload, config.repeats), config.json)


@dataclass(frozen=True)
class RandomTokens:
    """Token jets of a shard with the multiplicities of real ones."""

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard)
        offsets = np.concatenate([[0], np.cumsum(real_multiplicities(draws, job.size))]).astype(np.int32)
        tokens = pa.array(draws.integers(0, CODES, offsets[-1]).astype(np.uint16))
        column = pa.ListArray.from_arrays(pa.array(offsets), tokens, type=TOKENS)
        origin = [pa.array(np.arange(job.size), quantity.type) for quantity in ORIGIN]
        yield pa.RecordBatch.from_arrays([column, *origin], schema=TOKEN_SCHEMA)


def write_tokens(out: Path, jets: int) -> Corpus:
    """A token corpus of so many jets."""
    job = Job("train", 0, None, jets)
    plan = Plan(
        {"benchmark": "pretrain-step"},
        (job,),
        "tokens",
        TOKEN_SCHEMA,
        (),
        "",
        BLOCK_RECORDS["tokens"],
        {},
        tokens={"codes": CODES},
    )
    return write_corpus(out, plan, RandomTokens())


class Either(nn.Module):
    """One backbone's objective, packed or padded as the batch is."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.packed, self.padded = NextToken(backbone), PaddedNextToken(backbone)

    def forward(self, batch: TokenBatch | PaddedTokens) -> Losses:
        found: Losses = (self.padded if isinstance(batch, PaddedTokens) else self.packed)(batch)
        return found


@dataclass
class Trainer:
    """A backbone in the engine of ``hepfm pretrain``, and the batches that it reads."""

    engine: DeepSpeedEngine
    training: TrainingConfig
    batches: TokenBatches
    jets: int
    done: int = 0

    def read(self) -> TokenBatch:
        """The next batch."""
        start, self.done = self.done * self.jets, self.done + 1
        return self.batches.batch(start, start + self.jets)

    def step(self, prepare: Callable[[TokenBatch], Any] = lambda batch: batch) -> int:
        """Read a batch and update the weights; gives its real tokens."""
        batch = self.read()
        total, _ = self.engine(prepare(batch).to(launch.device()))
        self.engine.backward(total / len(batch.inputs))
        update(self.engine, RATE, self.done, self.training)
        _wait()
        return len(batch.inputs)

    def read_many(self) -> int:
        """Read batches only; gives their real tokens."""
        return sum(len(self.read().inputs) for _ in range(READS))


class Product:
    """Products of large square matrices in a type."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.factor = torch.randn(size, size, generator=generator).to(launch.device(), dtype)
        self.result = torch.empty_like(self.factor)
        self.flops = 2.0 * size**3 * PRODUCTS

    @classmethod
    def fastest(cls, dtype: torch.dtype) -> Product:
        """Of the size that the machine is fastest at."""
        return max((cls(size, dtype) for size in PRODUCT_SIZES[launch.device().type]), key=_rate)

    def __call__(self) -> None:
        for _ in range(PRODUCTS):
            torch.mm(self.factor, self.factor, out=self.result)
        _wait()


def _rate(product: Product) -> float:
    product()
    started = time.perf_counter()
    product()
    return product.flops / (time.perf_counter() - started)


def _wait() -> None:
    if launch.device().type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def pretrain_step(config: PretrainStepConfig) -> Iterator[Workload]:
    """Steps of each backbone in each type, packed and padded; products of matrices; reading."""
    launch.setup()
    with TemporaryDirectory() as name, ExitStack() as stack:
        reader = Reader([write_tokens(Path(name) / "tokens", CORPUS_JETS).split("train")], seed=0, columns=[COLUMN])
        batches = TokenBatches(reader, CODES, LONGEST - 1)
        ways: dict[str, Way] = {}
        ratios: dict[str, tuple[str, str]] = {}
        bounds: dict[str, tuple[str, float]] = {}
        figures: dict[str, Callable[[], float]] = {}
        for precision, model in product(config.precision, config.model):
            ending = f"_{model}_{precision}" if ways else ""
            trainer = _trainer(model, precision, batches)
            stack.callback(release, trainer.engine)
            backbone: Backbone = trainer.engine.module.objective.packed.backbone
            lengths = batches.batch(0, CORPUS_JETS).layout.offsets.diff()
            bound, flops = flop_bound(backbone, lengths), backbone.flops_per_token(mean_length(lengths))
            products = Product.fastest(DTYPES[precision])
            ways |= {
                f"packed{ending}": Way(trainer.step),
                f"padded{ending}": Way(partial(trainer.step, PaddedTokens.of)),
                f"matmul{ending}": Way(products, products.flops / flops),
                f"read{ending}": Way(trainer.read_many),
            }
            ratios |= {
                f"{ratio}{ending}": (f"packed{ending}", f"{other}{ending}")
                for ratio, other in {"padded": "padded", "matmul_peak": "matmul", "input": "read"}.items()
            }
            bounds[f"of_flop_bound{ending}"] = (f"padded{ending}", bound)
            figures |= {
                f"padded_per_real_flops{ending}": partial(float, bound),
                f"mflop_per_token{ending}": partial(float, flops / 1e6),
                f"parameters{ending}": partial(float, backbone.parameters_count),
                f"jets_per_step{ending}": partial(float, trainer.jets),
            }
        yield Workload("tokens/s", ways, "packed", ratios, bounds, figures, NOTES)


def _trainer(model: PresetName, precision: Literal["fp32", "bf16"], batches: TokenBatches) -> Trainer:
    torch.manual_seed(0)
    objective, training = Either(Backbone(preset(model, CODES))), TrainingConfig(precision=precision)
    on_cpu = launch.device().type == "cpu"
    engine = build(objective.to(launch.device()), training)
    engine.train()
    return Trainer(engine, training, batches, STEP_JETS[model] if on_cpu else GPU_JETS)
