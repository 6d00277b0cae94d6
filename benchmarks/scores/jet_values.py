"""Quantities of jets, each substructure clustered once, and what their samples are compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from hepfm.benchmarks.scores.energy_flow import energy_flow_polynomials
from hepfm.benchmarks.scores.jet_batches import relative
from hepfm.benchmarks.scores.suite_parts import Kept
from hepfm.core import observables
from hepfm.core.observables import Constituents
from hepfm.core.statistics import Values

UNDEFINED = -1.0  # stands for an undefined ratio in a classifier's inputs

# Name and unit of each quantity of a jet, then of a constituent.
JET = {
    "jet_pt": "GeV",
    "jet_mass": "GeV",
    "multiplicity": "",
    "tau21": "",
    "tau32": "",
    "d2": "",
    "softdrop_mass": "GeV",
}
CONSTITUENT = {"constituent_pt": "GeV", "constituent_deta": "", "constituent_dphi": "rad"}


class JetSide:
    """Jets with what is computed from them, each part once and when it is first asked for: a reference is compared with
    many samples, and clustering is what takes long."""

    def __init__(self, jets: Constituents) -> None:
        self.jets = jets
        self.kept = Kept()

    def __len__(self) -> int:
        return len(self.jets)

    def quantity(self, name: str) -> np.ndarray:
        """One of :data:`JET`, (n,); NaN where undefined."""
        if name not in self._found:
            self._found[name] = np.asarray(self._compute[name](), dtype=np.float64)
        return self._found[name]

    @cached_property
    def _found(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _compute(self) -> dict[str, Callable[[], np.ndarray]]:
        jets = self.jets
        return {
            "jet_pt": lambda: observables.jet_pt(jets),
            "jet_mass": lambda: observables.jet_mass(jets),
            "multiplicity": lambda: observables.multiplicity(jets),
            "tau21": lambda: observables.tau_ratio(self._taus, 2, 1),
            "tau32": lambda: observables.tau_ratio(self._taus, 3, 2),
            "d2": lambda: observables.d2(jets),
            "softdrop_mass": lambda: observables.softdrop_mass(jets),
        }

    @cached_property
    def _taus(self) -> dict[int, np.ndarray]:
        return observables.nsubjettiness(self.jets, (1, 2, 3))

    @property
    def quantities(self) -> dict[str, np.ndarray]:
        """All of :data:`JET`."""
        return {name: self.quantity(name) for name in JET}

    @cached_property
    def values(self) -> dict[str, Values]:
        """The defined values of jets and of constituents."""
        return {**defined(self.quantities), **constituent_quantities(self.jets)}

    @cached_property
    def relative(self) -> Constituents:
        """The jets with relative pt."""
        return relative(self.jets)

    @cached_property
    def polynomials(self) -> np.ndarray:
        """Energy flow polynomials (n, 36) on relative pt."""
        return energy_flow_polynomials(self.relative)


def jet_quantities(jets: Constituents) -> dict[str, np.ndarray]:
    """Quantities (n,) of :data:`JET`; NaN where undefined. Definitions: core/observables.py; soft drop by fastjet."""
    return JetSide(jets).quantities


def defined(quantities: Mapping[str, np.ndarray]) -> dict[str, Values]:
    """The defined values of each quantity."""
    found = {}
    for name, values in quantities.items():
        kept = np.flatnonzero(np.isfinite(values))
        found[name] = Values(values[kept], kept, len(values))
    return found


def constituent_quantities(jets: Constituents) -> dict[str, Values]:
    """Quantities of :data:`CONSTITUENT`; those of a jet go together."""
    columns = {"constituent_pt": jets.pt, "constituent_deta": jets.deta, "constituent_dphi": jets.dphi}
    return {name: Values.per_point(values, jets.offsets, name) for name, values in columns.items()}


def jet_inputs(quantities: Mapping[str, np.ndarray]) -> np.ndarray:
    """Inputs (n, 7) of a classifier of jets: pt, masses and multiplicity as log(1 + x), ratios as they are or -1."""
    logs = ("jet_pt", "jet_mass", "multiplicity", "softdrop_mass")
    columns = [np.log1p(values) if name in logs else values for name, values in quantities.items()]
    found = np.column_stack(columns)
    return np.where(np.isfinite(found), found, UNDEFINED)
