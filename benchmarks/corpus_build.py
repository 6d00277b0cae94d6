"""Benchmark ``corpus-build``: building from JetClass ROOT files against uproot alone, and two processes against one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uproot

from hepfm.benchmarks.memory import peak_anonymous_mb
from hepfm.benchmarks.synthetic import jetclass_files
from hepfm.benchmarks.workload import Way, Workload
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.formats.jetclass import TREE
from hepfm.ingest.sources.jetclass import BRANCHES, JetClassSource

FILES, JETS_PER_FILE = 8, 100_000  # as many in a file as JetClass has
STEP = 16_384  # entries that uproot decodes at a time; larger steps gain nothing
# What a data set of more than 820,000 jets has by default; the small one here stands for such.
OPTIONS = BuildOptions(run_entries=4096)


@dataclass(frozen=True)
class Build:
    """Builds a corpus in a folder that is not there."""

    files: tuple[Path, ...]
    out: Path
    processes: int = 1

    def __call__(self) -> None:
        build(JetClassSource(), self.files, self.out, OPTIONS, processes=self.processes)


@contextmanager
def corpus_build() -> Iterator[Workload]:
    """Make files, then decode them and build corpora from them."""
    with TemporaryDirectory() as name:
        folder, jets = Path(name), FILES * JETS_PER_FILE
        files = tuple(jetclass_files(folder / "raw", FILES, JETS_PER_FILE))
        (large,) = jetclass_files(folder / "large", 1, jets // 2)
        yield Workload(
            unit="jets/s",
            ways={
                "uproot_decode": Way(lambda: decode(files), jets),
                "one_process": _way(Build(files, folder / "one"), jets),
                "two_processes": _way(Build(files, folder / "two", 2), jets),
            },
            value="one_process",
            ratios={
                "uproot_decode": ("one_process", "uproot_decode"),
                "two_processes": ("two_processes", "one_process"),
            },
            figures={
                f"anonymous_memory_mb_file_of_{JETS_PER_FILE}": lambda: peak_anonymous_mb(
                    Build(files[:1], folder / "small memory")
                ),
                f"anonymous_memory_mb_file_of_{jets // 2}": lambda: peak_anonymous_mb(
                    Build((large,), folder / "large memory")
                ),
            },
        )


def _way(build: Build, jets: int) -> Way:
    return Way(build, jets, before=partial(shutil.rmtree, build.out, ignore_errors=True))


def decode(files: Sequence[Path]) -> int:
    """The reference: uproot decodes the branches that a corpus needs, and nothing else happens."""
    entries = 0
    for path in files:
        with uproot.open(path) as file:
            tree = file[TREE]
            for start in range(0, tree.num_entries, STEP):
                stop = min(start + STEP, tree.num_entries)
                tree.arrays(list(BRANCHES), entry_start=start, entry_stop=stop, how=dict, array_cache=None)
                entries += stop - start
    return entries
