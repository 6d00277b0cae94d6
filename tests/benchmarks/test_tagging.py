"""``hepfm evaluate tagging``: measured rows under published ones, as tables, JSON and a page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled_jets import labelled_corpus

from hepfm import cli
from hepfm.benchmarks.tagging.published import BENCHMARKS, JETCLASS, benchmark_of
from hepfm.benchmarks.tagging.tables import result_table
from hepfm.core.engine.config import TrainingConfig
from hepfm.finetune.tag import TagConfig, main
from hepfm.finetune.tagging_metrics import Scored, measure
from hepfm.ingest.formats.jetclass import LABELS


def test_published_tables_are_whole() -> None:
    for benchmark in BENCHMARKS:
        assert all(len(row.rejections) == len(benchmark.columns) for row in benchmark.rows)
        assert {signal for signal, _ in benchmark.columns} | {benchmark.background} == benchmark.classes
        assert all(0.5 < row.accuracy < row.auc < 1 for row in benchmark.rows)
    assert benchmark_of(LABELS) is JETCLASS
    assert benchmark_of(("QCD", "Hbb")) is None


def test_a_measured_row_stands_in_the_published_layout() -> None:
    draws = np.random.default_rng(0)
    truth = draws.integers(0, 10, 4000)
    logits = draws.normal(size=(4000, 10)) + 2 * np.eye(10)[truth]
    scored = Scored(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), truth, LABELS)
    measured = measure(scored, replicas=5)
    table = result_table("ours", measured, JETCLASS)
    assert table.header[3:12] == (
        *("Hbb @0.5", "Hcc @0.5", "Hgg @0.5", "H4q @0.5", "Hqql @0.99", "Tbqq @0.5", "Tbl @0.995"),
        *("Wqq @0.5", "Zqq @0.5"),
    )
    assert all(len(row) == len(table.header) for row in table.rows)
    ours = [cell.text for cell in table.rows[-1]]
    assert ours[1].startswith(f"{measured.accuracy.value:.4f} ± ")
    by_class = {item.signal: item for item in measured.rejections}
    assert ours[7].startswith(f"{by_class['Hqql'].value:.4g}")
    assert "| ParT | 0.861 | 0.9877 | 10638 |" in table.markdown()


def test_the_command_judges_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = labelled_corpus(tmp_path / "corpus", classes=2, jets=300)
    training = TrainingConfig(steps=20, batch_records=64, learning_rate=1e-2, warmup_steps=2, validation_records=20)
    main(TagConfig((corpus,), tmp_path / "run", model="deep-sets", labels=("QCD", "Hbb"), training=training))
    capsys.readouterr()
    out = tmp_path / "report"
    run = str(tmp_path / "run")
    command = ["hepfm", "evaluate", "tagging", run, str(corpus), "--out", str(out), "--also", run]
    monkeypatch.setattr(sys, "argv", [*command, "--discriminants", "Hbb:QCD", "--replicas", "5"])
    cli.main()
    told = capsys.readouterr().out
    assert "| deep-sets (measured) |" in told
    assert "| deep-sets (2) (measured) |" in told
    assert "| Hbb : QCD | 75 | 75 |" in told
    report = json.loads((out / "report.json").read_text())
    assert report["jets"] == 150
    assert [(item["signal"], item["efficiency"]) for item in report["rejections"]] == [("Hbb", 0.3), ("Hbb", 0.5)]
    assert report["accuracy"]["error"] >= 0
    assert report["also"]["deep-sets (2)"]["accuracy"] == report["accuracy"]  # the same tagger on the same jets
    page = (out / "index.html").read_text()
    assert page.count("Reliability of the highest score") == 2
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert not re.search(r"(src|href)=\"http", page)  # it opens without a network
    monkeypatch.setattr(sys, "argv", [*command, "--discriminants", "Tbl:QCD"])
    with pytest.raises(SystemExit):
        cli.main()
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("hepfm:")]
    assert "does not know 'Tbl'" in line
