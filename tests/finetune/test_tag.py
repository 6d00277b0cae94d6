"""Taggers are trained, resumed, written, loaded and judged by the commands; bad input is one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import assert_same_run, finish, kill
from labelled_jets import labelled_corpus
from physics_tokens import shower_corpus

from hepfm import cli, models
from hepfm.core.artifacts import read_artifact
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.protocols import ProtocolConfig
from hepfm.finetune.tag import TagConfig, main
from hepfm.finetune.tagger import Tagger, load_tagger, save_tagger
from hepfm.finetune.tagging_metrics import measure
from hepfm.ingest.corpus import Corpus

CLASSES = ("QCD", "Hbb", "Hcc")
QUICK = TrainingConfig(
    steps=60, batch_records=64, learning_rate=1e-2, warmup_steps=5, log_every=20, validation_records=60
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_corpus(tmp_path_factory.mktemp("tag") / "corpus")


@pytest.mark.parametrize("model", ["deep-sets", "boosted-trees"])
def test_a_baseline_learns_and_judges(model: str, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(TagConfig((corpus,), run, model=model, labels=CLASSES, training=QUICK))  # type: ignore[arg-type]
    tagger, artifact = load_tagger(run)
    assert tagger.classes == CLASSES
    found = measure(tagger.judge(Corpus.open(corpus).split("test")), replicas=5)
    assert found.jets == 300
    assert found.accuracy.value > 0.9
    assert found.auc.value > 0.98
    assert artifact.provenance["corpora"][0]["records"] == 600
    assert "hepfm evaluate tagging" in (artifact.path / "README.md").read_text()
    assert models.load(run)[0].classes == CLASSES
    before = (run / "artifact" / "config.json").read_bytes()
    main(TagConfig((corpus,), run, model=model, labels=CLASSES, training=QUICK))  # type: ignore[arg-type]
    assert (run / "artifact" / "config.json").read_bytes() == before


def test_a_pretrained_tagger_goes_on_with_a_new_head_frozen_or_whole(corpus: Path, tmp_path: Path) -> None:
    parent = small_tagger()
    artifact = save_tagger(tmp_path / "parent", parent, provenance={}, metrics={}, card="")
    before = artifact.weights()
    training = dataclasses.replace(QUICK, steps=3)
    for protocol in ("frozen", "full"):
        run = tmp_path / protocol
        options = {
            "labels": ("Hbb", "QCD"),
            "tagger": str(artifact.path),
            "protocol": ProtocolConfig(protocol),
            "training": training,
        }
        main(TagConfig((corpus,), run, **options))  # type: ignore[arg-type]
        tagger, found = load_tagger(run)
        assert tagger.classes == ("Hbb", "QCD")
        assert found.provenance["parent"] == artifact.hash
        after = found.weights()
        changed = {name for name, value in after.items() if not np.array_equal(value.numpy(), before[name].numpy())}
        if protocol == "frozen":
            assert changed == {"head.weight", "head.bias"}
        else:
            assert {"embed.0.1.weight", "pair_bias.input_norm.running_mean", "token"} < changed


def small_tagger() -> Tagger:
    torch.manual_seed(0)
    config = ParticleTransformerConfig(classes=3, embed=(16, 16), pair_embed=(8,), heads=2, blocks=1)
    labels = {name: name for name in CLASSES}
    return Tagger(ParticleTransformer(config).eval(), "particle-transformer", CLASSES, labels, FEATURE_SETS["full"])


def test_scores_and_embeddings_do_not_depend_on_the_other_jets(corpus: Path) -> None:
    tagger = small_tagger()
    records = Corpus.open(corpus).split("test").read(0)
    scores, embedding = tagger.scores(records), tagger.embedding(records)
    assert scores.shape == (len(records), 3)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    assert embedding.shape == (len(records), 16)
    for jet in (0, 7, len(records) - 1):
        np.testing.assert_allclose(tagger.scores(records.slice(jet, 1))[0], scores[jet], atol=1e-6)
        np.testing.assert_allclose(tagger.embedding(records.slice(jet, 1))[0], embedding[jet], atol=1e-5)
    ratio = tagger("Hbb", against="QCD")(scores)
    np.testing.assert_allclose(ratio, scores[:, 1] / (scores[:, 0] + scores[:, 1]), rtol=1e-6)
    with pytest.raises(HepfmError, match="does not know 'Tbl'"):
        tagger("Tbl", against="QCD")


def test_an_artifact_gives_the_tagger_back(tmp_path: Path, corpus: Path) -> None:
    tagger = small_tagger()
    save_tagger(tmp_path / "tagger", tagger, provenance={}, metrics={}, card="")
    loaded, artifact = load_tagger(tmp_path / "tagger")
    records = Corpus.open(corpus).split("test").read(0)
    assert np.array_equal(loaded.scores(records), tagger.scores(records))
    features = artifact.contract["features"]
    assert [feature["name"] for feature in features][:2] == ["part_pt_log", "part_e_log"]
    assert features[0] == {"name": "part_pt_log", "subtract": 1.7, "multiply": 0.7, "clip": [-5.0, 5.0]}
    assert artifact.contract["classes"] == list(CLASSES)


def test_a_corpus_with_a_label_that_the_head_does_not_know_is_refused(corpus: Path) -> None:
    tagger = dataclasses.replace(small_tagger(), labels={"QCD": "QCD", "Hbb": "Hbb"})
    with pytest.raises(HepfmError, match="'Hcc', which this head does not know"):
        tagger.judge(Corpus.open(corpus).split("test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no training record of class 'Hgg'"),
        (["--labels", "QCD", "X_bb"], "label 'X_bb'"),
        (["--labels", "QCD", "Hbb", "--ladder", "162"], "label 'QCD', which the set of classes does not know"),
        (["--labels", "QCD", "Hbb", "--jets", "1000"], "records of class 'QCD', 500 are asked for"),
        (["--labels", "QCD", "Hbb", "--jets", "1"], "leave 'Hbb' without a training record"),
        (["--labels", "QCD", "Hbb", "--model", "boosted-trees", "--features", "kin"], "--features"),
        (["--labels", "QCD", "Hbb", "--steps", "0"], "--steps"),
        (["--labels", "QCD", "Hbb", "--protocol", "frozen"], "cannot be frozen"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    options: list[str],
    message: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["hepfm", "finetune", "tag", str(corpus), "--out", str(out), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not out.exists()


def test_showers_are_for_heads_on_backbones(tmp_path: Path) -> None:
    showers = shower_corpus(tmp_path / "showers").path
    with pytest.raises(HepfmError, match=r"holds showers, deep-sets reads jets \(showers need a --backbone"):
        main(TagConfig((showers,), tmp_path / "run", model="deep-sets", target="incident_energy", training=QUICK))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_particle_transformer_continues_to_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    words = ["finetune", "tag", corpus, "--labels", *CLASSES, "--steps=6", "--batch-records=16"]
    words += ["--checkpoint-every=2", "--validation-records=8", "--log-every=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(words, whole)
    kill(words, killed, 3)
    finish(words, killed)
    assert_same_run(killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_processes_train_to_the_same_weights_as_one(corpus: Path, tmp_path: Path, zero_stage: int) -> None:
    """Batch norms see the jets of both; without dropout, whose masks are of a process, only rounding differs."""
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = [sys.executable, "-m", "hepfm.cli", "finetune", "tag", str(corpus), "--model", "deep-sets"]
        command += [
            "--labels",
            *CLASSES,
            "--nproc",
            str(processes),
            "--steps=4",
            "--batch-records=32",
        ]
        command += [f"--zero-stage={zero_stage}", "--validation-records=8", "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        found.append(read_artifact(out / "artifact").weights())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5)
