"""Corpora that are read together: what one holds out, another may not train on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.merge import source_files
from hepfm.ingest.reweight import Group, group_numbers

TRAIN = "train"
_FILE_STEP = 1 << 40  # more than any file has entries


def check_held_out(corpora: Sequence[Corpus], labels: Sequence[tuple[str, ...]]) -> None:
    """See that no entry of a source file is in one corpus's training split and in another's val or test.

    This happens to corpora of the same files that were split with another seed or other fractions. Those that do not
    say where their records come from are not looked at.

    Args:
        corpora: what is read together.
        labels: of each, only these are read; all if empty.

    Raises:
        HepfmError: one is; names the corpora and how many.
    """
    files = [_files(corpus) for corpus in corpora]
    numbers = {sha256: number for number, sha256 in enumerate(dict.fromkeys(name for names in files for name in names))}
    for one, other in permutations(range(len(corpora)), 2):
        shared = sorted(set(files[one]) & set(files[other]))
        trains = TRAIN in corpora[other].splits()
        if not shared or not trains or corpora[one].digest == corpora[other].digest:
            continue
        keys = [_Keys(files[number], shared, numbers, labels[number]) for number in (one, other)]
        out = [corpora[one].split(name) for name in corpora[one].splits() if name != TRAIN]
        held = [np.zeros(0, np.int64), *(keys[0].of(block) for split in out for block in split)]
        again = _count(corpora[other].split(TRAIN), keys[1], np.unique(np.concatenate(held)))
        if again:
            raise HepfmError(
                f"{again:,} records of its training split come from entries that {corpora[one].path} holds out in val "
                "or test",
                corpora[other].path,
                "split what they were made from once, then filter it",
            )


def _files(corpus: Corpus) -> list[str]:
    """Checksums of a corpus's source files; none if they are not known."""
    try:
        return [file["sha256"] for file in source_files(corpus)]
    except HepfmError:
        return []


class _Keys:
    """Numbers the entries of the shared files alike in all corpora."""

    def __init__(
        self, files: Sequence[str], shared: Sequence[str], numbers: dict[str, int], labels: tuple[str, ...]
    ) -> None:
        self.number = np.array([numbers[name] if name in shared else -1 for name in files], dtype=np.int64)
        self.wanted = (Group("wanted", 1.0, labels),) if labels else ()

    def of(self, block: pa.RecordBatch) -> np.ndarray:
        """Key (m,) int64 of those records of a block that are read and come from a shared file."""
        file = self.number[block.column("source_file").to_numpy()]
        taken = file >= 0
        if self.wanted:
            taken &= group_numbers(block, self.wanted) >= 0
        return (file * _FILE_STEP + block.column("source_entry").to_numpy())[taken]


def _count(split: Split, keys: _Keys, held: np.ndarray) -> int:
    """Records of a split whose keys are among ``held`` (h,), which ascend."""
    found = 0
    if not len(held):
        return found
    with progress("compare splits", len(split), "blocks", visible=len(split) > 1000) as task:
        for block in split:
            found += int(np.isin(keys.of(block), held).sum())
            task.advance()
    return found
