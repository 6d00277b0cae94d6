"""A run's folder is begun once, continued by the same command, and takes no other folder's place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hepfm.core.config import read_yaml
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder


@dataclass(frozen=True)
class Inner:
    """Some of them."""

    rate: float = 0.1


@dataclass(frozen=True)
class ToyConfig:
    """Settings of a run."""

    steps: int = 10
    inner: Inner = field(default_factory=Inner)


def test_a_run_whose_first_file_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.partial-1-0123abcd").write_text("ste")
    RunFolder(tmp_path).claim(ToyConfig())
    RunFolder(tmp_path).claim(ToyConfig())
    assert read_yaml(tmp_path / "config.yaml")["steps"] == 10


def test_settings_may_change_until_something_was_computed_with_them(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim(ToyConfig())
    run.checkpoints.mkdir()
    (run.checkpoints / ".lock").touch()
    run.claim(ToyConfig(20))  # training had refused the first ones
    assert read_yaml(run.config)["steps"] == 20
    run.log(1, loss=2.0)
    run.claim(ToyConfig(20))
    with pytest.raises(HepfmError, match=r"holds a run with other settings: inner\.rate, steps \("):
        run.claim(ToyConfig(30, Inner(0.2)))
    run.claim(ToyConfig(30), free={"steps"})


def test_a_setting_that_the_run_was_begun_without_has_its_default(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.config.write_text("inner: {}\n")  # by a version that knew neither steps nor rate
    run.log(1, loss=2.0)
    run.claim(ToyConfig())
    with pytest.raises(HepfmError, match=r"holds a run with other settings: inner\.rate, steps \("):
        run.claim(ToyConfig(20, Inner(0.2)))


@pytest.mark.parametrize("text", ["", "- 1", ": ["])
def test_a_broken_configuration_is_named(text: str, tmp_path: Path) -> None:
    RunFolder(tmp_path).claim(ToyConfig())
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(HepfmError, match=r"config\.yaml"):
        RunFolder(tmp_path).claim(ToyConfig())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_when_a_line_is_logged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(HepfmError, match=r"metrics\.jsonl: the disk is full"):
        run.log(1, loss=2.0)


@pytest.mark.parametrize("name", ["notes.txt", ".notes"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(HepfmError, match=r"is not empty and not a run \(name another --out\)"):
        RunFolder(tmp_path).claim(ToyConfig())
    assert [path.name for path in tmp_path.iterdir()] == [name]
