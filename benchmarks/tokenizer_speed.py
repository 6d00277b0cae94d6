"""Benchmarks ``tokenizer-fit`` and ``tokenizer-apply``: packed points against jets padded to 128 slots and masked.

Network, weights, jets and threads are the same. Padding costs more operations (:func:`hepfm.benchmarks.padded.flops`);
``of_flop_bound`` is how much of that factor packing gains, ``of_slot_bound`` the same of the slots alone (128 over the
mean multiplicity), to which all but attention is proportional.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from torch.nn.utils import clip_grad_norm_

from hepfm.benchmarks.memory import peak_anonymous_mb
from hepfm.benchmarks.padded import LONGEST, PaddedObjective, PaddedVQVAE, flop_bound, padded
from hepfm.benchmarks.synthetic import random_jets, real_multiplicities
from hepfm.benchmarks.workload import Way, Workload
from hepfm.core.engine.sharded import adamw
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import POINTS_COLUMN, lengths_of
from hepfm.core.runs import RunFolder
from hepfm.ingest.build import BLOCK_RECORDS
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.jetclass import LABELS, SCHEMA
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.tokenize.apply import apply
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PackedPoints
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.objective import LossConfig, Objective
from hepfm.tokenize.settings import VQVAEConfig
from hepfm.tokenize.vqvae import VQVAETokenizer, reproducibly
from hepfm.tokenize.vqvae_fit import TokenizerFitConfig, fit_network

CODES = (VQVAEConfig.codes, 8_192)
FIT_JETS, APPLY_JETS = 512, 1_024  # of a call
# Jets that the reference encodes at a time: as many slots as there are points in a group of ours.
PADDED_JETS = 128
SHARD_JETS = 2_000
CORPUS_SHARDS = (2, 20)  # of the corpora whose memory is compared; the rates are those of the first
MEMORY_STEPS = 40
NOTES = (
    "tokens are real points; operations: 2 a weight of linear layers and point, 4 d L^2 of attention a block and jet, "
    "both threefold in training, and 2 a dimension of each code and point",
)


@dataclass(frozen=True)
class RandomJets:
    """Jets of a shard with the multiplicities of real ones."""

    def __call__(self, job: Job) -> Iterator[pa.RecordBatch]:
        draws = np.random.default_rng(job.shard)
        yield random_jets(draws, real_multiplicities(draws, job.size), job.shard % len(LABELS))


def write_jets(out: Path, shards: int) -> Corpus:
    """A corpus of so many shards."""
    jobs = tuple(Job("train", shard, None, SHARD_JETS) for shard in range(shards))
    plan = Plan({"benchmark": "tokenizer"}, jobs, "jets", SCHEMA, LABELS, "stored", BLOCK_RECORDS["jets"], {})
    return write_corpus(out, plan, RandomJets())


@dataclass(frozen=True)
class Batch:
    """Features (T, F) of jets of these lengths (n,)."""

    features: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus, contract: FeatureContract, jets: int) -> Batch:
        """The first so many jets of a corpus."""
        table = pa.Table.from_batches(list(corpus.split("train"))).slice(0, jets).combine_chunks()
        (records,) = table.to_batches()
        return cls(contract.encode(records), lengths_of(records.column(POINTS_COLUMN["jets"])))

    @property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def split(self, jets: int) -> list[Batch]:
        """Batches of so many jets, the last one of what is left."""
        offsets, starts = self.offsets, range(0, len(self.lengths), jets)
        stops = [min(start + jets, len(self.lengths)) for start in starts]
        return [
            Batch(self.features[offsets[a] : offsets[b]], self.lengths[a:b]) for a, b in zip(starts, stops, strict=True)
        ]

    def packed(self) -> PackedPoints:
        """As tokenizers take them."""
        return PackedPoints(torch.from_numpy(self.features), Layout.of(self.lengths))

    def padded(self) -> PackedPoints:
        """As the reference takes them."""
        return padded(self.features, self.lengths)


@dataclass(frozen=True)
class Fit:
    """Training steps on batches, from features and lengths to updated weights; gives the points."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    clip: float
    batches: Sequence[Batch]
    prepare: Callable[[Batch], PackedPoints]

    @classmethod
    def of(cls, objective: Objective, batches: Sequence[Batch], prepare: Callable[[Batch], PackedPoints]) -> Fit:
        """Steps with the settings of a default fit."""
        training = TokenizerFitConfig(corpus=Path(), out=Path()).training
        return cls(objective.train(), adamw(objective, training), training.clip, batches, prepare)

    def __call__(self) -> int:
        for batch in self.batches:
            total, _ = self.objective(self.prepare(batch))
            (total / len(batch.features)).backward()
            clip_grad_norm_(self.objective.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(len(batch.features) for batch in self.batches)


@dataclass(frozen=True)
class Encode:
    """Ids (T,) of jets by a tokenizer."""

    tokenizer: VQVAETokenizer
    batch: Batch

    def __call__(self) -> np.ndarray:
        return self.tokenizer.encode_features(self.batch.features, self.batch.offsets)[:, 0]


@dataclass(frozen=True)
class EncodePadded:
    """The same ids by the reference, in one thread as well."""

    network: PaddedVQVAE
    batches: Sequence[Batch]

    def __call__(self) -> np.ndarray:
        parts = []
        with reproducibly():
            for batch in self.batches:
                points = batch.padded()
                ids, _ = self.network.encode(points.features, points.layout)
                parts.append(ids[points.layout.places, 0])
        return torch.cat(parts).numpy()


@dataclass(frozen=True)
class ApplyAll:
    """What ``hepfm tokenizer apply`` does, in this process alone."""

    tokenizer: Path
    corpus: Path
    out: Path

    def __call__(self) -> None:
        apply(self.tokenizer, self.corpus, self.out)


@dataclass(frozen=True)
class FitAll:
    """What ``hepfm tokenizer fit`` does until the weights are there."""

    corpus: Path
    out: Path

    def __call__(self) -> None:
        config = TokenizerFitConfig(corpus=self.corpus, out=self.out)
        config = replace(config, training=replace(config.training, steps=MEMORY_STEPS))
        corpus = Corpus.open(self.corpus)
        fit_network(config, corpus, config.contract(corpus), RunFolder(self.out))


@contextmanager
def tokenizer_fit() -> Iterator[Workload]:
    """Steps of the default fit (forward, backward, clipping, update), packed and padded."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        corpora = _corpora(folder)
        contract, jets = _jets(corpora[0], FIT_JETS)
        batches = jets.split(TokenizerFitConfig(corpus=folder, out=folder).training.batch_records)
        ways, bounds = {}, {}
        for codes in CODES:
            network = started(codes, contract, batches)
            ours = Objective(network, contract, LossConfig())
            theirs = PaddedObjective(PaddedVQVAE.of(network), contract, LossConfig())
            ways[f"packed{_ending(codes)}"] = Way(Fit.of(ours, batches, Batch.packed))
            ways[f"padded{_ending(codes)}"] = Way(Fit.of(theirs, batches, Batch.padded))
            bounds[codes] = flop_bound(network, jets.lengths, training=True)
        memory = {
            corpus.split("train").records: partial(
                peak_anonymous_mb, FitAll(corpus.path, folder / f"fit {corpus.path.name}")
            )
            for corpus in corpora
        }
        yield _workload(ways, bounds, jets, memory)


@contextmanager
def tokenizer_apply() -> Iterator[Workload]:
    """Encoding (in one thread, as applying does), packed and padded; and applying as a whole in one process."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        corpora = _corpora(folder)
        contract, jets = _jets(corpora[0], APPLY_JETS)
        batches = jets.split(PADDED_JETS)
        ways, bounds = {}, {}
        for codes in CODES:
            network = started(codes, contract, batches).eval()
            tokenizer = VQVAETokenizer(network, contract)
            ways[f"packed{_ending(codes)}"] = Way(Encode(tokenizer, jets), len(jets.features))
            ways[f"padded{_ending(codes)}"] = Way(EncodePadded(PaddedVQVAE.of(network), batches), len(jets.features))
            bounds[codes] = flop_bound(network, jets.lengths, training=False)
            if codes == CODES[0]:
                examples = corpora[0].split("train").read(0).slice(0, 16)
                tokenizer.save(folder / "tokenizer", examples=examples, provenance={}, metrics={}, card="")
        whole = [ApplyAll(folder / "tokenizer", corpus.path, folder / f"to {corpus.path.name}") for corpus in corpora]
        again = partial(shutil.rmtree, whole[0].out, ignore_errors=True)
        ways["command"] = Way(whole[0], corpora[0].split("train").points, before=again)
        memory = {
            corpus.split("train").records: partial(_from_new, call) for corpus, call in zip(corpora, whole, strict=True)
        }
        yield _workload(ways, bounds, jets, memory)


def started(codes: int, contract: FeatureContract, batches: Sequence[Batch]) -> VQVAE:
    """A default network with so many codes after a few steps: its codebook has started by k-means."""
    torch.manual_seed(0)
    sizes = VQVAEConfig(codes=codes).resolved(contract.width, len(batches[0].features))
    network = VQVAE(sizes, contract.width)
    Fit.of(Objective(network, contract, LossConfig()), batches[:4], Batch.packed)()
    return network


def _corpora(folder: Path) -> list[Corpus]:
    return [write_jets(folder / f"{shards}", shards) for shards in CORPUS_SHARDS]


def _jets(corpus: Corpus, jets: int) -> tuple[FeatureContract, Batch]:
    contract = TokenizerFitConfig(corpus=corpus.path, out=corpus.path).contract(corpus)
    return contract, Batch.of(corpus, contract, jets)


def _from_new(call: ApplyAll) -> float:
    shutil.rmtree(call.out, ignore_errors=True)
    return peak_anonymous_mb(call)


def _workload(
    ways: dict[str, Way], flop_bounds: dict[int, float], jets: Batch, memory: Mapping[int, Callable[[], float]]
) -> Workload:
    slots = LONGEST / float(jets.lengths.mean())
    ratios, bounds = {}, {}
    figures: dict[str, Callable[[], float]] = {"padded_per_real_slots": partial(float, slots)}
    for codes, bound in flop_bounds.items():
        ending = _ending(codes)
        ratios[f"padded{ending}"] = (f"packed{ending}", f"padded{ending}")
        bounds[f"of_flop_bound{ending}"] = (f"padded{ending}", bound)
        bounds[f"of_slot_bound{ending}"] = (f"padded{ending}", slots)
        figures[f"padded_per_real_flops{ending}"] = partial(float, bound)
    figures |= {f"anonymous_memory_mb_{records}_jets": measure for records, measure in memory.items()}
    return Workload("tokens/s", ways, "packed", ratios, bounds, figures, NOTES)


def _ending(codes: int) -> str:
    """Of names: none for the default number of codes."""
    return "" if codes == VQVAEConfig.codes else f"_{codes}_codes"
