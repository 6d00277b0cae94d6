"""CMS ROOT files: three layouts, as TTree and RNTuple, give the same jets; weights, signs and indices hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot
import vector
from cms_files import (
    COLLISIONS,
    NANOAOD,
    PFNANO,
    Columns,
    as_collisions,
    columns_of,
    in_2020_layout,
    read_all,
    sample,
    write,
)
from uproot.behaviors.RNTuple import HasFields

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats import cms_file
from hepfm.ingest.formats.particle_flow import charge_of, species_of
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.sources import cms as cms_source
from hepfm.ingest.sources.cms import CmsSource
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.tally import Tally

CORRUPTIONS = [
    ("FatJetPFCands_jetIdx", -1, "jet index"),
    ("FatJetPFCands_jetIdx", 2, "jet index"),  # that event has two jets
    ("FatJetPFCands_pFCandsIdx", -1, "candidate index"),
    ("FatJetPFCands_pFCandsIdx", 1_000_000, "candidate index"),
]


@pytest.fixture(scope="module")
def pfnano() -> Columns:
    return columns_of(PFNANO)


@pytest.fixture(scope="module")
def nanoaod() -> Columns:
    return columns_of(NANOAOD)


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


def test_of_an_rntuple_only_the_columns_that_are_read_are_looked_into(
    nanoaod: Columns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """uproot looks through all columns for what lies in one: of thousands, looking into each takes very long."""
    path = write(tmp_path / "copy.root", nanoaod, rntuple=True)
    looked, fields = set(), HasFields.fields.fget
    monkeypatch.setattr(HasFields, "fields", property(lambda table: (looked.add(table.name), fields(table))[1]))
    assert contents(path).has("Events", "run")
    assert len(cms_file.EventsFile(path).read(("run", "event"), 0, 9)["event"]) == 9
    assert looked <= {"Events", "run", "event"}


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


def test_many_files_are_opened_once_to_be_bound(
    pfnano: Columns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns = {name: array[:2] for name, array in pfnano.items()}
    files = [write(tmp_path / f"{number}.root", columns) for number in range(4)]
    opened: list[Path] = []

    def opening(path: Path) -> cms_file.EventsFile:
        opened.append(path)
        return cms_file.EventsFile(path)

    monkeypatch.setattr(cms_source, "_EVENTS", OpenFiles(2, opening))
    bound = CmsSource().bind(files)
    assert opened == files
    assert bound == bound.bind(files)


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


@pytest.mark.parametrize("rntuple", [False, True])
def test_a_candidate_twice_in_a_jet_stops_or_leaves_the_event_out(
    pfnano: Columns, rntuple: bool, tmp_path: Path
) -> None:
    name = "FatJetPFCands_pFCandsIdx"
    lengths, flat = ak.num(pfnano[name]), ak.to_numpy(ak.flatten(pfnano[name])).copy()
    jets = ak.to_numpy(ak.flatten(pfnano["FatJetPFCands_jetIdx"]))
    first = int(ak.sum(lengths[:4]))
    assert jets[first] == jets[first + 3]
    flat[first + 3] = flat[first]
    path = write(tmp_path / "bad.root", {**pfnano, name: ak.unflatten(flat, lengths)}, rntuple)
    with pytest.raises(HepfmError, match="entry 4: a candidate stands twice in a jet"):
        read_all(path)
    tally = Tally("skip")
    batch = read_all(path, tally=tally)
    assert [rejected.entry for rejected in tally.rejected] == [4]
    whole = read_all(sample(PFNANO))
    assert batch.equals(whole.filter(pa.compute.not_equal(whole.column("source_entry"), 4)))


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


def test_events_of_two_simulated_samples_differ_in_more_than_their_numbers(pfnano: Columns, tmp_path: Path) -> None:
    other = {**pfnano, "FatJet_pt": pfnano["FatJet_pt"] * np.float32(1.01)}
    first, second = write(tmp_path / "one.root", pfnano), write(tmp_path / "two.root", other)
    again = write(tmp_path / "again.root", pfnano, rntuple=True)
    source = CmsSource().bind([first, second, again])
    keys = source.keys(first)
    assert not np.isin(keys, source.keys(second)).any()
    assert (keys == source.keys(again)).all()
    recorded = write(tmp_path / "recorded.root", as_collisions(pfnano))
    changed = write(tmp_path / "changed.root", as_collisions(other))
    source = CmsSource().bind([recorded, changed])
    assert (source.keys(recorded) == source.keys(changed)).all()
