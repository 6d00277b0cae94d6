"""Artifacts are whole or absent."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from hepfm.core.artifacts import Artifact, write_artifact
from hepfm.core.errors import HepfmError


def write(path: Path) -> Artifact:
    return write_artifact(
        path,
        kind="toy",
        architecture={},
        contract={},
        provenance={},
        weights={"many": torch.zeros(5000)},
        metrics={},
        reference={"few": np.zeros(1)},
        card="",
    )


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow over 10 kB, not even the log of these tests: so no longer than has to be."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"artifact: cannot be written: .*File too large"), full_disk():
        write(tmp_path / "artifact")
    assert not list(tmp_path.iterdir())
