"""The features of OmniJet-alpha's tokenizers: ``config.yaml`` to a feature contract.

Functions in that file are strings which the original code evaluates. Here they are names in a table.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from hepfm.core.errors import HepfmError
from hepfm.tokenize.contract import FeatureSpec
from hepfm.tokenize.selection import SUM, SelectingContract

FILE = "config.yaml"
MAX_BYTES = 1 << 20
MOST_SHOWN = 20  # names of features in a message
# (function, inverse) as written there -> transform here.
FUNCTIONS = {
    (None, None): "identity",
    ("np.log", "np.exp"): "log",
    ("numpy.log", "numpy.exp"): "log",
}
SETTINGS = ("func", "inv_func", "subtract_by", "multiply_by", "larger_than", "smaller_than", "clip_min", "clip_max")
# Their features, in the order in which their networks take them, as quantities and units here.
JETS = {"part_pt": ("pt", "GeV"), "part_etarel": ("deta", "1"), "part_phirel": ("dphi", "rad")}
SHOWERS = {"x": ("cell_a", ""), "y": ("cell_b", ""), "z": ("layer", ""), "energy": ("energy", "MeV")}
# The showers' grid (arXiv:2501.05534): layers, cells along x and y. Decoded cells are rounded, as there.
GRID = (30, 30, 30)
CELLS = dict(zip(("layer", "cell_a", "cell_b"), GRID, strict=True))
PLACES = (("data", "dataset_kwargs_common"), ("data",), ())


class _Loader(yaml.SafeLoader):
    """Plain data without aliases, which let a few lines stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has an alias, *{self.peek_event().anchor}")
        return super().compose_node(parent, index)


def read_config(checkpoint: Path) -> tuple[Path, dict[str, Any]]:
    """The ``config.yaml`` beside a checkpoint, and its content.

    Raises:
        HepfmError: there is none, or it is no YAML mapping.
    """
    path = checkpoint.parent / FILE
    if not path.is_file():
        raise HepfmError(
            f"has no {FILE} beside it, which says what the tokenizer's features are",
            checkpoint,
            "put the checkpoint's own config.yaml beside it",
        )
    if path.stat().st_size > MAX_BYTES:
        raise HepfmError(f"has more than {MAX_BYTES:,} bytes", path, "put the checkpoint's own config.yaml there")
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HepfmError(f"is no YAML: {error}", path, "get the file again") from error
    if not isinstance(content, dict):
        raise HepfmError("is no mapping", path, "get the file again")
    return path, content


def contract_of(config: Mapping[str, Any], where: Path, count: int) -> SelectingContract:
    """The contract of the features that a configuration describes.

    Args:
        config: content of the file.
        where: the file, for messages.
        count: how many features the network takes.

    Raises:
        HepfmError: features, functions or settings that hepfm does not know; names them.
    """
    common = _common(config, where)
    features = common["feature_dict"]
    known = next((table for table in (JETS, SHOWERS) if table.keys() == features.keys()), None)
    if known is None:
        raise HepfmError(
            f"has the features {', '.join(shown(name) for name in islice(features, MOST_SHOWN))}",
            where,
            f"known are {', '.join(JETS)} (jets) and {', '.join(SHOWERS)} (showers)",
        )
    _check_order(list(features), list(known), where)
    if count != len(known):
        raise HepfmError(f"has {len(known)} features, the network takes {count}", where, "put the right one there")
    if common.get("energy_threshold"):
        raise HepfmError(f"has energy_threshold {shown(common['energy_threshold'])}", where, "known is none, or 0")
    specs, cuts = [], {}
    for name, (quantity, unit) in known.items():
        spec, cut = _feature(name, features[name], quantity, unit, where)
        specs.append(spec)
        if cut != [None, None]:
            cuts[quantity] = cut
    jets = known is JETS
    return SelectingContract(
        features=tuple(specs),
        axis=SUM if jets else "",
        kind="jets" if jets else "showers",
        order="pt descending" if jets else "energy descending",
        mass="massless" if jets else "",
        cuts=cuts,
        max_points=_whole(common.get("pad_length"), where),
        grid=None if jets else GRID,
    )


def _common(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The mapping that has the feature_dict."""
    for place in PLACES:
        found: Any = config
        for name in place:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and isinstance(found.get("feature_dict"), dict):
            return found
    raise HepfmError("has no data.dataset_kwargs_common.feature_dict", where, "put the checkpoint's own there")


def _check_order(written: list[str], known: list[str], where: Path) -> None:
    """A YAML writer may have sorted the names; any other order than theirs would be another network's."""
    if written not in (known, sorted(known)):
        raise HepfmError(
            f"has its features in the order {', '.join(written)}", where, f"known is {', '.join(known)}, or sorted"
        )


def _feature(name: str, settings: Any, quantity: str, unit: str, where: Path) -> tuple[FeatureSpec, list[float | None]]:
    """One feature, and its cut [low, high]."""
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise HepfmError(f"its feature '{name}' is a {type(settings).__name__}", where, "get the file again")
    unknown = [key for key in settings if key not in SETTINGS]
    unknown += [key for key in ("clip_min", "clip_max") if settings.get(key) is not None]
    if unknown:
        raise HepfmError(
            f"its feature '{name}' has the setting {shown(unknown[0])}", where, f"known are {', '.join(SETTINGS[:6])}"
        )
    functions = (settings.get("func"), settings.get("inv_func"))
    if not all(isinstance(function, (str, type(None))) for function in functions) or functions not in FUNCTIONS:
        raise HepfmError(
            f"its feature '{name}' has func {shown(functions[0])} with inv_func {shown(functions[1])}",
            where,
            "known are none, and np.log with np.exp",
        )
    scale = _number(settings, "multiply_by", 1.0, name, where)
    if scale == 0:
        raise HepfmError(f"its feature '{name}' is multiplied by 0", where, "get the file again")
    shift = _number(settings, "subtract_by", 0.0, name, where)
    cut = [
        None if settings.get(bound) is None else _number(settings, bound, 0.0, name, where)
        for bound in ("larger_than", "smaller_than")
    ]
    spec = FeatureSpec(quantity, unit, FUNCTIONS[functions], shift, scale)
    if quantity in CELLS:
        spec = replace(spec, integer=True, allowed=(0.0, CELLS[quantity] - 1.0))
    return spec, cut


def _number(settings: Mapping[str, Any], key: str, default: float, name: str, where: Path) -> float:
    value = settings.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise HepfmError(f"its feature '{name}' has {key} {shown(value)}, no number", where, "get the file again")
    return float(value)


def shown(value: Any) -> str:
    """A value for messages, cut short."""
    return reprlib.repr(value)


def _whole(value: Any, where: Path) -> int:
    if type(value) is not int or value < 1:
        raise HepfmError(f"its pad_length is {shown(value)}, no number of points", where, "get the file again")
    return value
