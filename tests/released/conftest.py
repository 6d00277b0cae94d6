"""One small model of each kind, made by the commands where that takes no time; a hub; a cache of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The networks here are too small for threads, which cost most on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of labelled jets with all that taggers read."""
    from labelled_jets import labelled_corpus

    return labelled_corpus(tmp_path_factory.mktemp("tagged") / "corpus", jets=90)


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of jets of two classes that has kinematics alone."""
    from physics_tokens import jet_corpus

    return jet_corpus(tmp_path_factory.mktemp("sim") / "corpus", 120).path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tagged: Path, sim: Path) -> dict[str, Path]:
    """Finished runs by kind; tests do not change them."""
    from physics_tokens import tokens_of

    from hepfm.core.engine.config import TrainingConfig
    from hepfm.finetune.tag import TagConfig
    from hepfm.finetune.tag import main as tag
    from hepfm.ingest.corpus import Corpus
    from hepfm.pretrain.objectives import ObjectiveConfig
    from hepfm.pretrain.run import PretrainConfig
    from hepfm.pretrain.run import main as pretrain

    folder = tmp_path_factory.mktemp("runs")
    tokens = tokens_of(Corpus.open(sim), folder)
    quick = TrainingConfig(steps=2, batch_records=16, warmup_steps=1, validate_every=0, validation_records=30)
    made = {"tokenizer": folder / "tokenizer"}
    labels = ("QCD", "Hbb", "Hcc")
    for model in ("deep-sets", "boosted-trees"):
        made[model] = folder / model
        tag(TagConfig((tagged,), made[model], model=model, labels=labels, training=quick))  # type: ignore[arg-type]
    made["regressor"] = folder / "regressor"
    tag(TagConfig((tagged,), made["regressor"], model="deep-sets", target="jet_mass", training=quick))
    for name, objective in (("generator", "next-token"), ("masked", "masked")):
        made[name] = folder / name
        told = ("label", "jet_pt") if objective == "next-token" else ()
        task = ObjectiveConfig(objective)  # type: ignore[arg-type]
        pretrain(PretrainConfig((tokens,), made[name], task=task, condition=told, training=quick))
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("HEPFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A hub on this machine, the only one that is known; nobody is logged in."""
    from hub_server import hub_server
    from huggingface_hub import constants

    from hepfm.core import downloads

    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
