"""Docstrings of attributes and properties as they are: napoleon takes what stands before a colon for a type."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

_written: dict[str, list[str]] = {}


def _keep(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what in ("attribute", "property", "data"):
        _written[name] = list(lines)


def _restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if name in _written:
        lines[:] = _written.pop(name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
    return {"parallel_read_safe": True}
