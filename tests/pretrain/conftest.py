from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The networks here are too small for threads, which cost most on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few jets (not tokens)."""
    from hepfm.core.records import schema
    from hepfm.ingest.formats.batches import jet_batch
    from hepfm.ingest.jobs import write_corpus
    from hepfm.ingest.plan import Job, Plan

    jets = schema("jets", ("pt", "deta", "dphi"), ("pt",))
    points = {name: np.ones(6) for name in ("pt", "deta", "dphi")}
    columns = {name: np.arange(3) for name in ("pt", "source_file", "source_entry")}
    batch = jet_batch(jets, (), np.array([0, 2, 4, 6]), points, columns)
    plan = Plan({}, (Job("train", 0, None, size=3),), "jets", jets, (), "stored", 64, {})
    folder = tmp_path_factory.mktemp("jets") / "corpus"
    write_corpus(folder, plan, lambda _: [batch])
    return folder
