"""A search cuts without truth: passing shares, windows and counts are those of the jets; a cut lifts the peak."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from resonance_jets import resonance_corpus

from hepfm import cli
from hepfm.benchmarks.tagging.search import Sample, look, narrowest, passing, search_table
from hepfm.core.engine.config import TrainingConfig
from hepfm.finetune.tag import TagConfig, main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resonance_corpus(tmp_path_factory.mktemp("search") / "corpus", jets=1200)


@pytest.fixture(scope="module")
def tagger(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("search") / "run"
    training = TrainingConfig(steps=60, batch_records=64, learning_rate=1e-2, warmup_steps=5, validate_every=0)
    labels = ("X_bb", "X_YY_bbbb", "QCD_b", "QCD_light")
    main(TagConfig((corpus,), run, model="deep-sets", labels=labels, training=training))
    return run


def search(monkeypatch: pytest.MonkeyPatch, tagger: Path, corpus: Path, out: Path, *options: str) -> None:
    words = ["hepfm", "evaluate", "search", str(tagger), str(corpus), "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()


def test_peaks_stand_out_after_cuts(
    tagger: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--signals", "X_bb=0.1", "X_YY_bbbb=0.05", "--cuts", "two=X_bb:QCD", "four=X_YY_bbbb:QCD"]
    search(monkeypatch, tagger, corpus, tmp_path / "out", *options, "--passing", "0.1")
    assert "| X_bb |" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["jets"] == {"background": 300, "X_bb": 30, "X_YY_bbbb": 15}
    found = {(item["signal"], item["cut"]): item for item in report["windows"]}
    for signal, cut, mass in (("X_bb", "two", 125), ("X_YY_bbbb", "four", 170)):
        before, after = found[signal, ""], found[signal, cut]
        assert before["window"][0] < mass < before["window"][1]
        assert after["efficiency"] > 0.5
        assert after["other_jets"] < before["other_jets"] / 5
        assert (after["significance"]["value"] is None) == (after["other_jets"] == 0)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<svg") == 3  # before and after two cuts


def test_the_window_is_the_peak_whatever_its_tail() -> None:
    draws = np.random.default_rng(0)
    low, high = narrowest(np.concatenate([draws.normal(80, 4, 700), draws.uniform(0, 80, 300)]))
    assert 70 < low < 80 < high < 90


def test_counts_are_those_of_the_jets() -> None:
    draws = np.random.default_rng(0)
    kind, mass = draws.integers(0, 2, 1000), draws.uniform(20, 200, 1000)
    values = draws.uniform(size=1000)
    kept = passing(values, 0.25)
    assert kept.sum() == 250
    assert values[kept].min() > values[~kept].max()
    before, after = look(Sample(("background", "a"), kind, mass, values[:, None]), {"cut": kept}, 0)
    low, high = before.window
    inside = (mass >= low) & (mass <= high)
    assert ((kind == 1) & inside).sum() / (kind == 1).sum() == pytest.approx(0.5, abs=0.01)
    assert (after.signal_jets, after.other_jets) == (
        (inside & kept & (kind == 1)).sum(),
        (inside & kept & (kind == 0)).sum(),
    )
    # The error is that of Poisson counts: about sqrt(1 / B + ...) of the value.
    assert before.significance.error == pytest.approx(np.sqrt(before.signal_jets / before.other_jets * 1.25), rel=0.25)


def test_nothing_but_signal_has_no_significance() -> None:
    kind, mass = np.array([0, 0, 1, 1, 1, 1]), np.array([20.0, 200, 80, 81, 82, 83])
    (before,) = look(Sample(("background", "a"), kind, mass, np.zeros((6, 1))), {}, 0)
    assert before.other_jets == 0
    assert np.isnan(before.significance.value)
    assert search_table([before]).rows[0][-1].text == "-"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--signals", "X_bb=2", "--cuts", "c=X_bb:QCD"], "has 150 jets of 'X_bb', 600 are wanted"),
        (["--signals", "QCD_b=0.1", "--cuts", "c=X_bb:QCD"], "no label 'QCD_b' beside"),
        (["--signals", "Hbb=0.1", "--cuts", "c=X_bb:QCD"], "no label 'Hbb' beside"),
        (["--signals", "X_bb", "--cuts", "c=X_bb:QCD"], "'X_bb' is not understood"),
        (["--signals", "X_bb=0.1", "--cuts", "X_bb:QCD"], "'X_bb:QCD' is not understood"),
        (["--signals", "X_bb=0.1", "--cuts", "c=X_cc:QCD"], "does not know 'X_cc'"),
        (["--signals", "X_bb=0.1", "--cuts", "c=X_bb:QCD", "--passing", "1"], "--passing"),
    ],
)
def test_what_cannot_be_looked_for_is_one_line(
    options: list[str],
    message: str,
    tagger: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        search(monkeypatch, tagger, corpus, tmp_path / "out", *options)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_tagging_report_tells_what_cuts_shape(
    tagger: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "hepfm",
        "evaluate",
        "tagging",
        str(tagger),
        str(corpus),
        "--discriminants",
        "X_bb:QCD",
        "--replicas",
        "10",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out")])
    cli.main()
    assert "Sculpting of the background" in capsys.readouterr().out
    assert "Discriminants: background against signal efficiency" in (tmp_path / "out" / "index.html").read_text()
    cuts = json.loads((tmp_path / "out" / "report.json").read_text())["sculpting"]
    assert {(cut["quantity"], cut["share"]) for cut in cuts} == {
        (name, share) for name in ("softdrop_mass", "pt") for share in (0.5, 0.1, 0.01)
    }
    half = next(cut for cut in cuts if cut["share"] == 0.5)
    assert half["passed"] == [150, 300]
    assert half["divergence"]["value"] < 2 * half["chance_upper"]  # multiplicity does not follow the mass here
    assert next(cut for cut in cuts if cut["share"] == 0.01)["divergence"] is None
