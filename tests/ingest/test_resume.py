from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_source import DyingSource, ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.core.versions import versions
from hepfm.ingest import jobs
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.receipts import Receipt
from hepfm.ingest.verify import verify

Options = Callable[..., BuildOptions]
SIZES = (500, 400, 300)

# Builds the toy corpus; with a number, it dies as by kill -9 at that call of fsync (one before each rename); with the
# name of a file, it makes this file when it begins to read, and does not get any further.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from toy_source import GatedSource, ToySource
from hepfm.ingest.build import BuildOptions, build
raw, out, processes, calls = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5])
begun = sys.argv[5]
if calls:
    fsync = os.fsync
    def dying(descriptor):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
    os.fsync = dying
if __name__ == "__main__":
    options = BuildOptions(run_entries=25, block_records=64, shard_entries=400)
    source = GatedSource(begun=begun, gate="never") if begun else ToySource()
    build(source, sorted(raw.iterdir()), out, options, processes=processes)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "raw"
    write_files(folder, SIZES)
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, toy_options: Options) -> dict[str, bytes]:
    corpus = build(
        ToySource(), sorted(raw.iterdir()), raw.parent / "whole", toy_options(run_entries=25, shard_entries=400)
    )
    return content(corpus.path)


def arguments(raw: Path, out: Path, processes: int = 1, calls: int = 0, begun: Path | str = "") -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(raw), str(out), str(processes), str(calls), str(begun)]


def test_a_build_killed_at_any_write_continues_to_the_same_bytes(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    out = tmp_path / "c"
    for calls in (2, 12, 7):  # each run gets further than the one before
        done = subprocess.run(arguments(raw, out, calls=calls), env=subprocess_env, capture_output=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        with pytest.raises(HepfmError, match="unfinished corpus"):
            Corpus.open(out)
    done = subprocess.run(arguments(raw, out), env=subprocess_env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert b"shards are there" in done.stderr
    assert content(out) == whole


def test_half_written_files_of_a_killed_build_go(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    out = tmp_path / "c"
    subprocess.run(arguments(raw, out, calls=12), env=subprocess_env, capture_output=True, timeout=300)
    for name in (".blocks.arrow.partial-1-0a", "train/.000000.tar.partial-1-0b", ".corpus.json.partial-1-0c"):
        (out / name).write_bytes(b"half")
    done = subprocess.run(arguments(raw, out), env=subprocess_env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert content(out) == whole


def test_workers_end_when_the_build_is_killed(raw: Path, tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    command = arguments(raw, tmp_path / "c", processes=2, begun=tmp_path / "begun")
    child = subprocess.Popen(command, env=subprocess_env, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(tmp_path / "begun", child)
    child.kill()
    child.wait()
    while group_lives(child.pid):  # without end if they do not end
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(path: Path, child: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.05)


def test_a_worker_that_dies_is_told_and_the_build_continues(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, toy_options: Options
) -> None:
    files, options = sorted(raw.iterdir()), toy_options(run_entries=25, shard_entries=400)
    with pytest.raises(HepfmError, match=r"a worker process died.*run again"):
        build(DyingSource(), files, tmp_path / "c", options, processes=2)
    build(ToySource(), files, tmp_path / "c", options)
    assert content(tmp_path / "c") == whole


def test_a_damaged_shard_is_made_again(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    out = tmp_path / "c"
    # 2 calls (file and folder) for the plan and for each shard and each receipt: dies after four shards.
    subprocess.run(arguments(raw, out, calls=20), env=subprocess_env, capture_output=True, timeout=300)
    shards = sorted(out.glob("train/*.tar"))
    assert len(shards) >= 4
    altered = bytearray(shards[0].read_bytes())
    altered[700] ^= 1
    shards[0].write_bytes(altered)
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    shards[2].unlink()
    receipt = out / ".build" / "train" / "000003.json"
    text = receipt.read_text()
    receipt.write_text(text.replace('"records":64', '"records":63'))
    assert receipt.read_text() != text
    done = subprocess.run(arguments(raw, out), env=subprocess_env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert content(out) == whole


def test_a_shard_of_another_plan_is_not_taken_over(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    out = tmp_path / "c"
    subprocess.run(arguments(raw, out, calls=20), env=subprocess_env, capture_output=True, timeout=300)
    receipt = Receipt.load(out / ".build" / "train" / "000001.json")
    assert receipt is not None
    replace(receipt, plan="0" * 64).save(out / ".build" / "train" / "000000.json", out)
    shutil.copy(out / "train" / "000001.tar", out / "train" / "000000.tar")
    build(ToySource(), sorted(raw.iterdir()), out, toy_options(run_entries=25, shard_entries=400))
    assert content(out) == whole


def test_an_unfinished_corpus_gives_way_only_when_nothing_of_it_is_finished(
    raw: Path, tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    files = sorted(raw.iterdir())
    for calls, finished in ((4, False), (12, True)):
        out = tmp_path / str(calls)
        subprocess.run(arguments(raw, out, calls=calls), env=subprocess_env, capture_output=True, timeout=300)
        before = content(out)
        if finished:
            with pytest.raises(HepfmError, match="unfinished corpus of another plan"):
                build(ToySource(), files, out, toy_options(seed=5))
            assert content(out).keys() == before.keys()
        else:
            corpus = build(ToySource(), files, out, toy_options(seed=5))
            assert {file.name for file in out.glob("*/*")} == {
                Path(shard.name).name for split in corpus.manifest.splits.values() for shard in split.shards
            }


def test_two_builds_do_not_write_one_folder(
    raw: Path, tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    out = tmp_path / "c"
    command = arguments(raw, out, begun=tmp_path / "begun")
    child = subprocess.Popen(command, env=subprocess_env, stderr=subprocess.DEVNULL)
    try:
        wait_for(tmp_path / "begun", child)
        with pytest.raises(HepfmError, match="another process is writing here"):
            build(ToySource(), sorted(raw.iterdir()), out, toy_options(run_entries=25, shard_entries=400))
    finally:
        child.kill()
        child.wait()


def test_a_build_does_not_continue_under_other_versions(
    raw: Path,
    tmp_path: Path,
    toy_options: Options,
    subprocess_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subprocess.run(arguments(raw, tmp_path / "c", calls=12), env=subprocess_env, capture_output=True, timeout=300)
    monkeypatch.setattr(jobs, "versions", lambda: {**versions(), "numpy": "0.1"})
    with pytest.raises(HepfmError, match=r"was begun with other versions: numpy .* -> 0.1 \(go back to them"):
        build(ToySource(), sorted(raw.iterdir()), tmp_path / "c", toy_options(run_entries=25, shard_entries=400))


def test_death_after_the_last_write_leaves_a_finished_corpus(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, toy_options: Options
) -> None:
    options = toy_options(run_entries=25, shard_entries=400)
    build(ToySource(), sorted(raw.iterdir()), tmp_path / "c", options)
    (tmp_path / "c" / ".build" / "train").mkdir(parents=True)
    (tmp_path / "c" / ".build" / "plan.json").write_text("{}")
    assert verify(tmp_path / "c") == []
    build(ToySource(), sorted(raw.iterdir()), tmp_path / "c", options)
    assert content(tmp_path / "c") == whole
