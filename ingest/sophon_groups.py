"""The 30 reweighting groups of JetClass-II's 188 labels, and their sampling weights, as Sophon was trained with.

Source: Li et al., "Accelerating Resonance Searches via Signature-Oriented Pre-training" (arXiv 2405.12972), weights as
in its published data configuration ``JetClassII_full.yaml``. A group's name spells the decay with kinds of partons
and leptons: Q is a quark (b, c, s or light q), g a gluon, l an electron or muon, v a neutrino, tauh a hadronic tau.
"""

from __future__ import annotations

import re

from hepfm.core.errors import HepfmError

GROUPS: dict[str, float] = {
    "X_QQ": 0.4,
    "X_gg": 0.05,
    "X_ll": 0.08,
    "X_tauhtaul": 0.01,
    "X_tauhtauh": 0.015,
    "X_YY_QQQQ": 0.32,
    "X_YY_QQgg": 0.06,
    "X_YY_gggg": 0.0075,
    "X_YY_QQQ": 0.05,
    "X_YY_QQg": 0.005,
    "X_YY_Qgg": 0.005,
    "X_YY_ggg": 0.0015,
    "X_YY_QQll": 0.16,
    "X_YY_QQl": 0.01,
    "X_YY_Qll": 0.012,
    "X_YY_QQtauhtaul": 0.04,
    "X_YY_QQtauhtauh": 0.04,
    "X_YY_Qtauhtaul": 0.0018,
    "X_YY_Qtauhtauh": 0.0024,
    "X_YY_ggll": 0.04,
    "X_YY_ggl": 0.0025,
    "X_YY_gll": 0.003,
    "X_YY_ggtauhtaul": 0.01,
    "X_YY_ggtauhtauh": 0.01,
    "X_YY_gtauhtaul": 0.00045,
    "X_YY_gtauhtauh": 0.0006,
    "X_YY_QQlv": 0.08,
    "X_YY_QQtaulv": 0.015,
    "X_YY_QQtauhv": 0.05,
    "QCD": 0.25,
}

# A group belongs to the first family whose pattern its name holds; a picture has room for these.
_FAMILIES = (
    ("QCD", r"^QCD$"),
    ("X to quarks or gluons", r"^X_(QQ|gg)$"),
    ("X to leptons", r"^X_ll$"),
    ("X to taus", r"^X_tau"),
    ("X to YY, with a neutrino", r"v$"),
    ("X to YY, with taus", r"tau"),
    ("X to YY, with leptons", r"l$"),
    ("X to YY, 4 quarks or gluons", r"^X_YY_[Qg]{4}$"),
    ("X to YY, 3 quarks or gluons", r"^X_YY_[Qg]{3}$"),
)
FAMILIES = tuple(name for name, _ in _FAMILIES)

# What a decay is spelled with, longer words first, and the kind that stands for it in a group's name.
_PARTS = (
    (r"tauhtau[em]", "tauhtaul"),
    (r"tauhtauh", "tauhtauh"),
    (r"tau[em]v", "taulv"),
    (r"tauhv", "tauhv"),
    (r"[em]v", "lv"),
    (r"[bcsq]", "Q"),
    (r"g", "g"),
    (r"[em]", "l"),
)
_SPELLING = re.compile("|".join(f"({pattern})" for pattern, _ in _PARTS))
_DECAY = re.compile(rf"(X_(?:YY_)?)((?:{'|'.join(pattern for pattern, _ in _PARTS)})+)")
_QCD = re.compile(r"QCD_(light|b{0,2}c{0,2}s{0,2})")
# Quarks stand first, then gluons, then leptons: ggb is Qgg.
_RANK = {"Q": 0, "g": 1}


def group_of(label: str) -> str:
    """The group of a label (``X_YY_bbtauhtaue``, with or without the prefix ``label_``).

    Raises:
        HepfmError: it is no label of JetClass-II.
    """
    name = label.removeprefix("label_")
    if _QCD.fullmatch(name) and name != "QCD_":
        return "QCD"
    if decay := _DECAY.fullmatch(name):
        kinds = [_PARTS[match.lastindex - 1][1] for match in _SPELLING.finditer(decay[2]) if match.lastindex]
        group = decay[1] + "".join(sorted(kinds, key=lambda kind: _RANK.get(kind, 2)))
        if group in GROUPS:
            return group
    raise HepfmError(f"'{label}' is no label of JetClass-II", "Sophon's groups", "group by labels, or list the groups")


def family_of(label: str) -> str:
    """The family of decays that a label belongs to, one of :data:`FAMILIES`.

    Raises:
        HepfmError: it is no label of JetClass-II.
    """
    group = group_of(label)
    return next(name for name, pattern in _FAMILIES if re.search(pattern, group))


def is_jetclass2(labels: tuple[str, ...]) -> bool:
    """Is every name a label of JetClass-II?"""
    try:
        return bool([group_of(label) for label in labels])
    except HepfmError:
        return False
