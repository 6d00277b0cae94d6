"""``hepfm bench label-counts``: table, plot and JSON by one command, which goes on and refuses early."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backbones import backbone_artifact
from physics_tokens import jets, tokens_of

from hepfm.benchmarks.label_counts import LabelCountsConfig, Point, compared, main, picture, table
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.finetune import tag
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LabelCountsConfig:
    """Two classes of jets told apart by their multiplicity, and a backbone of random weights."""
    folder = tmp_path_factory.mktemp("counts")
    sizes = {"train": 100, "val": 40, "test": 200}
    jobs = tuple(Job(split, 0, None, size=count) for split, count in sizes.items())
    plan = Plan({"made": 1}, jobs, "jets", jets(1, 0).schema, ("QCD", "Tbqq"), "stored", 64, {})
    corpus = write_corpus(folder / "jets", plan, lambda job: [jets(job.size, len(job.split))])
    tokens = tokens_of(corpus, folder)
    backbone = backbone_artifact(folder / "backbone", folder / "tokenizer" / "artifact", "next-token")
    training = TrainingConfig(steps=4, batch_records=8, learning_rate=1e-2, warmup_steps=1, validate_every=0)
    return LabelCountsConfig(
        (tokens,),
        str(backbone),
        folder / "study",
        counts=(8, 32),
        protocols=("scratch", "frozen"),
        seeds=2,
        head="linear",
        test_jets=150,
        training=training,
    )


def test_one_command_makes_the_study_and_continues(
    config: LabelCountsConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = tag.main, []

    def counted(asked: Any) -> None:
        calls.append(asked.out.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        train(asked)

    monkeypatch.setattr(tag, "main", counted)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    before = {path: path.stat().st_mtime_ns for path in config.out.glob("*-8-*/artifact/config.json")}
    assert len(before) == 3
    main(config)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    result = json.loads((config.out / "result.json").read_text())
    points = {(row["protocol"], row["count"]): row for row in result["accuracy"]}
    assert set(points) == {(name, count) for name in ("scratch", "frozen") for count in (8, 32)}
    assert all(len(row["accuracy"]) == 2 and 0 < row["mean"] <= 1 for row in points.values())
    assert result["anchors"]["random start, JetClass"] == {"1000": 0.48, "10000": 0.6, "100000": 0.76}
    assert set(result["ratios"]) <= {"gain_over_spread.frozen.8", "gain_over_spread.frozen.32"}
    assert (config.out / "accuracy.svg").read_text().startswith("<?xml")
    told = capsys.readouterr().out
    assert "| 32 | frozen |" in told
    assert "masked pretraining, JetClass" in told
    with pytest.raises(HepfmError, match="other settings: seeds"):
        main(replace(config, seeds=3))


def test_the_gain_is_told_in_spreads() -> None:
    scratch = Point("scratch", 100, (0.30, 0.32), (0.7, 0.7))
    full = Point("full", 100, (0.50, 0.51), (0.8, 0.8))
    ((point, gain, ratio),) = compared([scratch, full])
    assert point is full
    assert gain == pytest.approx(0.195)
    assert ratio == pytest.approx(0.195 / (0.02 / math.sqrt(2)))
    single = [replace(p, accuracy=p.accuracy[:1]) for p in (scratch, full)]
    assert math.isnan(next(compared(single))[2])
    assert "+0.195" in table([scratch, full]).markdown()
    assert picture(single).axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": (1, 8)}, "less than one of each"),
        ({"counts": (8, 8)}, "twice"),
        ({"counts": (8, 4000)}, "are asked for"),
        ({"seeds": 0}, "--seeds"),
        ({"protocols": ("last-blocks",), "last_blocks": 5}, "--last-blocks"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(
    change: dict[str, Any], message: str, config: LabelCountsConfig, tmp_path: Path
) -> None:
    with pytest.raises(HepfmError, match=message):
        main(replace(config, out=tmp_path / "study", **change))
    assert not (tmp_path / "study").exists()
