"""Weights of weaver-core's ``ParticleTransformer``: the published Particle Transformers and Sophon, and any other size.

A file holds names and shapes only. From them follow all sizes; not the labels, their order, the input features beyond
their number, and whether a GELU follows the pairs' embedding (it does in the published models).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hepfm.core.errors import HepfmError
from hepfm.core.nn.empty import without_weights
from hepfm.core.torch_files import Checkpoint
from hepfm.finetune.inputs import FEATURE_SETS, FeatureSet
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.sophon import LABELS as SOPHON_LABELS
from hepfm.ingest.formats.jetclass import LABELS as JETCLASS_LABELS

TOKEN = "cls_token"
INPUT_NORM = "embed.input_bn.weight"
PREFIX = re.compile(r"(?:mod|module|_orig_mod|model)\.")
COUNTER = re.compile(r".*\.num_batches_tracked|trimmer\._counter")
MEND = "name the weights of weaver-core's ParticleTransformer, version 1"
PUBLISHED_LABELS = {len(JETCLASS_LABELS): JETCLASS_LABELS, len(SOPHON_LABELS): SOPHON_LABELS}
_BLOCK = {
    "pre_attn_norm": "attention_norm",
    "attn.in_proj": "qkv",
    "attn.out_proj": "out",
    "post_attn_norm": "attention_out_norm",
    "pre_fc_norm": "mlp_norm",
    "fc1": "up",
    "post_fc_norm": "hidden_norm",
    "fc2": "down",
}
_SCALES = {"c_attn": "head_scale", "w_resid": "residual_scale"}
_STACKS = {"blocks": "blocks", "cls_blocks": "class_blocks"}


class Recognised(NamedTuple):
    """A network read from a checkpoint.

    Attributes:
        network: with its weights, in eval mode.
        labels: of its outputs, in order.
        features: that it reads.
        name: what it is.
    """

    network: Any
    labels: tuple[str, ...]
    features: FeatureSet
    name: str


def recognises(checkpoint: Checkpoint) -> bool:
    """Is it a Particle Transformer of weaver-core's?"""
    names = {bare_name(name) for name in checkpoint.state}
    return TOKEN in names and INPUT_NORM in names


def read_network(
    checkpoint: Checkpoint, labels: Sequence[str] = (), features: str = "", pair_activation: bool = True
) -> Recognised:
    """The network of a checkpoint.

    Args:
        checkpoint: the file.
        labels: of the outputs; by default those of JetClass for 10 and of JetClass-II for 188.
        features: name of the feature set; by default the published one with as many features.
        pair_activation: whether a GELU follows the pairs' embedding.

    Raises:
        HepfmError: a key or shape that does not belong to such a network, by name; or labels that are not stated.
    """
    where = checkpoint.path
    weights = _weights(checkpoint)
    config = replace(_config(weights, where), pair_activation=pair_activation)
    _check(weights, config, where)
    network = ParticleTransformer(config)
    network.load_state_dict(weights)
    chosen = labels_of(config.classes, labels, where)
    sophon = chosen == SOPHON_LABELS
    feature_set = features_of(config.features, features, sophon, where)
    name = "Sophon" if sophon else "Particle Transformer"
    return Recognised(network.eval(), chosen, feature_set, f"{name}: {describe(config)}, features '{feature_set.name}'")


def describe(config: ParticleTransformerConfig) -> str:
    """Sizes in words."""
    return (
        f"{config.features} features, {config.blocks} blocks and {config.class_blocks} class blocks of width "
        f"{config.width}, {config.heads} heads, {config.classes} classes"
    )


def bare_name(name: str) -> str:
    """Name of a weight without what wrappers put before it."""
    while match := PREFIX.match(name):
        name = name[match.end() :]
    return name


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights under the names that they have here."""
    names: dict[str, str] = {}
    unknown = []
    for key in checkpoint.state:
        bare = bare_name(key)
        if COUNTER.fullmatch(bare):
            continue
        new = _renamed(bare)
        if new is None or new in names:
            unknown.append(key)
        else:
            names[new] = key
    if unknown:
        listed = ", ".join(f"'{key}'" for key in sorted(unknown)[:4])
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise HepfmError(f"has unexpected keys: {listed}{more}", checkpoint.path, MEND)
    weights = {name: value.float() for name, value in checkpoint.tensors(names).items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise HepfmError(f"'{names[name]}' has values that are not finite", checkpoint.path, MEND)
        if re.fullmatch(r"pair_bias\.layers\.\d+\.linear\.weight", name) and value.ndim == 3 and value.shape[2] == 1:
            weights[name] = value[:, :, 0]  # a convolution over pairs of width 1
        if name == "token":
            weights[name] = value.flatten()
    return _with_head(weights)


def _renamed(key: str) -> str | None:
    """Name here of a weight there; None if there is none. Layers of the head keep their numbers, see _with_head."""
    if key == TOKEN:
        return "token"
    stem, _, last = key.rpartition(".")
    if stem == "embed.input_bn":
        return f"input_norm.{last}"
    if stem == "norm":
        return f"final_norm.{last}"
    if match := re.fullmatch(r"embed\.embed\.(\d{1,2})", stem):
        layer, part = divmod(int(match[1]), 3)  # norm, linear, activation
        return f"embed.{layer}.{part}.{last}" if part < 2 else None
    if match := re.fullmatch(r"pair_embed\.embed\.(\d{1,2})", stem):
        layer, part = divmod(int(match[1]) - 1, 3)  # after the norm of inputs: linear, norm, activation
        if layer < 0:
            return f"pair_bias.input_norm.{last}"
        return f"pair_bias.layers.{layer}.{('linear', 'norm')[part]}.{last}" if part < 2 else None
    if match := re.fullmatch(r"fc\.(\d{1,2})(\.0)?", stem):
        return f"fc.{match[1]}.{'hidden' if match[2] else 'last'}.{last}"
    if match := re.fullmatch(r"(blocks|cls_blocks)\.(\d{1,3})\.(.+)", key):
        block = f"{_STACKS[match[1]]}.{match[2]}"
        # Before weaver-core 0.5 attention was torch's, whose input projection is spelled differently.
        weight = match[3].replace("in_proj_", "in_proj.")
        if weight in _SCALES:
            return f"{block}.{_SCALES[weight]}"
        inner, _, kind = weight.rpartition(".")
        return f"{block}.{_BLOCK[inner]}.{kind}" if inner in _BLOCK else None
    return None


def _with_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The head's layers under their names: hidden ones in order, then the last."""
    renamed = {}
    for name, value in weights.items():
        if match := re.fullmatch(r"fc\.(\d+)\.(hidden|last)\.(\w+)", name):
            name = f"head.{match[3]}" if match[2] == "last" else f"head_layers.{match[1]}.{match[3]}"
        renamed[name] = value
    return renamed


def _config(weights: Mapping[str, torch.Tensor], where: Path) -> ParticleTransformerConfig:
    """Sizes by the shapes of the weights."""
    try:
        embed = tuple(weights[f"embed.{n}.1.weight"].shape[0] for n in range(_count(weights, "embed")))
        pairs = tuple(
            weights[f"pair_bias.layers.{n}.linear.weight"].shape[0]
            for n in range(_count(weights, "pair_bias.layers") - 1)
        )
        hidden = tuple(weights[f"head_layers.{n}.weight"].shape[0] for n in range(_count(weights, "head_layers")))
        return ParticleTransformerConfig(
            features=weights["input_norm.weight"].shape[0],
            classes=weights["head.weight"].shape[0],
            embed=embed,
            pair_embed=pairs,
            heads=weights["blocks.0.head_scale"].shape[0],
            blocks=_count(weights, "blocks"),
            class_blocks=_count(weights, "class_blocks"),
            mlp_ratio=weights["blocks.0.up.weight"].shape[0] // embed[-1],
            head=hidden,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise HepfmError(f"lacks a part of a Particle Transformer: {error}", where, MEND) from error


def _count(weights: Mapping[str, torch.Tensor], stack: str) -> int:
    return len({name[len(stack) + 1 :].split(".")[0] for name in weights if name.startswith(f"{stack}.")})


def _check(weights: Mapping[str, torch.Tensor], config: ParticleTransformerConfig, where: Path) -> None:
    """Refuse weights that are not those of this network; nothing is allocated for it."""
    with without_weights():
        own = ParticleTransformer(config).state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise HepfmError(f"lacks the weight that is '{name}' here", where, MEND)
        if name not in own:
            raise HepfmError(f"has a weight '{name}' that its sizes leave no room for", where, MEND)
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
            raise HepfmError(f"the weight that is '{name}' here has shape {shapes}", where, MEND)


def labels_of(classes: int, labels: Sequence[str], where: Path) -> tuple[str, ...]:
    """The labels of outputs: as stated, or the published ones of so many."""
    if not labels:
        if classes not in PUBLISHED_LABELS:
            raise HepfmError(f"has {classes} outputs and does not say what they are", where, "--labels A B ...")
        return PUBLISHED_LABELS[classes]
    if len(labels) != classes or len(set(labels)) != len(labels):
        raise HepfmError(f"has {classes} outputs, {len(set(labels))} different labels are named", "--labels")
    return tuple(labels)


def features_of(count: int, name: str, sophon: bool, where: Path) -> FeatureSet:
    """The feature set: as stated, or the published one with so many features."""
    if name:
        if name not in FEATURE_SETS:
            raise HepfmError(f"no feature set '{name}'", "--features", f"there is: {', '.join(FEATURE_SETS)}")
        found = FEATURE_SETS[name]
        if len(found.features) != count:
            raise HepfmError(f"reads {count} features, '{name}' has {len(found.features)}", where)
        return found
    fitting = [s for s in FEATURE_SETS.values() if len(s.features) == count and (s.rescale is not None) == sophon]
    if not fitting:
        known = ", ".join(f"{name} ({len(s.features)})" for name, s in FEATURE_SETS.items())
        raise HepfmError(f"reads {count} features, which no published configuration has", where, f"known: {known}")
    return fitting[0]
