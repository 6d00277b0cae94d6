"""CMS particle-flow candidates as constituents: what AspenOpenJets and CMS's ROOT files have in common.

Conventions of CMS: four-vectors without the PUPPI weight, which is a column of its own; impact parameters in cm, with
d0 = (y px - x py)/pt, opposite to ours; -1 for all four of them where a candidate has no track details; PDG ids 1 and 2
for the hadronic and electromagnetic deposits in the forward calorimeter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from hepfm.core.records import SPECIES, values_of
from hepfm.ingest.formats.arrays import pt_order, segment_sums, wrapped
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.keys import key

Puppi = Literal["apply", "ignore"]

PDG = {
    "charged_hadron": 211,
    "neutral_hadron": 130,
    "photon": 22,
    "electron": 11,
    "muon": 13,
    "hf_hadron": 1,
    "hf_em": 2,
}
NEGATIVE_PARTICLES = (11, 13, 15)
POSITIVE_PARTICLES = (211, 321, 2212)
# To our unit (mm) and sign.
IMPACT = {"d0": -10.0, "d0err": 10.0, "dz": 10.0, "dzerr": 10.0}
NO_TRACK = -1.0
# Columns of jets that are -1 where CMS did not compute them.
NOT_COMPUTED = -1.0
# A mass [GeV] above this and below 0 is that of a four-vector which rounding made space-like.
MASS_ROUNDING = -1.0
NOT_ALWAYS_COMPUTED: tuple[str, ...] = ("softdrop_mass", "tau1", "tau2", "tau3", "tau4")


@dataclass(frozen=True)
class Candidates:
    """Candidates of jets, all (N,), jet after jet, as CMS stores them.

    Attributes:
        pt, eta, phi, energy: GeV, 1, rad, without PUPPI weight.
        charge: in units of e; None if it has to be told from the PDG id.
        pdg: PDG id.
        weight: PUPPI weight; None if there is none, or it is in the four-vector already.
        impact: d0, d0err, dz, dzerr as stored [cm]; None if there are none.
    """

    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    energy: np.ndarray
    pdg: np.ndarray
    charge: np.ndarray | None = None
    weight: np.ndarray | None = None
    impact: Mapping[str, np.ndarray] | None = None


def species_of(pdg: np.ndarray) -> np.ndarray:
    """Index (N,) int8 in ``records.SPECIES`` by absolute PDG id; -1 for any other."""
    species = np.full(len(pdg), -1, dtype=np.int8)
    for name, number in PDG.items():
        np.copyto(species, SPECIES.index(name), where=np.abs(pdg) == number)
    return species


def charge_of(pdg: np.ndarray) -> np.ndarray:
    """Charge (N,) int8 of a particle-flow PDG id: that of leptons has the sign opposite to the id's."""
    size = np.abs(pdg)
    charged = np.isin(size, POSITIVE_PARTICLES).astype(np.int8) - np.isin(size, NEGATIVE_PARTICLES).astype(np.int8)
    return (np.sign(pdg) * charged).astype(np.int8)


def jet_records(
    schema: pa.Schema,
    offsets: np.ndarray,
    candidates: Candidates,
    jets: Mapping[str, np.ndarray],
    puppi: Puppi,
) -> pa.RecordBatch:
    """Records of n jets.

    ``pt_constituents``, and ``mass`` if the jets have none, are those of the sum of the constituents, in float64. A
    soft-drop mass or N-subjettiness of -1 (not computed) becomes null, another negative one (rounding) 0, as does a
    mass between -1 GeV and 0.

    Args:
        schema: what to provide.
        offsets: (n + 1,) candidates of jet i are ``offsets[i]:offsets[i + 1]``.
        candidates: with ``puppi="apply"`` none of weight 0.
        jets: the columns of the jets (n,), eta and phi among them.
        puppi: ``apply`` multiplies the four-vectors by the weights.
    """
    jet = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pt, energy = candidates.pt, candidates.energy
    if candidates.weight is not None and puppi == "apply":
        pt, energy = pt * candidates.weight, energy * candidates.weight
    deta = candidates.eta - jets["eta"].astype(np.float64)[jet]
    dphi = candidates.phi - jets["phi"].astype(np.float64)[jet]
    points = {
        "pt": pt.astype(np.float32),
        "deta": deta.astype(np.float32),
        "dphi": wrapped(wrapped(dphi).astype(np.float32)),
        "energy": energy.astype(np.float32),
        "charge": charge_of(candidates.pdg) if candidates.charge is None else candidates.charge.astype(np.int8),
        "species": species_of(candidates.pdg),
    }
    tracked = None
    if candidates.weight is not None:
        points["puppi_weight"] = candidates.weight
    if candidates.impact is not None:
        points |= {name: (values * np.float32(IMPACT[name])) for name, values in candidates.impact.items()}
        tracked = ~(candidates.impact["d0err"] < 0)
    columns = {**_sums(pt, candidates.eta, candidates.phi, energy, offsets), **jets, "phi": wrapped(jets["phi"])}
    known = {name: columns[name] != NOT_COMPUTED for name in NOT_ALWAYS_COMPUTED if name in columns}
    columns |= {name: np.maximum(columns[name], 0) for name in known}
    mass = columns["mass"]
    columns["mass"] = np.where((mass < 0) & (mass > MASS_ROUNDING), 0, mass)
    order = pt_order(points["pt"], offsets)
    if order is not None:
        points = {name: values[order] for name, values in points.items()}
        tracked = None if tracked is None else tracked[order]
    if tracked is None:
        tracked = np.zeros(len(jet), dtype=bool)
    return jet_batch(schema, (), offsets, points, columns, known, tracked)


def collision_columns(run: np.ndarray, lumi: np.ndarray, event: np.ndarray) -> dict[str, np.ndarray]:
    """Columns run, lumi, event and event_id (a hash of the three, equal for the jets of a collision)."""
    event_id = (key(run, lumi, event) >> np.uint64(1)).astype(np.int64)
    return {"run": run, "lumi": lumi, "event": event, "event_id": event_id}


def collision_numbers(batch: pa.RecordBatch) -> np.ndarray:
    """Run, luminosity block and event (3, n) int64 that tell the collision of each jet record.

    Where a jet has none, these are 0, the number of its source file, so that files stay apart, and its ``event_id`` or
    else its entry in the file.
    """
    entry = values_of(batch.column("source_entry"))
    numbers = np.stack([np.zeros_like(entry), values_of(batch.column("source_file")), entry])
    for row, names in ((slice(2, 3), ("event_id",)), (slice(3), ("run", "lumi", "event"))):
        if set(names) <= set(batch.schema.names):
            known = batch.column(names[-1]).is_valid().to_numpy(zero_copy_only=False)
            numbers[row] = np.where(known, [values_of(batch.column(name)) for name in names], numbers[row])
    return numbers


def _sums(
    pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, energy: np.ndarray, offsets: np.ndarray
) -> dict[str, np.ndarray]:
    px, py, pz = (segment_sums(part, offsets) for part in (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)))
    total = segment_sums(energy, offsets)
    mass = np.sqrt(np.maximum(total**2 - px**2 - py**2 - pz**2, 0))
    return {"pt_constituents": np.hypot(px, py), "mass": mass}
