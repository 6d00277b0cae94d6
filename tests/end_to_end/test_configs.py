"""Every configuration that is shipped is one that its command takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hepfm.core.config import parse
from hepfm.pretrain.run import PretrainConfig

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
COMMANDS = {"pretrain": PretrainConfig}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_taken_by_its_command(path: Path) -> None:
    arguments = ["--config", str(path), "tokens", "--out", "run", "--steps", "7"]
    config = parse(COMMANDS[path.stem.split("-")[0]], arguments, "hepfm")
    assert (config.tokens, config.out, config.training.steps) == ((Path("tokens"),), Path("run"), 7)
    config.training.check(processes=1)
