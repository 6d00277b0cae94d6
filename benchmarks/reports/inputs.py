"""What the commands of reports share: names of samples, checks of options."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hepfm.core.errors import HepfmError

REPORT, REFERENCE = "report.json", "reference"


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Samples by the names of their files, told apart by number where these agree.

    Raises:
        HepfmError: no sample.
    """
    if not paths:
        raise HepfmError("no sample to compare with the reference", "evaluate", "name one or several samples")
    found: dict[str, Path] = {}
    for path in paths:
        first = path.name if path.is_dir() else path.stem
        name, number = first, 1
        while name in found or name == REFERENCE:
            number += 1
            name = f"{first} ({number})"
        found[name] = path
    return found


def remarks(reference: Sequence[np.ndarray], samples: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """What a reader has to know before the numbers: which samples are the reference itself, or one another, by the
    hashes of their values."""
    found = []
    known = {_fingerprint(reference): "the reference itself (equal values), which tells nothing of a model"}
    for name, values in samples.items():
        own = _fingerprint(values)
        if own in known:
            found.append(f"{name} is {known[own]}")
        known.setdefault(own, f"the same sample as {name} (equal values)")
    return found


def _fingerprint(values: Sequence[np.ndarray]) -> str:
    found = hashlib.sha256()
    for part in values:
        found.update(np.ascontiguousarray(part, dtype=np.float64).data)
        found.update(b"/")
    return found.hexdigest()


def check_command(out: Path, limit: int | None, replicas: int = 2) -> None:
    """Refuse options that make no report, before anything is read.

    Raises:
        HepfmError: a limit below 1, fewer than two replicas, or a folder that holds something else.
    """
    if limit is not None and limit < 1:
        raise HepfmError(f"must be at least 1, is {limit}", "--limit")
    if replicas < 2:
        raise HepfmError(f"must be at least 2, is {replicas}", "--replicas")
    if out.exists() and not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if out.exists() and any(out.iterdir()) and not (out / REPORT).exists():
        raise HepfmError("holds something that is no report", out, "name another --out")
