"""From the columns of CMS events to jet records: cuts, and candidates found through index columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import awkward as ak
import numpy as np

from hepfm.ingest.formats import cms_selection as selection
from hepfm.ingest.formats.cms_layouts import EVENT, IMPACT, JETS, OPTIONAL_JETS, Layout
from hepfm.ingest.formats.particle_flow import Candidates, Puppi, collision_columns, jet_records
from hepfm.ingest.formats.windows import Decoded

UNEQUAL = "columns of a table differ in length"
NO_JET = "a jet index lies outside its table"
NO_CANDIDATE = "a candidate index lies outside its table"
TWICE = "a candidate stands twice in a jet"


@dataclass(frozen=True)
class Cuts:
    """What events and jets of a file have to pass.

    Attributes:
        certified: luminosity blocks; None for all.
        filters: columns that must all be true.
        triggers: columns of which one must be true; none for no requirement.
        jets: ask for pt > 300 GeV, abs(eta) < 2.5 and jetId 6.
        jet_id: the column ``FatJet_jetId`` is there; otherwise it is worked out.
    """

    certified: selection.CertifiedRuns | None = None
    filters: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    jets: bool = False
    jet_id: bool = False

    @property
    def jet_columns(self) -> tuple[str, ...]:
        """Columns of jets that the cuts need."""
        if not self.jets:
            return ()
        return tuple(f"{JETS}_{name}" for name in (["jetId"] if self.jet_id else selection.JET_ID_COLUMNS))


@dataclass
class _Table:
    """Columns of a table, all events one after another; rows of event i are ``offsets[i]:offsets[i + 1]``."""

    offsets: np.ndarray
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def event(self) -> np.ndarray:
        """Event of each row."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)


@dataclass
class _Flow:
    """Counts of each entry by name; ``events`` are the entries that jets are still looked at in."""

    size: int
    events: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def count(self, name: str, event: np.ndarray) -> None:
        """How many times each of ``events`` is in ``event``."""
        self.counts[name] = np.zeros(self.size, dtype=np.int64)
        self.counts[name][self.events] = np.bincount(event, minlength=len(self.events))


def columns_of(layout: Layout, cuts: Cuts) -> tuple[str, ...]:
    """All columns that :func:`decoded` needs."""
    names = (*EVENT, *cuts.filters, *cuts.triggers, *layout.jet_columns, *cuts.jet_columns)
    return tuple(dict.fromkeys((*names, *layout.link_columns, *layout.candidate_columns)))


def decoded(arrays: Mapping[str, ak.Array], layout: Layout, cuts: Cuts, puppi: Puppi, start: int) -> Decoded:
    """Records of the jets that pass, event after event.

    Args:
        arrays: the columns (n,) of n events, as :func:`columns_of` names them.
        layout: of the file.
        cuts: to apply.
        puppi: see :func:`hepfm.ingest.formats.particle_flow.jet_records`.
        start: entry of the first of these events.
    """
    event = {name: np.asarray(ak.to_numpy(arrays[name])) for name in EVENT}
    flow = _Flow(len(event["run"]))
    passed = _event_cuts(arrays, event, cuts, flow)
    groups = ((*layout.jet_columns, *cuts.jet_columns), layout.link_columns, layout.candidate_columns)
    if not layout.index:
        groups = (groups[0], tuple(dict.fromkeys((*groups[1], *groups[2]))), ())
    unequal = np.zeros(flow.size, dtype=bool)
    for names in groups:
        lengths = [ak.to_numpy(ak.num(arrays[name])) for name in names]
        for other in lengths[1:]:
            unequal |= lengths[0] != other
    flow.events = np.flatnonzero(passed & ~unequal)
    tables = [_table(arrays, names, flow.events) for names in groups]
    jets, links, candidates = tables[0], tables[1], tables[2] if layout.index else tables[1]
    jet_row, candidate_row, no_jet, no_candidate = _resolved(layout, jets, links, candidates)
    twice = _linked_twice(jet_row, candidate_row, jets)
    faults = {UNEQUAL: passed & unequal}
    for what, found in ((NO_JET, no_jet), (NO_CANDIDATE, no_candidate & ~no_jet), (TWICE, twice)):
        faults[what] = np.zeros_like(passed)
        faults[what][flow.events] = found
    jet_row[twice[links.event]] = -1
    kept = ~(no_jet | no_candidate | twice)[jets.event]
    kept = _jet_cuts(jets, event["run"][flow.events], kept, cuts, flow)
    if layout.weight:
        weights = candidates[f"{layout.candidates}_puppiWeight"]
    # Links of the jets that are kept, jet after jet.
    chosen = np.flatnonzero(jet_row >= 0)
    chosen = chosen[kept[jet_row[chosen]]]
    chosen = chosen[np.argsort(jet_row[chosen], kind="stable")]
    flow.count("candidates", jets.event[jet_row[chosen]])
    if layout.weight and puppi == "apply":
        chosen = chosen[weights[candidate_row[chosen]] != 0]
        flow.count("candidates of PUPPI weight above 0", jets.event[jet_row[chosen]])
    per_jet = np.bincount(jet_row[chosen], minlength=len(kept))
    kept &= per_jet > 0
    flow.count("jets with candidates", jets.event[kept])
    of_jets = np.flatnonzero(kept)
    offsets = np.concatenate([[0], np.cumsum(per_jet[of_jets])])
    columns = _jet_columns(jets, of_jets, layout, event, flow.events, start)
    picked = _candidates(candidates, candidate_row[chosen], layout)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
        batch = jet_records(layout.schema, offsets, picked, columns, puppi)
    records = np.zeros(flow.size, dtype=np.int64)
    records[flow.events] = np.bincount(jets.event[of_jets], minlength=len(flow.events))
    return Decoded(batch, np.concatenate([[0], np.cumsum(records)]), flow.counts, faults)


def _event_cuts(arrays: Mapping[str, ak.Array], event: Mapping[str, np.ndarray], cuts: Cuts, flow: _Flow) -> np.ndarray:
    passed = np.ones(flow.size, dtype=bool)
    flow.counts["events"] = passed.astype(np.int64)
    if cuts.certified is not None:
        passed &= cuts.certified.contain(event["run"], event["luminosityBlock"])
        flow.counts["events in certified runs"] = passed.astype(np.int64)
    if cuts.filters:
        for name in cuts.filters:
            passed &= np.asarray(arrays[name]) != 0
        flow.counts["events passing filters"] = passed.astype(np.int64)
    if cuts.triggers:
        fired = np.zeros(flow.size, dtype=bool)
        for name in cuts.triggers:
            fired |= np.asarray(arrays[name]) != 0
        passed &= fired
        flow.counts["events triggered"] = passed.astype(np.int64)
    return passed


def _jet_cuts(jets: _Table, run: np.ndarray, kept: np.ndarray, cuts: Cuts, flow: _Flow) -> np.ndarray:
    flow.count("jets", jets.event[kept])
    if not cuts.jets:
        return kept
    eta = jets[f"{JETS}_eta"]
    if cuts.jet_id:
        identified = jets[f"{JETS}_jetId"] & selection.JET_ID == selection.JET_ID
    else:
        columns = {name: jets[f"{JETS}_{name}"] for name in selection.JET_ID_COLUMNS}
        identified = selection.tight_lepton_veto(columns, eta, run[jets.event])
    named = {
        f"jets pt > {selection.LEAST_PT:g} GeV": jets[f"{JETS}_pt"] > selection.LEAST_PT,
        f"jets abs(eta) < {selection.MOST_ETA:g}": np.abs(eta) < selection.MOST_ETA,
        f"jets with jetId {selection.JET_ID}": identified,
    }
    for name, passes in named.items():
        kept = kept & passes
        flow.count(name, jets.event[kept])
    return kept


def _table(arrays: Mapping[str, ak.Array], names: tuple[str, ...], events: np.ndarray) -> _Table:
    columns = {name: arrays[name] if len(events) == len(arrays[name]) else arrays[name][events] for name in names}
    lengths = ak.to_numpy(ak.num(columns[names[0]])) if names else np.zeros(len(events), dtype=np.int64)
    flat = {name: np.asarray(ak.to_numpy(ak.flatten(array))) for name, array in columns.items()}
    return _Table(np.concatenate([[0], np.cumsum(lengths)]), flat)


def _resolved(
    layout: Layout, jets: _Table, links: _Table, candidates: _Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of jet and candidate of each link (jet -1 in a bad event); events with a bad jet, a bad candidate index."""
    event = links.event
    jet = links[layout.link_columns[0]].astype(np.int64)
    outside = (jet < 0) | (jet >= jets.lengths[event])
    if layout.index:
        candidate = links[layout.link_columns[1]].astype(np.int64)
        missing = (candidate < 0) | (candidate >= candidates.lengths[event])
        candidate_row = candidates.offsets[event] + candidate
    else:
        missing = np.zeros(len(event), dtype=bool)
        candidate_row = np.arange(len(event))
    no_jet, no_candidate = (np.bincount(event[bad], minlength=len(links.offsets) - 1) > 0 for bad in (outside, missing))
    jet_row = np.where((no_jet | no_candidate)[event], -1, jets.offsets[event] + jet)
    return jet_row, candidate_row, no_jet, no_candidate


def _linked_twice(jet_row: np.ndarray, candidate_row: np.ndarray, jets: _Table) -> np.ndarray:
    """Events (n,) that link a candidate to the same jet more than once."""
    good = np.flatnonzero(jet_row >= 0)
    jet, candidate = jet_row[good], candidate_row[good]
    order = np.lexsort((candidate, jet))
    jet, candidate = jet[order], candidate[order]
    again = (jet[1:] == jet[:-1]) & (candidate[1:] == candidate[:-1])
    found = np.zeros(len(jets.offsets) - 1, dtype=bool)
    found[jets.event[jet[1:][again]]] = True
    return found


def _jet_columns(
    jets: _Table,
    rows: np.ndarray,
    layout: Layout,
    event: Mapping[str, np.ndarray],
    events: np.ndarray,
    start: int,
) -> dict[str, np.ndarray]:
    of_event = jets.event[rows]
    collision = (event[name][events][of_event] for name in EVENT)
    return {
        **{name: jets[f"{JETS}_{name}"][rows] for name in ("pt", "eta", "phi", "mass")},
        **{name: jets[f"{JETS}_{OPTIONAL_JETS[name]}"][rows] for name in layout.jets},
        **collision_columns(*collision),
        "jet_index": rows - jets.offsets[of_event],
        "source_file": np.zeros(len(rows)),
        "source_entry": start + events[of_event],
    }


def _candidates(table: _Table, rows: np.ndarray, layout: Layout) -> Candidates:
    def column(name: str) -> np.ndarray:
        return table[f"{layout.candidates}_{name}"][rows]

    pt, eta, phi, mass = (column(name).astype(np.float64) for name in ("pt", "eta", "phi", "mass"))
    return Candidates(
        pt=pt,
        eta=eta,
        phi=phi,
        energy=np.hypot(pt * np.cosh(eta), mass),
        pdg=column("pdgId"),
        charge=column("charge") if layout.charge else None,
        weight=column("puppiWeight") if layout.weight else None,
        impact={name: column(stored) for name, stored in IMPACT.items()} if layout.impact else None,
    )
