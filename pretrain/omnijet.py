"""Generators of OmniJet-alpha and its shower variant, read from the checkpoints that their authors' code writes.

The network (Birk, Hallin, Kasieczka, arXiv:2403.05618) is the preset ``omnijet-alpha`` at any size: post-norm blocks,
no positions. Its vocabulary is [start and padding, codes, stop], this project's is [codes, start, stop].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.empty import without_weights
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.core.resolve import resolve
from hepfm.core.torch_files import Checkpoint
from hepfm.pretrain.backbone import Backbone, BackboneConfig, save_backbone
from hepfm.tokenize.omnijet import Imported, listed

EMBEDDING = "module.embedding_table.weight"
HEAD = "head.fc1"
# The causal mask and the weights of the loss.
DROPPED = re.compile(r"module\.GPT_blocks\.\d+\.mha_block\.tril|criterion\.weight")
BLOCK = {
    "mha_block.proj": "attention.out",
    "ff_block.net.0": "mlp.up",
    "ff_block.net.2": "mlp.down",
    "layernorm_1": "attention_norm",
    "layernorm_2": "mlp_norm",
}
QKV = ("query", "key", "value")
MEND = "name a checkpoint of OmniJet-alpha's generative model"


def recognises(checkpoint: Checkpoint) -> bool:
    """Is it a generator's, or another network on its blocks?"""
    return EMBEDDING in checkpoint.state


def import_backbone(checkpoint: Checkpoint, out: Path, origin: Mapping[str, Any], tokenizer: str) -> Imported:
    """Write the artifact of a generator checkpoint.

    Args:
        checkpoint: the checkpoint.
        out: folder of the artifact.
        origin: what is known of the file (name, checksum, licence), for the artifact's provenance.
        tokenizer: the tokenizer whose tokens it reads, whatever :func:`hepfm.core.resolve.resolve` takes.

    Raises:
        HepfmError: keys or sizes that hepfm does not know, or a tokenizer of another number of codes.
    """
    settings = checkpoint.settings.get("model_kwargs")
    if not isinstance(settings, dict):
        raise HepfmError("its hyper_parameters have no model_kwargs", checkpoint.path, MEND)
    backbone = backbone_of(checkpoint, settings)
    max_length = settings.get("max_sequence_len")
    if type(max_length) is not int or max_length < 1:
        raise HepfmError(f"its model_kwargs say max_sequence_len {max_length!r}", checkpoint.path, MEND)
    own = _tokenizer(tokenizer, backbone.config.codes, checkpoint.path)
    blocks = backbone.config.transformer
    recognised = (
        f"OmniJet-alpha generator: {blocks.blocks} blocks, width {blocks.width}, {blocks.heads} heads, "
        f"{backbone.config.codes:,} codes, at most {max_length} points"
    )
    artifact = save_backbone(
        out,
        backbone,
        contract={**own.contract, "codes": backbone.config.codes, "max_length": max_length},
        provenance={
            "imported": {**origin, "recognised": recognised, "settings": settings},
            "tokenizer": own.hash,
            "max_length": max_length,
            "parent": "",
        },
        metrics={"parameters": backbone.parameters_count},
        card=card(recognised, own.hash, origin),
        tokenizer=own.path,
    )
    return Imported(artifact, recognised, backbone.parameters_count)


def backbone_of(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Backbone:
    """The backbone of a checkpoint, with its weights.

    Raises:
        HepfmError: a key or size that does not belong to such a network; names it.
    """
    where, state = checkpoint.path, checkpoint.state
    names = {key: new for key in state if (new := _renamed(key)) is not None}
    unknown = sorted(key for key in state.keys() - names.keys() if not DROPPED.fullmatch(key))
    if unknown:
        raise HepfmError(f"is no generator of OmniJet-alpha: it has {listed(unknown)}", where, MEND)
    stored = checkpoint.tensors({new: key for key, new in names.items()})
    weights = {name: value.float() for name, value in stored.items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise HepfmError(f"the weight that is '{name}' here has values that are not finite", where, MEND)
    config = _config(weights, settings, where)
    for block in range(config.transformer.blocks):
        stem = f"transformer.blocks.{block}.attention"
        parts = [weights.pop(f"{stem}.{part}.weight", None) for part in QKV]
        if any(part is None or part.shape != (config.transformer.width,) * 2 for part in parts):
            raise HepfmError(f"block {block} has no key, query and value of its width", where, MEND)
        weights[f"{stem}.qkv.weight"] = torch.cat([part for part in parts if part is not None])
    for name in ("embedding.weight", "head.weight", "head.bias"):
        if name in weights:
            weights[name] = _codes_first(weights[name])
    with without_weights():  # nothing is allocated before the shapes are known to fit
        Backbone(config).check_weights(weights, where)
    backbone = Backbone(config)
    backbone.load_weights(weights, where)
    return backbone.eval()


def _renamed(key: str) -> str | None:
    """Name of a weight here (queries, keys and values still apart); None if it has none."""
    stem, _, last = key.rpartition(".")
    if key == EMBEDDING:
        return "embedding.weight"
    if stem == HEAD:
        return f"head.{last}"
    block = re.fullmatch(r"module\.GPT_blocks\.([0-9]{1,3})\.(.+)\.(weight|bias)", key)
    if block is None:
        return None
    number, part, kind = block.groups()
    if part in BLOCK:
        return f"transformer.blocks.{number}.{BLOCK[part]}.{kind}"
    attention = part.removeprefix("mha_block.")
    return f"transformer.blocks.{number}.attention.{attention}.{kind}" if attention in QKV else None


def _config(weights: Mapping[str, torch.Tensor], settings: Mapping[str, Any], where: Path) -> BackboneConfig:
    """Sizes by the shapes of the weights; only the heads are not among them."""
    embedding = weights["embedding.weight"]
    up = weights.get("transformer.blocks.0.mlp.up.weight")
    if embedding.ndim != 2 or min(embedding.shape[0] - 3, embedding.shape[1]) < 1 or up is None or up.ndim != 2:
        raise HepfmError("lacks an embedding table or the layers of its first block", where, MEND)
    vocabulary, width = embedding.shape
    blocks = len({name.split(".")[2] for name in weights if name.startswith("transformer.blocks.")})
    found = {"vocab_size": vocabulary, "embedding_dim": width, "n_GPT_blocks": blocks}
    for name, size in found.items():
        if settings.get(name, size) != size:
            raise HepfmError(f"its hyper_parameters say {name} {settings[name]}, its weights {size}", where, MEND)
    heads = settings.get("n_heads")
    if type(heads) is not int or heads < 1 or width % heads:
        raise HepfmError(f"its model_kwargs say n_heads {heads!r}, its width is {width}", where, MEND)
    transformer = TransformerConfig(
        width=width,
        blocks=blocks,
        heads=heads,
        mlp="relu",
        mlp_ratio=len(up) / width,
        norm="layernorm",
        norm_position="post",
        final_norm=False,
        positions="none",
        bias=True,
    )
    return BackboneConfig(codes=vocabulary - 2, transformer=transformer, head_bias=True)


def _codes_first(rows: torch.Tensor) -> torch.Tensor:
    """Rows [start, codes, stop] as [codes, start, stop]."""
    return torch.cat([rows[1:-1], rows[:1], rows[-1:]])


def _tokenizer(name: str, codes: int, where: Path) -> Artifact:
    if not name:
        raise HepfmError(
            "is a generator, which does not say whose tokens it reads",
            where,
            "import its tokenizer first, then name it: --tokenizer FOLDER",
        )
    artifact = read_artifact(resolve(name), "tokenizer")
    if artifact.architecture.get("codes") != codes:
        raise HepfmError(
            f"has {artifact.architecture.get('codes')} codes, the generator reads {codes:,}",
            artifact.path,
            "name the generator's own tokenizer",
        )
    return artifact


def card(recognised: str, tokenizer: str, origin: Mapping[str, Any]) -> str:
    """Text that tells a reader what this backbone is and where it came from."""
    return f"""# {recognised}

Imported from the checkpoint `{origin["file"]}` (sha256 `{origin["sha256"]}`); nothing in it was run.
Licence of the weights: {origin["licence"]}.

Tokens are those of the tokenizer in `tokenizer/` (hash `{tokenizer}`). That it is the generator's own, the checkpoint
does not say: whoever imported it did. Code c of the tokenizer is id c here and id c + 1 in the checkpoint; start (there
also padding) is id 0 there.

## Use

    hepfm generate THIS_FOLDER -n 1000 --format jetclass --out jets.root
    hepfm finetune generate TOKENS --backbone THIS_FOLDER --out RUN

`reference.npz` holds inputs and logits that loading replays.
"""
