"""A disk that fills up: what is finished stays, and the same command continues to the same bytes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from derived import content
from toy_source import ToySource, write_files

from hepfm.core import files
from hepfm.core.errors import HepfmError
from hepfm.ingest import shards
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus

Options = Callable[..., BuildOptions]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_files(tmp_path_factory.mktemp("raw"), (500, 400, 300), bad=77)


@pytest.fixture(scope="module")
def whole(raw: list[Path], toy_options: Options, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    corpus = build(ToySource(), raw, tmp_path_factory.mktemp("whole") / "corpus", toy_options(on_bad="skip"))
    return content(corpus.path)


class FullDisk:
    """Stands for every write of a build: of shards, and of receipts, table and manifest. One of them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.fail_at = 0, 0
        of_shards, of_files = shards._Tar._write, Path.write_bytes

        def write(tar: Any, data: Any) -> None:
            self.count()
            of_shards(tar, data)

        def write_bytes(path: Path, data: Any) -> int:
            try:
                self.count()
            except OSError:
                of_files(path, data[: len(data) // 2])  # half of it gets there
                raise
            return of_files(path, data)

        monkeypatch.setattr(shards._Tar, "_write", write)
        monkeypatch.setattr(Path, "write_bytes", write_bytes)

    def count(self) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_whichever_write_fails_the_build_continues_to_the_same_bytes(
    raw: list[Path], whole: dict[str, bytes], tmp_path: Path, toy_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    build(ToySource(), raw, tmp_path / "count", toy_options(on_bad="skip"))
    total = disk.writes
    assert total > 60
    # The last ones are the table of blocks, the list of what was rejected, and the manifest.
    for number in sorted({*range(1, total, 3), *range(total - 2, total + 1)}):
        out = tmp_path / str(number)
        disk.writes, disk.fail_at = 0, number
        with pytest.raises((HepfmError, OSError)) as caught:
            build(ToySource(), raw, out, toy_options(on_bad="skip"))
        assert isinstance(caught.value, OSError) or "the disk is full" in str(caught.value)
        assert not list(out.rglob("*.partial-*"))
        with pytest.raises(HepfmError, match=r"is an unfinished corpus|is no corpus"):
            Corpus.open(out)
        disk.fail_at = 0
        build(ToySource(), raw, out, toy_options(on_bad="skip"))
        assert content(out) == whole, number


def test_what_was_finished_on_a_full_disk_is_not_made_again(
    raw: list[Path], tmp_path: Path, toy_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    disk.fail_at = 50
    with pytest.raises(HepfmError, match=r"the disk is full \(free some space and run again: it continues\)"):
        build(ToySource(), raw, tmp_path / "c", toy_options(on_bad="skip"))
    receipts = list((tmp_path / "c" / ".build").glob("*/*.json"))
    assert receipts
    disk.writes, disk.fail_at = 0, 0
    build(ToySource(), raw, tmp_path / "c", toy_options(on_bad="skip"))
    files_written = {shard for split in Corpus.open(tmp_path / "c").manifest.splits.values() for shard in split.shards}
    assert len(files_written) > len(receipts)
    assert disk.writes < 60


# Runs in a mount namespace of its own: a file system too small for the corpus, which is then made larger.
SCRIPT = """
import subprocess, sys
from pathlib import Path
from toy_source import ToySource
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build

raw, disk, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
mount = ["mount", "-t", "tmpfs"]

def make():
    options = BuildOptions(run_entries=50, block_records=64, shard_entries=800, on_bad="skip")
    build(ToySource(), sorted(raw.iterdir()), disk / "corpus", options, processes=processes)

if __name__ == "__main__":
    if subprocess.run([*mount, "-o", "size=100k", "tmpfs", str(disk)]).returncode:
        sys.exit(77)
    try:
        make()
    except (HepfmError, OSError) as error:
        print("FAILED:", error)
    else:
        sys.exit("the disk was large enough")
    print("SHARDS:", len(list(disk.glob("corpus/*/*.tar"))), "PARTIAL:", len(list(disk.rglob("*.partial-*"))))
    subprocess.run([*mount, "-o", "remount,size=16m", "tmpfs", str(disk)], check=True)
    make()
    subprocess.run(["cp", "-r", str(disk / "corpus"), sys.argv[4]], check=True)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_build_on_a_real_full_disk_continues_when_there_is_room(
    raw: list[Path], whole: dict[str, bytes], tmp_path: Path, subprocess_env: dict[str, str], processes: int
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare with user and mount namespaces")
    (tmp_path / "disk").mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["unshare", "-rm", sys.executable, str(script), str(raw[0].parent), str(tmp_path / "disk")]
    done = subprocess.run(
        [*command, str(processes), str(tmp_path / "copy")],
        env=subprocess_env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("needs the right to mount a tmpfs in a namespace")
    assert done.returncode == 0, done.stderr
    assert "FAILED:" in done.stdout
    assert "the disk is full (free some space and run again: it continues)" in done.stdout
    assert "PARTIAL: 0" in done.stdout
    assert "shards are there" in done.stderr
    assert content(tmp_path / "copy") == whole


def test_an_atomic_write_leaves_nothing_behind_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    disk.fail_at = 1
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "file", "content")
    assert list(tmp_path.iterdir()) == []


RAW_SCRIPT = """
import subprocess, sys
from pathlib import Path
from hepfm.core.errors import HepfmError
from hepfm.ingest.gflash.simulation import GflashShowers
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.workers import Workers

disk, form, detector, processes = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

if __name__ == "__main__":
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        sys.exit(77)
    try:
        write_raw(GflashShowers(detector=detector), form, disk / "raw", 600, 150, Workers(processes))
    except HepfmError as error:
        print("FAILED:", error)
    print("PARTIAL:", len(list(disk.rglob("*.partial-*"))))
"""


@pytest.mark.parametrize(
    ("form", "detector", "processes"), [("ildgrid", "ild", 1), ("showerdata", "calochallenge2", 2)]
)
def test_hdf5_files_are_given_up_in_one_line(
    form: str, detector: str, processes: int, tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare with user and mount namespaces")
    (tmp_path / "disk").mkdir()
    script = tmp_path / "script.py"
    script.write_text(RAW_SCRIPT)
    command = ["unshare", "-rm", sys.executable, str(script), str(tmp_path / "disk"), form, detector, str(processes)]
    done = subprocess.run(command, env=subprocess_env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 77:
        pytest.skip("needs the right to mount a tmpfs in a namespace")
    assert done.returncode == 0, done.stderr  # HDF5 alone crashes here
    assert "the disk is full (free some space and run again: it continues)" in done.stdout
    assert "PARTIAL: 0" in done.stdout
    assert "Traceback" not in done.stderr
