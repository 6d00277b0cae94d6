"""Published results on JetNet's jets of 30 constituents, to put beside ours where the data set is the same.

MPGAN (arXiv:2106.11535), and its successors with FPD and KPD (arXiv:2211.10295, and the
dissertation that collects them).
W1M and W1P are times 1,000, W1EFP times 100,000, FPD times 1,000, KPD times 1,000,000. Protocol ``jetnet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Number = tuple[float, float]  # value and error


@dataclass(frozen=True)
class Generator:
    """One generator of jets; None where a value was not published.

    Attributes:
        name: of the generator; truth is the data set against itself.
        w1m, w1p, w1p_pt, w1efp: batched W1 of mass, of all features (mean), of relative pt alone, of polynomials.
        fpd, kpd: on 36 energy flow polynomials.
        coverage, mmd: with exact EMD.
    """

    name: str
    w1m: Number | None = None
    w1p: Number | None = None
    w1p_pt: Number | None = None
    w1efp: Number | None = None
    fpd: Number | None = None
    kpd: Number | None = None
    coverage: float | None = None
    mmd: float | None = None


def _later(name: str, w1p_pt: Number, w1m: Number, fpd: Number, kpd: Number) -> Generator:
    return Generator(f"{name} (2211.10295)", w1m=w1m, w1p_pt=w1p_pt, fpd=fpd, kpd=kpd)


JETNET_30: dict[str, tuple[Generator, ...]] = {
    "g": (
        _later("truth", (0.14, 0.06), (0.46, 0.08), (0.14, 0.04), (1.8, 11.9)),
        Generator("MPGAN", (0.7, 0.2), (0.9, 0.3), None, (0.7, 0.3), coverage=0.56, mmd=0.037),
        Generator("FC + PointNet", (1.3, 0.4), (1.3, 0.2), None, (1.5, 0.9), coverage=0.49, mmd=0.039),
        _later("MPGAN", (0.27, 0.02), (0.7, 0.3), (0.41, 0.09), (0, 8)),
        _later("GAPT", (0.25, 0.07), (1.0, 0.2), (0.46, 0.06), (5, 3)),
        _later("GAST", (0.8, 0.1), (0.7, 0.2), (0.40, 0.05), (7.0, 10.3)),
        _later("iGAPT", (0.76, 0.07), (0.7, 0.1), (0.29, 0.04), (3, 5)),
    ),
    "q": (
        _later("truth", (0.21, 0.05), (0.5, 0.2), (0.09, 0.03), (-3, 3)),
        Generator("MPGAN", (0.6, 0.2), (4.9, 0.5), None, (0.7, 0.4), coverage=0.50, mmd=0.026),
        Generator("MP-LFC + MP", (0.7, 0.2), (2.6, 0.4), None, (0.9, 0.9), coverage=0.52, mmd=0.024),
        _later("MPGAN", (0.41, 0.07), (0.5, 0.1), (1.9, 0.2), (1.7, 15.1)),
        _later("GAPT", (2.74, 0.09), (2.54, 0.05), (4.03, 0.06), (96, 9)),
        _later("GAST", (1.2, 0.1), (1.8, 0.2), (0.65, 0.07), (27.0, 11.7)),
        _later("iGAPT", (1.89, 0.04), (1.2, 0.3), (0.51, 0.07), (12, 7)),
    ),
    "t": (
        _later("truth", (0.20, 0.05), (0.7, 0.2), (0.07, 0.03), (-16, 2)),
        Generator("MPGAN", (0.6, 0.2), (2.3, 0.3), None, (2, 1), coverage=0.57, mmd=0.071),
        Generator("MP + PointNet", (0.76, 0.08), (1.6, 0.4), None, (4, 1), coverage=0.59, mmd=0.072),
        _later("MPGAN", (0.44, 0.08), (0.5, 0.1), (2.8, 0.2), (14.7, 12.9)),
        _later("GAPT", (0.34, 0.02), (1.9, 0.2), (0.43, 0.03), (25.4, 28.8)),
        _later("GAST", (1.16, 0.08), (1.5, 0.2), (0.30, 0.05), (-2.4, 17.2)),
        _later("iGAPT", (0.54, 0.04), (0.9, 0.3), (0.25, 0.03), (-0.6, 14.1)),
    ),
}
LONGEST = 30


def jetnet_class(source: str, labels: Sequence[str], longest: int) -> str | None:
    """The key of :data:`JETNET_30` that jets of this source, these classes and this many constituents belong to."""
    if source != "jetnet" or len(labels) != 1 or longest > LONGEST or labels[0] not in JETNET_30:
        return None
    return labels[0]
