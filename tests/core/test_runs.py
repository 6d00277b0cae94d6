"""A run's folder is begun once, continued by the same command, and takes no other folder's place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder


@dataclass(frozen=True)
class ToyConfig:
    """Settings of a run."""

    steps: int = 10


def test_a_run_whose_first_file_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.partial-1-0123abcd").write_text("ste")
    RunFolder(tmp_path).claim(ToyConfig())
    RunFolder(tmp_path).claim(ToyConfig())
    with pytest.raises(HepfmError, match="holds a run with other settings: steps"):
        RunFolder(tmp_path).claim(ToyConfig(20))


@pytest.mark.parametrize("name", ["notes.txt", ".notes"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(HepfmError, match=r"is not empty and not a run \(name another --out\)"):
        RunFolder(tmp_path).claim(ToyConfig())
    assert [path.name for path in tmp_path.iterdir()] == [name]
