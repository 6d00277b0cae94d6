"""Weights of weaver-core's ``ParticleNet``: the published configuration of JetClass and top tagging, and the light one.

A file holds names and shapes only; how many neighbours a particle has follows from no shape, so only the published
widths are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hepfm.core.errors import HepfmError
from hepfm.core.nn.empty import without_weights
from hepfm.core.torch_files import Checkpoint
from hepfm.finetune.particle_net import ParticleNet, ParticleNetConfig
from hepfm.finetune.tagger import check_weights
from hepfm.finetune.weaver_weights import COUNTER, Recognised, bare_name, features_of, labels_of

FIRST = "edge_convs.0.convs.0.weight"
MEND = "name the weights of weaver-core's ParticleNet, without fusion"
# Widths of the convolutions -> neighbours of a particle (arXiv:1902.08570, section 3.2).
NEIGHBOURS: dict[tuple[tuple[int, ...], ...], int] = {
    ((64, 64, 64), (128, 128, 128), (256, 256, 256)): 16,
    ((32, 32, 32), (64, 64, 64)): 7,
}
_FIXED = {"bn_fts": "input_norm", "fc.0.0": "hidden", "fc.1": "head"}


def recognises(checkpoint: Checkpoint) -> bool:
    """Is it a ParticleNet of weaver-core's?"""
    return FIRST in {bare_name(name) for name in checkpoint.state}


def read_network(checkpoint: Checkpoint, labels: Sequence[str] = (), features: str = "") -> Recognised:
    """The network of a checkpoint.

    Args:
        checkpoint: the file.
        labels: of the outputs; by default those of JetClass for 10 and of JetClass-II for 188.
        features: name of the feature set; by default the published one with as many features.

    Raises:
        HepfmError: a key or shape that does not belong to such a network, by name; or labels that are not stated.
    """
    where = checkpoint.path
    weights = _weights(checkpoint)
    config = _config(weights, where)
    with without_weights():
        expected = ParticleNet(config).state_dict()
    check_weights(weights, expected, where)
    network = ParticleNet(config)
    network.load_state_dict(weights)
    chosen = labels_of(config.classes, labels, where)
    feature_set = features_of(config.features, features, False, where)
    sizes = f"{config.features} features, {len(config.convolutions)} edge convolutions, {config.neighbours} neighbours"
    name = f"ParticleNet: {sizes}, {config.classes} classes, features '{feature_set.name}'"
    return Recognised(network.eval(), chosen, feature_set, name)


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights under the names that they have here."""
    names: dict[str, str] = {}
    for key in checkpoint.state:
        bare = bare_name(key)
        if COUNTER.fullmatch(bare):
            continue
        new = _renamed(bare)
        if new is None or new in names:
            raise HepfmError(f"has an unexpected key: '{key}'", checkpoint.path, MEND)
        names[new] = key
    weights = {name: value.float() for name, value in checkpoint.tensors(names).items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise HepfmError(f"'{names[name]}' has values that are not finite", checkpoint.path, MEND)
        if value.ndim > 2 and set(value.shape[2:]) == {1}:
            weights[name] = value.flatten(1)  # a convolution of width 1
    return weights


def _renamed(key: str) -> str | None:
    """Name here of a weight there; None if there is none."""
    stem, _, last = key.rpartition(".")
    if stem in _FIXED:
        return f"{_FIXED[stem]}.{last}"
    if match := re.fullmatch(r"edge_convs\.(\d{1,2})\.(convs|bns)\.(\d{1,2})", stem):
        number, part = int(match[3]), match[2]
        inner = {"convs": "first", "bns": "first_norm"} if not number else {"convs": "linear", "bns": "norm"}
        return f"convolutions.{match[1]}.{f'layers.{number - 1}.' if number else ''}{inner[part]}.{last}"
    if match := re.fullmatch(r"edge_convs\.(\d{1,2})\.(sc|sc_bn)", stem):
        return f"convolutions.{match[1]}.shortcut.{'linear' if match[2] == 'sc' else 'norm'}.{last}"
    return None


def _config(weights: Mapping[str, torch.Tensor], where: Path) -> ParticleNetConfig:
    """Sizes by the shapes of the weights."""
    widths: dict[int, dict[int, int]] = {}
    for name, value in weights.items():
        if match := re.fullmatch(r"convolutions\.(\d+)\.(?:first|layers\.(\d+)\.linear)\.weight", name):
            widths.setdefault(int(match[1]), {})[int(match[2]) + 1 if match[2] else 0] = value.shape[0]
    convolutions = tuple(tuple(layers[n] for n in sorted(layers)) for _, layers in sorted(widths.items()))
    if convolutions not in NEIGHBOURS:
        raise HepfmError(f"has edge convolutions of unpublished widths {convolutions}", where, MEND)
    try:
        return ParticleNetConfig(
            features=weights["input_norm.weight"].shape[0],
            classes=weights["head.weight"].shape[0],
            neighbours=NEIGHBOURS[convolutions],
            convolutions=convolutions,
            head=weights["hidden.weight"].shape[0],
        )
    except KeyError as error:
        raise HepfmError(f"lacks the weight that is {error} here", where, MEND) from error
