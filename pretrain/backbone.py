"""Backbones: a causal transformer over the codes of a tokenizer, with a start and a stop token; as artifacts too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hepfm.core.artifacts import Artifact, read_artifact, write_artifact
from hepfm.core.config import from_dict
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.nn.cache import Cache
from hepfm.core.nn.head import Head
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import Transformer, TransformerConfig
from hepfm.core.resolve import resolve
from hepfm.pretrain.conditions import Condition, ConditionEmbedding, ConditionValues

KIND = "backbone"
REFERENCE_LENGTHS = (1, 9, 24)
REFERENCE_TOLERANCE = 1e-4
INITIAL_STD = 0.02  # GPT-2's; learns faster here than 1/sqrt(inputs)
MEND = "get the artifact again"


@dataclass(frozen=True)
class BackboneConfig:
    """What a backbone is made of.

    Attributes:
        codes: codes of the tokenizer; the vocabulary has two tokens more, start and stop.
        transformer: the blocks.
        tied: whether head and embedding share one matrix.
        head_bias: whether the head has a bias.
        conditions: what it is told of a record.
    """

    codes: int
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    tied: bool = False
    head_bias: bool = False
    conditions: tuple[Condition, ...] = ()


class Backbone(nn.Module):
    """Token ids in, logits over the next token out.

    A jet c1..cn is read as [start, c1, ..., cn] and its targets are [c1, ..., cn, stop]. What the backbone is told of
    it is added to the embedding of its first token.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.start, self.stop = config.codes, config.codes + 1
        width = config.transformer.width
        self.embedding = nn.Embedding(self.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=INITIAL_STD)
        self.transformer = Transformer(config.transformer)
        self.transformer.initialise(INITIAL_STD)
        tied = self.embedding.weight if config.tied else None
        self.head = Head(width, self.vocabulary, config.head_bias, tied)
        # Last, so that a seed gives the other weights with and without conditions.
        self.told = ConditionEmbedding(config.conditions, width) if config.conditions else None

    @property
    def vocabulary(self) -> int:
        """Number of tokens: codes, start and stop."""
        return self.config.codes + 2

    def begin(self, conditions: ConditionValues | None, sequences: int) -> torch.Tensor | None:
        """What is added (sequences, width) to the first token of each sequence; None if the backbone is told nothing.

        Without ``conditions`` all of them are unknown.
        """
        if self.told is None:
            return None
        if conditions is None:
            conditions = ConditionValues.unknown(self.config.conditions, sequences).to(self.embedding.weight.device)
        return self.told(conditions)

    def hidden(self, inputs: torch.Tensor, layout: Layout, conditions: ConditionValues | None = None) -> torch.Tensor:
        """Features (T, width) of packed token ids (T,); each sequence has at least one."""
        x, begin = self.embedding(inputs), self.begin(conditions, layout.sequences)
        if begin is not None:
            x = x.index_add(0, layout.offsets[:-1].long(), begin.to(x.dtype))
        return self.transformer(x, layout)

    def forward(self, inputs: torch.Tensor, layout: Layout, conditions: ConditionValues | None = None) -> torch.Tensor:
        """Logits (T, vocabulary) of the token after each of the packed token ids (T,)."""
        return self.head(self.hidden(inputs, layout, conditions))

    def loss(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        layout: Layout,
        conditions: ConditionValues | None = None,
    ) -> torch.Tensor:
        """Sum over the packed tokens (T,) of -ln p(target) [nats]."""
        return self.head(self.hidden(inputs, layout, conditions), targets)

    def new_cache(self, rows: int, max_length: int) -> Cache:
        """An empty KV cache for ``rows`` sequences of at most ``max_length`` tokens, start included."""
        return self.transformer.new_cache(rows, max_length)

    def step(self, inputs: torch.Tensor, cache: Cache, begin: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (rows, vocabulary) after one more token id of each row (rows,).

        ``begin`` (rows, width) is added to rows that begin, see :meth:`begin`.
        """
        x = self.embedding(inputs)
        if begin is not None:
            x = torch.where(cache.lengths[:, None] == 0, x + begin.to(x.dtype), x)
        return self.head(self.transformer.step(x, cache))

    @property
    def parameters_count(self) -> int:
        """All parameters, a shared one once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: float) -> float:
        """Forward and backward FLOPs of one token in sequences of ``length``: 6 N + 12 blocks width length.

        N counts the parameters in matrix products (the embedding is a look-up, the head counts even when tied); that
        causality halves the second term is left out, as is usual (nanoGPT, llm-foundry, torchtitan).
        """
        transformer = self.config.transformer
        products = sum(p.numel() for p in self.transformer.parameters() if p.ndim > 1) + self.head.weight.numel()
        return 6 * products + 12 * transformer.blocks * transformer.width * length

    def weights(self) -> dict[str, torch.Tensor]:
        """State dict in which each tensor comes once."""
        state = self.state_dict()
        if self.config.tied:
            del state["head.weight"]
        return state

    def load_weights(self, weights: dict[str, torch.Tensor], where: object) -> None:
        """Take over weights, all of them or none.

        Raises:
            HepfmError: see :meth:`check_weights`.
        """
        self.check_weights(weights, where)
        self.load_state_dict(weights, strict=not self.config.tied)

    def check_weights(self, weights: dict[str, torch.Tensor], where: object) -> None:
        """Refuse weights that are not this network's.

        Raises:
            HepfmError: a tensor is missing, unknown, or of another shape; names the first.
        """
        own = self.weights()
        for name in sorted(own.keys() | weights.keys()):
            if name not in weights:
                raise HepfmError(f"has no tensor '{name}'", where, MEND)
            if name not in own:
                raise HepfmError(f"has a tensor '{name}' that its architecture lacks", where, MEND)
            if own[name].shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
                raise HepfmError(f"tensor '{name}' has shape {shapes}", where, MEND)


def save_backbone(
    path: Path,
    backbone: Backbone,
    *,
    contract: dict[str, Any],
    provenance: dict[str, Any],
    metrics: dict[str, Any],
    card: str,
    tokenizer: Path,
    further: Sequence[Path] = (),
    sample: ConditionValues | None = None,
) -> Artifact:
    """Write a backbone as an artifact, its tokenizer inside.

    Args:
        path: folder of the artifact.
        backbone: the network.
        contract: the tokenizer's feature contract, with ``codes`` and ``max_length``.
        provenance: what it was trained on and how.
        metrics: measured results.
        card: text of README.md.
        tokenizer: folder of the tokenizer artifact.
        further: of further ones, whose ids come after it in the vocabulary.
        sample: what the backbone was told of some records in training; :func:`condition_sample` reads it.
    """
    told = {} if sample is None else {"sample_names": sample.names.numpy(), "sample_numbers": sample.numbers.numpy()}
    inner = {"tokenizer": tokenizer} | {f"tokenizer_{number}": path for number, path in enumerate(further, 2)}
    return write_artifact(
        path,
        kind=KIND,
        architecture=asdict(backbone.config),
        contract=contract,
        provenance=provenance,
        weights=backbone.weights(),
        metrics=metrics,
        reference=_reference(backbone) | told,
        card=card,
        inner=inner,
    )


def load_backbone(name: str | Path) -> tuple[Backbone, Artifact]:
    """Load a backbone, on the CPU, and replay its reference outputs.

    Args:
        name: whatever :func:`hepfm.core.resolve.resolve` takes: a run, an artifact folder, a hub id, a URL.

    Raises:
        HepfmError: no backbone, a tensor that does not fit, or outputs that differ from those it was saved with.
    """
    artifact = read_artifact(resolve(name), KIND)
    try:
        backbone = Backbone(from_dict(BackboneConfig, artifact.architecture, artifact.path))
    except (ValueError, TypeError) as error:
        raise HepfmError(f"its architecture cannot be built: {error}", artifact.path, MEND) from error
    backbone.load_weights(artifact.weights(), artifact.path)
    backbone.eval()
    _replay(backbone, artifact)
    return backbone, artifact


def condition_sample(artifact: Artifact) -> ConditionValues | None:
    """What the backbone of an artifact was told of some records in training; None if it is told nothing."""
    reference = artifact.reference()
    if "sample_names" not in reference:
        return None
    return ConditionValues(torch.from_numpy(reference["sample_names"]), torch.from_numpy(reference["sample_numbers"]))


def _reference(backbone: Backbone) -> dict[str, np.ndarray]:
    """Random sequences of codes, what is told of them, and the logits after each token."""
    draws = generator("backbone reference", backbone.config.codes)
    lengths = np.array(REFERENCE_LENGTHS)
    inputs = draws.integers(0, backbone.config.codes, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    inputs[offsets[:-1]] = backbone.start
    reference = {"inputs": inputs, "offsets": offsets}
    if backbone.config.conditions:
        told = {
            known.name: draws.uniform(known.low, known.high, len(lengths))
            if known.is_number
            else draws.integers(0, len(known.names), len(lengths))
            for known in backbone.config.conditions
        }
        values = ConditionValues.of_columns(backbone.config.conditions, told, len(lengths))
        reference |= {"told_names": values.names.numpy(), "told_numbers": values.numbers.numpy()}
    return reference | {"logits": _logits(backbone, reference)}


@torch.no_grad()
def _logits(backbone: Backbone, reference: dict[str, np.ndarray]) -> np.ndarray:
    device = backbone.embedding.weight.device
    layout = Layout.of(np.diff(reference["offsets"])).to(device)
    told = None
    if backbone.config.conditions:
        told = ConditionValues(*(torch.from_numpy(reference[name]) for name in ("told_names", "told_numbers")))
    was_training = backbone.training
    inputs = torch.from_numpy(reference["inputs"]).to(device)
    logits = backbone.eval()(inputs, layout, told and told.to(device))
    backbone.train(was_training)
    return logits.float().cpu().numpy()


def _replay(backbone: Backbone, artifact: Artifact) -> None:
    reference = artifact.reference()
    try:
        found = _logits(backbone, reference)
        difference = float(np.abs(found - reference["logits"]).max())
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise HepfmError(f"its reference cannot be replayed: {error}", artifact.path, MEND) from error
    if not difference <= REFERENCE_TOLERANCE * max(1.0, float(np.abs(reference["logits"]).max())):
        raise HepfmError(
            f"does not give its reference outputs: logits differ by {difference:.2g}",
            artifact.path,
            "report it with your versions of torch and hepfm",
        )
