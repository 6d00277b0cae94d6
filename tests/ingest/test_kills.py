"""kill -9 at random points of a build, then continue: the same bytes. No test waits for a point in time."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from derived import content
from toy_source import ToySource, write_files

from hepfm.ingest.build import BuildOptions, build

Options = Callable[..., BuildOptions]
KILLS = 20

# Builds in a child that dies as by kill -9 at a random one of its changes of the folder, until one gets to the end.
IN_ONE_PROCESS = """
import os, random, signal, sys
from pathlib import Path
from derived import content
from toy_source import ToySource
from hepfm.ingest.build import BuildOptions, build

raw, whole, out = map(Path, sys.argv[1:])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

def child(dies_at):
    left = dies_at
    def count(event, arguments):
        nonlocal left
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(arguments[0]).startswith(str(out)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        sys.addaudithook(count)
        options = BuildOptions(run_entries=25, block_records=64, shard_entries=400)
        build(ToySource(), sorted(raw.iterdir()), out, options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

draw, kills = random.Random(1), 0
while (found := child(draw.randint(1, 30))) == -signal.SIGKILL:
    kills += 1
assert found == 0
assert content(out) == content(whole)
print(kills)
"""
# Builds with two workers, one of which kills this process at a random one of its reads and writes.
IN_PARALLEL = """
import sys
from pathlib import Path
from toy_source import KillingSource
from hepfm.ingest.build import BuildOptions, build

if __name__ == "__main__":
    options = BuildOptions(run_entries=25, block_records=64, shard_entries=400)
    source = KillingSource(events=int(sys.argv[3]))
    build(source, sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]), options, processes=2)
"""
# Builds on a cluster.
ON_A_CLUSTER = """
import sys
from pathlib import Path
from toy_source import GatedSource
from hepfm.ingest.build import BuildOptions, build

if __name__ == "__main__":
    options = BuildOptions(run_entries=50, block_records=64, shard_entries=800)
    source = GatedSource(begun=sys.argv[3], gate=sys.argv[4])
    build(source, sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]), options, scheduler=sys.argv[5])
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "raw"
    write_files(folder, (3000, 2400, 1800))
    return folder


def test_a_build_killed_at_twenty_random_changes_of_its_folder_ends_with_the_same_bytes(
    raw: Path, tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    options = toy_options(run_entries=25, shard_entries=400)
    whole = build(ToySource(), sorted(raw.iterdir()), tmp_path / "whole", options)
    command = [sys.executable, "-c", IN_ONE_PROCESS, raw, whole.path, tmp_path / "c"]
    done = subprocess.run([*map(str, command)], env=subprocess_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= KILLS


@pytest.mark.slow
def test_a_parallel_build_killed_at_twenty_random_points_ends_with_the_same_bytes(
    tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    files = write_files(tmp_path / "raw", (6000, 4800, 3600))
    out, told, draw = tmp_path / "c", tmp_path / "told", random.Random(1)
    # A shard takes 20 reads and writes, so each run finishes two shards at most, and this one has 45.
    points = [draw.randint(1, 30) for _ in range(KILLS)]
    for point in points:
        command = [sys.executable, "-c", IN_PARALLEL, files[0].parent, out, point]
        with told.open("wb") as file:  # no pipe: it would wait for the workers, which live on for a moment
            done = subprocess.run([*map(str, command)], env=subprocess_env, stderr=file, check=False)
        assert done.returncode == -signal.SIGKILL, (point, told.read_text())
    assert len(list(out.glob(".build/*/*.json"))) >= sum(point > 20 for point in points)
    options = toy_options(run_entries=25, shard_entries=400)
    corpus = build(ToySource(), files, out, options, processes=2)
    assert content(corpus.path) == content(build(ToySource(), files, tmp_path / "whole", options).path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL") as made:
        yield made


def test_workers_that_outlive_their_build_put_nothing_into_the_folder_of_another(
    raw: Path,
    cluster: Any,
    tmp_path: Path,
    toy_options: Options,
    subprocess_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distributed import Client

    out, begun, gate = tmp_path / "c", tmp_path / "begun", tmp_path / "gate"
    command = [sys.executable, "-c", ON_A_CLUSTER, raw, out, begun, gate, cluster.scheduler_address]
    child = subprocess.Popen([*map(str, command)], env=subprocess_env, stderr=subprocess.DEVNULL)
    try:
        while not begun.exists():
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    files, options = sorted(raw.iterdir()), toy_options(seed=5)
    read, reads = ToySource.read, list[int]()
    last = 0

    def works() -> bool:
        from hepfm.ingest.workers import _BUSY

        return _BUSY.locked()

    def counted(self: ToySource, *arguments: Any) -> pa.RecordBatch:
        reads.append(1)
        if len(reads) == last:  # nearly all of the new corpus is there: the old workers go on now, to their end
            gate.touch()
            with Client(cluster.scheduler_address) as client:
                while any(client.run(works).values()):
                    time.sleep(0.01)
        return read(self, *arguments)

    monkeypatch.setattr(ToySource, "read", counted)
    other = content(build(ToySource(), files, tmp_path / "other", options).path)
    last = len(reads)
    reads.clear()
    assert content(build(ToySource(), files, out, options).path) == other
    assert gate.exists()
