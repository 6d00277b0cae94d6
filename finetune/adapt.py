"""``hepfm finetune generate``: a pretrained backbone goes on learning on other token corpora of its tokenizers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import tyro
from tyro.conf import Positional

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.draws import key_of
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.pretrain.backbone import load_generator, retold
from hepfm.pretrain.batches import IdRange
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.run import Beginning, run_training
from hepfm.pretrain.survey import surveyed_again
from hepfm.tokenize.registry import load_tokenizer


@dataclass(frozen=True)
class AdaptConfig:
    """Adapt a pretrained backbone to other token corpora. Run again after an interruption, it continues."""

    command: ClassVar[str] = "hepfm finetune generate"

    tokens: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENS...")]
    """Token corpora, made by the backbone's own tokenizers, or one mixture of them (hepfm corpus mix)."""
    backbone: str
    """Pretrained backbone: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """Folder of the run."""
    condition: tuple[str, ...] = ()
    """What the backbone is told of each record besides what it is told already; see hepfm pretrain."""
    condition_dropout: float = 0.1
    """How often all conditions of a record are left unknown, and each of the others by itself."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=3e-4))


def main(config: AdaptConfig) -> None:
    """Adapt and write the artifact, which names its parent."""

    def begin(data: TokenCorpora) -> Beginning:
        backbone, artifact = load_generator(config.backbone)
        data = data.in_vocabulary_of(vocabulary_of(artifact, backbone.config.codes))
        told = surveyed_again(data, config.condition, backbone.config)
        if told:
            torch.manual_seed(key_of("weights", config.training.seed))
            backbone = retold(backbone, told.conditions)
        return Beginning(
            backbone.train(),
            int(artifact.contract["max_length"]),
            artifact.hash,
            dropout=config.condition_dropout,
            sample=told.sample if told else None,
            data=data,
            data_sets=tuple(artifact.contract.get("data_sets", ())),
        )

    if not 0 <= config.condition_dropout < 1:
        raise HepfmError(f"must lie in [0, 1), is {config.condition_dropout}", "--condition-dropout")
    run_training(config, begin, "joined")


def vocabulary_of(artifact: Artifact, codes: int) -> list[tuple[Artifact, IdRange]]:
    """The tokenizers that a backbone of so many codes carries, each with its ids: they stand one after another."""
    numbered = map("tokenizer_{}".format, itertools.count(2))
    further = itertools.takewhile(lambda name: artifact.inner(name).is_dir(), numbered)
    paths = [artifact.inner(name) for name in ("tokenizer", *further)]
    sizes = [load_tokenizer(path).codes for path in paths] if len(paths) > 1 else [codes]
    firsts = [0, *itertools.accumulate(sizes[:-1])]
    ranges = map(IdRange, firsts, sizes)
    return [(read_artifact(path, "tokenizer"), ids) for path, ids in zip(paths, ranges, strict=True)]
