"""Files are whole or absent."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from hepfm.core.errors import HepfmError
from hepfm.core.files import (
    atomic_path,
    canonical_json,
    digest_of,
    locked,
    read_json,
    sha256_file,
    sweep,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(file) == {"x": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_what_was_begun_in_a_folder_that_went_gets_nowhere(tmp_path: Path) -> None:
    within, file = tmp_path / "run", tmp_path / "deep" / "file"
    within.mkdir()
    with atomic_path(file, within) as partial:
        assert partial.parent == within
        partial.write_text("whole")
    assert file.read_text() == "whole"
    with pytest.raises(FileNotFoundError), atomic_path(file, within) as partial:
        partial.write_text("late")
        shutil.rmtree(within)
    with pytest.raises(FileNotFoundError), atomic_path(file, within) as partial:
        partial.write_text("later")
    assert file.read_text() == "whole"
    assert not within.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from hepfm.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    names = ("a.json", "deep/b.json", "deep/deeper/.c.json")
    for name in names:
        assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)]).returncode == -signal.SIGKILL
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3
    others = (".mine.partial-results", "run.partial-1-0a", ".a.json", ".a.json.partial-x-0a")
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".folder.partial-1-0a").mkdir()
    sweep(tmp_path, ("b.json",))
    assert len(list(tmp_path.rglob(".*.json.partial-*-*"))) == 4
    sweep(tmp_path, ("a.json",))
    assert len(list(tmp_path.rglob(".*.json.partial-*-*"))) == 3
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
    sweep(tmp_path / "absent")


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.ETIMEDOUT, False)])
def test_a_full_disk_is_told_with_the_file_that_it_did_not_take(tmp_path: Path, number: int, named: bool) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as told, atomic_path(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert told.value.filename == (str(tmp_path / "a.json") if named else None)
    assert not list(tmp_path.iterdir())


def test_canonical_json_does_not_depend_on_key_order() -> None:
    assert digest_of({"b": 1, "a": [1.5, "é"]}) == digest_of({"a": [1.5, "é"], "b": 1})
    assert canonical_json({"b": 1, "a": 2}) == '{"a":2,"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_broken_json_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("{")
    for name in ("f.json", "none.json"):
        with pytest.raises(HepfmError, match=name):
            read_json(tmp_path / name)


def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(HepfmError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_lock_on_a_folder_that_went_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, calls = fcntl.flock, []

    def late(file: IO[str], operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:  # who held it has just removed the folder
            shutil.rmtree(tmp_path / "c")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        locked(tmp_path / "c"),
        pytest.raises(HepfmError, match="another process is writing here"),
        locked(tmp_path / "c"),
    ):
        pass
    assert len(calls) == 3
