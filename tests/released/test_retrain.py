"""``hepfm models retrain``: a recipe is followed by the commands, goes on where it was stopped, ends in an artifact."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from hepfm import cli, load
from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.released.recipe import read_recipe, recipes
from hepfm.released.report_figures import figures_of
from hepfm.released.retrain import STEPS, RetrainConfig, main

CUBE = Path(__file__).resolve().parents[2] / "examples" / "cube.yaml"
STEP = [
    "ingest gflash --detector cube.yaml --records 60 --seed 3 --processes 1 --out showers",
    "tokenizer fit showers --tokenizer cells --out toy/tokenizer",
    "tokenizer apply toy/tokenizer showers --out toy/tokens --processes 1",
    "pretrain toy/tokens --out toy/run --steps 2 --batch-records 8 --warmup-steps 1 --validation-records 5",
]


def recipe(folder: Path, **changed: object) -> Path:
    told = {
        "title": "a toy",
        "data": "60 showers",
        "licence": "CC0-1.0",
        "citation": "nobody",
        "about": "For a test.",
        "use": "load('toy')",
        "run": "toy/run",
        "steps": STEP,
        "files": {"cube.yaml": CUBE.read_text()},
        **changed,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def retrain(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["hepfm", "models", "retrain", *map(str, arguments)])
    cli.run(sys.argv[1:])


@pytest.mark.slow
def test_a_recipe_is_followed_continued_and_ends_in_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    called: list[list[str]] = []
    run = cli.run

    def stopped_before_training(arguments: list[str]) -> None:
        called.append(list(arguments))
        if arguments[0] == "pretrain" and len(called) < 6:
            raise KeyboardInterrupt
        run(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cli, "run", stopped_before_training)
        with pytest.raises(KeyboardInterrupt):
            main(RetrainConfig(str(recipe(tmp_path)), out))
        assert [words[0] for words in called] == ["ingest", "tokenizer", "tokenizer", "pretrain"]
        assert len(json.loads((out / STEPS).read_text())) == 3
        called[:] = [[]] * 5
        main(RetrainConfig(str(recipe(tmp_path)), out))
        assert [words[0] for words in called[5:]] == ["pretrain"]  # what was done stays done
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "toy" / "artifact")
    model = load(out / "toy")
    assert model.does == ("generate", "encode", "decode")
    assert model.provenance["name"] == "toy"
    assert [step["command"] for step in model.provenance["recipe"]["steps"]] == [f"hepfm {step}" for step in STEP]
    assert model.provenance["versions"]
    assert all(command in model.card for command in STEP)
    assert "validation_loss" in model.metrics
    assert not {"loss", "gradient_norm", "learning_rate"} & model.metrics.keys()
    before = (out / "toy" / "artifact" / "config.json").read_bytes()
    retrain(monkeypatch, recipe(tmp_path), "--out", out)  # nothing is left to do
    assert (out / "toy" / "artifact" / "config.json").read_bytes() == before


def test_commands_can_be_seen_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, known in recipes().items():
        retrain(monkeypatch, name, "--out", tmp_path / "made", "--show", "True")
        assert capsys.readouterr().out.splitlines() == [f"hepfm {' '.join(step.split())}" for step in known.steps]
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_names_commands_and_settings_that_there_are(name: str) -> None:
    """Each step's settings are parsed by its own command, which does not run."""
    for words in recipes()[name].commands:
        command, rest = cli.find(words)
        config = getattr(importlib.import_module(command.module), command.config)
        assert parse(config if isinstance(config, type) else config(rest), rest, prog="hepfm")


def test_the_calorimeter_of_a_recipe_is_the_one_of_the_examples() -> None:
    assert yaml.safe_load(recipes()["showers-cube"].files["cube.yaml"]) == yaml.safe_load(CUBE.read_text())


def test_recipes_and_reports_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HepfmError, match=r"no recipe is called 'nix' .there is: jets-tiny"):
        retrain(monkeypatch, "nix", "--out", tmp_path / "made")
    with pytest.raises(HepfmError, match="step 'demo': names no --out"):
        read_recipe(recipe(tmp_path, steps=["demo"]))
    with pytest.raises(HepfmError, match="names a file outside the folder"):
        read_recipe(recipe(tmp_path, files={"../x": ""}))
    with pytest.raises(HepfmError, match="unknown setting 'step'"):
        read_recipe(recipe(tmp_path, step=[]))
    with pytest.raises(HepfmError, match=r"toy: step 'pretrain x --stops 3 --out y': .*--stops"):
        retrain(
            monkeypatch, recipe(tmp_path, steps=[*STEP, "pretrain x --stops 3 --out y"]), "--out", tmp_path / "made"
        )
    assert not (tmp_path / "made" / STEPS).exists()  # before the first step begins
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(HepfmError, match="is a report of something else"):
        figures_of(tmp_path)
