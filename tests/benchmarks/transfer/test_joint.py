"""``hepfm bench generation-joint``: one backbone for jets and showers against one for each, from one command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from physics_tokens import jet_corpus, shower_corpus, tokens_of

from hepfm.benchmarks.transfer import joint
from hepfm.benchmarks.transfer.joint import GenerationJointConfig, main
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Token corpora of jets and of showers, each by a tokenizer of its own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("joint")
    jets = tokens_of(jet_corpus(folder / "jets"), folder / "of-jets")
    return jets, tokens_of(shower_corpus(folder / "showers", 300), folder / "of-showers")


def config_of(tokens: tuple[Path, Path], out: Path) -> GenerationJointConfig:
    return GenerationJointConfig(tokens, out, seeds=2, steps=4, batch_records=32, judged=60)


@pytest.mark.slow
def test_one_command_compares_and_continues(
    tokens: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generated, calls = joint.generated, []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generated(*arguments)

    monkeypatch.setattr(joint, "generated", counted)
    config = config_of(tokens, tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        main(config)
    main(config)
    assert len(calls) == 2 + 1 + 6  # two seeds, of jets, of showers, and of both; two were done before
    names = [path.name for path in tokens]
    assert [call[3] for call in calls[-4:]] == ["", "", *names]
    result = json.loads((config.out / "result.json").read_text())
    assert set(result["data_sets"]) == set(names)
    assert set(result["data_sets"][names[0]]["joint"]) >= {"mean", "jet_pt", "constituent_pt"}
    assert set(result["data_sets"][names[1]]["alone"]) == {"mean", "response", "hits", "mean_layer", "mean_radius"}
    assert result["trained_on"]["records"] == 300  # what the smaller corpus has, of both
    assert result["trained_on"]["conditions"] == {
        names[0]: [],
        names[1]: ["incident_energy", "direction", "particle"],
    }
    for name in names:
        losses = [made["loss"] for kind in ("alone", "joint") for made in result["seeds"][name][kind]]
        assert len(set(losses)) == 4
        assert all(0 < loss < 6 for loss in losses)
        assert result["ratios"][f"alone_over_joint.{name}"] > 0
    steps = {
        backbone: json.loads((config.out / "runs" / f"{backbone}-0" / "artifact" / "metrics.json").read_text())["steps"]
        for backbone in (*names, "joint")
    }
    assert steps == {names[0]: 4, names[1]: 4, "joint": 8}  # each corpus is seen as often by both
    for name in names:
        assert Corpus.open(config.out / "subsets" / "0" / name).split("train").records == 300
    told = capsys.readouterr().out
    assert f"| {names[1]} | mean |" in told
    assert (config.out / "joint.svg").read_text().startswith("<?xml")
    before = (config.out / "result.json").read_bytes()
    main(config)
    assert (config.out / "result.json").read_bytes() == before
    with pytest.raises(HepfmError, match="other settings: steps"):
        main(replace(config, steps=9))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"records": 301}, "--records: must lie between 0 and 300"),
        ({"condition": ("jet_pt", "tau9")}, "no corpus has what --condition tau9 names"),
        ({"condition": ("jet_pt",)}, "of showers the incident energy has to be told"),
        ({"seeds": 0}, "--seeds"),
        ({"judged": 10}, "--judged"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(
    tokens: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(HepfmError, match=told) as error:
        main(replace(config_of(tokens, tmp_path / "study"), **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_corpora_of_one_tokenizer_are_refused(tokens: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="are of one tokenizer"):
        main(replace(config_of(tokens, tmp_path / "study"), tokens=tokens[:1]))
