"""What a record's points make up: mass and substructure of jets, sums and shape of showers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.benchmarks.tokenizers.sample import Points, Reconstruction
from hepfm.core import observables
from hepfm.core.observables import Constituents

CELLS = ("layer", "cell_a", "cell_b")


@dataclass(frozen=True)
class Quantity:
    """A quantity of a record.

    Attributes:
        name: in JSON.
        title: in tables.
        axis: on plots, with unit, as mathtext.
        unit: of value and residual; empty for a pure number.
        definition: one sentence.
    """

    name: str
    title: str
    axis: str
    unit: str
    definition: str


_TAU = "R0 = 0.8, β = 1, exclusive-kT axes (E scheme)"
JETS = (
    Quantity("jet_mass", "jet mass", "jet mass [GeV]", "GeV", "Mass of the sum of the massless constituents."),
    Quantity(
        "jet_pt", "jet pT", r"jet $p_{\mathrm{T}}$ [GeV]", "GeV", "Transverse momentum of the sum of the constituents."
    ),
    Quantity("tau21", "τ21", r"$\tau_{21}$", "", f"N-subjettiness ratio τ2/τ1, {_TAU}."),
    Quantity("tau32", "τ32", r"$\tau_{32}$", "", f"N-subjettiness ratio τ3/τ2, {_TAU}."),
    Quantity("d2", "D2", "$D_2$", "", "Ratio e3/e2³ of energy correlators with β = 1 (arXiv:1409.6298)."),
)
ENERGY = Quantity("energy_sum", "energy sum", "energy sum [GeV]", "GeV", "Sum of the energies of all hits.")
DEPTH = Quantity("mean_layer", "mean layer", "energy-weighted mean layer", "", "Mean layer, weighted by energy.")
OCCUPIED = Quantity("occupied_cells", "occupied cells", "occupied cells", "", "Different cells that have a hit.")


def quantities_of(sample: Reconstruction) -> tuple[Quantity, ...]:
    """The quantities that the tokenizer's features determine; none where they determine none."""
    names = set(sample.original)
    if sample.kind == "jets":
        return JETS if {"pt", "deta", "dphi"} <= names else ()
    found = [ENERGY] if "energy" in names else []
    found += [DEPTH] if {"energy", "layer"} <= names else []
    return (*found, OCCUPIED) if set(CELLS) <= names else tuple(found)


def values_of(sample: Reconstruction, points: Points) -> dict[str, np.ndarray]:
    """Values (n,) of each quantity by name, NaN where undefined, of points as they are or decoded."""
    chosen = quantities_of(sample)
    if sample.kind == "jets":
        return _jets(constituents(sample, points)) if chosen else {}
    found = {"energy_sum": ENERGY, "mean_layer": DEPTH, "occupied_cells": OCCUPIED}
    return {name: _shower(name, sample, points) for name, quantity in found.items() if quantity in chosen}


def constituents(sample: Reconstruction, points: Points) -> Constituents:
    """The points as constituents of jets."""
    return Constituents(points["pt"], points["deta"], points["dphi"], sample.offsets)


def _jets(jets: Constituents) -> dict[str, np.ndarray]:
    taus = observables.nsubjettiness(jets, (1, 2, 3))
    return {
        "jet_mass": observables.jet_mass(jets),
        "jet_pt": observables.jet_pt(jets),
        "tau21": observables.tau_ratio(taus, 2, 1),
        "tau32": observables.tau_ratio(taus, 3, 2),
        "d2": observables.d2(jets),
    }


def _shower(name: str, sample: Reconstruction, points: Points) -> np.ndarray:
    record, n = sample.record, len(sample)
    if name == "occupied_cells":
        cells = np.unique(np.stack([record, *(points[cell].astype(np.int64) for cell in CELLS)]), axis=1)
        return np.bincount(cells[0], minlength=n).astype(np.float64)
    energy = points["energy"].astype(np.float64)
    total = np.bincount(record, weights=energy, minlength=n)
    if name == "energy_sum":
        return total / 1000
    depth = np.bincount(record, weights=energy * points["layer"], minlength=n)
    return depth / np.where(total > 0, total, np.nan)
