"""What trains under each protocol, and that adapters vanish into the weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.sharded import adamw
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.protocols import ProtocolConfig, drawn_anew, follow, merge
from hepfm.pretrain.backbone import Backbone, BackboneConfig

CODES = 11
TRAINING = TrainingConfig(steps=10)


def small_backbone(features: int = 0) -> Backbone:
    torch.manual_seed(0)
    blocks = TransformerConfig(width=16, blocks=3, heads=2)
    return Backbone(BackboneConfig(CODES, blocks, features=features))


def trained(network: torch.nn.Module) -> set[str]:
    return {name for name, value in network.named_parameters() if value.requires_grad}


def follows(network: torch.nn.Module, *always: str, **settings: object) -> set[str]:
    follow(network, ProtocolConfig(**settings), seed=0, always=always)  # type: ignore[arg-type]
    return trained(network)


def test_each_protocol_trains_what_it_says() -> None:
    everything = trained(small_backbone())
    for name in ("full", "unfreeze", "scratch"):
        assert follows(small_backbone(), name=name) == everything
    assert follows(small_backbone(), name="frozen") == set()
    assert follows(small_backbone(), "head", name="frozen") == {"head.weight"}
    found = follows(small_backbone(), "head", name="last-blocks", last_blocks=2)
    assert found == {n for n in everything if n.startswith(("transformer.blocks.1", "transformer.blocks.2"))} | {
        "transformer.final_norm.weight",
        "head.weight",
    }
    adapters = follows(small_backbone(), name="low-rank", rank=4)
    assert len(adapters) == 3 * 4 * 2  # blocks, matrices of each, factors of each
    assert all(n.endswith((".0.up", ".0.down")) for n in adapters)


def test_the_last_blocks_of_a_particle_transformer_include_its_class_blocks() -> None:
    config = ParticleTransformerConfig(embed=(8, 8), pair_embed=(4,), heads=2, blocks=2, class_blocks=1)
    found = follows(ParticleTransformer(config), "head", "head_layers", name="last-blocks")
    assert {name.split(".")[0] for name in found} == {"blocks", "class_blocks", "token", "final_norm", "head"}
    assert {name.split(".")[1] for name in found if name.startswith("blocks")} == {"1"}


def test_what_is_frozen_has_neither_gradients_nor_optimizer_states() -> None:
    backbone = small_backbone()
    inputs, layout = torch.tensor([CODES, 3, 4, CODES, 5]), Layout.of([3, 2])
    follow(backbone, ProtocolConfig("last-blocks"), seed=0)
    optimizer = adamw(backbone, TRAINING)
    backbone.hidden(inputs, layout).square().sum().backward()
    optimizer.step()
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    assert {names[parameter] for parameter in optimizer.state} == trained(backbone)
    assert all(value.grad is None for name, value in backbone.named_parameters() if name not in trained(backbone))


def test_adapters_begin_as_nothing_learn_alone_and_are_merged_without_a_trace() -> None:
    backbone, plain = small_backbone().eval(), small_backbone().eval()
    inputs, layout = torch.tensor([CODES, 3, 4, CODES, 5]), Layout.of([3, 2])
    follow(backbone, ProtocolConfig("low-rank", rank=3), seed=0)
    assert torch.equal(backbone(inputs, layout), plain(inputs, layout))
    optimizer = adamw(backbone, TRAINING)
    for _ in range(2):
        optimizer.zero_grad()
        backbone(inputs, layout).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        adapted = backbone(inputs, layout)
        merge(backbone)
        assert torch.equal(backbone(inputs, layout), adapted)
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    change = backbone.transformer.blocks[1].mlp.up.weight - plain.transformer.blocks[1].mlp.up.weight  # type: ignore
    assert torch.linalg.matrix_rank(change.detach(), rtol=1e-3) == 3
    assert not torch.equal(adapted, plain(inputs, layout))
    again = small_backbone()
    follow(again, ProtocolConfig("low-rank", rank=3), seed=1)
    first, other = (
        network.transformer.blocks[0].mlp.up.parametrizations.weight[0].down  # type: ignore[union-attr]
        for network in (small_adapted(0), again)
    )
    assert not torch.equal(first, other)


def small_adapted(seed: int) -> Backbone:
    backbone = small_backbone()
    follow(backbone, ProtocolConfig("low-rank", rank=3), seed)
    return backbone


def test_random_weights_keep_the_statistics_of_the_inputs() -> None:
    backbone = small_backbone(features=4)
    backbone.embedding.mean.fill_(3.0)  # type: ignore[union-attr, operator]
    made = drawn_anew(backbone, 5)
    assert torch.equal(made.embedding.mean, backbone.embedding.mean)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(made.transformer.blocks[0].mlp.up.weight, backbone.transformer.blocks[0].mlp.up.weight)  # type: ignore
    assert torch.equal(drawn_anew(backbone, 5).embedding.weight, made.embedding.weight)


def test_the_backbone_has_its_own_rate_and_beginning() -> None:
    config = ProtocolConfig("unfreeze", unfreeze_step=3, backbone_rate=0.1).resolved(TRAINING, 3)
    (group,) = config.rates(TRAINING, r"^network\.backbone\.").groups
    assert (group.from_step, group.learning_rate) == (3, pytest.approx(1e-4))
    assert config.frozen_until == 3
    assert ProtocolConfig("full").rates(TRAINING, "x") is TRAINING
    assert ProtocolConfig("frozen", backbone_rate=0.1).rates(TRAINING, "x") is TRAINING
    assert ProtocolConfig("unfreeze").resolved(TRAINING, 3).unfreeze_step == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "last-blocks", "last_blocks": 4}, "--last-blocks: must lie in 1 to 3"),
        ({"name": "low-rank", "rank": 0}, "--rank"),
        ({"backbone_rate": 0.0}, "--backbone-rate"),
        ({"name": "unfreeze", "unfreeze_step": 10}, "--unfreeze-step: must lie in 1 to 9"),
    ],
)
def test_what_cannot_be_followed_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        ProtocolConfig(**settings).resolved(TRAINING, 3)  # type: ignore[arg-type]


def test_a_network_without_blocks_has_no_last_ones() -> None:
    with pytest.raises(HepfmError, match="has no blocks"):
        follow(torch.nn.Linear(2, 2), dataclasses.replace(ProtocolConfig("last-blocks")), seed=0)
