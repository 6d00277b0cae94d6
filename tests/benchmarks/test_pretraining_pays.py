"""``hepfm bench pretraining-pays``: a table with errors that one command makes, and goes on making."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from physics_tokens import jet_corpus, tokens_of

from hepfm.benchmarks import pretraining_pays
from hepfm.benchmarks.pretraining_pays import PretrainingPaysConfig, Row, Scores, main, table
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jets of two classes that their number of constituents tells apart."""
    folder = tmp_path_factory.mktemp("pays")
    return tokens_of(jet_corpus(folder / "jets"), folder)


@pytest.fixture
def config(tokens: Path, tmp_path: Path) -> PretrainingPaysConfig:
    torch.set_num_threads(1)
    return PretrainingPaysConfig(
        tokens,
        tmp_path / "pays",
        objectives=("next-token", "masked"),
        max_length=8,
        steps=3,
        batch_records=32,
        seeds=2,
        probe_jets=96,
        probe_epochs=6,
        probe_learning_rate=1e-2,
        test_jets=100,
        json=tmp_path / "pays.json",
    )


@pytest.mark.slow
def test_one_command_makes_the_table_and_continues(
    config: PretrainingPaysConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, calls = pretraining_pays.probe_backbone, []

    def counted(*arguments: object) -> dict[str, Scores]:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return probe(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining_pays, "probe_backbone", counted)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    main(config)
    assert len(calls) == 4 + 5  # of two objectives, two seeds, pretrained and not: three were done before
    told = capsys.readouterr().out
    result = json.loads((config.out / "result.json").read_text())
    assert result == json.loads(config.json.read_text()) if config.json else False
    names = ["next-token", "random weights (next-token)", "masked", "random weights (masked)"]
    assert sorted(result["accuracy"]) == sorted(names)
    assert sorted(result["ordering"]) == sorted(names)
    for name in names:
        assert name in told
        for found in result["accuracy"][name].values():
            assert 0.5 < found["value"] <= 1
            assert found["error"] >= 0
        assert all(len(seeds) == 2 for seeds in result["seeds"][name].values())
    counts = Corpus.open(config.tokens).manifest.splits["train"]
    assert result["constituents_read"] == pytest.approx(counts.points / counts.records * 3 * 32, abs=1)
    assert result["flops"]["masked"] > 0 == result["flops"]["random weights (masked)"]
    assert set(result["ratios"]) == {"errors_over_random.next-token", "errors_over_random.masked"}
    assert (config.out / "accuracy.svg").read_text().startswith("<?xml")
    with pytest.raises(HepfmError, match="other settings: steps"):
        main(replace(config, steps=4))


def test_errors_are_over_seeds_or_of_the_jets() -> None:
    scores = {probe: [Scores(0.7, 0.5, 100), Scores(0.8, 0.5, 100)] for probe in pretraining_pays.PROBES}
    row = Row("masked", True, 1e12, scores)
    assert row.accuracy("linear").value == pytest.approx(0.75)
    assert row.accuracy("linear").error == pytest.approx(0.05)  # 0.1 / sqrt(2) between them, over sqrt(2)
    one = Row("masked", True, 1e12, {probe: found[:1] for probe, found in scores.items()})
    assert one.accuracy("linear").error == pytest.approx((0.7 * 0.3 / 100) ** 0.5)
    assert "| masked | 0.750 ± 0.050 | 0.750 ± 0.050 | 0.500 | 1e+12 |" in table([row], 1000).markdown()


def test_a_corpus_without_held_out_jets_or_labels_is_refused(config: PretrainingPaysConfig, tmp_path: Path) -> None:
    unlabelled = tokens_of(jet_corpus(tmp_path / "jets", labels=()), tmp_path)
    with pytest.raises(HepfmError, match="no labels") as error:
        main(replace(config, tokens=unlabelled, out=tmp_path / "other"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()
