"""``hepfm models import`` of weaver-core's Particle Transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from weaver_jets import SMALL, padded, random_inputs, saved, weaver_network

from hepfm import cli, models
from hepfm.finetune.sophon import LABELS as SOPHON
from hepfm.finetune.tagger import Tagger, load_tagger
from hepfm.ingest.formats.jetclass import LABELS as JETCLASS


def imported(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Tagger:
    monkeypatch.setattr(sys, "argv", ["hepfm", "models", "import", str(file), "--out", str(out), *options])
    cli.main()
    tagger, _ = load_tagger(out)
    assert isinstance(tagger, Tagger)
    return tagger


def refusal(
    file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["hepfm", "models", "import", str(file), "--out", str(out), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert not out.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "labels", "features"),
    [(SMALL, JETCLASS, "full"), ({**SMALL, "num_classes": 188, "fc_params": [(24, 0.1)]}, SOPHON, "sophon")],
)
def test_a_published_file_becomes_a_tagger_with_its_labels_and_features(
    settings: dict,
    labels: tuple[str, ...],
    features: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = weaver_network(**settings)
    tagger = imported(saved(theirs, tmp_path / "model.pt"), tmp_path / "tagger", monkeypatch, "--licence", "MIT")
    told = capsys.readouterr()
    assert "17 features, 2 blocks and 1 class blocks of width 16" in told.err
    assert told.out.strip() == str(tmp_path / "tagger")
    assert tagger.classes == labels
    assert tagger.features.name == features
    inputs = random_inputs([3, 40, 1, 70])
    columns, vectors, mask = padded(inputs, 128)
    with torch.no_grad():
        expected = theirs(columns, v=vectors, mask=mask).softmax(1)
        np.testing.assert_allclose(tagger.network(inputs).softmax(1), expected, atol=1e-5)
    artifact = models.load(tmp_path / "tagger")[1]
    assert artifact.contract["classes"] == list(labels)
    assert artifact.contract["rescale_pt_gev"] == (500.0 if features == "sophon" else None)
    assert artifact.provenance["imported"]["licence"] == "MIT"


def test_attention_spelled_as_torchs_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from before weaver-core 0.5 have attn.in_proj_weight."""
    state = weaver_network(**SMALL).state_dict()
    older = {name.replace("in_proj.", "in_proj_"): value for name, value in state.items()}
    torch.save(state, tmp_path / "new.pt")
    torch.save(older, tmp_path / "old.pt")
    one = imported(tmp_path / "new.pt", tmp_path / "one", monkeypatch)
    other = imported(tmp_path / "old.pt", tmp_path / "other", monkeypatch)
    inputs = random_inputs([5, 2])
    assert torch.equal(one.network(inputs), other.network(inputs))


def test_what_the_file_does_not_tell_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = weaver_network(**{**SMALL, "input_dim": 7, "num_classes": 2, "use_pre_activation_pair": True})
    file = saved(theirs, tmp_path / "top.pt", prefix="")
    options = ("--labels", "top", "QCD", "--pair-activation", "False")
    tagger = imported(file, tmp_path / "tagger", monkeypatch, *options)
    assert tagger.classes == ("top", "QCD")
    assert tagger.features.name == "kin"
    inputs = random_inputs([5, 9], features=7)
    columns, vectors, mask = padded(inputs, 16)
    with torch.no_grad():
        torch.testing.assert_close(tagger.network(inputs), theirs(columns, v=vectors, mask=mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"num_classes": 3}, (), "has 3 outputs and does not say what they are (--labels A B ...)"),
        ({}, ("--labels", "a", "b"), "has 10 outputs, 2 different labels are named"),
        ({"input_dim": 9}, (), "reads 9 features, which no published configuration has"),
        ({}, ("--features", "kin"), "reads 17 features, 'kin' has 7"),
        ({}, ("--tokenizer", "x"), "is for a generator, this is a tagger"),
        ({"version": 2}, (), "version 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    settings: dict,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = saved(weaver_network(**{**SMALL, **settings}), tmp_path / "model.pt")
    assert message in refusal(file, tmp_path / "tagger", monkeypatch, capsys, *options)


def test_a_pickle_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(weaver_network(**SMALL), tmp_path / "model.pt")  # the module itself, not its weights
    line = refusal(tmp_path / "model.pt", tmp_path / "tagger", monkeypatch, capsys)
    assert "refused: its pickle names 'weaver.nn.model.ParticleTransformer" in line
