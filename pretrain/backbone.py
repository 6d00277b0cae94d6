"""Backbones: a transformer over a jet's tokens or features, causal with a start and a stop token, or bidirectional with
registers; as artifacts too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hepfm.core.artifacts import Artifact, read_artifact, write_artifact
from hepfm.core.config import from_dict
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json
from hepfm.core.nn.cache import Cache
from hepfm.core.nn.empty import without_weights
from hepfm.core.nn.head import Head
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import Transformer, TransformerConfig
from hepfm.core.resolve import resolve
from hepfm.pretrain.conditions import Condition, ConditionEmbedding, ConditionValues
from hepfm.pretrain.features import FeatureEmbedding
from hepfm.pretrain.masking import View
from hepfm.pretrain.streams import Streams

KIND = "backbone"
REFERENCE_LENGTHS = (1, 9, 24)
REFERENCE_TOLERANCE = 1e-4
REFERENCE_INPUTS = {"inputs", "codes", "features", "ids", "numbers", "profile", "budget"}
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
        objective: what it is pretrained on (see :mod:`hepfm.pretrain.objectives`).
        features: columns of a constituent that it reads in place of a token id; 0: it reads token ids.
        registers: learned tokens before each jet in the bidirectional pass (Darcet et al., arXiv:2309.16588).
        conditions: what it is told of a record.
        streams: what each point is made of, where it is more than one token; ``codes`` is the largest number of ids.
    """

    codes: int
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    tied: bool = False
    head_bias: bool = False
    objective: str = "next-token"
    features: int = 0
    registers: int = 0
    conditions: tuple[Condition, ...] = ()
    streams: Streams | None = None

    @property
    def predicts_next(self) -> bool:
        """Whether it has a head for the next token: with every objective but those called masked."""
        return not self.objective.startswith("masked")

    @property
    def cannot_generate(self) -> str:
        """Why it cannot generate; empty if it can."""
        if not self.predicts_next:
            return f"it was pretrained to predict masked constituents ({self.objective}), not the next token"
        return "it reads continuous features, not the tokens that it predicts" if self.features else ""


class Backbone(nn.Module):
    """Token ids in, logits over the next token out; or all constituents of a jet in, features of each out.

    A jet c1..cn is read as [start, c1, ..., cn] and its targets are [c1, ..., cn, stop]. What the backbone is told of
    it is added to the embedding of its first token. :meth:`encode` reads it as [registers, c1, ..., cn], and each sees
    all; nothing is told there. What predicts no next token has no ``head``.
    """

    head: Head
    registers: nn.Parameter
    begin: nn.Parameter

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.start, self.stop = config.codes, config.codes + 1
        width = config.transformer.width
        self._make_embedding()
        self.transformer = Transformer(config.transformer)
        self.transformer.initialise(INITIAL_STD)
        if config.predicts_next:
            self._make_head()
        if config.registers:
            self.registers = nn.Parameter(torch.empty(config.registers, width))
            self.registers.no_weight_decay = True  # type: ignore[attr-defined]
            nn.init.normal_(self.registers, std=INITIAL_STD)
        if config.features and config.predicts_next:
            self.begin = nn.Parameter(INITIAL_STD * torch.randn(1, width))  # stands for the start token
            self.begin.no_weight_decay = True  # type: ignore[attr-defined]
        # Last, so that a seed gives the other weights with and without conditions.
        self.told = ConditionEmbedding(config.conditions, width) if config.conditions else None

    def _make_embedding(self) -> None:
        config = self.config
        width = config.transformer.width
        reads = FeatureEmbedding(config.features, width) if config.features else nn.Embedding(self.vocabulary, width)
        self.embedding: nn.Embedding | FeatureEmbedding = reads
        nn.init.normal_(self.embedding.weight, std=INITIAL_STD)

    def _make_head(self) -> None:
        tied = self.embedding.weight if self.config.tied else None
        self.head = Head(self.config.transformer.width, self.vocabulary, self.config.head_bias, tied)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are (codes, start and stop)."""
        return self.config.codes + 2

    def beginning(self, conditions: ConditionValues | None, sequences: int) -> torch.Tensor | None:
        """What is added (sequences, width) to the first token of each sequence; None if the backbone is told nothing.

        Without ``conditions`` all of them are unknown.
        """
        if self.told is None:
            return None
        if conditions is None:
            conditions = ConditionValues.unknown(self.config.conditions, sequences).to(next(self.parameters()).device)
        return self.told(conditions)

    def hidden(self, inputs: torch.Tensor, layout: Layout, conditions: ConditionValues | None = None) -> torch.Tensor:
        """Features (T, width) of packed token ids (T,); each sequence has at least one."""
        return self.read(self.embedding(inputs), layout, conditions)

    def read(
        self,
        x: torch.Tensor,
        layout: Layout,
        conditions: ConditionValues | None = None,
        causal: bool | None = None,
    ) -> torch.Tensor:
        """Features (T, width) of packed embeddings (T, width), what is told added to the first of each sequence.

        ``causal`` says whether a token sees only itself and those before it, by default as configured.
        """
        begin = self.beginning(conditions, layout.sequences)
        if begin is not None:
            x = x.index_add(0, layout.offsets[:-1].long(), begin.to(x.dtype))
        return self.transformer(x, layout, causal)

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

    def embed(self, codes: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Constituents (C, width) as it reads them: their codes (C,) or their features (C, F)."""
        return self.embedding(codes if features is None or not self.config.features else features)

    def encode(self, view: View, codes: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Features (T, width) of registers and the constituents in view, each of which sees all of its jet."""
        seen = self.embed(codes[view.seen], None if features is None else features[view.seen])
        if self.config.registers:
            seen = torch.cat([self.registers.to(seen.dtype), seen])
        return self.transformer(seen.index_select(0, view.index), view.layout, causal=False)

    def new_cache(self, rows: int, max_length: int) -> Cache:
        """An empty KV cache for ``rows`` sequences of at most ``max_length`` tokens, start included."""
        return self.transformer.new_cache(rows, max_length)

    def step(self, inputs: torch.Tensor, cache: Cache, begin: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (rows, vocabulary) after one more token id of each row (rows,).

        ``begin`` (rows, width) is added to rows that begin, see :meth:`beginning`.
        """
        x = self.embedding(inputs)
        if begin is not None:
            x = torch.where(cache.lengths[:, None] == 0, x + begin.to(x.dtype), x)
        return self.head(self.transformer.step(x, cache))

    @property
    def head_products(self) -> int:
        """Parameters of the head that enter matrix products."""
        return self.head.weight.numel()

    @property
    def parameters_count(self) -> int:
        """All parameters, a shared one once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: float) -> float:
        """Forward and backward FLOPs of one token in sequences of ``length``: 6 N + 12 blocks width length.

        N counts the parameters in matrix products (the embedding is a look-up, the head counts even when tied); that
        causality halves the second term is left out, as is usual (nanoGPT, llm-foundry, torchtitan).
        """
        products = products_of(self.transformer) + self.head_products
        return 6 * products + 12 * self.config.transformer.blocks * self.config.transformer.width * length

    def reference_inputs(self, draws: np.random.Generator, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """Random sequences ``offsets`` (n + 1,) to read, for the reference of an artifact."""
        config, count = self.config, int(offsets[-1])
        inputs, known = draws.integers(0, config.codes, count), {}
        if config.objective != "next-token":
            known["codes"] = inputs.copy()
        if isinstance(self.embedding, FeatureEmbedding):
            columns = draws.normal(size=(count, config.features)).astype(np.float32)
            known["features"] = self.embedding.physical(columns)
        if not config.cannot_generate:
            inputs[offsets[:-1]] = self.start
            known["inputs"] = inputs
        return known

    def reference_outputs(
        self, known: dict[str, torch.Tensor], lengths: np.ndarray, told: ConditionValues | None
    ) -> dict[str, torch.Tensor]:
        """Logits (T, vocabulary) and hidden features (T, width), whichever there are inputs for."""
        found, device = {}, next(self.parameters()).device
        if "inputs" in known:
            found["logits"] = self(known["inputs"], Layout.of(lengths).to(device), told)
        if "codes" in known:
            view = View.of(lengths, self.config.registers).to(device)
            found["hidden"] = self.encode(view, known["codes"], known.get("features"))
        return found

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


def products_of(module: nn.Module) -> int:
    """Parameters of a network that enter matrix products."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def build(config: BackboneConfig) -> Backbone:
    """The network of a config, with random weights."""
    if config.streams is None:
        return Backbone(config)
    from hepfm.pretrain.stream_backbone import StreamBackbone  # which is made of what stands here

    return StreamBackbone(config)


def retold(backbone: Backbone, conditions: tuple[Condition, ...]) -> Backbone:
    """The same backbone that is told these conditions: what it is told already, with at least its names, and more.

    With what it knew it computes what it did; what is new changes nothing until it has learned.
    """
    made = build(replace(backbone.config, conditions=conditions)).train(backbone.training)
    own = {name: value for name, value in backbone.state_dict().items() if not name.startswith("told.")}
    made.load_state_dict(own, strict=False)
    if made.told is not None and backbone.told is not None:
        made.told.take(backbone.told)
    return made


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
        config = from_dict(BackboneConfig, artifact.architecture, artifact.path)
        with without_weights():
            expected = build(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HepfmError(f"its architecture cannot be built: {error}", artifact.path, MEND) from error
    _check_contract(artifact)
    weights = artifact.weights()
    expected.check_weights(weights, artifact.path)  # before memory is taken for sizes that nothing backs
    backbone = build(config)
    backbone.load_weights(weights, artifact.path)
    backbone.eval()
    if artifact.replayed:
        _replay(backbone, artifact)
    return backbone, artifact


def _check_contract(artifact: Artifact) -> None:
    """Refuse a backbone whose contract is not that of the tokenizer it carries."""
    tokenizer = read_json(artifact.inner("tokenizer") / "config.json")["contract"]
    for name, value in tokenizer.items():
        if artifact.contract.get(name) != value:
            raise HepfmError(f"its contract has other '{name}' than its tokenizer's", artifact.path, MEND)


def condition_sample(artifact: Artifact) -> ConditionValues | None:
    """What the backbone of an artifact was told of some records in training; None if it is told nothing."""
    reference = artifact.reference()
    if "sample_names" not in reference:
        return None
    return ConditionValues(torch.from_numpy(reference["sample_names"]), torch.from_numpy(reference["sample_numbers"]))


def load_generator(name: str | Path) -> tuple[Backbone, Artifact]:
    """:func:`load_backbone`, of one that can generate.

    Raises:
        HepfmError: it cannot; says why.
    """
    backbone, artifact = load_backbone(name)
    if reason := backbone.config.cannot_generate:
        raise HepfmError(
            f"cannot generate: {reason}",
            artifact.path,
            "name a backbone of --objective next-token, or of joint with --input tokens",
        )
    return backbone, artifact


def _reference(backbone: Backbone) -> dict[str, np.ndarray]:
    """Random jets, and what the backbone makes of them: logits after each token, features of each constituent."""
    config, draws = backbone.config, generator("backbone reference", backbone.config.codes)
    lengths = np.array(REFERENCE_LENGTHS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    known = {"offsets": offsets, **backbone.reference_inputs(draws, offsets)}
    if config.conditions:
        told = {
            condition.name: draws.uniform(condition.low, condition.high, len(lengths))
            if condition.is_number
            else draws.integers(0, len(condition.names), len(lengths))
            for condition in config.conditions
        }
        values = ConditionValues.of_columns(config.conditions, told, len(lengths))
        known |= {"told_names": values.names.numpy(), "told_numbers": values.numbers.numpy()}
    return {**known, **_outputs(backbone, known)}


@torch.no_grad()
def _outputs(backbone: Backbone, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the backbone makes of the inputs of a reference."""
    device = next(backbone.parameters()).device
    lengths = np.diff(known["offsets"])
    given = {name: torch.from_numpy(known[name]).to(device) for name in known.keys() & REFERENCE_INPUTS}
    was_training = backbone.training
    backbone.eval()
    told = None
    if backbone.config.conditions:
        told = ConditionValues(*(torch.from_numpy(known[name]) for name in ("told_names", "told_numbers")))
    found = backbone.reference_outputs(given, lengths, told and told.to(device))
    backbone.train(was_training)
    return {name: value.float().cpu().numpy() for name, value in found.items()}


def _replay(backbone: Backbone, artifact: Artifact) -> None:
    reference = artifact.reference()
    try:
        found = _outputs(backbone, reference)
        differences = {name: float(np.abs(value - reference[name]).max()) for name, value in found.items()}
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise HepfmError(f"its reference cannot be replayed: {error}", artifact.path, MEND) from error
    for name, difference in differences.items():
        if not difference <= REFERENCE_TOLERANCE * max(1.0, float(np.abs(reference[name]).max())):
            raise HepfmError(
                f"does not give its reference outputs: {name} differ by {difference:.2g}",
                artifact.path,
                "report it with your versions of torch and hepfm",
            )
    if not differences:
        raise HepfmError("its reference holds nothing to replay", artifact.path, MEND)
