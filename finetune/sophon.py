"""Sophon's labels: groups by their published names, discriminants of summed scores, and coarser sets of classes.

Any tagger is a likelihood ratio: the summed scores of the signal's labels over those of signal and background (Li et
al., arXiv:2405.12972).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.jetclass2 import LABELS
from hepfm.ingest.sophon_groups import GROUPS, group_of

QCD = "QCD"
LADDERS = (188, 162, 43, 17)
_PARTON = re.compile(r"[Qg]")


def members(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that a name stands for: a label itself, or one of the 30 groups (``QCD``, ``X_QQ``, ...).

    Raises:
        HepfmError: neither a label of this head nor a group of any of its labels.
    """
    if name in labels:
        return (name,)
    if name in GROUPS:
        found = tuple(label for label in labels if _group(label) == name)
        if found:
            return found
    shown = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
    if len(labels) <= 20:
        shown = ", ".join(labels)
    known = {_group(label) for label in labels}
    groups = [group for group in GROUPS if group in known and group not in labels]
    told = f"; groups: {', '.join(groups)}" if groups else ""
    raise HepfmError(f"the head does not know '{name}'", "label", f"its {len(labels)} labels are {shown}{told}")


def _group(label: str) -> str | None:
    try:
        return group_of(label)
    except HepfmError:
        return None


def discriminant(
    scores: np.ndarray, labels: Sequence[str], signal: str | Sequence[str], against: str | Sequence[str]
) -> np.ndarray:
    """Likelihood ratio S / (S + B) (n,) of the summed scores of signal and background; 0 where both are 0.

    Args:
        scores: (n, classes) probabilities.
        labels: of the classes, in order.
        signal, against: a label or group, or several.

    Raises:
        HepfmError: a name that the head does not know, or a label on both sides.
    """
    sides = []
    for names in (signal, against):
        chosen = [names] if isinstance(names, str) else list(names)
        sides.append(list(dict.fromkeys(label for name in chosen for label in members(name, labels))))
    both = set(sides[0]) & set(sides[1])
    if both:
        raise HepfmError(f"'{min(both)}' is signal and background", "discriminant", "name it on one side")
    place = {label: number for number, label in enumerate(labels)}
    s, b = (scores[:, [place[label] for label in side]].sum(axis=1, dtype=np.float64) for side in sides)
    total = s + b
    return np.divide(s, total, out=np.zeros_like(total), where=total > 0)


def ladder(classes: int) -> dict[str, str]:
    """Class of each of the 188 labels in a coarser set.

    162 merges the 27 QCD labels. 17 keeps, of a resonance, how many partons and which leptons it decayed to (quarks and
    gluons alike; e and mu alike) and one QCD class; 43 divides those with partons into b (any b), c (no b, any c) and
    light (neither). These two are sets that users of Sophon studied, not its authors'.

    Raises:
        HepfmError: no such set.
    """
    rules = {188: lambda label: label, 162: _merged_qcd, 43: _by_flavour, 17: _by_topology}
    if classes not in rules:
        raise HepfmError(f"no set of {classes} classes", "--ladder", f"there is: {', '.join(map(str, LADDERS))}")
    return {label: rules[classes](label) for label in LABELS}


def _merged_qcd(label: str) -> str:
    return QCD if group_of(label) == QCD else label


def _by_topology(label: str) -> str:
    """The group with quarks and gluons as partons P."""
    group = group_of(label)
    return group if group == QCD else _PARTON.sub("P", group)


def _by_flavour(label: str) -> str:
    topology = _by_topology(label)
    if "P" not in topology:
        return topology
    decay = label.rpartition("_")[2]
    flavour = "b" if "b" in decay else "c" if "c" in decay else "light"
    return f"{topology}_{flavour}"
