"""Backbones: published sizes and outputs, and artifacts that come back as they were or not at all."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hepfm.core.artifacts import write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, sha256_file
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig, load_backbone, save_backbone
from hepfm.pretrain.presets import PRESETS, preset

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/omnijet_alpha"
SMALL = BackboneConfig(codes=20, transformer=TransformerConfig(width=32, blocks=2, heads=4))


def from_published(state: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """Our names for the tensors of a public OmniJet-alpha generator; queries, keys and values are one matrix."""
    ours = {
        "embedding.weight": state["module.embedding_table.weight"],
        "head.weight": state["head.fc1.weight"],
        "head.bias": state["head.fc1.bias"],
    }
    for block in range(blocks):
        theirs, mine = f"module.GPT_blocks.{block}", f"transformer.blocks.{block}"
        parts = [state[f"{theirs}.mha_block.{part}.weight"] for part in ("query", "key", "value")]
        ours[f"{mine}.attention.qkv.weight"] = torch.cat(parts)
        for kind in ("weight", "bias"):
            ours[f"{mine}.attention.out.{kind}"] = state[f"{theirs}.mha_block.proj.{kind}"]
            ours[f"{mine}.attention_norm.{kind}"] = state[f"{theirs}.layernorm_1.{kind}"]
            ours[f"{mine}.mlp.up.{kind}"] = state[f"{theirs}.ff_block.net.0.{kind}"]
            ours[f"{mine}.mlp.down.{kind}"] = state[f"{theirs}.ff_block.net.2.{kind}"]
            ours[f"{mine}.mlp_norm.{kind}"] = state[f"{theirs}.layernorm_2.{kind}"]
    return ours


def published_shapes(vocabulary: int, width: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the public code's generator, buffers left out."""
    shapes: dict[str, tuple[int, ...]] = {
        "module.embedding_table.weight": (vocabulary, width),
        "head.fc1.weight": (vocabulary, width),
        "head.fc1.bias": (vocabulary,),
    }
    for block in range(blocks):
        name = f"module.GPT_blocks.{block}"
        for part in ("key", "query", "value", "proj"):
            shapes[f"{name}.mha_block.{part}.weight"] = (width, width)
        shapes[f"{name}.mha_block.proj.bias"] = (width,)
        shapes |= {f"{name}.ff_block.net.0.weight": (4 * width, width), f"{name}.ff_block.net.0.bias": (4 * width,)}
        shapes |= {f"{name}.ff_block.net.2.weight": (width, 4 * width), f"{name}.ff_block.net.2.bias": (width,)}
        for norm in ("layernorm_1", "layernorm_2"):
            shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    return shapes


def test_omnijet_alpha_has_the_published_size_and_tensors() -> None:
    with torch.device("meta"):
        backbone = Backbone(preset("omnijet-alpha", 8192))
    assert backbone.parameters_count == 6_570_498
    shapes = published_shapes(8194, 256, 3)
    theirs = from_published({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, 3)
    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in backbone.weights().items()
    }


@pytest.mark.parametrize(
    ("name", "codes", "millions"),
    [("tiny", 512, 1), ("small", 8192, 25), ("base", 8192, 110), ("large", 8192, 350), ("xl", 8192, 1300)],
)
def test_presets_have_the_size_they_are_named_for(name: Any, codes: int, millions: float) -> None:
    with torch.device("meta"):
        backbone = Backbone(preset(name, codes))
    assert backbone.parameters_count == pytest.approx(millions * 1e6, rel=0.07)
    assert name in PRESETS


def read_lightning_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a Lightning checkpoint; classes other than torch's own become inert stand-ins."""

    class Inert:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __setstate__(self, state: object) -> None: ...

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            known = (module == "collections" and name == "OrderedDict") or module.split(".")[0] == "torch"
            return super().find_class(module, name) if known else Inert

    reader = SimpleNamespace(Unpickler=Restricted, load=None, __name__="restricted")
    return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)["state_dict"]


def test_logits_are_those_of_the_public_code() -> None:
    """A generator in the public code's format, and what that code computes with it."""
    checkpoint = SHARED / "generator/OmniJet_generative_model.ckpt"
    if not checkpoint.exists():
        pytest.skip(f"needs {checkpoint}")
    expected = np.load(SHARED / "expected.npz")
    inputs, logits = expected["generator_input"], expected["generator_logits"]
    published = PRESETS["omnijet-alpha"].transformer
    config = BackboneConfig(
        codes=512,
        transformer=TransformerConfig(**{**vars(published), "width": 64}),
        head_bias=True,
    )
    backbone = Backbone(config).eval()
    backbone.load_weights(from_published(read_lightning_state(checkpoint), 3), checkpoint)
    with torch.no_grad():
        layout = Layout.of(np.full(len(inputs), inputs.shape[1]))
        found = backbone(torch.from_numpy(inputs).long().flatten(), layout)
    np.testing.assert_allclose(found.reshape(logits.shape).numpy(), logits, atol=2e-5)


def test_a_tied_head_shares_the_embedding() -> None:
    backbone = Backbone(BackboneConfig(codes=20, transformer=SMALL.transformer, tied=True))
    untied = Backbone(SMALL)
    assert untied.parameters_count - backbone.parameters_count == 22 * 32
    assert backbone.flops_per_token(10) == untied.flops_per_token(10)


def test_flops_follow_the_stated_formula() -> None:
    backbone = Backbone(SMALL)
    products = sum(p.numel() for name, p in backbone.named_parameters() if p.ndim > 1 and "embedding" not in name)
    assert backbone.flops_per_token(45) == 6 * products + 12 * 2 * 32 * 45


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    write_artifact(
        folder,
        kind="tokenizer",
        architecture={},
        contract={},
        provenance={},
        weights={"x": torch.zeros(1)},
        metrics={},
        reference={"x": np.zeros(1)},
        card="",
    )
    return folder


def save(path: Path, backbone: Backbone, tokenizer: Path) -> None:
    save_backbone(path, backbone, contract={"codes": 20}, provenance={}, metrics={}, card="# card", tokenizer=tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_backbone_comes_back(tied: bool, tmp_path: Path, tokenizer: Path) -> None:
    backbone = Backbone(BackboneConfig(codes=20, transformer=SMALL.transformer, tied=tied))
    save(tmp_path / "artifact", backbone, tokenizer)
    loaded, artifact = load_backbone(tmp_path / "artifact")
    assert loaded.config == backbone.config
    assert (artifact.inner("tokenizer") / "config.json").is_file()
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def rewrite(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Put other weights into an artifact and mend its hashes, as a careless tool might."""
    save_file(weights, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config["files"]["model.safetensors"] = sha256_file(path / "model.safetensors")
    config.pop("hash")
    (path / "config.json").write_text(json.dumps({**config, "hash": digest_of(config)}))


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "value"])
def test_weights_that_do_not_fit_are_refused(fault: str, tmp_path: Path, tokenizer: Path) -> None:
    save(tmp_path / "artifact", Backbone(SMALL), tokenizer)
    weights = load_file(tmp_path / "artifact/model.safetensors")
    name = "transformer.blocks.1.mlp.down.weight"
    if fault == "missing":
        del weights[name]
    elif fault == "unknown":
        weights["extra"] = torch.zeros(1)
    elif fault == "shape":
        weights[name] = weights[name][:, 1:].contiguous()
    else:
        weights[name] = weights[name] * 1.5
    rewrite(tmp_path / "artifact", weights)
    with pytest.raises(HepfmError, match={"unknown": "extra", "value": "reference outputs"}.get(fault, name)):
        load_backbone(tmp_path / "artifact")


def test_another_kind_of_artifact_is_refused(tokenizer: Path) -> None:
    with pytest.raises(HepfmError, match="is a tokenizer, not a backbone"):
        load_backbone(tokenizer)
