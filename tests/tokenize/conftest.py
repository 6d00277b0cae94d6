from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hepfm.ingest.corpus import Corpus
    from hepfm.tokenize.contract import FeatureContract
    from hepfm.tokenize.settings import VQVAEConfig

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Corpus]:
    """Builds a corpus of toy jets: ``make_corpus(records, split=(...), pt_scale=..., axis=...)``."""

    def make(count: int, splits: tuple[float, float, float] = (0.8, 0.1, 0.1), **changes: Any) -> Corpus:
        from toy_jets import ToyJets

        from hepfm.ingest.build import BuildOptions, build

        folder = tmp_path_factory.mktemp("corpus")
        (folder / "jets.json").write_text(json.dumps({"entries": count}))
        options = BuildOptions(splits=splits, run_entries=50, shard_entries=400, block_records=64)
        return build(replace(ToyJets(), **changes), [folder / "jets.json"], folder / "corpus", options)

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: Callable[..., Corpus]) -> Corpus:
    """2,000 toy jets in several shards; tests do not change it."""
    return make_corpus(2000)


@pytest.fixture(scope="session")
def full_corpus(make_corpus: Callable[..., Corpus]) -> Corpus:
    """600 toy jets with charge, species and impact parameters; tests do not change it."""
    from toy_jets import FULL

    return make_corpus(600, points=FULL)


@pytest.fixture(scope="session")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 showers of a small calorimeter; tests do not change it."""
    from toy_showers import shower_corpus

    return shower_corpus(tmp_path_factory.mktemp("showers"), 60)


@pytest.fixture(scope="session")
def contract(corpus: Corpus) -> FeatureContract:
    from hepfm.tokenize.contract import FeatureContract

    return FeatureContract().fitted(corpus.manifest)


@pytest.fixture(scope="session")
def small() -> VQVAEConfig:
    """A network that fits in seconds."""
    from hepfm.tokenize.settings import VQVAEConfig

    return VQVAEConfig(codes=64, width=16, blocks=1, heads=2)


@pytest.fixture(scope="session")
def fit_config(small: VQVAEConfig) -> Callable[..., Any]:
    """Settings of a fit that takes seconds: ``fit_config(corpus, out, steps=..., codes=...)``."""
    from hepfm.core.engine.config import TrainingConfig
    from hepfm.tokenize.fit import TokenizerFitConfig

    def config(corpus: Corpus, out: Path, codes: int = 64, **training: Any) -> TokenizerFitConfig:
        wanted = {"steps": 20, "batch_records": 32, "warmup_steps": 2, "validation_records": 64, "log_every": 1}
        return TokenizerFitConfig(
            corpus=corpus.path,
            out=out,
            network=replace(small, codes=codes),
            training=TrainingConfig(**(wanted | {"learning_rate": 2e-3} | training)),
        )

    return config


@pytest.fixture(scope="session")
def run(corpus: Corpus, fit_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small tokenizer; tests do not change it."""
    from hepfm.tokenize.fit import main

    out = tmp_path_factory.mktemp("fit") / "run"
    main(fit_config(corpus, out))
    return out
