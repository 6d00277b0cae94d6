"""Quantities of jets, each substructure clustered once, and what their samples are compared by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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


def jet_quantities(jets: Constituents) -> dict[str, np.ndarray]:
    """Quantities (n,) of :data:`JET`; NaN where undefined. Definitions: core/observables.py; soft drop by fastjet."""
    taus = observables.nsubjettiness(jets, (1, 2, 3))
    return {
        "jet_pt": observables.jet_pt(jets),
        "jet_mass": observables.jet_mass(jets),
        "multiplicity": observables.multiplicity(jets).astype(np.float64),
        "tau21": observables.tau_ratio(taus, 2, 1),
        "tau32": observables.tau_ratio(taus, 3, 2),
        "d2": observables.d2(jets),
        "softdrop_mass": observables.softdrop_mass(jets),
    }


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
