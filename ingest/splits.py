"""Which entries go where: contiguous runs, dealt to splits, interleaved over files, grouped into rounds and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hepfm.core.draws import generator

LANES = 8  # runs read side by side: a block mixes the classes and files of this many
SMALLEST_RUN, LARGEST_RUN = 1000, 4096
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Run:
    """Entries ``[start, stop)`` of file number ``file``: never divided between splits."""

    file: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def default_run_entries(entries: int) -> int:
    """Entries of a run in a corpus of ``entries``: at least 1,000, so that neighbours share a split; about 200 runs."""
    return max(SMALLEST_RUN, min(LARGEST_RUN, entries // 200))


def cut_runs(
    entries: Sequence[int], run_entries: int, edges: Sequence[np.ndarray | None] | None = None
) -> list[list[Run]]:
    """The runs of each file; what is left over belongs to a file's last run, so none is shorter than asked.

    Args:
        entries: of each file.
        run_entries: wanted length of a run.
        edges: for each file the entries at which it may be cut, ascending; None for anywhere.
    """
    files = []
    for file, total in enumerate(entries):
        count = max(1, total // run_entries)
        starts = np.arange(count) * run_entries
        allowed = None if edges is None else edges[file]
        if allowed is not None and total:
            # The next allowed entry, or the end: a run that gets nothing falls away.
            starts = np.append(allowed, total)[np.searchsorted(allowed, starts)]
        bounds = np.unique(np.append(starts, total)).tolist()
        files.append([Run(file, start, stop) for start, stop in pairwise(bounds)] if total else [])
    return files


def assign_splits(files: list[list[Run]], fractions: dict[str, float], seed: int) -> dict[str, list[Run]]:
    """Deal runs to splits so that each file is spread in proportion and the totals are right.

    Files are taken in order, the runs of a file in an order keyed by the seed; each run goes to the split that lacks
    most entries at that point, which keeps every split within about a run of its share in any stretch of the sequence.
    As the files of a class follow each other by name, every class is spread in proportion too.
    A split that is wanted but got nothing takes a run from the largest. With fewer runs than splits all go to the
    largest one.

    Returns:
        Runs of each split that has any.
    """
    wanted = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    sequence = [
        files[file][run]
        for file in range(len(files))
        for run in generator("split runs", seed, file).permutation(len(files[file])).tolist()
    ]
    if len(sequence) < len(wanted):
        wanted = {max(wanted, key=lambda name: wanted[name]): 1.0}
    share = {name: fraction / sum(wanted.values()) for name, fraction in wanted.items()}
    dealt: dict[str, list[Run]] = {name: [] for name in wanted}
    entries = dict.fromkeys(wanted, 0)
    total = 0
    for run in sequence:
        total += len(run)
        name = max(wanted, key=lambda split: share[split] * total - entries[split])
        dealt[name].append(run)
        entries[name] += len(run)
    for runs in dealt.values():
        if total and not runs:
            runs.append(max(dealt.values(), key=len).pop())
    return {name: runs for name, runs in dealt.items() if runs}


def interleave(runs: list[Run]) -> list[Run]:
    """The runs in an order in which each file comes at an even rate and neighbours come from different files.

    Run j of the n of a file stands at (j + phase) / n; phases of successive files differ by the golden ratio, so files
    that follow each other in the list (often of one class) do not follow each other here.
    """
    by_file: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.file, run.start)):
        by_file.setdefault(run.file, []).append(run)
    placed = [
        ((j + rank * _GOLDEN % 1) / len(members), rank, run)
        for rank, members in enumerate(by_file.values())
        for j, run in enumerate(members)
    ]
    return [run for _, _, run in sorted(placed, key=lambda item: item[:2])]


def shards_of(runs: list[Run], run_entries: int, shard_entries: int) -> list[list[list[Run]]]:
    """Runs (in reading order) as shards of groups of up to :data:`LANES` runs that are read side by side.

    A shard holds about ``shard_entries`` entries, or fewer where the split would otherwise have less than eight shards.
    """
    groups = _evenly(runs, -(-len(runs) // LANES))
    per_shard = max(1, min(shard_entries // (LANES * run_entries), len(groups) // 8))
    return _evenly(groups, -(-len(groups) // per_shard))


def rounds_of(lanes: list[Run], piece_entries: int) -> list[list[Run]]:
    """The runs side by side, cut to pieces of at most ``piece_entries``: piece k of every run makes round k."""
    longest = max(len(run) for run in lanes)
    return [
        [
            Run(run.file, start, min(start + piece_entries, run.stop))
            for run in lanes
            if (start := run.start + first) < run.stop
        ]
        for first in range(0, longest, piece_entries)
    ]


def _evenly(items: list, parts: int) -> list[list]:
    """Split a list into ``parts`` stretches whose lengths differ by at most one."""
    edges = [i * len(items) // parts for i in range(parts + 1)]
    return [items[start:stop] for start, stop in pairwise(edges)]
