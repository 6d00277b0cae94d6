"""Jet observables on packed constituents: flat values and offsets, no loop over jets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constituents:
    """Constituents of n jets, one after another.

    Attributes:
        pt: (N,) transverse momentum [GeV].
        deta: (N,) eta relative to the jet axis.
        dphi: (N,) phi relative to the jet axis [rad].
        offsets: (n + 1,) jet i owns constituents ``offsets[i]:offsets[i + 1]``.
    """

    pt: np.ndarray
    deta: np.ndarray
    dphi: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1
