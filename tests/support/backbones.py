"""Small backbones of random weights as artifacts, with a real tokenizer inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hepfm.core.artifacts import read_artifact
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig, save_backbone
from hepfm.pretrain.features import Statistics
from hepfm.tokenize.registry import load_tokenizer

SETS = {"positions": "none", "causal": False}  # what masked objectives make of a transformer


def backbone_artifact(out: Path, tokenizer: Path, objective: str, features: bool = False, **settings: Any) -> Path:
    """A backbone of two blocks, 16 wide, for the codes or the features of a tokenizer."""
    made = load_tokenizer(tokenizer)
    columns = made.contract.width if features else 0
    transformer = TransformerConfig(width=16, blocks=2, heads=2, **(SETS if objective.startswith("masked") else {}))
    torch.manual_seed(3)
    registers = 0 if objective in ("next-token", "masked-v1") else 2
    config = BackboneConfig(
        made.codes, transformer, objective=objective, features=columns, registers=registers, **settings
    )
    backbone = Backbone(config)
    if features:
        ones = np.ones(columns, np.float32)
        backbone.embedding.set_statistics(Statistics(0 * ones, 2 * ones, (), (), ()))  # type: ignore[operator]
    save_backbone(
        out,
        backbone,
        contract={**read_artifact(tokenizer).contract, "codes": made.codes, "max_length": 6, "data_sets": []},
        provenance={},
        metrics={},
        card="",
        tokenizer=tokenizer,
    )
    return out
