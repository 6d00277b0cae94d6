"""Which records can be: the rules by which a record with an impossible or implausible value is refused.

=====================================  ==========================================================================
NaN or infinity                        in any quantity (nulls are fine)
negative                               momenta, energies, masses, errors of impact parameters, PUPPI weights
PUPPI weight above 1                   it is a probability
abs(phi) or abs(dphi) above pi         readers wrap angles, but leave what is beyond 2 pi: degrees
abs(eta) above 10, abs(deta) above 5   no detector reaches further, and no jet is as wide
constituent energy below its momentum  its mass would be imaginary; by more than 1%, where eta and deta are known
jet pt outside 5 to 100,000 GeV        the tell-tale of TeV or MeV in the place of GeV
constituents summing to less than      the same, for constituents in another unit than the jet
1/100 or more than 100 times jet pt
no constituent, or more than 5,000     a jet has some, and an event's record is no jet
incident energy outside 1 MeV-100 TeV  units again
deposits above 5 times the incident    more than any response or fluctuation gives: MeV where GeV is meant
energy
=====================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hepfm.core.records import kind_of, lengths_of, offsets_of, points_of, values_of
from hepfm.ingest.formats.arrays import segment_sums
from hepfm.ingest.schema_json import points_column
from hepfm.ingest.summary import flat_columns

NOT_NEGATIVE = {
    "jets": frozenset(
        {
            *("pt", "pt_constituents", "mass", "softdrop_mass"),
            *(f"constituents.{name}" for name in ("pt", "energy", "d0err", "dzerr", "puppi_weight")),
        }
    ),
    "showers": frozenset({"incident_energy", "points.energy"}),
}
_HALF_TURN = np.pi * (1 + 1e-6)
# Quantities of jets by what their absolute value may be at most, and what is said of a larger one.
AT_MOST = {
    "phi": (_HALF_TURN, "is no angle in rad (degrees?)"),
    "constituents.dphi": (_HALF_TURN, "is no angle in rad (degrees?)"),
    "eta": (10.0, "is beyond 10"),
    "constituents.deta": (5.0, "is beyond 5"),
    "constituents.puppi_weight": (1.001, "is above 1"),
}
ENERGY_ROUNDING = 0.01  # of the momentum, by which a constituent's energy may lie below it
JET_PT_GEV = (5.0, 1e5)
CONSTITUENT_SUM = (0.01, 100.0)  # of the jet's pt
MOST_CONSTITUENTS = 5_000
INCIDENT_ENERGY_GEV = (1e-3, 1e5)
MOST_DEPOSITED = 5.0  # of the incident energy


def possible_records(batch: pa.RecordBatch) -> tuple[np.ndarray, str]:
    """Which records (n,) keep every rule of this module, and the first rule that one of them breaks."""
    possible = np.ones(len(batch), dtype=bool)
    fault = ""
    for what, records in faults(batch):
        possible[records] = False
        fault = fault or what
    return possible, fault


def faults(batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
    """Every rule that is broken, and the records (k,) that break it, ascending."""
    kind = kind_of(batch.schema)
    starts = offsets_of(batch.column(points_column(batch.schema)))
    for name, array in flat_columns(batch):
        if not pa.types.is_floating(array.type):
            continue
        for what, good in _value_rules(name, array, kind):
            if pc.call_function("all", [good]).as_py() is False:
                bad = np.flatnonzero(~good.fill_null(True).to_numpy(zero_copy_only=False))
                yield (
                    f"{name} {what}",
                    np.unique(np.searchsorted(starts, bad, side="right") - 1) if "." in name else bad,
                )
    rules = {"jets": _jet_rules, "showers": _shower_rules}.get(kind)
    with np.errstate(invalid="ignore", divide="ignore"):
        for what, wrong in rules(batch) if rules else ():
            if wrong.any():
                yield what, np.flatnonzero(wrong)


def _value_rules(name: str, array: pa.Array, kind: str) -> Iterator[tuple[str, pa.Array]]:
    """What may be wrong with a single value, and flags of the values that are right."""
    yield "is not finite", pc.call_function("is_finite", [array])
    if name in NOT_NEGATIVE.get(kind, ()):
        yield "is negative", pc.call_function("greater_equal", [array, pa.scalar(0.0, array.type)])
    if kind == "jets" and name in AT_MOST:
        most, what = AT_MOST[name]
        size = pc.call_function("abs", [array])
        yield what, pc.call_function("less_equal", [size, pa.scalar(most, array.type)])


def _jet_rules(batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
    """What may be wrong with a jet, and flags of the jets with which it is."""
    column = batch.column(points_column(batch.schema))
    constituents = lengths_of(column)
    yield "a jet without constituents", constituents == 0
    yield f"a jet with more than {MOST_CONSTITUENTS:,} constituents", constituents > MOST_CONSTITUENTS
    if "eta" in batch.schema.names and {"pt", "deta", "energy"} <= {field.name for field in column.type.value_type}:
        yield "a constituent's energy is below its momentum", _below_momentum(batch)
    if "pt" not in batch.schema.names:
        return
    pt = values_of(batch.column("pt"))
    least, most = JET_PT_GEV
    yield f"jet pt is not in {least:g} to {most:,.0f} GeV (is the unit GeV?)", (pt < least) | (pt > most)
    if "pt_constituents" in batch.schema.names:
        share = values_of(batch.column("pt_constituents")) / pt
        least, most = CONSTITUENT_SUM
        odd = ((share < least) | (share > most)) & (constituents > 0)
        yield f"constituents sum to less than {least:g} or more than {most:g} times the jet pt (units?)", odd


def _below_momentum(batch: pa.RecordBatch) -> np.ndarray:
    """Jets (n,) of which a constituent's energy is less than its momentum; never where either is not known."""
    offsets = offsets_of(batch.column(points_column(batch.schema)))
    pt, deta, energy = (points_of(batch, name) for name in ("pt", "deta", "energy"))
    with np.errstate(over="ignore"):
        # cosh(eta), by the exponential function, which is much faster.
        grown = np.exp(np.repeat(values_of(batch.column("eta")), np.diff(offsets)) + deta)
        wrong = energy < pt * (grown + 1 / grown) * np.float32((1 - ENERGY_ROUNDING) / 2)
    found = np.zeros(len(batch), dtype=bool)
    if wrong.any():
        found[np.searchsorted(offsets, np.flatnonzero(wrong), side="right") - 1] = True
    return found


def _shower_rules(batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
    """The same for showers."""
    if "incident_energy" not in batch.schema.names:
        return
    incident = values_of(batch.column("incident_energy"))
    least, most = INCIDENT_ENERGY_GEV
    yield f"incident energy is not in {least:g} to {most:,.0f} GeV (units?)", (incident < least) | (incident > most)
    offsets = offsets_of(batch.column(points_column(batch.schema)))
    deposited = segment_sums(points_of(batch, "energy"), offsets) / 1000
    yield f"deposits above {MOST_DEPOSITED:g} times the incident energy (units?)", deposited > MOST_DEPOSITED * incident
