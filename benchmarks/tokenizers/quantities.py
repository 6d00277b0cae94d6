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


def original_values(sample: Reconstruction) -> dict[str, np.ndarray]:
    """Values (n,) of each quantity by name, NaN where undefined, of the records with all their points."""
    offsets, points = sample.untruncated or (sample.offsets, sample.original)
    return _values(sample, offsets, points)


def decoded_values(sample: Reconstruction) -> dict[str, np.ndarray]:
    """Those values of the decoded records."""
    return _values(sample, sample.offsets, sample.decoded)


def original_jets(sample: Reconstruction) -> Constituents:
    """The jets with all their constituents."""
    return _constituents(*(sample.untruncated or (sample.offsets, sample.original)))


def decoded_jets(sample: Reconstruction) -> Constituents:
    """The decoded jets."""
    return _constituents(sample.offsets, sample.decoded)


def _constituents(offsets: np.ndarray, points: Points) -> Constituents:
    return Constituents(points["pt"], points["deta"], points["dphi"], offsets)


def _values(sample: Reconstruction, offsets: np.ndarray, points: Points) -> dict[str, np.ndarray]:
    chosen = quantities_of(sample)
    if sample.kind == "jets":
        return _jets(_constituents(offsets, points)) if chosen else {}
    return {quantity.name: _shower(quantity, offsets, points) for quantity in chosen}


def _jets(jets: Constituents) -> dict[str, np.ndarray]:
    taus = observables.nsubjettiness(jets, (1, 2, 3))
    return {
        "jet_mass": observables.jet_mass(jets),
        "jet_pt": observables.jet_pt(jets),
        "tau21": observables.tau_ratio(taus, 2, 1),
        "tau32": observables.tau_ratio(taus, 3, 2),
        "d2": observables.d2(jets),
    }


def _shower(quantity: Quantity, offsets: np.ndarray, points: Points) -> np.ndarray:
    n = len(offsets) - 1
    record = np.repeat(np.arange(n), np.diff(offsets))
    if quantity is OCCUPIED:
        cells = np.unique(np.stack([record, *(points[cell].astype(np.int64) for cell in CELLS)]), axis=1)
        return np.bincount(cells[0], minlength=n).astype(np.float64)
    energy = points["energy"].astype(np.float64)
    total = np.bincount(record, weights=energy, minlength=n)
    if quantity is ENERGY:
        return total / 1000
    depth = np.bincount(record, weights=energy * points["layer"], minlength=n)
    return depth / np.where(total > 0, total, np.nan)
