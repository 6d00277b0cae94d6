"""``hepfm finetune generate``: a pretrained backbone goes on learning on other token corpora of its tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import tyro
from tyro.conf import Positional

from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.finetune.protocols import ProtocolConfig, blocks_of, drawn_anew, follow, merge
from hepfm.pretrain.backbone import Backbone, load_generator, retold
from hepfm.pretrain.data import TokenCorpora, vocabulary_of
from hepfm.pretrain.energy_profile_counts import profiled
from hepfm.pretrain.objectives import ObjectiveConfig
from hepfm.pretrain.run import Beginning, run_training
from hepfm.pretrain.stream_backbone import widened
from hepfm.pretrain.stream_batches import counted
from hepfm.pretrain.survey import surveyed_again

# Parts of a backbone that learn whatever the protocol: what it is told and how much energy layers have, and (but for
# low-rank adapters, which leave all other matrices as they are) its head, or those of its streams.
TOLD, HEADS = ("told", "profile"), ("head", "heads")
BACKBONE = "^backbone[.](?!head|told|profile[.])"  # the parameters of all else, in the objective


@dataclass(frozen=True)
class AdaptConfig:
    """Adapt a pretrained backbone to other token corpora. Run again after an interruption, it continues.

    The head and what the backbone is told learn under every protocol, but for the head with low-rank.
    """

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
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=3e-4))


def main(config: AdaptConfig) -> None:
    """Adapt and write the artifact, which names its parent."""

    def begin(data: TokenCorpora) -> Beginning:
        seed = config.training.seed
        backbone, artifact = load_generator(config.backbone)
        protocol = config.protocol.resolved(config.training, len(blocks_of(backbone)))
        data = data.in_vocabulary_of(vocabulary_of(artifact, backbone.config.codes))
        told = surveyed_again(data, config.condition, backbone.config)
        if told:
            torch.manual_seed(key_of("weights", seed))
            backbone = retold(backbone, told.conditions)
        if streams := backbone.config.streams:
            grown = counted(data, streams, streams.number)
            if streams.profile:
                grown = profiled(data, grown, backbone.config.conditions, streams.profile)
            backbone = widened(backbone, grown)
        if protocol.name == "scratch":
            backbone = drawn_anew(backbone, seed)
        follow(backbone, protocol, seed, always=TOLD if protocol.name == "low-rank" else (*TOLD, *HEADS))
        _tell_trained(backbone, protocol)
        return Beginning(
            backbone.train(),
            int(artifact.contract["max_length"]),
            artifact.hash,
            ObjectiveConfig().of_streams(data.streams is not None).resolved(),
            dropout=config.condition_dropout,
            sample=told.sample if told else None,
            data=data,
            data_sets=tuple(artifact.contract.get("data_sets", ())),
            training=protocol.rates(config.training, BACKBONE),
            finish=merge,
        )

    if not 0 <= config.condition_dropout < 1:
        raise HepfmError(f"must lie in [0, 1), is {config.condition_dropout}", "--condition-dropout")
    run_training(config, begin, "joined")


def _tell_trained(backbone: Backbone, protocol: ProtocolConfig) -> None:
    """Say how many parameters train.

    Raises:
        HepfmError: none do.
    """
    trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    if not trained:
        raise HepfmError(
            f"{protocol.name} leaves nothing to train: the head shares the embedding's matrix",
            "--protocol",
            "take another, or give --condition",
        )
    if launch.is_main():
        say(f"protocol: {protocol.name}, trains {trained:,} of {backbone.parameters_count:,} parameters")
