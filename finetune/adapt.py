"""``hepfm finetune generate``: a pretrained backbone goes on learning on another token corpus of its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.pretrain.backbone import load_generator
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.run import Beginning, run_training


@dataclass(frozen=True)
class AdaptConfig:
    """Adapt a pretrained backbone to other token corpora. Run again after an interruption, it continues."""

    tokens: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")]
    """Token corpora, made by the backbone's own tokenizer, or one mixture of them (hepfm corpus mix)."""
    backbone: str
    """Pretrained backbone: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """Folder of the run."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=3e-4))


def main(config: AdaptConfig) -> None:
    """Adapt and write the artifact, which names its parent."""

    def begin(data: TokenCorpora) -> Beginning:
        backbone, artifact = load_generator(config.backbone)
        own = artifact.provenance["tokenizer"]
        if data.tokenizer.hash != own:
            raise HepfmError(
                f"was made by tokenizer {data.tokenizer.hash[:12]}, the backbone reads tokenizer {own[:12]}",
                data.corpora[0].path,
                f"apply the backbone's to its source: hepfm tokenizer apply {artifact.inner('tokenizer')} ...",
            )
        return Beginning(backbone.train(), int(artifact.contract["max_length"]), artifact.hash)

    run_training(config, begin)
