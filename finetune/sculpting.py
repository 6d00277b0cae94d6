"""Whether a cut on a discriminant shapes the background's spectra of mass and pt.

The Jensen-Shannon divergence between the spectrum of the background jets that pass and that of all, at fixed shares
that pass, in bits: 0 where a cut shapes nothing, 1 where the spectra do not overlap. By chance alone few jets that pass
differ from all, too: as many background jets drawn at random say by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.core.statistics import REPLICAS, Estimate
from hepfm.finetune.judging import Judge
from hepfm.finetune.labelled import Classes
from hepfm.ingest.corpus import Split

SHARES = (0.5, 0.1, 0.01)  # of the background, that pass
FEWEST = 20  # jets that have to pass for a spectrum of them
# Bins of Sophon's reweighting (arXiv:2405.12972), and what lies outside of them.
EDGES: Mapping[str, np.ndarray] = {
    "softdrop_mass": np.linspace(20, 500, 49),
    "pt": np.geomspace(200, 2500, 15),
}


@dataclass(frozen=True)
class Sculpting:
    """What a cut does to a spectrum of the background.

    Attributes:
        quantity: whose spectrum.
        share: of the background that is asked to pass.
        threshold: on the discriminant; the jets at it pass, too.
        passed: (2,) background jets that pass, and all.
        divergence: Jensen-Shannon divergence [bits] of passed and all, with its bootstrap error; None where fewer than
            20 jets pass.
        chance: its mean for as many jets drawn at random.
        chance_upper: 95% quantile of these.
    """

    quantity: str
    share: float
    threshold: float
    passed: tuple[int, int]
    divergence: Estimate | None
    chance: float
    chance_upper: float


def sculpting(
    values: np.ndarray,
    quantity: np.ndarray,
    name: str,
    shares: Sequence[float] = SHARES,
    *,
    key: object = 0,
    replicas: int = REPLICAS,
) -> list[Sculpting]:
    """How cuts on a discriminant shape a quantity of background jets.

    Args:
        values: (n,) the discriminant of background jets.
        quantity: (n,) of the same jets.
        name: of the quantity, one of :data:`EDGES`.
        shares: of the background that pass, each in (0, 1).
        key: names the draws.
        replicas: of the bootstrap, and draws of chance.

    Raises:
        HepfmError: no jets, or values that are not finite.
    """
    if not len(values) or not (np.isfinite(values).all() and np.isfinite(quantity).all()):
        raise HepfmError(f"no background jets, or some without finite {name}", "sculpting", "judge others")
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    bins = np.searchsorted(EDGES[name], quantity[order], side="right")
    size = len(EDGES[name]) + 1
    everyone = np.bincount(bins, minlength=size)
    draws = generator("sculpting", name, key)
    found = []
    for share in shares:
        threshold = float(ordered[max(math.ceil(share * len(ordered)), 1) - 1])
        passed = int(np.searchsorted(-ordered, -threshold, side="right"))
        if passed < FEWEST:
            found.append(Sculpting(name, share, threshold, (passed, len(values)), None, math.nan, math.nan))
            continue
        ours = np.bincount(bins[:passed], minlength=size)
        # Jets drawn anew, the threshold as it is: all that counts is how many of each bin pass, and how many do not.
        cells = np.stack([ours, everyone - ours])
        drawn = draws.multinomial(len(bins), cells.ravel() / len(bins), replicas).reshape(replicas, 2, size)
        replicated = [divergence(again[0], again.sum(0)) for again in drawn if again[0].any()]
        random = [
            divergence(again, everyone) for again in draws.multivariate_hypergeometric(everyone, passed, replicas)
        ]
        found.append(
            Sculpting(
                name,
                share,
                threshold,
                (passed, len(values)),
                Estimate(divergence(ours, everyone), float(np.std(replicated, ddof=1))),
                float(np.mean(random)),
                float(np.quantile(random, 0.95)),
            )
        )
    return found


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence [bits] of two binned spectra (k,) (Lin, IEEE Trans. Inf. Theory 37, 1991)."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    total = 0.0
    for part in (p, q):
        there = part > 0
        total += float((part[there] * np.log2(part[there] / middle[there])).sum()) / 2
    return max(total, 0.0)


def quantities(judge: Judge, split: Split, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Quantities (n,) of the jets that :meth:`Judge.judge` gives scores of, in their order."""
    classes = Classes(judge.classes, judge.labels)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for block in split:
        known = classes.numbers(block) >= 0
        for name, values in found.items():
            values.append(values_of(block.column(name)).astype(np.float64)[known])
    return {name: np.concatenate(values) for name, values in found.items()}
