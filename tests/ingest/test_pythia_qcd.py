"""Simulated inclusive QCD: PUPPI against a plain reference, pileup, whole collisions, AspenOpenJets files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import build
from hepfm.ingest.export.folder import export
from hepfm.ingest.export.raw_files import puppi_of
from hepfm.ingest.formats.aspenopenjets import write_aspenopenjets
from hepfm.ingest.shards import concatenate
from hepfm.ingest.simulate import inclusive_qcd, pileup, puppi
from hepfm.ingest.simulate.detector import detect
from hepfm.ingest.simulate.inclusive_qcd import AspenOpenJetsJets, run_of
from hepfm.ingest.simulate.jets import Jets, cluster
from hepfm.ingest.simulate.particles import Candidates, Particles, wrapped
from hepfm.ingest.simulate.pileup import SIGMA_Z_MM, Pool, make_pool
from hepfm.ingest.simulate.puppi import Vertices, associate, puppi_weights
from hepfm.ingest.simulate.pythia import Generator
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.straight import Layout, simulate_corpus
from hepfm.ingest.sources.aspenopenjets import AspenOpenJetsSource

EVENTS = 200
NO_PILEUP = Vertices(np.zeros(0, dtype=np.int64), np.zeros(0))


def random_event_record(seed: int, events: int) -> tuple[Candidates, Vertices]:
    """Candidates in a few clumps, a third of the tracks from the pileup vertices; some events have no pileup."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 60, events)
    event = np.repeat(np.arange(events), count)
    vertices = Vertices(np.repeat(np.arange(events), rng.integers(0, 4, events)), np.zeros(0))
    vertices = replace(vertices, z=rng.normal(0, 20, len(vertices.event)))
    clump = rng.uniform([[-2], [-np.pi]], [[2], [np.pi]], (2, 3 * events))
    eta, phi = clump[:, event * 3 + rng.integers(0, 3, len(event))] + rng.normal(0, 0.4, (2, len(event)))
    charge = rng.choice((-1, 0, 0, 1), len(event)).astype(np.int8)
    pt = (rng.exponential(2, len(event)) + 0.1) * rng.choice((1, 1, 1, 1, 20), len(event))
    error = rng.uniform(0.03, 0.3, len(event))
    dz = rng.normal(0, error) * rng.choice((1, 1, 20), len(event))
    for index in np.flatnonzero(rng.random(len(event)) < 0.33):
        mine = vertices.z[vertices.event == event[index]]
        if len(mine):
            dz[index] += rng.choice(mine)
    nothing = np.zeros(len(event))
    vectors = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
    tracked = charge != 0
    return Candidates(
        event, *vectors, charge, charge, nothing, nothing, np.where(tracked, dz, 0), np.where(tracked, error, 0)
    ), vertices


def plain_association(dz: float, error: float, pt: float, places: list[float]) -> int:
    """Which of ``places`` a track comes from; -1 for the primary vertex, -2 for none."""
    if abs(dz) <= 3 * error:
        return -1
    near = [k for k in range(len(places)) if abs(places[k] - dz) <= 3 * error]
    if near:
        return min(near, key=lambda k: abs(places[k] - dz))
    return -1 if pt >= 20 else -2


def plain_weights(candidates: Candidates, vertices: Vertices) -> list[float]:
    """PUPPI by the words of its definition, particle by particle."""
    weights = [1.0] * len(candidates)
    eta = np.arcsinh(candidates.pz / np.hypot(candidates.px, candidates.py))
    phi, pt = np.arctan2(candidates.py, candidates.px), np.hypot(candidates.px, candidates.py)
    for event in range(int(candidates.event.max(initial=-1)) + 1):
        mine = [i for i in range(len(candidates)) if candidates.event[i] == event]
        places = [float(z) for z in vertices.z[vertices.event == event]]
        vertex = {
            i: plain_association(candidates.dz[i], candidates.dzerr[i], pt[i], places)
            for i in mine
            if candidates.charge[i]
        }
        if not any(of >= 0 for of in vertex.values()):
            continue
        alpha = {}
        for i in mine:
            total = 0.0
            for j, of in vertex.items():
                turn = abs(phi[i] - phi[j])
                distance = math.hypot(eta[i] - eta[j], min(turn, 2 * math.pi - turn))
                if of == -1 and j != i and 0.01 < distance < 0.4:
                    total += (pt[j] / distance) ** 2
            alpha[i] = math.log(total) if total else -math.inf
        soft = [alpha[i] for i, of in vertex.items() if of >= 0 and alpha[i] > -math.inf]
        median = float(np.median(soft)) if soft else 0.0
        left = [(value - median) ** 2 for value in soft if value <= median]
        sigma = math.sqrt(sum(left) / len(left)) if left else 0.0
        found = 1 + sum(sum(of == k for of in vertex.values()) >= 4 for k in range(len(places)))
        for i in mine:
            if candidates.charge[i] and vertex[i] > -2:
                weights[i] = float(vertex[i] == -1)
                continue
            above = alpha[i] - median
            weight = 0.0 if above <= 0 else float(chi2.cdf((above / sigma) ** 2, 1)) if sigma else 1.0
            if not candidates.charge[i]:
                weight = max(weight, min(max((pt[i] - 20) / 180, 0), 1))
            seen = candidates.charge[i] or weight * pt[i] >= 0.2 + 0.015 * found
            weights[i] = weight if weight >= 0.01 and seen else 0.0
    return weights


class TestPuppi:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32), st.integers(1, 6))
    def test_weights_are_those_of_the_definition(self, seed: int, events: int) -> None:
        candidates, vertices = random_event_record(seed, events)
        assert puppi_weights(candidates, vertices) == pytest.approx(plain_weights(candidates, vertices), abs=1e-9)

    def test_the_random_events_have_weights_of_every_kind(self) -> None:
        candidates, vertices = random_event_record(3, 100)
        weights = puppi_weights(candidates, vertices)
        neutral = weights[candidates.charge == 0]
        assert ((weights >= 0) & (weights <= 1)).all()
        assert {0.0, 1.0} < set(weights[candidates.charge != 0])
        assert min((neutral == 0).mean(), (neutral == 1).mean(), ((neutral > 0.02) & (neutral < 0.98)).mean()) > 0.02

    def test_without_pileup_nothing_is_taken_away(self) -> None:
        candidates, _ = random_event_record(1, 20)
        assert (puppi_weights(candidates, NO_PILEUP) == 1).all()

    def test_no_candidates_no_weights(self) -> None:
        candidates, vertices = random_event_record(1, 20)
        nothing = candidates.take(np.zeros(0, dtype=np.int64))
        assert len(puppi_weights(nothing, vertices)) == 0

    @pytest.mark.parametrize(
        ("dz", "error", "pt", "vertex"),
        [
            (0.1, 0.05, 1.0, -1),  # fits to the primary vertex
            (9.9, 0.05, 1.0, 1),  # to one of pileup
            (0.35, 0.2, 1.0, -1),  # to both
            (2.0, 0.05, 1.0, -2),  # to none
            (2.0, 0.05, 21.0, -1),  # to none, hard
            (2_900.0, 0.1, 1.0, -2),  # to one of another event
        ],
    )
    def test_a_track_belongs_to_the_vertex_that_it_fits_to(
        self, dz: float, error: float, pt: float, vertex: int
    ) -> None:
        one, zero, sign = np.ones(1), np.zeros(1), np.ones(1, dtype=np.int8)
        track = Candidates(np.array([1]), pt * one, zero, zero, pt * one, sign, sign, zero, zero, dz * one, error * one)
        vertices = Vertices(np.array([0, 1, 1, 2]), np.array([2_900.0, 10.0, 0.4, 2.0]))
        assert associate(track, vertices).tolist() == [vertex]


@pytest.fixture(scope="module")
def hard() -> Particles:
    return Generator(inclusive_qcd.QCD, 11, inclusive_qcd.soft_event_veto()).events(EVENTS)[0]


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_pool(12, 300)


class TestPileup:
    def test_interactions_are_poissonian_and_lie_along_the_beam_about_the_hard_ones(
        self, hard: Particles, pool: Pool
    ) -> None:
        particles, vertices = pool.overlay(hard, EVENTS, 25.0, np.random.default_rng(1))
        number = np.bincount(vertices.event, minlength=EVENTS)
        assert number.mean() == pytest.approx(25, abs=4 * np.sqrt(25 / EVENTS))
        assert number.var() == pytest.approx(25, rel=0.4)
        assert vertices.z.std() == pytest.approx(math.sqrt(2) * SIGMA_Z_MM, rel=0.1)
        # The vertices of an event share the distance of its hard one from the middle.
        middle = np.bincount(vertices.event, vertices.z, EVENTS) / np.maximum(number, 1)
        assert middle.std() == pytest.approx(SIGMA_Z_MM * math.sqrt(1 + 1 / 25), rel=0.2)
        assert np.array_equal(particles.px[: len(hard)], hard.px)
        assert np.array_equal(particles.z[: len(hard)], hard.z)

    def test_interactions_are_turned_and_mirrored_events_of_the_pool(self, hard: Particles, pool: Pool) -> None:
        richest = int(np.diff(pool.offsets).argmax())
        bounds = pool.offsets[richest : richest + 2]
        one = Pool(pool.particles.take(np.arange(*bounds)), bounds - bounds[0])
        particles, vertices = one.overlay(hard, EVENTS, 1.0, np.random.default_rng(1))
        count = len(one.particles)
        assert len(particles) == len(hard) + count * len(vertices.event)
        soft = particles.take(np.arange(len(hard), len(particles)))
        for name in ("pdg", "energy"):
            assert np.array_equal(getattr(soft, name), np.tile(getattr(one.particles, name), len(vertices.event)))
        for quantity in (np.hypot(soft.px, soft.py), np.hypot(soft.x, soft.y), np.abs(soft.pz)):
            assert quantity.reshape(-1, count).std(axis=0).max() < 1e-9 * max(1, quantity.max())
        angle = np.arctan2(soft.py, soft.px).reshape(-1, count)[:, 0]
        assert np.abs(np.exp(1j * angle).mean()) < 4 / math.sqrt(len(angle))
        assert 0.35 < (soft.pz.reshape(-1, count)[:, 0] > 0).mean() < 0.65
        # Tracks are displaced from their own vertex as they were.
        offset = np.abs(soft.z - np.repeat(vertices.z, count)).reshape(-1, count)
        assert np.abs(offset - np.abs(one.particles.z)).max() < 1e-6 * max(1, np.abs(one.particles.z).max())

    def test_pure_pileup_is_taken_away(self, hard: Particles, pool: Pool) -> None:
        nothing = hard.take(np.zeros(0, dtype=np.int64))
        particles, vertices = pool.overlay(nothing, EVENTS, 25.0, np.random.default_rng(2))
        candidates = detect(particles, np.random.default_rng(3))
        weights = puppi_weights(candidates, vertices)
        pt = np.hypot(candidates.px, candidates.py)
        for kind in (candidates.charge == 0, candidates.charge != 0):
            assert (pt * weights)[kind].sum() < 0.15 * pt[kind].sum()
            assert (weights[kind] == 0).mean() > 0.85

    def test_puppi_gives_the_jets_back(self, hard: Particles, pool: Pool) -> None:
        clean = detect(hard, np.random.default_rng(4))
        jets = cluster(clean, 300.0)
        jets = jets.select(np.abs(jets.eta) < 2)
        again = shifts(jets, detect(hard, np.random.default_rng(5)))
        particles, vertices = pool.overlay(hard, EVENTS, 25.0, np.random.default_rng(6))
        candidates = detect(particles, np.random.default_rng(7))
        weights = puppi_weights(candidates, vertices)
        bare, mended = shifts(jets, candidates), shifts(jets, candidates, weights)
        assert len(mended[0]) > 0.97 * len(jets.event)
        # Another look of the same detector shows what remains of the choice of jets above 300 GeV.
        pt, mass = (np.median(found) - np.median(reference) for found, reference in zip(mended, again, strict=True))
        assert abs(pt) < 0.04
        assert abs(mass) < 0.15 * np.median(mass_of(jets))
        raw_pt, raw_mass = (
            np.median(found) - np.median(reference) for found, reference in zip(bare, again, strict=True)
        )
        assert raw_pt > 0.04
        assert raw_mass > 2 * abs(mass)
        assert raw_mass > 0.25 * np.median(mass_of(jets))


def mass_of(jets: Jets) -> np.ndarray:
    return np.sqrt(np.maximum(jets.energy**2 - jets.px**2 - jets.py**2 - jets.pz**2, 0))


def shifts(jets: Jets, candidates: Candidates, weights: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Relative change of pt and change of mass [GeV] of the jets that are found again near where they were."""
    vector = {name: getattr(candidates, name) * weights for name in ("px", "py", "pz", "energy")}
    kept = np.flatnonzero(np.broadcast_to(np.asarray(weights) > 0, len(candidates)))
    other = cluster(replace(candidates, **vector).take(kept), 150.0)
    far = np.hypot(jets.eta[:, None] - other.eta, wrapped(jets.phi[:, None] - other.phi))
    far[jets.event[:, None] != other.event] = np.inf
    best = far.argmin(axis=1)
    found = far[np.arange(len(best)), best] < 0.4
    best = best[found]
    return other.pt[best] / jets.pt[found] - 1, mass_of(other)[best] - mass_of(jets)[found]


@pytest.fixture(scope="module")
def jets() -> pa.RecordBatch:
    return concatenate(list(AspenOpenJetsJets(seed=3).batches("QCD", 4, 250)))


@pytest.fixture(scope="module")
def crowded() -> pa.RecordBatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pileup, "POOL_EVENTS", 200)  # to be quick
        return concatenate(list(AspenOpenJetsJets(seed=3, pileup=25.0).batches("QCD", 4, 80)))


class TestJets:
    def test_the_selection_is_that_of_aspenopenjets(self, jets: pa.RecordBatch, crowded: pa.RecordBatch) -> None:
        for batch in (jets, crowded):
            assert batch.schema.equals(AspenOpenJetsSource().schema, check_metadata=True)
            batch.validate(full=True)
            pt, eta = (batch[name].to_numpy() for name in ("pt", "eta"))
            assert pt.min() > 300
            assert np.abs(eta).max() < 2.5
            assert batch["source_entry"].to_pylist() == list(range(len(batch)))

    def test_the_spectrum_falls_steeply(self, jets: pa.RecordBatch) -> None:
        pt = jets["pt"].to_numpy()
        near, next_to, far = (((pt > low) & (pt < low + 50)).sum() for low in (300, 350, 400))
        assert near > 1.5 * next_to > 1.5 * far
        # At 13 TeV the number above pt falls about like pt^-6 here.
        assert np.log(len(pt) / (pt > 400).sum()) / np.log(4 / 3) == pytest.approx(6, abs=1.5)

    def test_jets_of_a_collision_stand_together_by_pt_and_are_back_to_back(self, jets: pa.RecordBatch) -> None:
        event, index, pt = (jets[name].to_numpy() for name in ("event", "jet_index", "pt"))
        assert (np.diff(event) >= 0).all()
        assert set(jets["run"].to_pylist()) == {run_of(3)}
        assert set(jets["lumi"].to_pylist()) == {4}
        second = np.flatnonzero(index == 1)
        assert len(second) > 0.15 * len(index)
        assert (event[second] == event[second - 1]).all()
        assert (pt[second] <= pt[second - 1]).all()
        assert (index[1:][np.diff(event) > 0] == 0).all()
        assert len(set(jets["event_id"].to_pylist())) == len(set(event))
        phi = jets["phi"].to_numpy()
        assert np.median(np.abs(wrapped(phi[second] - phi[second - 1]))) > 2.8

    def test_collisions_of_two_seeds_are_told_apart(self) -> None:
        runs = [run_of(seed) for seed in range(-1, 1000)]
        assert len(set(runs)) == len(runs)
        assert 0 < min(runs) <= max(runs) < 2**31

    def test_files_of_two_seeds_make_one_corpus(self, tmp_path: Path) -> None:
        pytest.importorskip("pythia8mc")
        files = [
            file
            for seed in (1, 2)
            for file in write_raw(AspenOpenJetsJets(seed), "aspenopenjets", tmp_path / f"{seed}", 5)
        ]
        corpus = build(AspenOpenJetsSource(), files, tmp_path / "corpus")
        assert sum(split.records for split in corpus.manifest.splits.values()) == 10

    def test_without_pileup_all_weights_are_1(self, jets: pa.RecordBatch) -> None:
        assert (records.points_of(jets, "puppi_weight") == 1).all()

    def test_weights_multiply_the_four_vectors(self, crowded: pa.RecordBatch) -> None:
        weight, charge = records.points_of(crowded, "puppi_weight"), records.points_of(crowded, "charge")
        assert (weight[charge != 0] == 1).mean() > 0.9  # the others, soft ones above all, fit to no vertex
        assert ((weight > 0) & (weight <= 1)).all()
        assert 0.05 < (weight[charge == 0] < 0.9).mean() < 0.8
        lengths = records.lengths_of(crowded["constituents"])
        jet = np.repeat(np.arange(len(crowded)), lengths)
        pt, dphi = records.points_of(crowded, "pt").astype(float), records.points_of(crowded, "dphi")
        total = np.hypot(np.bincount(jet, pt * np.cos(dphi)), np.bincount(jet, pt * np.sin(dphi)))
        assert total == pytest.approx(crowded["pt"].to_numpy(), rel=1e-5)
        assert crowded["pt_constituents"].equals(crowded["pt"])

    def test_only_tracks_have_impact_parameters(self, crowded: pa.RecordBatch) -> None:
        charge = records.points_of(crowded, "charge")
        for name in ("d0", "d0err", "dz", "dzerr"):
            assert np.array_equal(np.isnan(records.points_of(crowded, name)), charge == 0)
        # Pileup is told away by its z: what is left lies within a few mm, but for decays in flight.
        assert (np.abs(records.points_of(crowded, "dz")[charge != 0]) < 3).mean() > 0.9

    def test_a_longer_sequence_begins_with_the_same_jets(self, jets: pa.RecordBatch) -> None:
        fewer = concatenate(list(AspenOpenJetsJets(seed=3).batches("QCD", 4, 60)))
        assert fewer.equals(jets.slice(0, 60))

    @pytest.mark.slow
    def test_sequences_are_independent_and_deterministic_with_pileup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pileup, "POOL_EVENTS", 50)
        first, again, other = (
            concatenate(list(AspenOpenJetsJets(pileup=25.0).batches("QCD", number, 40))) for number in (0, 0, 1)
        )
        assert first.equals(again)
        assert not set(first["pt"].to_pylist()) & set(other["pt"].to_pylist())

    @pytest.mark.parametrize("pileup", [-1.0, math.nan, math.inf, 1e4])
    def test_impossible_pileup_is_refused(self, pileup: float) -> None:
        with pytest.raises(HepfmError, match="--pileup: must be between 0 and 200"):
            AspenOpenJetsJets(pileup=pileup).check()


class TestFiles:
    def test_records_come_back_from_an_aspenopenjets_file(self, crowded: pa.RecordBatch, tmp_path: Path) -> None:
        write_aspenopenjets(tmp_path / "jets.h5", [crowded], "applied")
        source = AspenOpenJetsSource()
        back = source.read(tmp_path / "jets.h5", 0, source.entries(tmp_path / "jets.h5"))
        assert len(back) == len(crowded)
        for name in ("run", "lumi", "event", "event_id", "jet_index", "source_entry", "pt", "eta", "softdrop_mass"):
            assert back[name].equals(crowded[name]), name
        for name in ("phi", "pt_constituents", "tau1", "tau2", "tau3", "tau4"):
            assert back[name].to_numpy() == pytest.approx(crowded[name].to_numpy(), rel=1e-5, abs=1e-6), name
        assert back["mass"].to_numpy() == pytest.approx(crowded["mass"].to_numpy(), rel=1e-3, abs=0.05)
        assert np.array_equal(records.lengths_of(back["constituents"]), records.lengths_of(crowded["constituents"]))
        for name in ("charge", "species", "puppi_weight"):
            assert np.array_equal(records.points_of(back, name), records.points_of(crowded, name)), name
        for name in ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr"):
            found, expected = records.points_of(back, name), records.points_of(crowded, name)
            assert found == pytest.approx(expected, rel=1e-5, abs=2e-6, nan_ok=True), name

    def test_a_corpus_is_exported_collision_by_collision(self, tmp_path: Path) -> None:
        corpus = simulate_corpus(AspenOpenJetsJets(seed=2), tmp_path / "corpus", 40, Layout((1.0, 0.0, 0.0)))
        assert puppi_of(corpus) == "applied"
        path = tmp_path / "files/train/000000.h5"
        export(corpus, "aspenopenjets", tmp_path / "files", ["train"])
        back = AspenOpenJetsSource().read(path, 0, 40)
        original = concatenate(list(corpus.split("train")))
        order = np.lexsort((original["jet_index"].to_numpy(), original["event"].to_numpy()))
        for name in ("event", "jet_index", "pt", "eta", "softdrop_mass"):
            assert np.array_equal(back[name].to_numpy(), original[name].to_numpy()[order]), name
        lengths = records.lengths_of(original["constituents"])
        assert np.array_equal(records.lengths_of(back["constituents"]), lengths[order])

    def test_settings_name_what_shapes_the_records(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = AspenOpenJetsJets().settings()
        assert before["puppi"] == "apply"
        assert AspenOpenJetsJets(pileup=3).settings() != before
        monkeypatch.setattr(puppi, "R0", 0.3)
        assert AspenOpenJetsJets().settings() != before
