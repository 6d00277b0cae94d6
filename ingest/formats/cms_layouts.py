"""Where CMS's ROOT files keep AK8 jets and their candidates: PFNano of 2020, PFNano since 2021, NanoAODv15.

| layout | candidates | link to jets |
|---|---|---|
| ``pfnano2020`` | ``FatJetPFCands``, once for each jet they are in | ``FatJetPFCands_jetIdx`` |
| ``pfnano2021`` | ``PFCands`` | ``FatJetPFCands_{jetIdx, pFCandsIdx}`` |
| ``nanoaod15`` | ``PFCand`` | ``FatJetPFCand_{jetIdx, pfCandIdx}`` |

NanoAODv15 has kinematics and PDG ids only; the PUPPI weights are multiplied in. The names are the same in TTrees and
RNTuples. Floats of PFNano's candidate tables have a mantissa of 10 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError

EVENTS = "Events"
EVENT = ("run", "luminosityBlock", "event")
KINEMATICS = ("pt", "eta", "phi", "mass")
JETS = "FatJet"
# Our columns that a jet table may lack, and its names for them.
OPTIONAL_JETS = {"softdrop_mass": "msoftdrop", **{name: name for name in ("tau1", "tau2", "tau3", "tau4")}}
IMPACT = {"d0": "d0", "d0err": "d0Err", "dz": "dz", "dzerr": "dzErr"}
SIMULATION = ("genWeight", "nGenPart", "GenPart_pt")


@dataclass(frozen=True)
class Layout:
    """A layout, and what of the optional columns is there.

    Attributes:
        name: ``pfnano2020``, ``pfnano2021`` or ``nanoaod15``.
        candidates: prefix of the table of candidates.
        links: prefix of the table of links between jets and candidates.
        index: the link's column with the index of the candidate; empty if the tables are one.
        impact, charge, weight: are there impact parameters, charges, PUPPI weights?
        jets: optional columns of jets that are there, by our names.
    """

    name: str
    candidates: str
    links: str
    index: str = ""
    impact: bool = False
    charge: bool = False
    weight: bool = False
    jets: tuple[str, ...] = ()

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Columns of the table of candidates that are read."""
        names = [*KINEMATICS, "pdgId"]
        names += ["charge"] * self.charge + ["puppiWeight"] * self.weight + list(IMPACT.values()) * self.impact
        return tuple(f"{self.candidates}_{name}" for name in names)

    @property
    def link_columns(self) -> tuple[str, ...]:
        """Columns that say which candidate is in which jet: the jet's index first."""
        return (f"{self.links}_jetIdx", *([f"{self.links}_{self.index}"] if self.index else []))

    @property
    def jet_columns(self) -> tuple[str, ...]:
        """Columns of the table of jets that records need."""
        return tuple(f"{JETS}_{name}" for name in (*KINEMATICS, *(OPTIONAL_JETS[name] for name in self.jets)))

    @property
    def schema(self) -> pa.Schema:
        """What records provide."""
        points = ["pt", "deta", "dphi", "energy", "charge", "species"]
        points += list(IMPACT) * self.impact + ["puppi_weight"] * self.weight
        collision = ("event_id", "jet_index", "run", "lumi", "event")
        return records.schema("jets", tuple(points), (*KINEMATICS, "pt_constituents", *self.jets, *collision))


LAYOUTS = (
    Layout("pfnano2021", "PFCands", "FatJetPFCands", "pFCandsIdx"),
    Layout("pfnano2020", "FatJetPFCands", "FatJetPFCands"),
    Layout("nanoaod15", "PFCand", "FatJetPFCand", "pfCandIdx"),
)
# All that any layout provides.
FULL_SCHEMA = Layout("", "", "", impact=True, charge=True, weight=True, jets=tuple(OPTIONAL_JETS)).schema


def layout_of(columns: Iterable[str], place: Path) -> Layout:
    """The layout of a file with these columns.

    Raises:
        HepfmError: none; the message says what is missing.
    """
    present = set(columns)
    if missing := [name for name in (*EVENT, *(f"{JETS}_{name}" for name in KINEMATICS)) if name not in present]:
        told = f"no column {', '.join(missing)}"
        raise HepfmError(f"'{EVENTS}' has {told}", place, "CMS files hold AK8 jets as FatJet_pt, FatJet_eta, ...")
    for layout in LAYOUTS:
        if present.issuperset((*layout.candidate_columns, *layout.link_columns)):
            return _with_optional(layout, present)
    tables = sorted({name.rpartition("_")[0] for name in present if "PFCand" in name and not name.startswith("n")})
    raise HepfmError(
        "the AK8 jets come without particle-flow candidates",
        place,
        f"known are PFNano (FatJetPFCands with PFCands or alone) and NanoAODv15 (FatJetPFCand with PFCand); "
        f"it has {', '.join(tables) or 'no such table'}",
    )


def _with_optional(layout: Layout, present: set[str]) -> Layout:
    def has(*names: str) -> bool:
        return present.issuperset(f"{layout.candidates}_{name}" for name in names)

    return Layout(
        layout.name,
        layout.candidates,
        layout.links,
        layout.index,
        impact=has(*IMPACT.values()),
        charge=has("charge"),
        weight=has("puppiWeight"),
        jets=tuple(name for name, column in OPTIONAL_JETS.items() if f"{JETS}_{column}" in present),
    )


def is_simulation(columns: Iterable[str]) -> bool:
    """Do these columns tell of generated events?"""
    return not set(columns).isdisjoint(SIMULATION)
