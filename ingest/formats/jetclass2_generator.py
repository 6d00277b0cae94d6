"""Generator-level quantities of JetClass-II files, one number a jet each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hepfm.ingest.formats.arrays import wrapped
from hepfm.ingest.formats.jetclass2 import mass_of

Quantities = dict[str, np.ndarray]


def generator_quantities(columns: Mapping[str, Any]) -> tuple[Quantities, Quantities]:
    """Columns ``generator_jet_*`` and ``resonance_*`` (n,) of records, and where (n,) each is known.

    A jet without a generated jet (its stored pt is 0) lacks the former; one that comes from no resonance (QCD), or from
    one without daughters Y, lacks the latter. Of several X the one of highest pt is taken, of several Y the two of
    highest pt.

    Args:
        columns: at least ``GENERATOR_COLUMNS`` of :mod:`hepfm.ingest.formats.jetclass2`.
    """
    particles = {
        "x": _ranked(columns, "aux_genpart_isResX", 0),
        "y1": _ranked(columns, "aux_genpart_isResY", 0),
        "y2": _ranked(columns, "aux_genpart_isResY", 1),
    }
    values = _jet(columns)
    known = dict.fromkeys(values, ~(columns["genjet_pt"] <= 0))
    for name, index in particles.items():
        found = _particle(columns, f"resonance_{name}", index)
        values |= found
        known |= dict.fromkeys(found, index >= 0)
    return values, known


def _jet(columns: Mapping[str, Any]) -> Quantities:
    pt, eta, energy = (columns[f"genjet_{name}"] for name in ("pt", "eta", "energy"))
    return {
        "generator_jet_pt": pt,
        "generator_jet_eta": eta,
        "generator_jet_phi": wrapped(columns["genjet_phi"]),
        "generator_jet_mass": mass_of(pt, eta, energy),
        "generator_jet_softdrop_mass": columns["genjet_sdmass"],
    }


def _particle(columns: Mapping[str, Any], name: str, index: np.ndarray) -> Quantities:
    """Quantities of the generated particle at ``index`` (n,) in the flat lists; 0 where that is negative."""

    def taken(column: str) -> np.ndarray:
        flat = columns[f"aux_genpart_{column}"].values
        values = np.zeros(len(index), dtype=flat.dtype)
        values[index >= 0] = flat[index[index >= 0]]
        return values

    return {
        f"{name}_pdg_id": taken("pid"),
        f"{name}_pt": taken("pt"),
        f"{name}_eta": taken("eta"),
        f"{name}_phi": wrapped(taken("phi")),
        f"{name}_mass": taken("mass"),
    }


def _ranked(columns: Mapping[str, Any], flag: str, rank: int) -> np.ndarray:
    """Position (n,) in the flat lists of the flagged particle that is number ``rank`` in pt; -1 if there is none."""
    flags = columns[flag]
    jets = np.arange(len(flags.lengths))
    flagged = np.flatnonzero(flags.values != 0)
    jet, pt = np.repeat(jets, flags.lengths)[flagged], columns["aux_genpart_pt"].values[flagged]
    order = np.lexsort((-pt, jet))
    wanted = np.searchsorted(jet, jets) + rank
    there = wanted < np.searchsorted(jet, jets, side="right")
    index = np.full(len(jets), -1)
    index[there] = flagged[order[wanted[there]]]
    return index
