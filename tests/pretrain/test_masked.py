"""Masked particle modelling and joint: what is masked is not seen, and neither padding nor other jets count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from physics_tokens import jet_corpus, tokens_of

from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.continuous import Continuous
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.features import FeatureEmbedding, Statistics
from hepfm.pretrain.masked import MaskedParticles
from hepfm.pretrain.masked_v1 import MaskedParticlesV1
from hepfm.pretrain.objectives import (
    Objective,
    ObjectiveBatches,
    ObjectiveConfig,
    ObjectiveName,
    Setting,
    constituents_of,
    objective_class,
)
from hepfm.pretrain.targets import RegressionTarget

PRESET = BackboneConfig(codes=32, transformer=TransformerConfig(width=32, blocks=2, heads=4))
WAYS = [
    ObjectiveConfig("masked"),
    ObjectiveConfig("masked", input="tokens", registers=0),
    ObjectiveConfig("masked", target="regression"),
    ObjectiveConfig("masked-v1"),
    ObjectiveConfig("masked-v1", input="tokens", target="regression"),
    ObjectiveConfig("joint"),
    ObjectiveConfig("joint", input="tokens", masked_weight=0.5),
]
IDS = [f"{way.objective}-{way.input}-{way.target}" for way in WAYS]
MAX_LENGTH = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenCorpora, Continuous]:
    """Tokens of jets of 1 to 8 constituents, and their features."""
    folder = tmp_path_factory.mktemp("masked")
    corpus = jet_corpus(folder / "jets")
    tokens = TokenCorpora.open([tokens_of(corpus, folder)])
    return tokens, Continuous.of(tokens, [corpus.path], MAX_LENGTH)


def make(
    way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous], seed: int = 0
) -> tuple[Objective, ObjectiveBatches]:
    tokens, continuous = data
    task = way.resolved()
    kind = objective_class(task.objective)
    torch.manual_seed(seed)
    backbone = Backbone(kind.backbone_config(PRESET, task, continuous.statistics.columns))
    if isinstance(backbone.embedding, FeatureEmbedding):
        backbone.embedding.set_statistics(continuous.statistics)
    setting = Setting(task, MAX_LENGTH, seed, continuous.statistics)
    objective = kind(backbone, setting)
    batches = tokens.batches("train", MAX_LENGTH, 0, features=continuous.of_splits)
    return objective, ObjectiveBatches(batches, objective, setting)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_the_loss_is_the_sum_over_jets_taken_one_by_one(
    way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]
) -> None:
    objective, batches = make(way, data)
    together = objective(batches.batch(0, 12)).total
    alone = sum((objective(batches.batch(jet, jet + 1)).total for jet in range(12)), torch.zeros(()))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_terms_are_counted_beforehand(way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]) -> None:
    objective, batches = make(way, data)
    tokens = batches.batches.batch(3, 40)
    _, lengths = constituents_of(tokens, objective.backbone.stop)
    assert lengths.max() == MAX_LENGTH
    assert (lengths == 1).any()
    fraction = 0.3 if way.objective == "masked-v1" else 0.4
    masked = sum(0 if n < 2 else min(max(int(fraction * n + 0.5), 1), n - 1) for n in lengths.tolist())
    following = len(tokens.targets) if way.objective == "joint" else 0
    assert batches.tokens(3, 40) == masked + following


@pytest.mark.parametrize("way", [way for way in WAYS if way.objective != "joint"], ids=IDS[:5])
def test_what_is_masked_is_a_target_and_no_input(way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]) -> None:
    """The gradient of the loss reaches the inputs that are visible, and none of the masked ones."""
    objective, batches = make(way, data)
    batch = batches.batch(0, 20)
    jets = batch if isinstance(objective, MaskedParticles) else batch.jets
    masked = jets.gaps.which if isinstance(objective, MaskedParticles) else batch.which
    read: list[torch.Tensor] = []

    def embed(codes: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        read.append(Backbone.embed(objective.backbone, codes, features).detach().requires_grad_())
        return read[0]

    objective.backbone.embed = embed  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(objective(batch).total, read)
    reached = gradient.abs().sum(1) > 0
    if isinstance(objective, MaskedParticles):
        assert not set(jets.view.seen.tolist()) & set(masked.tolist())
        assert len(reached) == len(jets.view.seen)
    else:
        assert not reached[masked].any()
    lengths = np.diff(jets.view.layout.offsets.numpy()) - objective.backbone.config.registers
    alone = np.repeat(lengths, lengths) == 1
    seen = reached if isinstance(objective, MaskedParticles) else reached[~batch.hidden[:, 0]]
    assert seen.float().mean() > 0.5 or alone.all()


def test_null_tokens_differ_in_their_order_alone(data: tuple[TokenCorpora, Continuous]) -> None:
    """With one embedding for all orders, all masked constituents of a jet are predicted alike."""
    objective, batches = make(ObjectiveConfig("masked"), data)
    assert isinstance(objective, MaskedParticles)
    found: list[torch.Tensor] = []
    objective.decoder.target.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0].detach()))
    batch = batches.batch(0, 20)
    objective(batch)
    with torch.no_grad():
        objective.decoder.order.weight[:] = objective.decoder.order.weight[0].clone()
    objective(batch)
    jet = np.repeat(np.arange(20), np.bincount(_jets_of(batch.gaps.which, batches, objective), minlength=20))
    same = torch.from_numpy(jet[1:] == jet[:-1])
    assert same.any()
    assert (found[0].diff(dim=0).abs().amax(1)[same] > 1e-4).all()
    torch.testing.assert_close(found[1][1:][same], found[1][:-1][same])


def _jets_of(which: torch.Tensor, batches: ObjectiveBatches, objective: Objective) -> np.ndarray:
    _, lengths = constituents_of(batches.batches.batch(0, 20), objective.backbone.stop)
    return np.repeat(np.arange(20), lengths)[which]


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_gradients_do_not_depend_on_how_a_batch_is_split(
    way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]
) -> None:
    objective, batches = make(way, data)
    parameters = list(objective.parameters())
    whole = torch.autograd.grad(objective(batches.batch(0, 20)).total, parameters)
    parts = [objective(batches.batch(first, last)).total for first, last in ((0, 3), (3, 20))]
    for one, other in zip(whole, torch.autograd.grad(parts[0] + parts[1], parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_batch_with_nothing_masked_has_gradients_too(
    way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]
) -> None:
    """A rank may get only jets of one constituent: every parameter takes part all the same."""
    objective, batches = make(way, data)
    single = int(np.flatnonzero(batches.batches.reader.lengths(0, 100) == 1)[0])
    total = objective(batches.batch(single, single + 1)).total
    gradients = torch.autograd.grad(total, list(objective.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if way.objective != "joint":
        assert total == 0
        assert batches.tokens(single, single + 1) == 1


@pytest.mark.parametrize("name", ["masked", "masked-v1", "joint"])
def test_learns_jets_by_heart(name: ObjectiveName, data: tuple[TokenCorpora, Continuous]) -> None:
    """What is seen tells the jet, and its gaps are the same each time: from guessing to well below it."""
    objective, batches = make(ObjectiveConfig(name), data)
    optimiser = torch.optim.AdamW(objective.parameters(), 5e-3)
    batch, terms = batches.batch(0, 16), batches.tokens(0, 16)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = objective(batch).total / terms
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(32), rel=0.1)
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3], WAYS[5]], ids=["masked", "masked-v1", "joint"])
def test_whole_jets_are_represented_each_by_itself(way: ObjectiveConfig, data: tuple[TokenCorpora, Continuous]) -> None:
    objective, batches = make(way, data)
    features, layout = objective.represent(objective.whole(batches.batches.batch(0, 9)))
    at = 0
    for jet in range(9):
        alone, own = objective.represent(objective.whole(batches.batches.batch(jet, jet + 1)))
        assert own.tokens == layout.offsets[jet + 1] - layout.offsets[jet]
        torch.testing.assert_close(features[at : at + own.tokens], alone, rtol=1e-4, atol=1e-5)
        at += own.tokens


def test_joint_is_next_token_and_weighted_masked(data: tuple[TokenCorpora, Continuous]) -> None:
    way = ObjectiveConfig("joint", input="tokens", masked_weight=0.25)
    objective, batches = make(way, data)
    batch = batches.batch(0, 30)
    total, figures = objective(batch)
    following = objective.backbone.loss(batch.tokens.inputs, batch.tokens.targets, batch.tokens.layout)
    torch.testing.assert_close(figures["next_token_loss"][0], following.detach())
    assert figures["next_token_loss"][1] == len(batch.tokens.targets)
    assert figures["masked_loss"][1] == len(batch.jets.gaps.which)
    torch.testing.assert_close(total.detach(), following.detach() + 0.25 * figures["masked_loss"][0])


def test_the_causal_pass_over_features_sees_no_later_constituent(data: tuple[TokenCorpora, Continuous]) -> None:
    objective, batches = make(ObjectiveConfig("joint"), data)
    jet = int(np.argmax(batches.batches.reader.lengths(0, 100)))
    batch = batches.batch(jet, jet + 1)
    assert batch.tokens.features is not None
    before = objective._causal(batch)  # type: ignore[operator]
    changed = batch.tokens.features.clone()
    changed[4] += 1
    after = objective._causal(replace(batch, tokens=replace(batch.tokens, features=changed)))  # type: ignore[operator]
    differs = (before - after).abs().amax(1) > 1e-6
    assert not differs[:5].any()  # start and the four before
    assert differs[5:].all()


def test_registers_are_those_of_the_settings(data: tuple[TokenCorpora, Continuous]) -> None:
    assert make(ObjectiveConfig("masked", registers=3), data)[0].backbone.registers.shape == (3, 32)
    v1 = make(ObjectiveConfig("masked-v1", registers=3), data)[0]
    assert isinstance(v1, MaskedParticlesV1)
    assert v1.backbone.config.registers == 0


def test_regression_is_by_the_kind_of_each_feature() -> None:
    """Two numbers (one that can be unknown), a category of three and the flag, against written-out formulas."""
    statistics = Statistics(
        np.array([1, 2, 0, 0, 0, 0], np.float32),
        np.array([2, 4, 1, 1, 1, 1], np.float32),
        numbers=((0, -1), (1, 5)),
        categories=((2, 5),),
        flags=(5,),
    )
    torch.manual_seed(0)
    target = RegressionTarget(8, statistics)
    torch.nn.init.normal_(target.out.weight)
    x = torch.randn(2, 8)
    features = torch.tensor([[3.0, 6.0, 0, 1, 0, 1], [1.0, 0.0, 1, 0, 0, 0]])
    out = target.out(x)
    first = (out[0, 0] - 1).abs() + (out[0, 1] - 1).abs() - out[0, 2:5].log_softmax(0)[1] + F.softplus(-out[0, 5])
    second = out[1, 0].abs() - out[1, 2:5].log_softmax(0)[0] + F.softplus(out[1, 5])
    torch.testing.assert_close(target(x, torch.zeros(2), features), (first + second) / 4)


def test_flops_follow_the_stated_formula(data: tuple[TokenCorpora, Continuous]) -> None:
    objective, _ = make(ObjectiveConfig("masked", input="tokens", registers=2), data)
    assert isinstance(objective, MaskedParticles)
    decoder = objective.decoder
    assert (decoder.config.width, decoder.config.blocks, decoder.config.heads) == (16, 1, 2)

    def products(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.ndim > 1)

    # 5 constituents, 2 of them masked: the encoder reads 3 and 2 registers, the decoder 7.
    encoder = 6 * products(objective.backbone.transformer) * 5 + 12 * 2 * 32 * 5**2
    beyond = 6 * products(decoder.transformer) * 7 + 12 * 1 * 16 * 7**2 + 6 * 32 * 16 * 5 + 6 * 16 * 32 * 2
    assert objective.flops(np.array([5]))[0] == encoder + beyond


def test_features_of_the_statistics_sample_are_normalised(
    data: tuple[TokenCorpora, Continuous], tmp_path: Path
) -> None:
    objective, batches = make(ObjectiveConfig("masked"), data)
    features = batches.batches.batch(0, 400).features
    assert features is not None
    assert isinstance(objective.backbone.embedding, FeatureEmbedding)
    columns = objective.backbone.embedding.normalised(features)
    torch.testing.assert_close(columns.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(columns.std(0), torch.ones(3), atol=1e-2, rtol=0)
