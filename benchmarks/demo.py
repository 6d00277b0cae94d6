"""``hepfm demo``: the whole thread on simulated jets, from Pythia to a report, each stage by its own command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from hepfm.benchmarks.baseline import independent_tokens
from hepfm.benchmarks.evaluate import print_table
from hepfm.benchmarks.reports.jets import Request, evaluate_jets
from hepfm.benchmarks.samples import read_sample
from hepfm.core.artifacts import Artifact, locate, read_artifact
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents
from hepfm.core.progress import say
from hepfm.finetune import generate
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.ten_classes import JetClassJets
from hepfm.ingest.sources.registry import source
from hepfm.ingest.workers import Workers
from hepfm.pretrain import run as pretrain
from hepfm.tokenize import apply, fit
from hepfm.tokenize.registry import load_tokenizer

ResultT = TypeVar("ResultT")

LABELS = ("QCD", "Tbqq")
JETS_PER_FILE = 4_000
SPLITS = (0.75, 0.05, 0.2)  # the test split holds the held-out jets, and more of them for the floor
# The demo's fixed yardstick: this many times nearer to held-out jets than independently drawn tokens.
REQUESTS = (Request("jet_mass", 5.0), Request("multiplicity", 5.0))
BASELINE = "independent tokens"


@dataclass(frozen=True)
class DemoConfig:
    """Simulate jets, build a corpus, fit a tokenizer, pretrain a backbone, generate jets, and compare them with real
    ones. Run again, it reuses what is there."""

    out: Path = Path("demo")
    """Folder for everything."""
    jets_per_label: int = 20_000
    """Simulated jets of each class, QCD and Tbqq (t -> bqq')."""
    generated: int = 5_000
    """Jets to generate, and held-out jets to compare them with."""
    tokenizer_steps: int = 400
    """Updates of the tokenizer."""
    pretrain_steps: int = 1_500
    """Updates of the backbone."""
    processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes for simulating, ingesting and tokenizing."""
    seed: int = 1
    """Seed of everything."""


def main(config: DemoConfig) -> None:
    """Run the stages in order and print the path of the report last."""
    started = time.monotonic()
    corpus = _stage("1/7 simulate and ingest", lambda: _corpus(config))
    _stage("2/7 fit the tokenizer", lambda: fit.main(_tokenizer(config)))
    tokens = _stage("3/7 tokenise the corpus", lambda: _tokens(config))
    _stage("4/7 pretrain the backbone", lambda: pretrain.main(_backbone(config)))
    artifact = read_artifact(locate(config.out / "run"))
    generated = _stage("5/7 generate jets", lambda: _generated(config, artifact))
    baseline = _stage("6/7 draw independent tokens", lambda: _independent(config, artifact, tokens))
    page = _stage("7/7 compare", lambda: _report(config, corpus, artifact, generated, baseline))
    say(f"demo: done in {(time.monotonic() - started) / 60:.1f} minutes")
    print_table(page.parent)
    sys.stdout.write(f"{page}\n")


def _stage(name: str, work: Callable[[], ResultT]) -> ResultT:
    say(f"== {name}")
    started = time.monotonic()
    result = work()
    say(f"== {name}: {time.monotonic() - started:.0f} s")
    return result


def _corpus(config: DemoConfig) -> Corpus:
    """Simulated JetClass files, read back by the ordinary JetClass reader."""
    raw = config.out / "raw"
    simulation = JetClassJets(config.seed, LABELS)
    files = write_raw(simulation, "jetclass", raw, config.jets_per_label, JETS_PER_FILE, Workers(config.processes))
    options = BuildOptions(seed=config.seed, splits=SPLITS)
    return build(source("jetclass"), files, config.out / "corpus", options, processes=config.processes)


def _tokenizer(config: DemoConfig) -> fit.TokenizerFitConfig:
    """Constituent by constituent: such tokens are learned sooner than those that depend on the whole jet."""
    default = fit.TokenizerFitConfig(config.out / "corpus", config.out / "tok")
    network = replace(default.network, network="mlp", width=96)
    training = replace(default.training, steps=config.tokenizer_steps, seed=config.seed)
    return replace(default, network=network, training=training)


def _tokens(config: DemoConfig) -> Corpus:
    return apply.apply(config.out / "tok", config.out / "corpus", config.out / "tokens", config.processes)


def _backbone(config: DemoConfig) -> pretrain.PretrainConfig:
    training = TrainingConfig(
        steps=config.pretrain_steps,
        batch_records=64,
        learning_rate=2e-3,
        warmup_steps=100,
        min_learning_rate_fraction=0.02,
        checkpoint_every=200,
        validate_every=200,
        seed=config.seed,
    )
    return pretrain.PretrainConfig((config.out / "tokens",), config.out / "run", model="tiny", training=training)


def _generated(config: DemoConfig, artifact: Artifact) -> Path:
    path = config.out / f"generated-{artifact.hash[:12]}-{config.generated}.root"
    if not path.exists():
        generate.main(generate.GenerateConfig(str(config.out / "run"), path, n=config.generated, seed=config.seed))
    return path


def _independent(config: DemoConfig, artifact: Artifact, tokens: Corpus) -> Constituents:
    """Jets from independently drawn tokens of the frequencies in training."""
    train = tokens.split("train")
    flat = np.concatenate([batch.column("tokens").flatten().to_numpy() for batch in train])
    contract = artifact.contract
    drawn, offsets = independent_tokens(
        flat, train.records, contract["codes"], config.generated, int(contract["max_length"]), config.seed
    )
    decoded = load_tokenizer(artifact.inner("tokenizer")).decode(drawn, offsets)
    order = np.lexsort((-decoded["pt"], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))))
    pt, deta, dphi = (decoded[name][order] for name in ("pt", "deta", "dphi"))
    return Constituents(pt, deta, dphi, offsets)


def _report(config: DemoConfig, corpus: Corpus, artifact: Artifact, generated: Path, baseline: Constituents) -> Path:
    """Generated jets and the baseline against held-out jets; the rest of the held-out jets give the floor."""
    held_out = read_sample(corpus.path, split="test")
    sample = read_sample(generated)
    if len(held_out.jets) < config.generated:
        raise HepfmError(
            f"{len(held_out.jets):,} held-out jets, {config.generated:,} are needed",
            corpus.path,
            "simulate more (--jets-per-label) or compare fewer (--generated)",
        )
    return evaluate_jets(
        held_out.jets.range(0, config.generated),
        {"generated": sample.jets, BASELINE: baseline},
        config.out / "report",
        provenance={
            "held-out jets": held_out.origin,
            "generated jets": sample.origin,
            "backbone": {"hash": artifact.hash, "corpora": artifact.provenance["corpora"]},
            BASELINE: "each token drawn from its frequency in training, stop included, then decoded like the others",
        },
        floor_reference=held_out.jets.range(config.generated, len(held_out.jets)),
        baseline=BASELINE,
        requests=REQUESTS,
        title="Generated jets against held-out jets",
        seed=config.seed,
    )
