"""Transfer: the small network and the one from scratch see the same jets; finished trainings are not done again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_jets import labelled_corpus

from hepfm import cli
from hepfm.benchmarks.tagging.transfer import embedded, fit_small
from hepfm.core.engine.config import TrainingConfig
from hepfm.finetune.labelled import LabelledCorpora
from hepfm.finetune.tag import TagConfig, main
from hepfm.finetune.tagger import Tagger, load_tagger


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_corpus(tmp_path_factory.mktemp("transfer") / "corpus")


@pytest.fixture(scope="module")
def tagger(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that tells QCD and Hcc apart; it has not learned Hbb."""
    run = tmp_path_factory.mktemp("transfer") / "run"
    training = TrainingConfig(steps=30, batch_records=64, learning_rate=1e-2, warmup_steps=5, validate_every=0)
    main(TagConfig((corpus,), run, model="deep-sets", labels=("QCD", "Hcc"), training=training))
    return run


def run(monkeypatch: pytest.MonkeyPatch, tagger: Path, corpus: Path, out: Path, *options: str) -> None:
    words = ["hepfm", "evaluate", "transfer", str(tagger), str(corpus), "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()


def test_both_are_trained_and_told_and_a_second_call_trains_nothing(
    tagger: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--labels", "Hbb", "QCD", "--jets", "20", "100", "--seeds", "2", "--steps", "5", "--batch-records", "16"]
    run(monkeypatch, tagger, corpus, out, *options)
    printed = capsys.readouterr().out
    assert printed.count("| small network on the embedding |") == 2
    report = json.loads((out / "report.json").read_text())
    assert {(t["method"], t["jets"], t["seed"]) for t in report["trials"]} == {
        (method, jets, seed) for method in ("frozen", "scratch") for jets in (20, 100) for seed in (0, 1)
    }
    frozen = [t["figures"]["auc"] for t in report["trials"] if (t["method"], t["jets"]) == ("frozen", 100)]
    assert min(frozen) > 0.95
    assert report["provenance"]["tagger"]["knows"] == "QCD"
    before = {path: path.stat().st_mtime_ns for path in out.glob("trials/*.json")}
    run(monkeypatch, tagger, corpus, out, *options)
    assert {path: path.stat().st_mtime_ns for path in out.glob("trials/*.json")} == before
    with pytest.raises(SystemExit):
        run(monkeypatch, tagger, corpus, out, *options[:-2], "--batch-records", "8")
    assert "other settings" in capsys.readouterr().err


def test_the_embedding_is_of_the_jets_that_a_training_from_scratch_has(tagger: Path, corpus: Path) -> None:
    loaded, _ = load_tagger(tagger)
    assert isinstance(loaded, Tagger)
    data = LabelledCorpora.open((corpus,))
    classes = data.classes(("Hbb", "QCD"))
    values, targets = embedded(loaded, data, classes, 40, 3)
    batches = data.batches("train", classes, loaded.features, 3, 40)
    assert batches is not None
    batch = batches.batch(0, 40)
    with torch.no_grad():
        np.testing.assert_allclose(values, loaded.network.embedding(batch.inputs).numpy(), atol=1e-5)
    assert targets.tolist() == batch.targets.tolist()
    assert np.bincount(targets).tolist() == [20, 20]
    scores = fit_small((8,), values, targets, 0)(values)
    np.testing.assert_array_equal(scores, fit_small((8,), values, targets, 0)(values))
    np.testing.assert_allclose(scores.sum(1), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "Hbb", "top"], "label 'top'"),
        (["--labels", "Hbb", "QCD", "--jets", "5000"], "2,500 are asked for"),
        (["--labels", "Hbb", "QCD", "--seeds", "0"], "--seeds"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    options: list[str],
    message: str,
    tagger: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, tagger, corpus, tmp_path / "out", *options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
