"""Records: what one jet and one shower hold, with units, and how Arrow carries them.

A block of records is an Arrow record batch. Points (constituents of a jet, hits of a shower) are one column
``constituents`` or ``points`` of type ``list<struct<...>>``: one offsets array, one contiguous array per quantity.
A quantity that a source does not have is null, never zero; a column that no record of a corpus has is left out of
its schema and read back as nulls.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

Kind = Literal["jets", "showers", "tokens"]

SPECIES = (
    "charged_hadron",
    "neutral_hadron",
    "photon",
    "electron",
    "muon",
    "hf_hadron",
    "hf_em",
)

LABEL_TYPE = pa.dictionary(pa.int16(), pa.string())
SPECIES_TYPE = pa.dictionary(pa.int8(), pa.string())


@dataclass(frozen=True)
class Quantity:
    """A named quantity of a record: its Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str

    def field(self) -> pa.Field:
        return pa.field(self.name, self.type, metadata={"unit": self.unit, "meaning": self.meaning})


_F32 = pa.float32()

CONSTITUENT = (
    Quantity("pt", _F32, "GeV", "transverse momentum; constituents are pt-ordered"),
    Quantity("deta", _F32, "1", "eta - eta of the axis, never sign-flipped"),
    Quantity("dphi", _F32, "rad", "phi - phi of the axis, wrapped to [-pi, pi)"),
    Quantity("energy", _F32, "GeV", "energy"),
    Quantity("d0", _F32, "mm", "transverse impact parameter (x py - y px)/pt; null for neutrals"),
    Quantity("d0err", _F32, "mm", "uncertainty of d0; null for neutrals"),
    Quantity("dz", _F32, "mm", "longitudinal impact parameter; null for neutrals"),
    Quantity("dzerr", _F32, "mm", "uncertainty of dz; null for neutrals"),
    Quantity("charge", pa.int8(), "e", "electric charge"),
    Quantity("species", SPECIES_TYPE, "", "particle-flow species"),
    Quantity("puppi_weight", _F32, "1", "PUPPI weight"),
)

_RESONANCES = {
    "x": "the resonance X that the jet comes from",
    "y1": "the resonance Y of highest pt that X decayed to",
    "y2": "the other resonance Y that X decayed to",
}


def _resonance(name: str, what: str) -> tuple[Quantity, ...]:
    return (
        Quantity(f"resonance_{name}_pdg_id", pa.int32(), "", f"PDG id of {what}; null if there is none"),
        Quantity(f"resonance_{name}_pt", _F32, "GeV", f"transverse momentum of {what}"),
        Quantity(f"resonance_{name}_eta", _F32, "1", f"pseudorapidity of {what}"),
        Quantity(f"resonance_{name}_phi", _F32, "rad", f"azimuth of {what}"),
        Quantity(f"resonance_{name}_mass", _F32, "GeV", f"mass of {what}"),
    )


JET = (
    Quantity("pt", _F32, "GeV", "transverse momentum (calibrated)"),
    Quantity("pt_constituents", _F32, "GeV", "transverse momentum of the sum of the constituents"),
    Quantity("eta", _F32, "1", "pseudorapidity"),
    Quantity("phi", _F32, "rad", "azimuth"),
    Quantity("mass", _F32, "GeV", "mass"),
    Quantity("softdrop_mass", _F32, "GeV", "soft-drop mass"),
    Quantity("tau1", _F32, "1", "1-subjettiness"),
    Quantity("tau2", _F32, "1", "2-subjettiness"),
    Quantity("tau3", _F32, "1", "3-subjettiness"),
    Quantity("tau4", _F32, "1", "4-subjettiness"),
    Quantity("label", LABEL_TYPE, "", "class, by name"),
    Quantity("event_id", pa.int64(), "", "collision the jet comes from"),
    Quantity("jet_index", pa.int16(), "", "index of the jet in its collision"),
    Quantity("run", pa.int64(), "", "run number of collision data"),
    Quantity("lumi", pa.int64(), "", "luminosity block of collision data"),
    Quantity("event", pa.int64(), "", "event number of collision data"),
    Quantity("generator_jet_pt", _F32, "GeV", "transverse momentum of the jet of stable generated particles"),
    Quantity("generator_jet_eta", _F32, "1", "pseudorapidity of the generated jet"),
    Quantity("generator_jet_phi", _F32, "rad", "azimuth of the generated jet"),
    Quantity("generator_jet_mass", _F32, "GeV", "mass of the generated jet"),
    Quantity("generator_jet_softdrop_mass", _F32, "GeV", "soft-drop mass of the generated jet"),
    *(quantity for name, what in _RESONANCES.items() for quantity in _resonance(name, what)),
)

POINT = (
    Quantity("cell_a", pa.int16(), "", "first cell index in the layer (x or ring)"),
    Quantity("cell_b", pa.int16(), "", "second cell index in the layer (y or sector)"),
    Quantity("layer", pa.int16(), "", "layer"),
    Quantity("x", _F32, "mm", "position"),
    Quantity("y", _F32, "mm", "position"),
    Quantity("z", _F32, "mm", "position"),
    Quantity("energy", _F32, "MeV", "deposited energy"),
    Quantity("time", _F32, "ns", "time"),
)

SHOWER = (
    Quantity("incident_energy", _F32, "GeV", "energy of the incident particle"),
    Quantity("direction_x", _F32, "1", "unit vector of the incident direction"),
    Quantity("direction_y", _F32, "1", "unit vector of the incident direction"),
    Quantity("direction_z", _F32, "1", "unit vector of the incident direction"),
    Quantity("particle", pa.int32(), "", "PDG id of the incident particle"),
    Quantity("label", LABEL_TYPE, "", "class, by name"),
    Quantity("shower_id", pa.int64(), "", "number of the shower in its source"),
    Quantity(
        "incident_energy_mev", pa.float64(), "MeV", "energy of the incident particle where the source has float64"
    ),
)

# Every record names the place it came from: index into the manifest's list of source files, and entry in that file.
ORIGIN = (
    Quantity("source_file", pa.int32(), "", "index of the file in the manifest's list of sources"),
    Quantity("source_entry", pa.int64(), "", "entry in that file"),
)

POINTS_COLUMN = {"jets": "constituents", "showers": "points"}
_QUANTITIES = {"jets": (CONSTITUENT, JET), "showers": (POINT, SHOWER)}


def schema(kind: Kind, points: tuple[str, ...], columns: tuple[str, ...], wide: Collection[str] = ()) -> pa.Schema:
    """The Arrow schema of jets or showers that provide the named quantities, in canonical order.

    Args:
        kind: ``jets`` or ``showers``.
        points: quantities that each constituent (hit) has.
        columns: quantities that each jet (shower) has.
        wide: of these, the ones that are float64 instead of float32: where float32 would not give the source's values
            back.

    Raises:
        ValueError: a name that no such record has, or a wide quantity that is no float.
    """
    point_quantities, record_quantities = (
        tuple(_widened(quantity) if quantity.name in wide else quantity for quantity in quantities)
        for quantities in _QUANTITIES[kind]
    )
    for names, quantities in ((points, point_quantities), (columns, record_quantities)):
        unknown = set(names) - {quantity.name for quantity in quantities}
        if unknown:
            raise ValueError(f"no such quantity of {kind}: {sorted(unknown)}")
    inner = pa.struct([quantity.field() for quantity in point_quantities if quantity.name in points])
    fields = [pa.field(POINTS_COLUMN[kind], pa.list_(pa.field("item", inner, nullable=False)), nullable=False)]
    fields += [quantity.field() for quantity in record_quantities if quantity.name in columns]
    fields += [quantity.field() for quantity in ORIGIN]
    return pa.schema(fields, metadata={"kind": kind})


def _widened(quantity: Quantity) -> Quantity:
    if not pa.types.is_floating(quantity.type):
        raise ValueError(f"{quantity.name} is no float")
    return replace(quantity, type=pa.float64())


def offsets_of(column: pa.ListArray) -> np.ndarray:
    """Offsets (n + 1,) int64 of a list column, starting at 0 whatever slice it is."""
    offsets = column.offsets.to_numpy()[: len(column) + 1].astype(np.int64)
    return offsets - offsets[0]


def lengths_of(column: pa.ListArray) -> np.ndarray:
    """Number of points (n,) int64 of each record of a list column."""
    return np.diff(offsets_of(column))


def points_of(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """All values (sum of lengths,) of one point quantity, record after record; nulls become NaN or -1.

    Zero-copy for a quantity without nulls. A dictionary column (species) gives its indices.
    """
    column = batch.column(POINTS_COLUMN[kind_of(batch.schema)])
    flat = column.flatten()
    index = flat.type.get_field_index(name)
    if index < 0:
        return np.full(len(flat), np.nan, dtype=np.float32)
    return values_of(flat.field(index))


def values_of(array: pa.Array) -> np.ndarray:
    """NumPy values of a flat column: nulls become NaN (floats) or -1 (integers and dictionary indices)."""
    if pa.types.is_dictionary(array.type):
        array = array.indices
    if array.null_count == 0:
        return array.to_numpy(zero_copy_only=False)
    return array.fill_null(np.nan if pa.types.is_floating(array.type) else -1).to_numpy(zero_copy_only=False)


def kind_of(schema: pa.Schema) -> Kind:
    """The kind of record a schema carries."""
    return (schema.metadata or {})[b"kind"].decode()
