"""CMS ROOT files: three layouts, as TTree and RNTuple, give the same jets; cuts, weights, signs and indices hold."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot
import vector
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.formats import cms_file
from hepfm.ingest.formats.aspenopenjets import write_aspenopenjets
from hepfm.ingest.formats.cms_selection import (
    FILTERS,
    JET_ID_COLUMNS,
    CertifiedRuns,
    is_jetht,
    tight_lepton_veto,
    trigger_paths,
)
from hepfm.ingest.formats.particle_flow import charge_of, species_of
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.sources import cms as cms_source
from hepfm.ingest.sources.aspenopenjets import AspenOpenJetsSource
from hepfm.ingest.sources.cms import CmsSource
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.tally import Tally

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cms"
PFNANO, NANOAOD, COLLISIONS = (
    "pfnano_2021layout_10events.root",
    "nanoaod_v15_ttbar_200events.root",
    "nanoaod_data2018_40events.root",
)
JET_COLUMNS = ("pt", "eta", "phi", "mass", "msoftdrop", "tau1", "tau2", "tau3", "tau4", "rawFactor", "jetId")
TABLES = ("PFCands_", "FatJetPFCands_", "PFCand_", "FatJetPFCand_")
TRIGGERS = ("HLT_PFJet40", "HLT_PFJet450", "HLT_PFJet500", "HLT_PFJet550", "HLT_AK8PFJet40", "HLT_AK8PFJetFwd40")
SCALARS = ("run", "luminosityBlock", "event", "genWeight", *FILTERS)
CORRUPTIONS = [
    ("FatJetPFCands_jetIdx", -1, "jet index"),
    ("FatJetPFCands_jetIdx", 2, "jet index"),  # that event has two jets
    ("FatJetPFCands_pFCandsIdx", -1, "candidate index"),
    ("FatJetPFCands_pFCandsIdx", 1_000_000, "candidate index"),
]

Columns = dict[str, ak.Array]


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"sample file {path} is not here")
    return path


def columns_of(name: str) -> Columns:
    """What the tests need of a sample."""

    def wanted(column: str) -> bool:
        jets = {f"FatJet_{jet}" for jet in (*JET_COLUMNS, *JET_ID_COLUMNS)}
        return column in SCALARS or column in jets or column in TRIGGERS or column.startswith(TABLES)

    with uproot.open(sample(name)) as file:
        return file["Events"].arrays(filter_name=wanted, library="ak", how=dict)


@pytest.fixture(scope="module")
def pfnano() -> Columns:
    return columns_of(PFNANO)


@pytest.fixture(scope="module")
def nanoaod() -> Columns:
    return columns_of(NANOAOD)


def write(path: Path, columns: Columns, rntuple: bool = False, pieces: int = 2) -> Path:
    """The columns as a TTree or RNTuple, in as many baskets or clusters as there are pieces."""
    size = len(columns["run"])
    edges = np.linspace(0, size, pieces + 1).astype(int)
    parts = [{name: array[start:stop] for name, array in columns.items()} for start, stop in pairwise(edges)]
    with uproot.recreate(path) as file:
        if rntuple:
            table = file.mkrntuple("Events", parts.pop(0))
        else:
            table = file.mktree("Events", {name: array.type for name, array in columns.items()})
        for part in parts:
            table.extend(part)
    return path


def in_2020_layout(columns: Columns) -> Columns:
    """Candidates copied into the table of links, as PFNano wrote them in 2020."""
    rows = columns["FatJetPFCands_pFCandsIdx"]
    kept = {name: array for name, array in columns.items() if not name.startswith(("PFCands_", "FatJetPFCands_"))}
    kept |= {f"FatJet{name}": array[rows] for name, array in columns.items() if name.startswith("PFCands_")}
    return {**kept, "FatJetPFCands_jetIdx": columns["FatJetPFCands_jetIdx"]}


def as_collisions(columns: Columns, run: int = 278_000) -> Columns:
    """The same events as if they had been recorded: 20 in a luminosity block."""
    size = len(columns["run"])
    kept = {name: array for name, array in columns.items() if name != "genWeight"}
    lumi = ak.Array(1 + np.arange(size, dtype=np.uint32) // 20)
    return {**kept, "run": ak.Array(np.full(size, run, np.uint32)), "luminosityBlock": lumi}


def read_all(path: Path, source: CmsSource | None = None, tally: Tally | None = None) -> pa.RecordBatch:
    source = (source or CmsSource()).bind([path])
    batch = source.read(path, 0, source.entries(path), tally)
    batch.validate(full=True)
    assert batch.schema.equals(source.schema, check_metadata=True)
    return batch


def dr(batch: pa.RecordBatch) -> np.ndarray:
    return np.hypot(records.points_of(batch, "deta"), records.points_of(batch, "dphi"))


def per_jet(name: str, columns: Columns) -> np.ndarray:
    return ak.to_numpy(ak.flatten(columns[f"FatJet_{name}"]))


# The real samples


def test_weighted_candidates_sum_to_the_uncorrected_jet_pt(pfnano: Columns) -> None:
    batch = read_all(sample(PFNANO))
    assert len(batch) == 24
    uncorrected = (1 - per_jet("rawFactor", pfnano)) * per_jet("pt", pfnano)
    assert np.allclose(batch.column("pt_constituents"), uncorrected, rtol=0.003)
    ratio = np.asarray(batch.column("pt_constituents")) / np.asarray(batch.column("pt"))
    assert ((ratio > 0.86) & (ratio < 0.95)).all()
    ignored = read_all(sample(PFNANO), CmsSource(puppi="ignore"))
    assert (np.asarray(ignored.column("pt_constituents")) > batch.column("pt_constituents")).mean() > 0.8
    assert not np.allclose(ignored.column("pt_constituents"), uncorrected, rtol=0.003)


def test_candidates_of_nanoaod15_sum_to_the_uncorrected_jet_pt_without_weights(nanoaod: Columns) -> None:
    tally = Tally()
    batch = read_all(sample(NANOAOD), tally=tally)
    assert (tally.flow["events"], tally.flow["jets"], tally.flow["jets with candidates"]) == (200, 64, 62)
    inside = np.abs(per_jet("eta", nanoaod)) < 2.5
    uncorrected = ((1 - per_jet("rawFactor", nanoaod)) * per_jet("pt", nanoaod))[inside]
    assert np.allclose(batch.column("pt_constituents"), uncorrected, rtol=0.003)
    constituent = batch.schema.field("constituents").type.value_type
    assert {field.name for field in constituent} == {"pt", "deta", "dphi", "energy", "charge", "species"}


@pytest.mark.parametrize("name", [PFNANO, NANOAOD])
def test_candidates_lie_in_their_jets(name: str) -> None:
    batch = read_all(sample(name))
    assert dr(batch).max() < 1.0
    assert np.average(dr(batch), weights=records.points_of(batch, "pt")) < 0.3


def test_d0_of_displaced_tracks_has_the_sign_of_dphi(pfnano: Columns) -> None:
    """Tracks of decays in flight: their mean sign of d0 dphi is positive with Delphes' d0 (0.35 +- 0.14 here)."""
    batch = read_all(sample(PFNANO))
    d0, error, dphi, pt = (records.points_of(batch, name) for name in ("d0", "d0err", "dphi", "pt"))
    displaced = (np.abs(d0) > 3 * error) & (np.abs(d0) < 2) & (pt > 1) & (np.abs(dphi) < 0.4)
    assert displaced.sum() > 40
    assert np.sign(d0 * dphi)[displaced].mean() > 0.14
    assert 0.005 < np.median(error[pt > 10][np.isfinite(error[pt > 10])]) < 0.02  # mm


def test_jets_of_pfnano_are_those_of_a_reader_written_jet_by_jet(pfnano: Columns) -> None:
    found = iter(read_all(sample(PFNANO)).to_pylist())
    for event in range(10):
        for jet in range(len(pfnano["FatJet_pt"][event])):
            rows = pfnano["FatJetPFCands_pFCandsIdx"][event][pfnano["FatJetPFCands_jetIdx"][event] == jet]
            candidates = [{key: pfnano[f"PFCands_{key}"][event][row] for key in CANDIDATE} for row in rows]
            candidates.sort(key=lambda candidate: -candidate["pt"] * candidate["puppiWeight"])
            record = next(found)
            axis = vector.obj(
                **{key: float(pfnano[f"FatJet_{key}"][event][jet]) for key in ("pt", "eta", "phi", "mass")}
            )
            assert (record["source_entry"], record["jet_index"]) == (event, jet)
            assert record["event"] == pfnano["event"][event]
            for key in ("pt", "eta", "phi", "mass"):
                assert record[key] == pytest.approx(getattr(axis, key))
            # One of the jets has a mass of -0.00002 GeV.
            assert record["softdrop_mass"] == pytest.approx(max(pfnano["FatJet_msoftdrop"][event][jet], 0))
            assert record["tau2"] == pytest.approx(pfnano["FatJet_tau2"][event][jet])
            assert len(record["constituents"]) == len(candidates)
            for constituent, candidate in zip(record["constituents"], candidates, strict=True):
                same_constituent(constituent, candidate, axis)
    assert next(found, None) is None


CANDIDATE = ("pt", "eta", "phi", "mass", "charge", "pdgId", "d0", "d0Err", "dz", "dzErr", "puppiWeight")


def same_constituent(constituent: dict[str, Any], candidate: dict[str, Any], axis: Any) -> None:
    momentum = vector.obj(**{key: float(candidate[key]) for key in ("pt", "eta", "phi", "mass")})
    weight = float(candidate["puppiWeight"])
    assert constituent["pt"] == pytest.approx(weight * momentum.pt)
    assert constituent["energy"] == pytest.approx(weight * momentum.E)
    assert constituent["deta"] == pytest.approx(momentum.deltaeta(axis), abs=1e-6)
    assert constituent["dphi"] == pytest.approx(momentum.deltaphi(axis), abs=1e-6)
    assert constituent["charge"] == candidate["charge"]
    assert constituent["puppi_weight"] == pytest.approx(weight)
    names = {211: "charged_hadron", 130: "neutral_hadron", 22: "photon", 11: "electron", 13: "muon"}
    assert constituent["species"] == names[abs(candidate["pdgId"])]
    for ours, theirs, scale in (("d0", "d0", -10), ("d0err", "d0Err", 10), ("dz", "dz", 10), ("dzerr", "dzErr", 10)):
        has_track = candidate["d0Err"] >= 0
        assert constituent[ours] == (pytest.approx(scale * float(candidate[theirs])) if has_track else None)


def test_jets_of_nanoaod15_are_those_of_awkward_arrays(nanoaod: Columns) -> None:
    batch = read_all(sample(NANOAOD))
    momenta = vector.zip({key: nanoaod[f"PFCand_{key}"] for key in ("pt", "eta", "phi", "mass")})
    rows, jets = nanoaod["FatJetPFCand_pfCandIdx"], nanoaod["FatJetPFCand_jetIdx"]
    energies, pdg = [], []
    for event in range(200):
        for jet in range(len(nanoaod["FatJet_pt"][event])):
            mine = rows[event][jets[event] == jet]
            order = np.argsort(-ak.to_numpy(momenta[event][mine].pt), kind="stable")
            energies += ak.to_list(momenta[event][mine][order].E)
            pdg += ak.to_list(nanoaod["PFCand_pdgId"][event][mine][order])
    assert np.allclose(records.points_of(batch, "energy"), energies, rtol=1e-5)
    charges = {211: 1, -211: -1, 11: -1, -11: 1, 13: -1, -13: 1, 22: 0, 130: 0}
    assert records.points_of(batch, "charge").tolist() == [charges[number] for number in pdg]


def test_particles_have_the_charge_and_species_of_their_pdg_id() -> None:
    pdg = np.array([211, -211, 321, -2212, 11, -11, 13, -13, 22, 130, 1, 2, 310, 0])
    assert charge_of(pdg).tolist() == [1, -1, 1, -1, -1, 1, -1, 1, 0, 0, 0, 0, 0, 0]
    names = [records.SPECIES[index] if index >= 0 else None for index in species_of(pdg)]
    hadron, other = ["charged_hadron"] * 2, [None] * 2
    leptons = ["electron", "electron", "muon", "muon"]
    assert names == [*hadron, *other, *leptons, "photon", "neutral_hadron", "hf_hadron", "hf_em", *other]


# Layouts and containers


@pytest.mark.parametrize("name", [PFNANO, NANOAOD])
@pytest.mark.parametrize("rntuple", [False, True])
def test_trees_and_rntuples_give_the_jets_of_the_original(
    name: str, rntuple: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    columns = request.getfixturevalue("pfnano" if name == PFNANO else "nanoaod")
    path = write(tmp_path / "copy.root", columns, rntuple, pieces=3)
    assert CmsSource.recognises(contents(path))
    assert read_all(path).equals(read_all(sample(name)))
    keys = CmsSource().keys(path)
    assert np.array_equal(keys, CmsSource().keys(sample(name)))
    assert len(set(keys.tolist())) == len(columns["run"])


def test_aliases_of_converted_rntuples_are_not_columns(pfnano: Columns, tmp_path: Path) -> None:
    aliased = {**pfnano, "_collection0": pfnano["FatJet_pt"]}
    path = write(tmp_path / "copy.root", aliased, rntuple=True)
    assert not any(name.startswith("_") or "." in name for name in cms_file.EventsFile(path).columns)
    assert read_all(path).equals(read_all(sample(PFNANO)))


@pytest.mark.parametrize("rntuple", [False, True])
def test_the_2020_layout_gives_the_same_jets(pfnano: Columns, rntuple: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "2020.root", in_2020_layout(pfnano), rntuple)
    assert CmsSource.recognises(contents(path))
    source = CmsSource().bind([path])
    assert source.found is not None
    assert source.found.layout.name == "pfnano2020"
    assert read_all(path).equals(read_all(sample(PFNANO)))


def test_quantities_that_a_file_lacks_are_not_provided(pfnano: Columns, tmp_path: Path) -> None:
    dropped = {"PFCands_d0Err", "PFCands_puppiWeight", "PFCands_charge", "FatJet_msoftdrop"}
    path = write(tmp_path / "less.root", {name: array for name, array in pfnano.items() if name not in dropped})
    batch, full = read_all(path), read_all(sample(PFNANO), CmsSource(puppi="ignore"))
    constituent = {field.name for field in batch.schema.field("constituents").type.value_type}
    assert constituent == {"pt", "deta", "dphi", "energy", "charge", "species"}
    assert "softdrop_mass" not in batch.schema.names
    for name in constituent - {"species"}:
        assert np.array_equal(records.points_of(batch, name), records.points_of(full, name)), name


def test_files_of_two_layouts_are_no_one_corpus(pfnano: Columns, tmp_path: Path) -> None:
    new, old = sample(PFNANO), write(tmp_path / "2020.root", in_2020_layout(pfnano))
    with pytest.raises(HepfmError, match=r"layout pfnano2020 .* but .* layout pfnano2021"):
        CmsSource().bind([new, old])
    with pytest.raises(HepfmError, match="layout nanoaod15"):
        CmsSource().bind([new]).entries(sample(NANOAOD))


def test_a_file_without_candidates_is_told() -> None:
    path = sample(COLLISIONS)
    assert not CmsSource.recognises(contents(path))
    with pytest.raises(HepfmError, match="without particle-flow candidates") as error:
        CmsSource().entries(path)
    assert str(path) in str(error.value)


def test_other_files_are_told(pfnano: Columns, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="no such file"):
        CmsSource().bind([tmp_path / "missing.root"])
    (tmp_path / "text.root").write_text("no ROOT file")
    with pytest.raises(HepfmError, match="not a ROOT file"):
        CmsSource().entries(tmp_path / "text.root")
    with uproot.recreate(tmp_path / "other.root") as file:
        file["tree"] = {"x": np.arange(3)}
    with pytest.raises(HepfmError, match=r"no 'Events'.*it has tree"):
        CmsSource().entries(tmp_path / "other.root")
    less = {name: array for name, array in pfnano.items() if name != "FatJet_mass"}
    with pytest.raises(HepfmError, match="no column FatJet_mass"):
        CmsSource().entries(write(tmp_path / "less.root", less))
    odd = {**pfnano, "FatJet_mass": pfnano["run"]}
    with pytest.raises(HepfmError, match="'FatJet_mass' is not a list of numbers"):
        read_all(write(tmp_path / "odd.root", odd))
    with pytest.raises(HepfmError, match="it has 10"):
        CmsSource().read(sample(PFNANO), 5, 11)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.2, 0.6, 0.97])
@pytest.mark.parametrize("rntuple", [False, True])
def test_a_truncated_file_is_told(pfnano: Columns, fraction: float, rntuple: bool, tmp_path: Path) -> None:
    content = write(tmp_path / "whole.root", pfnano, rntuple).read_bytes()
    path = tmp_path / "cut.root"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(HepfmError, match=r"truncated|an empty file|readable") as error:
        read_all(path)
    assert str(path) in str(error.value)


# Index columns


@pytest.mark.parametrize(("column", "value", "what"), CORRUPTIONS)
@pytest.mark.parametrize("rntuple", [False, True])
def test_an_index_outside_its_table_stops_or_leaves_the_event_out(
    pfnano: Columns, column: str, value: int, what: str, rntuple: bool, tmp_path: Path
) -> None:
    lengths, flat = ak.num(pfnano[column]), ak.to_numpy(ak.flatten(pfnano[column])).copy()
    flat[int(ak.sum(lengths[:4])) + 3] = value
    bad = {**pfnano, column: ak.unflatten(flat, lengths)}
    path = write(tmp_path / "bad.root", bad, rntuple)
    with pytest.raises(HepfmError, match=f"entry 4: a {what} lies outside its table"):
        read_all(path)
    tally = Tally("skip")
    batch = read_all(path, tally=tally)
    assert [(rejected.entry, rejected.what) for rejected in tally.rejected] == [(4, f"a {what} lies outside its table")]
    whole = read_all(sample(PFNANO))
    assert batch.equals(whole.filter(pa.compute.not_equal(whole.column("source_entry"), 4)))
    assert (tally.flow["events"], tally.flow["jets"]) == (10, 22)


def test_links_of_an_event_without_jets_are_bad(pfnano: Columns, tmp_path: Path) -> None:
    none = {name: array[:, :0] if name.startswith("FatJet_") else array for name, array in pfnano.items()}
    tally = Tally("skip")
    assert len(read_all(write(tmp_path / "none.root", none), tally=tally)) == 0
    assert len(tally.rejected) == 10


def test_columns_that_differ_in_length_are_bad(pfnano: Columns, tmp_path: Path) -> None:
    shorter = ak.concatenate([pfnano["PFCands_pt"][:7], pfnano["PFCands_pt"][7:8, :-1], pfnano["PFCands_pt"][8:]])
    path = write(tmp_path / "bad.root", {**pfnano, "PFCands_pt": shorter})
    with pytest.raises(HepfmError, match="entry 7: columns of a table differ in length"):
        read_all(path)
    tally = Tally("skip")
    assert set(read_all(path, tally=tally).column("source_entry").to_pylist()) == set(range(10)) - {7}
    assert [rejected.entry for rejected in tally.rejected] == [7]


def test_an_event_that_the_cuts_refuse_may_be_bad(pfnano: Columns, tmp_path: Path) -> None:
    fired = np.arange(10) != 4
    indices = ak.values_astype(pfnano["FatJetPFCands_jetIdx"] - 1000 * ~fired, np.int32)
    changed = {**pfnano, "FatJetPFCands_jetIdx": indices, "HLT_Mine": ak.Array(fired)}
    path, tally = write(tmp_path / "bad.root", changed), Tally()
    assert len(read_all(path, CmsSource(triggers=("HLT_Mine",)), tally)) == 22
    assert tally.flow["events triggered"] == 9


@pytest.mark.parametrize("window", [4, 11])
@pytest.mark.parametrize("rntuple", [False, True])
def test_any_ranges_give_the_same_jets(
    nanoaod: Columns, window: int, rntuple: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("FEWEST_WINDOW_EVENTS", "MOST_WINDOW_EVENTS", "MOST_CLUSTER_EVENTS"):
        monkeypatch.setattr(cms_file, name, window)
    monkeypatch.setattr(cms_source, "_READING", OpenFiles(2, cms_source._Reading))
    few = {name: array[:40] for name, array in nanoaod.items()}
    path = write(tmp_path / "copy.root", few, rntuple, pieces=4)
    source, once, tally = CmsSource(selection="aspenopenjets").bind([path]), Tally(), Tally()
    whole = read_all(path, source, once)
    cuts = np.unique(np.random.default_rng(window).integers(0, 40, 7)).tolist()
    parts = [source.read(path, *pair, tally) for pair in zip([0, *cuts], [*cuts, 40], strict=True)]
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([whole]).combine_chunks())
    assert list(tally.flow.items()) == list(once.flow.items())
    empty = Tally()
    assert len(source.read(path, 3, 3, empty)) == 0
    assert list(empty.flow) == list(once.flow)


# Cuts


@pytest.fixture
def run_json(tmp_path: Path) -> Path:
    path = tmp_path / "Cert.txt"
    path.write_text(json.dumps({"278000": [[2, 4], [6, 9]], "278001": [[1, 100]]}))
    return path


def test_the_selection_of_aspenopenjets_counts_what_each_cut_leaves(
    nanoaod: Columns, run_json: Path, tmp_path: Path
) -> None:
    columns = as_collisions(nanoaod)
    rng = np.random.default_rng(1)
    columns |= {name: ak.Array(rng.random(200) < 0.98) for name in FILTERS}
    for name in [name for name in columns if name.startswith("HLT_")]:
        columns[name] = ak.Array(np.zeros(200, dtype=bool))
    columns |= {"HLT_PFJet450": ak.Array(rng.random(200) < 0.5), "HLT_AK8PFJet40": ak.Array(rng.random(200) < 0.5)}
    columns["HLT_PFJet550"] = ak.Array(np.ones(200, dtype=bool))  # above the family's highest threshold
    path, tally = write(tmp_path / "collisions.root", columns), Tally()
    batch = read_all(path, CmsSource(selection="aspenopenjets", run_json=run_json), tally)
    certified = np.isin(ak.to_numpy(columns["luminosityBlock"]), [2, 3, 4, 6, 7, 8, 9])
    filtered = certified & np.all([ak.to_numpy(columns[name]) for name in FILTERS], axis=0)
    fired = filtered & ak.to_numpy(columns["HLT_PFJet450"] | columns["HLT_AK8PFJet40"])
    jets = ak.zip({key: columns[f"FatJet_{key}"] for key in ("pt", "eta", *JET_ID_COLUMNS)})[fired]
    hard = jets[jets.pt > 300]
    central = hard[abs(hard.eta) < 2.5]
    good = central[
        (central.neHEF < 0.9) & (central.neEmEF < 0.9) & (central.chHEF > 0) & (central.chEmEF < 0.8)
        & (central.muEF < 0.8) & (central.chMultiplicity > 0) & (central.chMultiplicity + central.neMultiplicity > 1)
    ]  # fmt: skip
    expected = {
        "events": 200,
        "events in certified runs": certified.sum(),
        "events passing filters": filtered.sum(),
        "events triggered": fired.sum(),
        "jets": ak.sum(ak.num(jets)),
        "jets pt > 300 GeV": ak.sum(ak.num(hard)),
        "jets abs(eta) < 2.5": ak.sum(ak.num(central)),
        "jets with jetId 6": ak.sum(ak.num(good)),
    }
    assert list(tally.flow.items())[:8] == list(expected.items())
    assert batch.column("pt").to_pylist() == ak.flatten(good.pt).to_list()
    assert len(batch) > 0


def test_stored_jet_ids_are_used_where_there_are_any(pfnano: Columns, tmp_path: Path) -> None:
    ids = ak.to_numpy(ak.flatten(pfnano["FatJet_jetId"])).copy()
    ids[[0, 7]] = 2, 7  # in events that pass the filters and triggers
    changed = {**pfnano, "FatJet_jetId": ak.unflatten(ids, ak.num(pfnano["FatJet_jetId"]))}
    batch = read_all(write(tmp_path / "ids.root", changed), CmsSource(selection="aspenopenjets"))
    whole = read_all(sample(PFNANO), CmsSource(selection="aspenopenjets"))
    assert len(batch) == len(whole) - 2 == 17
    assert min(whole.column("pt").to_pylist()) > 300


def test_certified_runs_are_applied_without_the_other_cuts(pfnano: Columns, run_json: Path, tmp_path: Path) -> None:
    columns = as_collisions({name: array[:10] for name, array in pfnano.items()})
    columns["luminosityBlock"] = ak.Array(np.arange(10, dtype=np.uint32))
    tally = Tally()
    batch = read_all(write(tmp_path / "collisions.root", columns), CmsSource(run_json=run_json), tally)
    assert set(batch.column("lumi").to_pylist()) == {2, 3, 4, 6, 7, 8, 9}
    assert list(tally.flow)[:3] == ["events", "events in certified runs", "jets"]


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("HLT_AK8DiPFJet250_200_TrimMass30", True),
        ("HLT_AK8DiPFJet280_200_TrimMass30_BTagCSV_p20", True),
        ("HLT_AK8PFHT700_TrimR0p1PT0p03Mass50", True),
        ("HLT_AK8PFJet40", True),
        ("HLT_AK8PFJet360_TrimMass30", True),
        ("HLT_AK8PFJet500", True),
        ("HLT_DiCentralPFJet170_CFMax0p1", True),
        ("HLT_DiCentralPFJet430", True),
        ("HLT_DiPFJetAve40", True),
        ("HLT_DiPFJetAve300_HFJEC", True),
        ("HLT_HT2000", True),
        ("HLT_HT2500", True),
        ("HLT_PFHT125", True),
        ("HLT_PFHT650_WideJetMJJ900DEtaJJ1p5", True),
        ("HLT_PFHT900", True),
        ("HLT_PFJet40", True),
        ("HLT_PFJet500", True),
        ("HLT_CaloJet500_NoJetID", True),
        ("HLT_AK8PFJet25", False),
        ("HLT_AK8PFJet550", False),
        ("HLT_AK8PFJetFwd40", False),
        ("HLT_DiCentralPFJet55_PFMET110", False),
        ("HLT_HT425", False),
        ("HLT_HT430_DisplacedDijet40_DisplacedTrack", False),
        ("HLT_PFHT1050", False),
        ("HLT_PFHT500_PFMET100_PFMHT100_IDTight", False),
        ("HLT_PFHT200_DiPFJetAve90_PFAlphaT0p57", False),
        ("HLT_PFJet550", False),
        ("HLT_PFJet25", False),
        ("HLT_PFJetFwd40", False),
        ("HLT_AK4PFJet50", False),
        ("HLT_Mu3_PFJet40", False),
        ("HLT_IsoMu24", False),
        ("L1_HT2000", False),
    ],
)
def test_the_trigger_families_are_those_of_the_data_set(path: str, member: bool) -> None:
    assert is_jetht(path) == member


def test_families_in_a_real_trigger_menu() -> None:
    with uproot.open(sample(COLLISIONS)) as file:
        columns = file["Events"].keys()
    chosen = trigger_paths(columns, (), sample(COLLISIONS))
    plain = {name for name in chosen if name.count("_") == 1}
    thresholds = (40, 60, 80, 140, 200, 260, 320, 400, 450, 500)
    assert {name for name in plain if name.startswith("HLT_PFJet")} == {f"HLT_PFJet{pt}" for pt in thresholds}
    assert {name for name in plain if name.startswith("HLT_PFHT")} == {
        f"HLT_PFHT{ht}" for ht in (180, 250, 350, 370, 430, 510, 590, 680, 780, 890)
    }
    assert trigger_paths(columns, ("HLT_IsoMu2?",), sample(COLLISIONS)) == tuple(
        sorted(name for name in columns if name.startswith("HLT_IsoMu2") and len(name) == 11)
    )


def test_a_path_that_one_file_lacks_has_not_fired_there(pfnano: Columns, tmp_path: Path) -> None:
    kept = {name: array for name, array in pfnano.items() if not name.startswith("HLT_")}
    yes, no = ak.Array(np.ones(10, dtype=bool)), ak.Array(np.zeros(10, dtype=bool))
    first = write(tmp_path / "a.root", {**kept, "HLT_PFJet40": no, "HLT_PFJet60": yes})
    second = write(tmp_path / "b.root", {**kept, "HLT_PFJet40": no})
    source = CmsSource(triggers=("HLT_PFJet?0",)).bind([first, second])
    assert [len(source.read(path, 0, 10)) for path in (first, second)] == [24, 0]
    with pytest.raises(HepfmError, match=r"no trigger path that matches HLT_PFHT\*"):
        CmsSource(triggers=("HLT_PFHT*",)).bind([first])


def test_what_the_selection_needs_and_does_not_find_is_told(
    pfnano: Columns, nanoaod: Columns, run_json: Path, tmp_path: Path
) -> None:
    aspen = CmsSource(selection="aspenopenjets")
    collisions = write(tmp_path / "collisions.root", as_collisions(pfnano))
    with pytest.raises(HepfmError, match=r"needs --run-json \(.*opendata.cern.ch/record/14220\)"):
        aspen.bind([collisions])
    with pytest.raises(HepfmError, match="is simulation"):
        CmsSource(run_json=run_json).bind([sample(PFNANO)])
    less = {name: array for name, array in pfnano.items() if name != "Flag_eeBadScFilter"}
    with pytest.raises(HepfmError, match="no filter Flag_eeBadScFilter"):
        aspen.bind([write(tmp_path / "filter.root", less)])
    less = {name: array for name, array in pfnano.items() if not name.startswith("HLT_")}
    with pytest.raises(HepfmError, match=r"no trigger path of the JetHT families.*it has none"):
        aspen.bind([write(tmp_path / "trigger.root", less)])
    less = {name: array for name, array in nanoaod.items() if name != "FatJet_muEF"}
    with pytest.raises(HepfmError, match="neither FatJet_jetId nor muEF"):
        aspen.bind([write(tmp_path / "jetid.root", less)])


RANGES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=12)


@given(ranges=RANGES)
def test_certified_blocks_are_those_of_the_ranges(ranges: list[tuple[int, int, int]], tmp_path_factory: Any) -> None:
    content: dict[str, list[list[int]]] = {}
    for run, first, length in ranges:
        content.setdefault(str(run), []).append([first, first + length])
    path = tmp_path_factory.mktemp("json") / "cert.json"
    path.write_text(json.dumps(content))
    run, lumi = (axis.ravel() for axis in np.meshgrid(np.arange(6), np.arange(20), indexing="ij"))
    expected = [
        any(first <= b <= last for first, last in content.get(str(r), [])) for r, b in zip(run, lumi, strict=True)
    ]
    assert CertifiedRuns.load(path).contain(run.astype(np.uint32), lumi.astype(np.uint32)).tolist() == expected


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"1": 3}', '{"1": [[1]]}', '{"1": [[1, "2"]]}', '{"x": [[1, 2]]}', '{"1": [[1, 2.5]]}', "{"]
)
def test_a_list_of_runs_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cert.json"
    path.write_text(text)
    with pytest.raises(HepfmError, match=r"luminosity block|not valid JSON") as error:
        CertifiedRuns.load(path)
    assert str(path) in str(error.value)


def test_settings_name_the_content_of_the_runs_and_not_their_file(
    pfnano: Columns, run_json: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "collisions.root", as_collisions(pfnano))
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(run_json.read_text()), indent=3))
    told = [CmsSource(run_json=name).bind([path]).settings() for name in (run_json, other)]
    assert told[0] == told[1]
    other.write_text('{"278000": [[1, 2]]}')
    assert CmsSource(run_json=other).bind([path]).settings() != told[0]
    json.dumps(told)


PASSING = {
    "neHEF": 0.2,
    "neEmEF": 0.2,
    "chHEF": 0.5,
    "chEmEF": 0.1,
    "muEF": 0.0,
    "chMultiplicity": 9,
    "neMultiplicity": 9,
}


@pytest.mark.parametrize(
    ("eta", "run", "changes", "passes"),
    [
        (0.0, 1, {}, True),
        (0.0, 1, {"neHEF": 0.95}, True),
        (0.0, 278_000, {"neHEF": 0.95}, False),
        (0.0, 320_000, {"neHEF": 0.95}, False),
        (0.0, 380_000, {"neHEF": 0.95}, True),
        (0.0, 1, {"neHEF": 0.99}, False),
        (0.0, 1, {"neEmEF": 0.9}, False),
        (0.0, 1, {"chHEF": 0.01}, False),
        (0.0, 278_000, {"chHEF": 0.01}, True),
        (0.0, 278_000, {"chHEF": 0.0}, False),
        (0.0, 1, {"chEmEF": 0.8}, False),
        (0.0, 1, {"muEF": 0.8}, False),
        (0.0, 1, {"chMultiplicity": 0}, False),
        (0.0, 1, {"chMultiplicity": 1, "neMultiplicity": 0}, False),
        (0.0, 1, {"chMultiplicity": 1, "neMultiplicity": 1}, True),
        (-2.45, 278_000, {"neHEF": 0.95, "chMultiplicity": 0}, True),
        (-2.45, 278_000, {"neHEF": 0.98}, False),
        (-2.45, 1, {"chMultiplicity": 0}, False),
        (2.65, 1, {"neHEF": 0.95}, False),
        (2.65, 1, {"chMultiplicity": 0, "chHEF": 0.0}, True),
    ],
)
def test_the_jet_identification_follows_its_definition(
    eta: float, run: int, changes: dict[str, float], passes: bool
) -> None:
    columns = {name: np.array([value, PASSING[name]]) for name, value in {**PASSING, **changes}.items()}
    found = tight_lepton_veto(columns, np.array([eta, 0.0]), np.array([run, 1]))
    assert found.tolist() == [passes, True]


# Beyond reading


def test_collisions_become_an_aspenopenjets_file(tmp_path: Path) -> None:
    batch = read_all(sample(PFNANO))
    assert write_aspenopenjets(tmp_path / "jets.h5", [batch]) == 24
    source = AspenOpenJetsSource()
    copy = source.read(tmp_path / "jets.h5", 0, 24)
    for name in ("pt", "eta", "softdrop_mass", "tau3", "run", "lumi", "event", "event_id"):
        assert copy.column(name).equals(batch.column(name)), name
    assert np.allclose(copy.column("pt_constituents"), batch.column("pt_constituents"), rtol=1e-6)
    for name in ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr", "charge", "puppi_weight"):
        ours, theirs = records.points_of(batch, name), records.points_of(copy, name)
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True), name


def test_it_can_be_sent_to_another_process(pfnano: Columns, run_json: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "collisions.root", as_collisions(pfnano))
    bound = CmsSource(run_json=run_json).bind([path])
    copy = pickle.loads(pickle.dumps(bound))  # noqa: S301
    run_json.unlink()
    assert copy == bound
    assert copy.settings() == bound.settings()
    assert copy.read(path, 0, 10).equals(bound.read(path, 0, 10))


def test_a_corpus_tells_its_cuts(nanoaod: Columns, run_json: Path, tmp_path: Path) -> None:
    columns = as_collisions(nanoaod)
    files = [write(tmp_path / "a.root", columns), write(tmp_path / "b.root", as_collisions(nanoaod, 278_001), True)]
    options = BuildOptions(run_entries=20, splits=(0.6, 0.2, 0.2))
    source = CmsSource(run_json=run_json, triggers=("HLT_PFJet*",))
    corpus = build(source, files, tmp_path / "corpus", options)
    flow = dict(corpus.manifest.provenance["cut_flow"])
    assert (flow["events"], flow["events in certified runs"]) == (400, 140 + 200)
    total = sum(split.records for split in corpus.manifest.splits.values())
    assert total == flow["jets with candidates"] > 60
    assert corpus.manifest.provenance["settings"]["run_json"] == CertifiedRuns.load(run_json).digest
    events = {name: {event for block in corpus.split(name) for event in block.column("event_id").to_pylist()}
              for name in corpus.manifest.splits}  # fmt: skip
    assert len(set.union(*events.values())) == sum(map(len, events.values()))
