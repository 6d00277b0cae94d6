"""Configuration: one plain dataclass a command, from a YAML file, overridden by flags, saved resolved."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import math
import re
import sys
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from hepfm.core.errors import HepfmError
from hepfm.core.files import write_text

ConfigT = TypeVar("ConfigT")

CONFIG_HELP = "--config FILE.yaml takes these settings from a file (a run's config.yaml is one); flags override it."


def parse(config_type: type[ConfigT], arguments: Sequence[str], prog: str) -> ConfigT:
    """Read a command's configuration from its arguments; ``--config FILE`` gives defaults that flags override."""
    file, arguments = _config_file(arguments)
    options: dict[str, Any] = {}
    if file is not None:
        options["default"] = from_yaml(config_type, file, missing=tyro.MISSING)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            config = tyro.cli(
                config_type,
                args=arguments,
                prog=prog,
                description=f"{inspect.cleandoc(config_type.__doc__ or '')}\n\n{CONFIG_HELP}",
                config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
                **options,
            )
    except SystemExit as end:
        if end.code:
            raise HepfmError(_one_line(told.getvalue()), prog) from None
        raise
    _check_finite(config)
    return config


def _config_file(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that ``--config FILE`` (or ``--config=FILE``) names, and the other arguments."""
    rest = [part for argument in arguments for part in re.split(r"(?<=^--config)=", argument, maxsplit=1)]
    if "--config" not in rest:
        return None, list(arguments)
    at = rest.index("--config")
    if at + 1 == len(rest):
        raise HepfmError("needs a file", "--config")
    return Path(rest[at + 1]), rest[:at] + rest[at + 2 :]


def _one_line(box: str) -> str:
    """tyro's framed message as one line; the frame is of hyphens where the output is not UTF-8."""
    words = " ".join(re.sub(r"[╭╮╰╯│─]+|-{4,}", " ", box).split())
    return re.sub(r"^(Required options|Parsing error|Unrecognized options) (?=[A-Z])", "", words)


def _check_finite(config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _check_finite(value)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise HepfmError(f"must be a finite number, is {number}", f"--{field.name.replace('_', '-')}")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain data (paths as strings, tuples as lists) of a configuration."""
    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def settings_of(config: Any, without: Collection[str]) -> dict[str, Any]:
    """:func:`to_dict` less the named entries: an artifact's bytes must not depend on where things lie."""
    return {name: value for name, value in to_dict(config).items() if name not in without}


def plain(value: Any) -> Any:
    """A setting as YAML and JSON hold it: paths as strings, tuples as lists, dataclasses as mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def from_dict(
    config_type: type[ConfigT], data: Any, where: object = "configuration", missing: Any = dataclasses.MISSING
) -> ConfigT:
    """Build a configuration from plain data; an unknown or mistyped entry is an error that names it.

    Args:
        config_type: the dataclass.
        data: mapping of names to plain values.
        where: what to call the data in messages.
        missing: stands for a required entry that is not there; by default that is an error.
    """
    if not isinstance(data, dict):
        raise HepfmError(f"expected a mapping for {config_type.__name__}, got {type(data).__name__}", where)
    hints = typing.get_type_hints(config_type)
    known = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise HepfmError(f"unknown setting '{name}'", where, f"known: {', '.join(sorted(known))}")
    values = {name: _typed(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    if missing is not dataclasses.MISSING:
        values |= {name: missing for name in _required(config_type) if name not in values}
    lacking = [name for name in _required(config_type) if name not in values]
    if lacking:
        raise HepfmError(f"lacks {', '.join(repr(name) for name in lacking)}", where)
    return config_type(**values)


def _required(config_type: Any) -> list[str]:
    nothing = dataclasses.MISSING
    fields = dataclasses.fields(config_type)
    return [field.name for field in fields if field.default is nothing and field.default_factory is nothing]


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _typed(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(item for item in arguments if item is not type(None))
        return _typed(hint, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise HepfmError(f"{value!r} is not one of {', '.join(map(str, arguments))}", where)
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise HepfmError(f"expected a list, got {value!r}", where)
        inner = arguments[0] if origin is list or arguments[-1] is Ellipsis else None
        hints = [inner] * len(value) if inner is not None else list(arguments)
        if len(hints) != len(value):
            raise HepfmError(f"expected {len(hints)} values, got {len(value)}", where)
        return origin(_typed(item_hint, item, where) for item_hint, item in zip(hints, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if hint is Path:
        return Path(str(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise HepfmError(f"expected {hint.__name__}, got {value!r}", where)
    return value


def from_yaml(config_type: type[ConfigT], path: Path, missing: Any = dataclasses.MISSING) -> ConfigT:
    """Read a configuration from a YAML file; ``missing`` as in :func:`from_dict`."""
    return from_dict(config_type, read_yaml(path), path, missing)


def read_yaml(path: Path) -> Any:
    """The data of a YAML file (safe loader: data only); an empty file is an empty mapping."""
    try:
        return yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise HepfmError(f"cannot be read: {error.strerror}", path, "--config takes a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HepfmError(f"not valid YAML: {error}", path) from error
    except RecursionError as error:
        raise HepfmError("not valid YAML: nested too deeply", path) from error


def save_yaml(config: Any, path: Path) -> None:
    """Write the complete, resolved configuration."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def command_line() -> str:
    """The command as typed, for provenance."""
    return " ".join(["hepfm", *sys.argv[1:]])
