"""Opening a ROOT file, sure that it is one and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uproot

from hepfm.core.errors import HepfmError

# In files above 2 GB, whose version is above this, the position of the end takes eight bytes.
_LARGE_VERSION = 1_000_000


def open_root(path: Path, expected: str) -> Any:
    """An opened file, mapped: uproot's default handler starts threads, which on a local disk cost more than they bring.

    Args:
        path: the file.
        expected: what such files are, for messages ("CMS files are ROOT files with 'Events'").

    Raises:
        HepfmError: a folder, unreadable, empty, not a ROOT file, truncated, or damaged.
    """
    if path.is_dir():
        raise HepfmError("a folder, not a ROOT file", path, "name the files in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    if head[:4] != b"root":
        raise HepfmError("not a ROOT file" if size else "an empty file", path, expected)
    large = int.from_bytes(head[4:8], "big") > _LARGE_VERSION
    end = int.from_bytes(head[12:20] if large else head[12:16], "big")
    if end > size:
        raise HepfmError(f"truncated: {size:,} of {end:,} bytes", path, "fetch it again")
    try:
        return uproot.open(path, handler=uproot.MemmapSource)
    except Exception as error:  # a damaged file can fail anywhere in uproot
        raise HepfmError(f"not a readable ROOT file ({type(error).__name__})", path, "fetch it again") from error
