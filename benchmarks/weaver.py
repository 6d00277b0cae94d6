"""weaver-core as a reference: its own loader on the same ROOT files (extra ``bench``)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

SETTINGS = Path(__file__).parent / "templates" / "weaver-jetclass.yaml"
FETCH_STEP = 0.1  # share of every file that is read at a time; its default of 0.01 is slower on files of this size


def weaver_reads(files: Sequence[Path], folder: Path, batch_size: int) -> Callable[[], int]:
    """A call that reads all jets once in shuffled batches, as its training does in one process.

    Args:
        files: JetClass ROOT files.
        folder: where it may write what it makes of its settings.
        batch_size: jets of a batch.
    """
    from torch.utils.data import DataLoader
    from weaver.utils.dataset import SimpleIterDataset

    logging.getLogger("weaver").setLevel(logging.ERROR)
    folder.mkdir()
    settings = shutil.copy(SETTINGS, folder)

    def read() -> int:
        jets = SimpleIterDataset(
            {"jets": [str(file) for file in files]}, str(settings), for_training=True, fetch_step=FETCH_STEP
        )
        return sum(len(inputs["pf_mask"]) for inputs, _, _ in DataLoader(jets, batch_size=batch_size))

    return read
