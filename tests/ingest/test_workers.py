from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from toy_source import ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.core.versions import versions
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.tally import Tally
from hepfm.ingest.verify import verify
from hepfm.ingest.workers import Workers, in_order

Options = Callable[..., BuildOptions]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True)
class OnceDyingSource(ToySource):
    """Kills the process that reads with it, until a mark stands that this has happened."""

    mark: str = ""

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        mark = Path(self.mark)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path, start, stop, tally)


@dataclass(frozen=True)
class OnceKillingSource(ToySource):
    """Kills another process, once."""

    mark: str = ""
    victim: int = 0

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        mark = Path(self.mark)
        if not mark.exists():
            mark.touch()
            os.kill(self.victim, signal.SIGKILL)
        return super().read(path, start, stop, tally)


# A scheduler with a worker; says its address when both are there.
SCHEDULER = """
import sys, time
from pathlib import Path
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL") as cluster:
        Path(sys.argv[1]).with_suffix(".new").write_text(cluster.scheduler_address)
        Path(sys.argv[1]).with_suffix(".new").rename(sys.argv[1])
        time.sleep(10**6)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, toy_options: Options) -> tuple[list[Path], dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("workers")
    files = write_files(folder / "raw", (900, 700))
    return files, content(build(ToySource(), files, folder / "c", toy_options()).path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0", silence_logs="CRITICAL") as made:
        yield made


def test_a_cluster_gives_the_same_bytes(
    whole: tuple[list[Path], dict[str, bytes]], cluster: Any, tmp_path: Path, toy_options: Options
) -> None:
    files, expected = whole
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(), scheduler=cluster.scheduler_address)
    assert content(corpus.path) == expected


def test_a_cluster_whose_worker_dies_gives_the_same_bytes(
    whole: tuple[list[Path], dict[str, bytes]], cluster: Any, tmp_path: Path, toy_options: Options
) -> None:
    files, expected = whole
    source = OnceDyingSource(mark=str(tmp_path / "died"))
    corpus = build(source, files, tmp_path / "c", toy_options(), scheduler=cluster.scheduler_address)
    assert (tmp_path / "died").exists()
    assert content(corpus.path) == expected
    assert verify(corpus.path) == []


def test_a_local_cluster_whose_workers_die_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", fails)
    with pytest.raises(HepfmError, match="workers do not start: Nanny failed"):
        next(Workers(7, scheduler="local").results(abs, [1], "c"))


@pytest.mark.slow
def test_a_local_cluster_is_started_and_ended(
    whole: tuple[list[Path], dict[str, bytes]], tmp_path: Path, toy_options: Options
) -> None:
    files, expected = whole
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(), processes=2, scheduler="local")
    assert content(corpus.path) == expected


def test_a_scheduler_that_does_not_answer_is_told(
    tmp_path: Path, toy_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepfm.ingest.workers.CONNECT_S", 1)
    files = write_files(tmp_path / "raw", (100,))
    with pytest.raises(HepfmError, match=r"--scheduler tcp://127.0.0.1:9: no Dask scheduler answers"):
        build(ToySource(), files, tmp_path / "c", toy_options(), scheduler="tcp://127.0.0.1:9")
    assert not (tmp_path / "c").exists()


def test_a_worker_with_other_versions_is_told(
    cluster: Any, tmp_path: Path, toy_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepfm.ingest.workers.versions", lambda: {**versions(), "numpy": "0.1"})
    files = write_files(tmp_path / "raw", (100,))
    with pytest.raises(HepfmError, match=r"the Dask worker on .*: has another numpy \(workers need the environment"):
        build(ToySource(), files, tmp_path / "c", toy_options(), scheduler=cluster.scheduler_address)


def test_a_scheduler_that_goes_leaves_a_corpus_that_continues(
    whole: tuple[list[Path], dict[str, bytes]], tmp_path: Path, toy_options: Options, subprocess_env: dict[str, str]
) -> None:
    files, expected = whole
    out, address = tmp_path / "c", tmp_path / "address"
    scheduler = subprocess.Popen([sys.executable, "-c", SCHEDULER, str(address)], env=subprocess_env)
    try:
        while not address.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        # The process that kills the scheduler is a worker, in the midst of its work.
        source = OnceKillingSource(mark=str(tmp_path / "killed"), victim=scheduler.pid)
        with pytest.raises(HepfmError, match=r"the Dask scheduler is gone \(start it and run again: it continues\)"):
            build(source, files, out, toy_options(), scheduler=address.read_text())
    finally:
        scheduler.kill()
        scheduler.wait()
    assert content(build(ToySource(), files, out, toy_options()).path) == expected


def test_an_error_in_a_cluster_is_the_readers(cluster: Any, tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300,), bad=77)
    with pytest.raises(HepfmError, match=r"entry 77: pt is not finite"):
        build(ToySource(), files, tmp_path / "c", toy_options(), scheduler=cluster.scheduler_address)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes: int) -> None:
    assert list(in_order(abs, range(-30, 0), processes)) == list(range(30, 0, -1))
    assert sorted(Workers(processes).results(abs, [-2, -1], "here")) == [(-2, 2), (-1, 1)]
