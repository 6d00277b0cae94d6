"""Versions for provenance: what made this."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

RECORDED = ("hepfm", "numpy", "pyarrow", "torch", "deepspeed", "uproot", "awkward", "h5py", "fastjet")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape results."""
    return dict(_found())


@cache
def _found() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
