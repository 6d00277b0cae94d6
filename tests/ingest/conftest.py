from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))  # worker processes import the toy source by its name


@pytest.fixture(scope="session")
def toy_options() -> Callable[..., Any]:
    """Options that give small blocks and several shards."""
    from hepfm.ingest.build import BuildOptions

    def options(**changes: Any) -> BuildOptions:
        return BuildOptions(**{"run_entries": 50, "block_records": 64, "shard_entries": 800, **changes})

    return options


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory, toy_options: Callable[..., Any]) -> Any:
    """A corpus of 6,000 toy jets from four files; tests do not change it."""
    from toy_source import ToySource, write_files

    from hepfm.ingest.build import build

    folder = tmp_path_factory.mktemp("toy")
    files = write_files(folder / "raw", (2000, 1000, 2000, 1000))
    return build(ToySource(), files, folder / "corpus", toy_options())


@pytest.fixture(scope="session")
def subprocess_env() -> dict[str, str]:
    """Environment in which a child process finds the toy source."""
    path = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
