"""Cuts on CMS events and jets: what is certified, filtered, triggered, identified; what becomes of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from cms_files import (
    COLLISIONS,
    NANOAOD,
    PFNANO,
    Columns,
    as_collisions,
    columns_of,
    read_all,
    sample,
    write,
)
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.formats.aspenopenjets import write_aspenopenjets
from hepfm.ingest.formats.cms_selection import (
    FILTERS,
    JET_ID_COLUMNS,
    CertifiedRuns,
    is_jetht,
    tight_lepton_veto,
    trigger_paths,
)
from hepfm.ingest.sources.aspenopenjets import AspenOpenJetsSource
from hepfm.ingest.sources.cms import CmsSource
from hepfm.ingest.tally import Tally


@pytest.fixture(scope="module")
def pfnano() -> Columns:
    return columns_of(PFNANO)


@pytest.fixture(scope="module")
def nanoaod() -> Columns:
    return columns_of(NANOAOD)


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
    ids[[0, 7, 8]] = 2, 4, 7  # in events that pass the filters and triggers; with 1 a jet is loose too (2016)
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
    "text",
    [
        *("[]", "{}", "{", '{"1": 3}', '{"1": [[1]]}', '{"1": [[5, 2]]}', '{"x": [[1, 2]]}'),
        *('{"1": [[1, "2"]]}', '{"1": [[1, 2.5]]}', '{"1": [[true, 2]]}'),
    ],
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
