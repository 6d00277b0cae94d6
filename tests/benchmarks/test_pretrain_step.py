"""The padded backbone learns what the packed one learns, and the benchmark's ratios are those of its rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hepfm.benchmarks import pretrain_step
from hepfm.benchmarks.padded import LONGEST
from hepfm.benchmarks.padded_backbone import PaddedNextToken, PaddedTokens, flop_bound, mean_length
from hepfm.benchmarks.pretrain_step import Either, PretrainStepConfig, main
from hepfm.benchmarks.workload import read_details
from hepfm.core.errors import HepfmError
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.data import TokenBatch, pack
from hepfm.pretrain.next_token import NextToken

CODES = 30
MODERN = TransformerConfig(width=32, blocks=2, heads=4)
POST = TransformerConfig(
    width=32, blocks=2, heads=4, mlp="relu", norm="layernorm", norm_position="post", positions="none", bias=True
)


@pytest.fixture
def batch() -> TokenBatch:
    draws = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum([5, 0, 127, 1, 40])])
    return pack(draws.integers(0, CODES, offsets[-1]).astype(np.uint8), offsets, CODES, LONGEST - 1)


@pytest.mark.parametrize("config", [BackboneConfig(CODES, MODERN), BackboneConfig(CODES, POST, head_bias=True)])
def test_a_padded_step_has_the_same_loss_and_gradients(batch: TokenBatch, config: BackboneConfig) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config).double()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    slots = PaddedTokens.of(batch)
    slots = PaddedTokens(slots.inputs, slots.targets, slots.real.double(), slots.seen)
    gradients = []
    for objective, given in ((NextToken(backbone), batch), (PaddedNextToken(backbone), slots)):
        backbone.zero_grad()
        loss = objective(given).total
        loss.backward()
        gradients.append((loss.detach(), [parameter.grad for parameter in backbone.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_slots_hold_tokens_and_see_what_came_before(batch: TokenBatch) -> None:
    slots = PaddedTokens.of(batch)
    places = slots.real[:, 0].nonzero()[:, 0]
    assert slots.inputs[places].tolist() == batch.inputs.tolist()
    assert slots.targets[places].tolist() == batch.targets.tolist()
    assert slots.seen[0, 0, 3].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert slots.seen[0, 0, 90].nonzero()[:, 0].tolist() == list(range(6))


def test_operations_of_padding() -> None:
    backbone = Backbone(BackboneConfig(CODES, MODERN))
    assert flop_bound(backbone, torch.full((3,), LONGEST)) == pytest.approx(1)
    assert flop_bound(backbone, torch.full((3,), LONGEST // 2)) > 2
    assert mean_length(torch.tensor([1, 3])) == 10 / 4


def test_one_backbone_is_trained_whichever_way() -> None:
    objective = Either(Backbone(BackboneConfig(CODES, MODERN)))
    assert len(list(objective.parameters())) == len(list(objective.packed.backbone.parameters()))


def test_the_result_has_its_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_step, "CORPUS_JETS", 1_000)
    monkeypatch.setattr(pretrain_step, "PRODUCT_SIZES", {"cpu": (64,), "cuda": (64,)})
    monkeypatch.setitem(pretrain_step.STEP_JETS, "tiny", 4)
    main(PretrainStepConfig(("tiny",), ("fp32", "bf16"), repeats=1, json=tmp_path / "out.json"))
    result = {**json.loads((tmp_path / "out.json").read_text()), **read_details(tmp_path / "out.json")}
    rates, ratios, figures = result["rates"], result["ratios"], result["figures"]
    assert {"padded", "of_flop_bound", "matmul_peak", "input"} <= ratios.keys()
    assert ratios["of_flop_bound"] == pytest.approx(ratios["padded"] / figures["padded_per_real_flops"])
    assert ratios["matmul_peak"] == pytest.approx(rates["packed"] / rates["matmul"])
    assert ratios["input_tiny_bf16"] == pytest.approx(rates["packed_tiny_bf16"] / rates["read_tiny_bf16"])
    assert 3 < figures["padded_per_real_flops"] < 4
    assert result["value"] == rates["packed"]


@pytest.mark.parametrize("wrong", [{"model": ()}, {"precision": ()}, {"repeats": 0}])
def test_nothing_to_measure_is_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(HepfmError, match=f"--{next(iter(wrong))}"):
        main(PretrainStepConfig(**wrong))  # type: ignore[arg-type]
