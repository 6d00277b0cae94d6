"""Tokenizers of OmniJet-alpha and its shower variant, read from the checkpoints that their authors' code writes.

Networks: Birk, Hallin, Kasieczka, arXiv:2403.05618 (jets), and Birk et al., arXiv:2501.05534 (showers). A checkpoint
has the weights and the sizes; what its features are stands in ``config.yaml`` beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hepfm.core import records
from hepfm.core.artifacts import Artifact
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.nn.empty import without_weights
from hepfm.core.records import POINTS_COLUMN
from hepfm.core.torch_files import Checkpoint
from hepfm.tokenize.normformer import NormFormerConfig, NormFormerTokenizer, NormFormerVQ
from hepfm.tokenize.omnijet_features import contract_of, read_config, shown
from hepfm.tokenize.selection import SelectingContract

CODEBOOK = "model.vqlayer.codebook.weight"
# Their model_type -> network here. "Transformer" is the older layout of the same network.
KINDS = {"VQVAENormFormer": "normformer", "Transformer": "normformer", "MLP": "mlp"}
# What their training needs and a fitted codebook does not: usage counters, and whether k-means has run.
DROPPED = ("model.vqlayer._counts", "model.vqlayer.data_initialized")
BLOCK = {
    "norm1": "attention_norm",
    "attn.in_proj_weight": "attention.qkv.weight",
    "attn.in_proj_bias": "attention.qkv.bias",
    "attn.out_proj": "attention.out",
    "norm2": "mixed_norm",
    "mlp.0": "mlp_norm",
    "mlp.1": "mlp.up",
    "mlp.4": "mlp.down",
}
ENDS = {
    "model.input_projection": "encoder.stem",
    "model.latent_projection_in": "encoder.head",
    "model.latent_projection_out": "decoder.stem",
    "model.output_projection": "decoder.head",
    "model.encoder.project_in": "encoder.stem",
    "model.encoder.project_out": "encoder.head",
    "model.decoder.project_in": "decoder.stem",
    "model.decoder.project_out": "decoder.head",
}
EXAMPLE_POINTS = 32
MAX_EXAMPLES = 64
MEND = "name a checkpoint of OmniJet-alpha's VQVAENormFormer or VQVAEMLP"


@dataclass(frozen=True)
class Imported:
    """An artifact that was made of a checkpoint, a tokenizer's or a generator's.

    Attributes:
        artifact: as written.
        recognised: what the checkpoint was recognised as, in words.
        parameters: numbers in the weights that the checkpoint has.
    """

    artifact: Artifact
    recognised: str
    parameters: int


def recognises(checkpoint: Checkpoint) -> bool:
    """Is it a tokenizer's?"""
    return CODEBOOK in checkpoint.state


def import_tokenizer(checkpoint: Checkpoint, out: Path, origin: Mapping[str, Any]) -> Imported:
    """Write the artifact of a tokenizer checkpoint; ``config.yaml`` must lie beside it.

    Args:
        checkpoint: the checkpoint.
        out: folder of the artifact.
        origin: what is known of the file (name, checksum, licence), for the artifact's provenance.

    Raises:
        HepfmError: keys, sizes, options or features that hepfm does not know; names them.
    """
    where = checkpoint.path
    settings = checkpoint.settings.get("model_kwargs")
    if not isinstance(settings, dict):
        raise HepfmError("its hyper_parameters have no model_kwargs", where, MEND)
    config_file, config = read_config(where)
    _agree(settings, config, config_file)
    network = network_of(checkpoint, settings)
    contract = contract_of(config, config_file, network.features)
    tokenizer = NormFormerTokenizer(network, contract)
    tokenizer.contract = _sized(tokenizer, where)
    parameters = sum(math.prod(stored.size) for key, stored in checkpoint.state.items() if key not in DROPPED)
    recognised = (
        f"OmniJet-alpha tokenizer ({'NormFormer' if network.config.network == 'normformer' else 'MLP'}) of "
        f"{contract.kind}: {network.features} features, {network.config.summary}"
    )
    provenance = {"imported": {**origin, "recognised": recognised, "config": config_file.name, "settings": settings}}
    artifact = tokenizer.save(
        out,
        examples=_examples(tokenizer),
        provenance=provenance,
        metrics={"parameters": parameters},
        card=card(tokenizer, recognised, origin),
    )
    return Imported(artifact, recognised, parameters)


def network_of(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> NormFormerVQ:
    """The network of a checkpoint, with its weights.

    Raises:
        HepfmError: a key or size that does not belong to such a network, or an option of the codebook that is unknown.
    """
    where, state = checkpoint.path, checkpoint.state
    kind = checkpoint.settings.get("model_type") or _kind_by_keys(state)
    if not isinstance(kind, str) or kind not in KINDS:
        raise HepfmError(f"its model_type is {kind!r}, known are {', '.join(KINDS)}", where, MEND)
    names = {key: new for key in state if (new := _renamed(key, KINDS[kind])) is not None}
    codebook = [key for key in state if key.startswith("model.vqlayer.") and key not in DROPPED]
    unknown = sorted(state.keys() - names.keys() - set(codebook) - set(DROPPED))
    if unknown:
        raise HepfmError(f"is no {kind}: it has {listed(unknown)}", where, MEND)
    if len(set(names.values())) < len(names):
        raise HepfmError("has the weights of two networks", where, MEND)
    weights = checkpoint.tensors({new: key for key, new in names.items()} | {key: key for key in codebook})
    vq = {key: weights.pop(key).float() for key in codebook}
    config, features = _sizes(weights, vq[CODEBOOK], KINDS[kind], settings, where)
    with without_weights():  # nothing is allocated before the shapes are known to fit
        network = NormFormerVQ(config, features)
    weights["codebook"] = effective_codebook(vq, settings.get("vq_kwargs"), where)
    _load(network, {name: value.float() for name, value in weights.items()}, names, where)
    return network.eval()


def effective_codebook(vq: Mapping[str, torch.Tensor], options: Any, where: Path) -> torch.Tensor:
    """The codes (codes, latent) as vqtorch compares them: (1 + affine_lr scale) W + affine_lr bias.

    ``affine_lr`` is an option only: it is not in the state dict.

    Raises:
        HepfmError: an option or tensor of the codebook that hepfm does not know.
    """
    prefix = "model.vqlayer.affine_transform."
    unknown = sorted(vq.keys() - {CODEBOOK, f"{prefix}scale", f"{prefix}bias"})
    if unknown:
        raise HepfmError(f"its codebook has {listed(unknown)}", where, "only plain and affine codebooks are known")
    if not isinstance(options, dict):
        raise HepfmError("its hyper_parameters have no vq_kwargs", where, MEND)
    for name in ("norm", "cb_norm"):
        if options.get(name) not in (None, "none"):
            raise HepfmError(f"its codebook has the option {name}={options[name]!r}", where, "only none is known")
    codes, rate = vq[CODEBOOK], options.get("affine_lr", 0.0)
    if len(vq) == 1 and not rate:
        return codes
    if len(vq) != 3 or not isinstance(rate, (int, float)) or not rate:
        raise HepfmError(
            f"its hyper_parameters say affine_lr {rate!r}, its state_dict has {listed(sorted(vq))}", where, MEND
        )
    scale, bias = vq[f"{prefix}scale"], vq[f"{prefix}bias"]
    if not scale.shape == bias.shape == (1, codes.shape[1]):
        raise HepfmError(f"its affine transform has shape {tuple(scale.shape)}, not (1, {codes.shape[1]})", where, MEND)
    return (1.0 + rate * scale) * codes + rate * bias


def _kind_by_keys(state: Mapping[str, Any]) -> str:
    return "MLP" if "model.encoder.0.weight" in state else "VQVAENormFormer"


def _renamed(key: str, network: str) -> str | None:
    """Name of a weight in this project's network; None if it has none."""
    stem, _, last = key.rpartition(".")
    if network == "mlp":
        layer = re.fullmatch(r"model\.(encoder|decoder)\.([0-9]{0,2}[02468])\.(weight|bias)", key)
        return f"{layer[1]}.layers.{int(layer[2]) // 2}.{layer[3]}" if layer else None
    if stem in ENDS:
        return f"{ENDS[stem]}.{last}"
    block = re.fullmatch(r"model\.(encoder|decoder)(?:_normformer)?\.blocks\.([0-9]{1,3})\.(.+)", key)
    if block is None:
        return None
    part, _, end = block[3].rpartition(".")
    inner = BLOCK.get(block[3]) or (f"{BLOCK[part]}.{end}" if part in BLOCK else None)
    return f"{block[1]}.blocks.{block[2]}.{inner}" if inner else None


def _sizes(
    weights: Mapping[str, torch.Tensor],
    codebook: torch.Tensor,
    network: str,
    settings: Mapping[str, Any],
    where: Path,
) -> tuple[NormFormerConfig, int]:
    """Sizes by the shapes of the weights, and the number of features; only the heads are not among them."""
    first = weights.get("encoder.stem.weight" if network == "normformer" else "encoder.layers.0.weight")
    if first is None or first.ndim != 2 or codebook.ndim != 2:
        raise HepfmError("lacks the first layer of an encoder, or a codebook", where, MEND)
    if network == "mlp":
        config = NormFormerConfig(
            len(codebook),
            codebook.shape[1],
            "mlp",
            encoder_layers=_layers(weights, "encoder"),
            decoder_layers=_layers(weights, "decoder"),
        )
    else:
        inner, heads = weights.get("encoder.blocks.0.mlp.up.weight"), settings.get("num_heads")
        if inner is None or inner.ndim != 2:
            raise HepfmError("lacks the first block of an encoder", where, MEND)
        if type(heads) is not int:
            raise HepfmError(f"its model_kwargs say num_heads {heads!r}", where, MEND)
        blocks = len({name.split(".")[2] for name in weights if name.startswith("encoder.blocks.")})
        config = NormFormerConfig(
            len(codebook), codebook.shape[1], "normformer", len(first), blocks, heads, mlp_width=len(inner)
        )
    config.check(where)
    _agree_with_shapes(config, first.shape[1], settings, where)
    return config, first.shape[1]


def _layers(weights: Mapping[str, torch.Tensor], part: str) -> tuple[int, ...]:
    """Hidden channels of the layers of an encoder or decoder."""
    found = {int(name.split(".")[2]): len(w) for name, w in weights.items() if name.startswith(f"{part}.") and w.ndim}
    return tuple(found[number] for number in sorted(found)[:-1])


def _agree_with_shapes(config: NormFormerConfig, features: int, settings: Mapping[str, Any], where: Path) -> None:
    options = settings.get("vq_kwargs")
    stated = {**settings, **(options if isinstance(options, dict) else {})}
    found: dict[str, Any] = {"input_dim": features, "latent_dim": config.latent, "num_codes": config.codes}
    if config.network == "normformer":
        found |= {"hidden_dim": config.width, "num_blocks": config.blocks}
    else:
        found |= {"encoder_layers": list(config.encoder_layers), "decoder_layers": list(config.decoder_layers)}
    for name, size in found.items():
        if stated.get(name, size) != size:
            raise HepfmError(f"its hyper_parameters say {name} {stated[name]}, its weights {size}", where, MEND)


def _load(network: NormFormerVQ, weights: dict[str, torch.Tensor], names: Mapping[str, str], where: Path) -> None:
    own = network.state_dict()
    theirs = {new: key for key, new in names.items()}
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise HepfmError(f"lacks the weight that would be '{name}' here", where, MEND)
        if name not in own:
            raise HepfmError(f"has '{theirs[name]}' beyond its encoder's depth", where, MEND)
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
            raise HepfmError(f"its '{theirs.get(name, name)}' has shape {shapes}", where, MEND)
        if not weights[name].isfinite().all():
            raise HepfmError(f"its '{theirs.get(name, name)}' has values that are not finite", where, MEND)
    network.load_state_dict(weights, assign=True)


def _agree(settings: Mapping[str, Any], config: Mapping[str, Any], config_file: Path) -> None:
    """Refuse a ``config.yaml`` that belongs to another checkpoint."""
    model = config.get("model")
    stated = model.get("model_kwargs") if isinstance(model, dict) else None
    for name, value in (stated if isinstance(stated, dict) else {}).items():
        if name in settings and isinstance(value, (int, float, str)) and settings[name] != value:
            raise HepfmError(
                f"says {name} {shown(value)}, the checkpoint beside it {shown(settings[name])}",
                config_file,
                "put the checkpoint's own config.yaml beside it",
            )


def _decoded_codes(tokenizer: NormFormerTokenizer) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every code decoded once, in random company, and the offsets of the records."""
    codes = generator("omnijet codes", tokenizer.codes).permutation(tokenizer.codes)
    offsets = np.append(np.arange(0, tokenizer.codes, EXAMPLE_POINTS), tokenizer.codes)
    return tokenizer.decode(codes, offsets), offsets


def _sized(tokenizer: NormFormerTokenizer, where: Path) -> SelectingContract:
    """The contract with the sizes of the numbers that the codebook stands for: the training's are not in the file.

    Raises:
        HepfmError: codes that decode to no number.
    """
    values, _ = _decoded_codes(tokenizer)
    for name, known in values.items():
        if not np.isfinite(known).all():
            raise HepfmError(f"its codes decode to a {name} that is not finite", where, "get the file again")
    features = tuple(
        replace(
            feature,
            seen={
                "min": float(values[feature.name].min()),
                "max": float(values[feature.name].max()),
                "mean": float(values[feature.name].mean()),
                "std": float(values[feature.name].std()),
            },
        )
        for feature in tokenizer.contract.features
    )
    return replace(tokenizer.contract, features=features)


def _examples(tokenizer: NormFormerTokenizer) -> pa.RecordBatch:
    """Records of decoded codes, for the artifact's reference."""
    contract = tokenizer.contract
    values, offsets = _decoded_codes(tokenizer)
    offsets = offsets[: MAX_EXAMPLES + 1]
    schema = records.schema(contract.kind, contract.names, ())
    item = schema.field(POINTS_COLUMN[contract.kind]).type
    fields = list(item.value_type)
    points = [pa.array(values[item.name][: offsets[-1]].astype(item.type.to_pandas_dtype())) for item in fields]
    column = pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.StructArray.from_arrays(points, fields=fields), type=item
    )
    origin = [pa.array(np.zeros(len(column)), pa.int32()), pa.array(np.arange(len(column)), pa.int64())]
    return contract.kept(pa.RecordBatch.from_arrays([column, *origin], schema=schema))


def card(tokenizer: NormFormerTokenizer, recognised: str, origin: Mapping[str, Any]) -> str:
    """Text that tells a reader what this tokenizer is, what it takes, and where it came from."""
    contract = tokenizer.contract
    rows = "\n".join(
        f"| {feature.name} | {feature.unit} | ({feature.transform}(x) - {feature.shift:g}) * {feature.scale:g} "
        f"| {feature.seen['min']:.4g} to {feature.seen['max']:.4g} |"
        for feature in contract.features
    )
    cuts = "".join(f"- {name} between {low} and {high}\n" for name, (low, high) in contract.cuts.items())
    return f"""# {recognised}

Imported from the checkpoint `{origin["file"]}` (sha256 `{origin["sha256"]}`); nothing in it was run.
Licence of the weights: {origin["licence"]}.

## What it takes

| quantity | unit | feature | its codes decode to |
|---|---|---|---|
{rows}

Points get a token if they are among the leading {contract.max_points} of their record that have
{cuts or "- any value"}
All others have none: the tokens of a record are those of the points that are left, in order.{_about(contract)}
What the tokenizer was trained on is not in the file, so the sizes that a corpus is held against are those of its codes.

## Use

    hepfm tokenizer apply THIS_FOLDER CORPUS --out TOKENS

`reference.npz` holds features, ids and decoded values that loading replays.
"""


def _about(contract: SelectingContract) -> str:
    if not contract.axis:
        return ""
    return (
        "\nAngles are about the sum of the constituents; those of a corpus about the stored axis are turned to it, for "
        "which\nits jets need eta."
    )


def listed(names: list[str]) -> str:
    """The first of some names, for messages."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
