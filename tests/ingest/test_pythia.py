"""The simulation: what the detector sees, which jets are kept, and that files are reproducible and resumable."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import fastjet
import numpy as np
import pyarrow as pa
import pytest

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.simulate import jets as simulated
from hepfm.ingest.simulate.calorimeter import Calorimeter, Deposits
from hepfm.ingest.simulate.detector import CMS, ECAL, HCAL, JETCLASS, detect
from hepfm.ingest.simulate.particles import SPECIES, Candidates, Particles, Partons
from hepfm.ingest.simulate.processes import LABELS
from hepfm.ingest.simulate.pythia import MAX_SEED, sequence_seed
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.ten_classes import JetClassJets
from hepfm.ingest.simulate.tracker import charges, helix
from hepfm.ingest.sources.jetclass import JetClassSource
from hepfm.ingest.workers import Workers

PION_MASS = 0.13957


def particles(
    pdg: int | np.ndarray,
    pt: float | np.ndarray,
    count: int = 1,
    eta: float = 0.0,
    phi: float = 0.0,
    vertex: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Particles:
    """``count`` particles alike, each in an event of its own."""
    one = np.ones(count)
    pt = one * pt
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + PION_MASS**2)
    x, y, z = (one * place for place in vertex)
    return Particles(np.arange(count), np.full(count, pdg), px, py, pz, energy, x, y, z)


class TestDetector:
    @pytest.mark.parametrize("pdg", [211, -211])
    def test_impact_parameters_have_the_sign_of_delphes(self, pdg: int) -> None:
        # A stiff track along x that starts 2 mm above the beam line: (x py - y px) / pt = -2.
        stiff = particles(pdg, 1000.0, eta=1.0, vertex=(30.0, 2.0, 5.0))
        path = helix(stiff, charges(stiff.pdg))
        assert path.d0 == pytest.approx([-2.0], abs=0.01)
        assert path.dz == pytest.approx([5.0 - 30.0 * np.sinh(1.0)], abs=0.01)

    @pytest.mark.parametrize("pdg", [211, -211])
    def test_a_prompt_track_has_no_impact_parameter_however_soft(self, pdg: int) -> None:
        soft = particles(pdg, 0.5, eta=-0.7, phi=2.0)
        path = helix(soft, charges(soft.pdg))
        assert path.d0 == pytest.approx([0.0], abs=1e-9)
        assert path.dz == pytest.approx([0.0], abs=1e-9)

    def test_going_along_the_helix_leaves_the_impact_parameters_as_they_are(self) -> None:
        # The same track, described at a point a quarter of a radian further on.
        radius, turn = 2.0 / (0.3 * 3.8) * 1000, 0.25
        start = particles(211, 2.0, eta=0.5, vertex=(3.0, 4.0, 1.0))
        centre = np.array([3.0, 4.0 - radius])  # positive charge: to the right of the momentum
        later = particles(
            211,
            2.0,
            eta=0.5,
            phi=-turn,
            vertex=(
                centre[0] + radius * np.sin(turn),
                centre[1] + radius * np.cos(turn),
                1.0 + radius * turn * np.sinh(0.5),
            ),
        )
        first, second = (helix(track, np.ones(1)) for track in (start, later))
        assert second.d0 == pytest.approx(first.d0, abs=1e-6)
        assert second.dz == pytest.approx(first.dz, abs=1e-6)

    def test_opposite_charges_bend_in_opposite_ways(self) -> None:
        ends = [helix(particles(211, 2.0), np.array([charge])).calorimeter_phi[0] for charge in (1.0, -1.0)]
        assert ends[0] == pytest.approx(-ends[1])
        assert ends[0] == pytest.approx(-np.arcsin(1.29 * 0.3 * 3.8 / 2 / 2.0))

    @pytest.mark.parametrize(
        ("pdg", "species", "charge"),
        [(211, "charged_hadron", 1), (-2212, "charged_hadron", -1), (11, "electron", -1), (-13, "muon", 1)],
    )
    def test_charged_particles_become_tracks(self, pdg: int, species: str, charge: int) -> None:
        seen = detect(particles(pdg, 20.0, 4000, eta=0.5), np.random.default_rng(1), CMS)
        track = seen.take(seen.charge != 0)
        assert 0.9 < len(track) / 4000 <= 1
        assert set(track.species) == {SPECIES[species]}
        assert set(track.charge) == {charge}
        pt = np.hypot(track.px, track.py)
        assert abs(pt.mean() - 20) < 0.05
        assert 0.1 < pt.std() < 0.4
        assert abs((track.d0 / track.d0err).std() - 1) < 0.05

    @pytest.mark.parametrize(("pdg", "species"), [(22, "photon"), (130, "neutral_hadron"), (2112, "neutral_hadron")])
    def test_neutral_particles_become_towers_without_impact_parameters(self, pdg: int, species: str) -> None:
        seen = detect(particles(pdg, 50.0, 2000, eta=-0.8, phi=3.1), np.random.default_rng(1))
        assert set(seen.species) == {SPECIES[species]}
        assert not seen.charge.any()
        assert not seen.d0.any()
        assert not seen.dzerr.any()
        total = np.bincount(seen.event, seen.energy, 2000)
        assert total.mean() == pytest.approx(50 * np.cosh(0.8), rel=0.02)
        assert np.abs(np.arcsinh(seen.pz / np.hypot(seen.px, seen.py)) + 0.8).max() < 0.1

    def test_the_energy_of_a_track_is_not_counted_again_in_the_calorimeter(self) -> None:
        for card in (JETCLASS, CMS):
            seen = detect(particles(211, 40.0, 4000), np.random.default_rng(1), card)
            assert np.bincount(seen.event, seen.energy, 4000).mean() == pytest.approx(40, rel=0.05)

    @pytest.mark.parametrize(
        ("pdg", "resolution"),
        [(211, np.hypot(0.05, 1.5 / np.sqrt(60))), (11, np.hypot(np.hypot(0.008, 0.11 / np.sqrt(60)), 0.4 / 60))],
    )
    def test_jetclass_measures_hadrons_and_electrons_in_the_calorimeter(self, pdg: int, resolution: float) -> None:
        seen = detect(particles(pdg, 60.0, 4000), np.random.default_rng(1))
        total = np.bincount(seen.event, seen.energy, 4000)
        assert total.mean() == pytest.approx(60, rel=0.02)
        assert total.std() / 60 == pytest.approx(resolution, rel=0.1)
        muons = detect(particles(13, 60.0, 100), np.random.default_rng(1))
        assert np.hypot(muons.px, muons.py) == pytest.approx(60)

    @pytest.mark.parametrize("pdg", [211, 130])
    def test_below_the_hadronic_threshold_a_hadron_is_lost_charged_or_not(self, pdg: int) -> None:
        # E > sqrt((0.05 E)^2 + 1.5^2 E) from E = 2.26 GeV on.
        seen = detect(particles(pdg, 2.0, 4000), np.random.default_rng(1))
        total = np.bincount(seen.event, seen.energy, 4000)
        assert total[total > 0].min() > 2.25
        assert 0.1 < np.count_nonzero(total) / 4000 < 0.4

    def test_with_momentum_errors_a_soft_track_survives_its_tower(self) -> None:
        seen = detect(particles(211, 2.0, 4000), np.random.default_rng(1), CMS)
        assert np.count_nonzero(seen.charge) / 4000 == pytest.approx(0.95, abs=0.02)

    def test_tracks_of_a_tower_are_scaled_by_one_factor_and_keep_their_mass(self) -> None:
        tower = Deposits(np.zeros(3, int), np.full(3, 0.01), np.full(3, 0.01), np.array([30.0, 10.0, 2.0]))
        tracks = Deposits(*(getattr(tower, name)[:2] for name in ("event", "eta", "phi", "energy")))
        factors = []
        for seed in range(200):
            flow = HCAL.flow(tower, tracks, np.zeros(2), np.random.default_rng(seed))
            assert flow.factor[0] == flow.factor[1]
            seen = flow.factor @ tracks.energy + flow.neutrals.energy.sum()
            # Either an excess beyond the tracks as they are, or tracks that have the tower's energy.
            assert len(flow.neutrals) == 0 or (flow.factor == 1).all()
            factors.append(seen / 42)
        assert np.mean(factors) == pytest.approx(1, abs=0.05)
        scaled = detect(particles(211, 30.0, 50), np.random.default_rng(2))
        scaled = scaled.take(scaled.charge != 0)
        mass = np.sqrt(scaled.energy**2 - scaled.px**2 - scaled.py**2 - scaled.pz**2)
        assert mass == pytest.approx(PION_MASS, abs=1e-3)

    @pytest.mark.parametrize("calorimeter", [ECAL, HCAL])
    def test_towers_cover_the_calorimeter_and_hold_what_enters_them(self, calorimeter: Calorimeter) -> None:
        draws = np.random.default_rng(5)
        eta, phi = draws.uniform(-2.9, 2.9, 3000), draws.uniform(-np.pi, np.pi, 3000)
        flow = calorimeter.flow(
            Deposits(np.arange(3000), eta, phi, np.full(3000, 500.0)),
            Deposits(*[np.zeros(0)] * 4),
            np.zeros(0),
            draws,
        )
        seen = flow.neutrals
        found_eta = np.arcsinh(seen.pz / np.hypot(seen.px, seen.py))
        # 10 degrees, and 0.22 in eta, are the largest towers.
        assert np.abs(found_eta - eta[seen.event]).max() < 0.22
        assert np.abs((np.arctan2(seen.py, seen.px) - phi[seen.event] + np.pi) % (2 * np.pi) - np.pi).max() < 0.176
        assert len(seen) == 3000

    def test_neutrinos_are_not_seen_and_muons_leave_nothing_in_the_calorimeters(self) -> None:
        assert len(detect(particles(14, 50.0, 100), np.random.default_rng(1))) == 0
        assert not (detect(particles(13, 50.0, 100), np.random.default_rng(1)).charge == 0).any()

    def test_equal_draws_give_equal_candidates_in_the_order_of_events(self) -> None:
        first, second = (detect(particles(211, 5.0, 300), np.random.default_rng(7)) for _ in range(2))
        assert np.array_equal(first.px, second.px)
        assert (np.diff(first.event) >= 0).all()


def random_candidates(events: int, seed: int) -> Candidates:
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(events) * 3, 60)  # events without candidates lie between
    near = np.repeat(rng.uniform(-1, 1, (2, events)), 60, axis=1)
    eta, phi = near + rng.normal(0, 0.5, (2, len(event)))
    pt = rng.exponential(20, len(event))
    nothing = np.zeros(len(event))
    vectors = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
    return Candidates(event, *vectors, nothing.astype(np.int8), nothing.astype(np.int8), *[nothing] * 4)


class TestJets:
    def test_clustering_is_fastjets_event_by_event(self) -> None:
        candidates = random_candidates(8, 3)
        found = simulated.cluster(candidates, min_pt=100.0)
        assert len(found.event) > 8
        definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.8)
        for event in np.unique(candidates.event):
            mine = candidates.take(candidates.event == event)
            inputs = [
                fastjet.PseudoJet(*map(float, vector))
                for vector in zip(mine.px, mine.py, mine.pz, mine.energy, strict=True)
            ]
            jets = fastjet._swig.ClusterSequence(inputs, definition).inclusive_jets(100.0)
            assert sorted(found.pt[found.event == event]) == pytest.approx(sorted(jet.pt() for jet in jets))

    def test_a_jet_is_the_sum_of_its_candidates_in_order_of_pt(self) -> None:
        candidates = random_candidates(5, 4)
        jets = simulated.cluster(candidates, min_pt=100.0)
        jets = jets.select(np.arange(len(jets.event)) % 2 == 0)
        assert len(jets.event) > 2
        for i in range(len(jets.event)):
            members = candidates.take(jets.index[jets.offsets[i] : jets.offsets[i + 1]])
            assert set(members.event) == {jets.event[i]}
            assert members.px.sum() == pytest.approx(jets.px[i])
            assert members.energy.sum() == pytest.approx(jets.energy[i])
            assert (np.diff(np.hypot(members.px, members.py)) <= 0).all()

    def test_events_without_a_jet_give_an_empty_batch(self) -> None:
        candidates = random_candidates(5, 4)
        none = simulated.cluster(candidates, min_pt=1e5)
        assert len(simulated.records_of(none, candidates, "QCD")) == 0

    def test_matching_asks_for_all_products_of_one_resonance(self) -> None:
        def at(event: list[int], resonance: list[int], eta: list[float], phi: list[float]) -> Partons:
            return Partons(*map(np.array, (event, resonance, eta, phi)))

        eta, phi = np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.0, 3.1, 0.0, 0.0])
        jets = simulated.Jets(
            np.array([0, 0, 1, 2]), np.cos(phi), np.sin(phi), np.sinh(eta), np.cosh(eta), np.arange(5), np.arange(4)
        )
        partons = at(
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
            [7, 7, 7, 9, 9, 9, 20, 21, 20, 21, 21, 20],
            [0.1, 0.7, -0.3, 0.0, 0.1, -0.1, 0.1, 0.1, 0.1, 0.9, 0.1, -0.9],
            # The second jet's products lie on both sides of +-pi.
            [0.0, 0.1, -0.1, 3.1, -3.1, 2.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        )
        # Event 1: three products are near, of two resonances. Event 2 has none.
        assert simulated.matched(jets, partons, 3).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pythia8mc")
    out = tmp_path_factory.mktemp("pythia") / "raw"
    write_raw(JetClassJets(1, ("QCD", "Tbqq")), "jetclass", out, 60, 40)
    return out


def read(folder: Path, label: str) -> pa.RecordBatch:
    source = JetClassSource()
    batches = [source.read(path, 0, source.entries(path)) for path in sorted(folder.glob(f"{label}_*.root"))]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


class TestFiles:
    def test_each_class_has_its_files(self, folder: Path) -> None:
        names = sorted(path.name for path in folder.glob("*.root"))
        assert names == ["QCD_000.root", "QCD_001.root", "Tbqq_000.root", "Tbqq_001.root"]
        for label in ("QCD", "Tbqq"):
            assert set(read(folder, label).column("label").to_pylist()) == {label}
            assert len(read(folder, label)) == 60

    @pytest.mark.parametrize("label", ["QCD", "Tbqq"])
    def test_jets_are_those_of_jetclass(self, folder: Path, label: str) -> None:
        batch = read(folder, label)
        pt, eta = (batch.column(name).to_numpy() for name in ("pt", "eta"))
        assert ((pt > 500) & (pt < 1000) & (np.abs(eta) < 2)).all()
        assert np.allclose(batch.column("pt_constituents"), pt, rtol=1e-5)
        distance = np.hypot(*(records.points_of(batch, name) for name in ("deta", "dphi")))
        # Clustering goes by rapidity, from which the eta of soft and heavy constituents differs.
        assert np.quantile(distance, 0.99) < 0.82
        assert np.mean(distance > 0.9) < 0.005
        species = records.points_of(batch, "species")
        assert set(species) <= {SPECIES[name] for name in records.SPECIES[:5]}
        charged = np.isin(species, [SPECIES[name] for name in ("charged_hadron", "electron", "muon")])
        assert np.array_equal(charged, records.points_of(batch, "charge") != 0)
        assert np.array_equal(charged, records.points_of(batch, "d0err") > 0)
        assert 0.3 < charged.mean() < 0.6

    def test_top_jets_are_heavy_three_pronged_and_fuller_than_light_ones(self, folder: Path) -> None:
        top, light = read(folder, "Tbqq"), read(folder, "QCD")
        assert 150 < np.median(top.column("mass")) < 195
        assert np.median(light.column("mass")) < 110
        ratios = [
            np.median(batch.column("tau3").to_numpy() / batch.column("tau2").to_numpy()) for batch in (top, light)
        ]
        assert ratios[0] < ratios[1] - 0.1
        lengths = [records.lengths_of(batch.column("constituents")).mean() for batch in (top, light)]
        assert lengths[0] > 1.2 * lengths[1]

    def test_displaced_tracks_have_the_sign_of_their_side_of_the_jet(self, folder: Path) -> None:
        # d0 = L sin(phi_track - phi_jet) for a vertex at L along the jet.
        batch = read(folder, "Tbqq")
        d0, dphi = (records.points_of(batch, name) for name in ("d0", "dphi"))
        displaced = np.abs(np.nan_to_num(d0)) > 0.2
        assert np.mean(np.sign(d0[displaced]) == np.sign(dphi[displaced])) > 0.5

    def test_called_again_it_makes_what_is_missing_and_nothing_else(self, folder: Path) -> None:
        kept, lost = folder / "Tbqq_000.root", folder / "QCD_001.root"
        before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
        lost.unlink()
        (folder / ".QCD_001.root.partial-1").write_bytes(b"left by a killed process")
        write_raw(JetClassJets(1, ("QCD", "Tbqq")), "jetclass", folder, 60, 40)
        assert lost.read_bytes() == before
        assert kept.stat().st_mtime_ns == stamp
        assert not list(folder.glob("*.partial-*"))

    def test_a_folder_with_other_settings_or_files_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"seed 1 \(now 2\)"):
            write_raw(JetClassJets(2, ("QCD", "Tbqq")), "jetclass", folder, 60, 40)
        (tmp_path / "QCD_000.root").write_bytes(b"mine")
        with pytest.raises(HepfmError, match="holds other files"):
            write_raw(JetClassJets(1, ("QCD",)), "jetclass", tmp_path, 10)
        assert [path.name for path in tmp_path.iterdir()] == ["QCD_000.root"]


def test_sequences_of_a_stream_never_share_pythias_seed() -> None:
    seeds = [sequence_seed(1, "QCD", number=number) % MAX_SEED for number in range(20_000)]
    assert len(set(seeds)) == len(seeds)
    assert sequence_seed(1, "QCD", number=0) != sequence_seed(2, "QCD", number=0) != sequence_seed(2, "Hbb", number=0)


class TestRequests:
    def test_an_unknown_class_is_named_with_those_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=f"'X_bb'.*{LABELS[0]}"):
            write_raw(JetClassJets(1, ("X_bb",)), "jetclass", tmp_path, 10)

    @pytest.mark.parametrize(
        ("classes", "records", "per_file", "form"),
        [
            ((), 5, 5, "jetclass"),
            (("QCD", "QCD"), 5, 5, "jetclass"),
            (("QCD",), 0, 5, "jetclass"),
            (("QCD",), 5, 0, "jetclass"),
            (("QCD",), 5, 5, "ildgrid"),
        ],
    )
    def test_impossible_requests(
        self, classes: tuple[str, ...], records: int, per_file: int, form: str, tmp_path: Path
    ) -> None:
        with pytest.raises(HepfmError):
            write_raw(JetClassJets(1, classes), form, tmp_path / "raw", records, per_file)
        assert not (tmp_path / "raw").exists()

    def test_without_pythia_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pythia8mc", None)
        with pytest.raises(HepfmError, match=r"hepfm\[simulate\]"):
            write_raw(JetClassJets(1, ("QCD",)), "jetclass", tmp_path / "raw", 10)
        assert not (tmp_path / "raw").exists()


@pytest.mark.slow
def test_several_processes_give_the_bytes_of_one(folder: Path, tmp_path: Path) -> None:
    write_raw(JetClassJets(1, ("QCD", "Tbqq")), "jetclass", tmp_path, 60, 40, Workers(2))
    for path in folder.glob("*.root"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_killed_simulation_continues_and_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    call = (
        "from pathlib import Path\n"
        "from hepfm.ingest.simulate.raw import write_raw\n"
        "from hepfm.ingest.simulate.ten_classes import JetClassJets\n"
        "from hepfm.ingest.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    simulation = JetClassJets(1, ('QCD', 'Tbqq'))\n"
        f"    write_raw(simulation, 'jetclass', Path({str(tmp_path / 'raw')!r}), 60, 40, Workers(2))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(call)
    process = subprocess.Popen([sys.executable, str(script)])
    while not list((tmp_path / "raw").glob("*.root")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run([sys.executable, str(script)], check=True)
    for path in folder.glob("*.root"):
        assert (tmp_path / "raw" / path.name).read_bytes() == path.read_bytes()
