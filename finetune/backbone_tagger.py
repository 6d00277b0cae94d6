"""A pretrained backbone with a head: records to outputs, read causally, bidirectionally or by the masked encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hepfm.core.artifacts import Artifact
from hepfm.core.draws import key_of
from hepfm.core.errors import HepfmError
from hepfm.finetune.backbone_inputs import ConstituentInputs
from hepfm.finetune.heads import HEADS, HeadName
from hepfm.pretrain.backbone import Backbone, BackboneConfig

ARCHITECTURE = "backbone"
Reading = Literal["encoder", "causal", "bidirectional"]
ReadingAsked = Literal["default", "causal", "bidirectional"]


@dataclass(frozen=True)
class BackboneTaggerConfig:
    """What it is made of.

    Attributes:
        backbone: the pretrained network.
        classes: numbers of outputs.
        head: its name in :data:`hepfm.finetune.heads.HEADS`.
        reading: ``encoder``: [registers, constituents], each sees all; ``causal``: [start, constituents] as in
            pretraining for the next token; ``bidirectional``: these, each sees all.
    """

    backbone: BackboneConfig
    classes: int = 10
    head: HeadName = "class-attention"
    reading: Reading = "causal"

    @property
    def before(self) -> int:
        """Tokens before the constituents of a record."""
        return self.backbone.registers if self.reading == "encoder" else 1


def reading_of(config: BackboneConfig, asked: ReadingAsked) -> Reading:
    """How a backbone reads records: as in pretraining by default (joint: by its encoder).

    Raises:
        HepfmError: a way that it was not made for.
    """
    if asked == "default":
        return "causal" if config.objective == "next-token" else "encoder"
    if not config.predicts_next:
        if asked == "bidirectional":
            return "encoder"
        raise HepfmError(f"a backbone of {config.objective} sees all constituents at once", "--reading", "leave it out")
    return "encoder" if asked == "bidirectional" and config.objective == "joint" else asked


class BackboneTagger(nn.Module):
    """Records to outputs (n, classes).

    What only pretraining needs of the backbone (its head over the vocabulary, ...) is not there. It is told nothing of
    the records: conditions are unknown to it.
    """

    def __init__(self, config: BackboneTaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        for name in unused(config):
            delattr(self.backbone, name)
        if config.reading == "encoder":
            self.backbone.told = None
        self.head = HEADS[config.head](config.backbone.transformer.width, config.classes)

    @property
    def blocks(self) -> nn.Module:
        """The backbone's."""
        return self.backbone.transformer.blocks

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.head.vector_width

    def represent(self, inputs: ConstituentInputs) -> Tensor:
        """The backbone's features (T, width) of the tokens of ``inputs.layout``."""
        backbone, reading = self.backbone, self.config.reading
        if reading == "encoder":
            return backbone.encode(inputs.view, inputs.codes, inputs.features)
        seen = backbone.embed(inputs.codes, inputs.features)
        begin = backbone.begin if backbone.config.features else backbone.embedding.weight[backbone.start][None]
        x = torch.cat([begin.to(seen.dtype), seen]).index_select(0, inputs.view.index)
        return backbone.read(x, inputs.layout, causal=reading == "causal")

    def embedding(self, inputs: ConstituentInputs) -> Tensor:
        """What is before the head's last layer (n, width)."""
        return self.head.vector(self.represent(inputs), inputs.layout)

    def classify(self, embedding: Tensor) -> Tensor:
        """Outputs (n, classes) of embeddings (n, width)."""
        return self.head.out(embedding)

    def forward(self, inputs: ConstituentInputs, frozen: bool = False) -> Tensor:
        """Outputs (n, classes); ``frozen``: the backbone without gradients and without dropout."""
        if not frozen:
            return self.classify(self.embedding(inputs))
        self.backbone.eval()
        with torch.no_grad():
            features = self.represent(inputs)
        return self.classify(self.head.vector(features, inputs.layout))


def unused(config: BackboneTaggerConfig) -> list[str]:
    """Members of the backbone that reading records so does not need."""
    backbone = config.backbone
    found = ["head"] if backbone.predicts_next else []
    if config.reading == "encoder":
        return [*found, *(["begin"] if backbone.features and backbone.predicts_next else [])]
    return [*found, *(["registers"] if backbone.registers else [])]


def on_backbone(
    artifact: Artifact, pretrained: Backbone, config: BackboneTaggerConfig, seed: int, scratch: bool
) -> BackboneTagger:
    """A new head, drawn by the seed, on a pretrained backbone, or for the control on one of random weights.

    The statistics of continuous inputs are taken over in either case: they are preprocessing.

    Raises:
        HepfmError: a backbone whose weights do not fit; names the first.
    """
    torch.manual_seed(key_of("weights", seed))
    network = BackboneTagger(config)
    own: dict[str, Any] = network.backbone.state_dict()
    weights = dict(pretrained.named_buffers()) if scratch else pretrained.state_dict()
    missing = [] if scratch else sorted(own.keys() - weights.keys())
    if missing:
        raise HepfmError(f"has no tensor '{missing[0]}'", artifact.path)
    network.backbone.load_state_dict({**own, **{name: value for name, value in weights.items() if name in own}})
    return network
