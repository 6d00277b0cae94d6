"""Configuration: YAML and flags give one typed, checked, saved thing."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro
import yaml

from hepfm.core.config import from_dict, from_yaml, parse, save_yaml, to_dict
from hepfm.core.errors import HepfmError


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Config:
    files: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("out")
    limit: int | None = None
    fractions: tuple[float, float] = (0.9, 0.1)
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Required:
    out: Path
    limit: int = 1


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("files: [a.root]\nlimit: 3\ninner: {rate: 1}\n")
    config = parse(Config, ["--config", str(file), "--limit", "5"], "hepfm test")
    assert config == Config(files=(Path("a.root"),), limit=5, inner=Inner(rate=1.0))


@pytest.mark.parametrize("wrong", [["--limit", "many"], ["--nonsense", "3"], ["--inner.mode", "c"], ["--rate", "nan"]])
def test_a_wrong_flag_is_one_line(wrong: list[str]) -> None:
    with pytest.raises(HepfmError) as error:
        parse(Config, ["a.root", *wrong], "hepfm test")
    assert "\n" not in str(error.value)
    assert wrong[0].split(".")[0].strip("-") in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_no_frame_is_left_in_the_line(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(HepfmError) as error:
        parse(Config, ["a.root", "--inner.mode", "c"], "hepfm test")
    assert not re.search("─|----", str(error.value))


def test_what_a_file_leaves_out_comes_from_flags_or_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("limit: 3\n")
    assert parse(Config, ["--config", str(file), "a.root"], "hepfm test") == Config(files=(Path("a.root"),), limit=3)
    with pytest.raises(HepfmError, match="--out"):
        parse(Required, [f"--config={file}"], "hepfm test")


def test_saved_configuration_reads_back(tmp_path: Path) -> None:
    config = Config(files=(Path("x"), Path("y")), limit=7, inner=Inner(mode="b"))
    save_yaml(config, tmp_path / "config.yaml")
    assert from_yaml(Config, tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == to_dict(config)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"files": [], "nonsense": 1}, "unknown setting 'nonsense'"),
        ({"files": [], "limit": "many"}, "expected int"),
        ({"files": [], "limit": True}, "expected int"),
        ({"files": [], "inner": {"mode": "c"}}, "'c' is not one of a, b"),
        ({"files": [], "fractions": [1.0]}, "expected 2 values"),
        ({"files": "a"}, "expected a list"),
        ({}, "lacks 'files'"),
        ([], "expected a mapping"),
    ],
)
def test_what_does_not_fit_is_named(data: object, told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        from_dict(Config, data)


def test_broken_and_missing_files_are_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\nb: !!python/object/apply:os.system ['true']")
    deep = tmp_path / "deep.yaml"
    deep.write_text("a: " + "[" * 20_000)
    for path in (bad, deep, tmp_path / "none.yaml"):
        with pytest.raises(HepfmError) as error:
            from_yaml(Config, path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
