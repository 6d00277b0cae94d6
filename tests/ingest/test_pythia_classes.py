"""The ten simulated classes: what they decay to, how near they are to JetClass, and that other tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot

from hepfm.core import records
from hepfm.ingest.formats import jetclass
from hepfm.ingest.simulate.detector import detect
from hepfm.ingest.simulate.jets import cluster, in_acceptance, matched
from hepfm.ingest.simulate.particles import SPECIES
from hepfm.ingest.simulate.processes import LABELS, process_for
from hepfm.ingest.simulate.pythia import Generator, require_pythia
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.ten_classes import JetClassJets
from hepfm.ingest.simulate.veto import early_veto
from hepfm.ingest.sources.jetclass import JetClassSource

REAL = Path(__file__).parents[3] / "shared" / "data" / "jetclass"
JETS = 400

pytest.importorskip("pythia8mc")


def test_all_classes_of_jetclass_are_simulated_in_its_order() -> None:
    assert LABELS == jetclass.LABELS


class TestEvents:
    def test_hqql_has_two_quarks_and_a_lepton_of_either_charge(self) -> None:
        generator = Generator(process_for("Hqql"), 4)
        found = []
        for _ in range(2):
            particles, partons = generator.events(12)
            _, count = np.unique(partons.resonance, return_counts=True)
            assert set(count) == {3}
            hard = particles.take(
                np.isin(np.abs(particles.pdg), (11, 13)) & (np.hypot(particles.px, particles.py) > 40)
            )
            found.append(np.sign(hard.pdg).mean())
        # Each batch has the lepton of one charge (others come from decays of hadrons).
        assert found[0] > 0.5
        assert found[1] < -0.5

    @pytest.mark.parametrize(("label", "products"), [("Tbl", 2), ("Tbqq", 3), ("H4q", 4)])
    def test_visible_decay_products(self, label: str, products: int) -> None:
        _, partons = Generator(process_for(label), 4).events(12)
        _, count = np.unique(partons.resonance, return_counts=True)
        assert set(count) == {products}


@pytest.mark.slow
@pytest.mark.parametrize("label", ["QCD", "Tbl", "Hqql"])
def test_events_given_up_early_would_hardly_have_given_jets(label: str) -> None:
    verdicts: list[bool] = []
    process = process_for(label)
    hook = early_veto(require_pythia(), process)
    decide = hook.doVetoPT

    def note(place: int, record: Any) -> bool:
        if place <= 3:
            verdicts.append(decide(place, record))
        return False

    hook.doVetoPT = note
    generator, draws = Generator(process, 7, hook), np.random.default_rng(1)
    jets_of, given_up = [], []
    for _ in range(4):
        verdicts.clear()
        particles, partons = generator.events(200)
        assert len(verdicts) == 200
        jets = cluster(detect(particles, draws))
        jets = jets.select(in_acceptance(jets))
        if process.products:
            jets = jets.select(matched(jets, partons, process.products))
        jets_of.append(np.bincount(jets.event, minlength=200))
        given_up.append(np.array(verdicts))
    jets_of_event, gone = np.concatenate(jets_of), np.concatenate(given_up)
    assert gone.mean() > 0.3
    assert jets_of_event[gone].sum() <= 0.03 * jets_of_event.sum() + 1


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ten") / "raw"
    write_raw(JetClassJets(3), "jetclass", out, JETS)
    return out


def read(folder: Path, label: str) -> pa.RecordBatch:
    (path,) = folder.glob(f"{label}_*.root")
    source = JetClassSource()
    return source.read(path, 0, source.entries(path))


@pytest.mark.slow
class TestClasses:
    @pytest.mark.parametrize("label", LABELS)
    def test_every_class_gives_its_jets(self, ten: Path, label: str) -> None:
        batch = read(ten, label)
        assert len(batch) == JETS
        assert set(batch.column("label").to_pylist()) == {label}
        pt, eta = (batch.column(name).to_numpy() for name in ("pt", "eta"))
        assert ((pt > 500) & (pt < 1000) & (np.abs(eta) < 2)).all()

    @pytest.mark.parametrize(("label", "least", "most"), [("Hqql", 0.85, 1.0), ("Tbl", 0.85, 1.0), ("Wqq", 0.0, 0.1)])
    def test_leptonic_classes_have_a_hard_lepton(self, ten: Path, label: str, least: float, most: float) -> None:
        batch = read(ten, label)
        hard = records.points_of(batch, "pt") > 20
        lepton = np.isin(records.points_of(batch, "species"), [SPECIES["electron"], SPECIES["muon"]])
        jet = np.repeat(np.arange(JETS), records.lengths_of(batch.column("constituents")))
        assert least <= len(np.unique(jet[hard & lepton])) / JETS <= most

    def test_median_masses_are_those_of_real_jets(self, ten: Path) -> None:
        if not REAL.exists():
            pytest.skip(f"needs {REAL}")
        vectors, labels = (np.load(REAL / f"jetclass_500_{name}.npy") for name in ("pfVectors", "labels"))
        vectors = vectors * np.load(REAL / "jetclass_500_pfMask.npy")
        draws = np.random.default_rng(1)
        pulls = []
        for number, label in enumerate(LABELS):
            total = vectors[labels.argmax(1) == number].sum(axis=2, dtype=np.float64)
            real = np.sqrt(total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1))
            ours = read(ten, label).column("mass").to_numpy()
            errors = [np.std(np.median(draws.choice(mass, (300, len(mass))), axis=1)) for mass in (real, ours)]
            pulls.append((np.median(ours) - np.median(real)) / np.hypot(*errors))
        # Were the distributions equal, the largest of ten would be beyond 2 in 4 of 10 samples, beyond 2.8 in 1 of 20.
        assert np.abs(pulls).max() < 2.8
        assert np.sqrt(np.mean(np.square(pulls))) < 1.35


# What weaver-core is given: the inputs of arXiv:2202.03772 with their constants, a selection, and an observer.
WEAVER = """
selection: (jet_pt > 500) & (jet_pt < 1000)
treename: tree
new_variables:
  part_mask: ak.ones_like(part_energy)
  part_pt: np.hypot(part_px, part_py)
  part_pt_log: np.log(part_pt)
  part_e_log: np.log(part_energy)
  part_logptrel: np.log(part_pt / jet_pt)
  part_logerel: np.log(part_energy / jet_energy)
  part_deltaR: np.hypot(part_deta, part_dphi)
  part_d0: np.tanh(part_d0val)
  part_dz: np.tanh(part_dzval)
preprocess: {method: manual, data_fraction: 0.5}
inputs:
  pf_features:
    length: 128
    pad_mode: wrap
    vars:
      - [part_pt_log, 1.7, 0.7]
      - [part_e_log, 2.0, 0.7]
      - [part_logptrel, -4.7, 0.7]
      - [part_logerel, -4.7, 0.7]
      - [part_deltaR, 0.2, 4.0]
      - [part_charge, null]
      - [part_isChargedHadron, null]
      - [part_isNeutralHadron, null]
      - [part_isPhoton, null]
      - [part_isElectron, null]
      - [part_isMuon, null]
      - [part_d0, null]
      - [part_d0err, 0, 1, 0, 1]
      - [part_dz, null]
      - [part_dzerr, 0, 1, 0, 1]
      - [part_deta, null]
      - [part_dphi, null]
  pf_vectors:
    length: 128
    pad_mode: wrap
    vars: [[part_px, null], [part_py, null], [part_pz, null], [part_energy, null]]
  pf_mask:
    length: 128
    pad_mode: constant
    vars: [[part_mask, null]]
labels:
  type: simple
  value: [label_QCD, label_Hbb, label_Hcc, label_Hgg, label_H4q, label_Hqql, label_Zqq, label_Wqq, label_Tbqq,
          label_Tbl]
observers: [jet_pt, jet_eta, jet_phi, jet_energy, jet_nparticles, jet_sdmass, jet_tau1, jet_tau2, jet_tau3, jet_tau4]
"""


def expected_features(batch: pa.RecordBatch) -> np.ndarray:
    """The 17 features (N, 17) of all constituents, from the records and not from the branches."""
    lengths = records.lengths_of(batch.column("constituents"))
    names = ("pt", "energy", "deta", "dphi", "charge", "species", "d0", "d0err", "dz", "dzerr")
    pt, energy, deta, dphi, charge, species, d0, d0err, dz, dzerr = (
        np.nan_to_num(np.asarray(records.points_of(batch, name), dtype=np.float64)) for name in names
    )
    jet_pt, jet_eta, mass = (batch.column(name).to_numpy().astype(float) for name in ("pt", "eta", "mass"))
    jet_energy = np.repeat(np.sqrt((jet_pt * np.cosh(jet_eta)) ** 2 + mass**2), lengths)
    jet_pt, sign = np.repeat(jet_pt, lengths), np.repeat(np.where(jet_eta > 0, 1, -1), lengths)
    scaled = [
        (np.log(pt) - 1.7) * 0.7,
        (np.log(energy) - 2.0) * 0.7,
        (np.log(pt / jet_pt) + 4.7) * 0.7,
        (np.log(energy / jet_energy) + 4.7) * 0.7,
        (np.hypot(deta, dphi) - 0.2) * 4.0,
    ]
    flags = [species == SPECIES[name] for name in ("charged_hadron", "neutral_hadron", "photon", "electron", "muon")]
    impact = [np.tanh(d0), np.clip(d0err, 0, 1), np.tanh(dz), np.clip(dzerr, 0, 1)]
    return np.stack(
        [*(np.clip(values, -5, 5) for values in scaled), charge, *flags, *impact, deta * sign, dphi], axis=1
    )


@pytest.mark.slow
def test_weaver_reads_the_files_with_its_own_loader_for_jetclass(ten: Path, tmp_path: Path) -> None:
    dataset = pytest.importorskip("weaver.utils.dataset")
    from torch.utils.data import DataLoader

    settings = tmp_path / "jetclass.yaml"
    settings.write_text(WEAVER)
    paths = sorted(ten.glob("*.root"))
    jets = dataset.SimpleIterDataset(
        {"jets": [str(path) for path in paths]}, str(settings), for_training=False, fetch_by_files=True, fetch_step=1
    )
    loaded = list(DataLoader(jets, batch_size=64))
    mask, features, vectors = (
        np.concatenate([inputs[name] for inputs, _, _ in loaded]).transpose(0, 2, 1)
        for name in ("pf_mask", "pf_features", "pf_vectors")
    )
    mask = mask[..., 0] > 0
    order = [path.stem.split("_")[0] for path in paths]
    batches = [read(ten, label) for label in order]
    lengths = np.concatenate([records.lengths_of(batch.column("constituents")) for batch in batches])
    assert mask.sum(axis=1).tolist() == lengths.tolist()
    assert np.allclose(features[mask], np.concatenate([expected_features(batch) for batch in batches]), atol=2e-4)
    pt = np.concatenate([records.points_of(batch, "pt") for batch in batches])
    assert np.allclose(np.hypot(*vectors[mask].T[:2]), pt, rtol=1e-4)
    classes = np.concatenate([next(iter(target.values())) for _, target, _ in loaded])
    assert classes.tolist() == np.repeat([LABELS.index(label) for label in order], JETS).tolist()
    for name in ("tau2", "softdrop_mass"):
        branch = {"tau2": "jet_tau2", "softdrop_mass": "jet_sdmass"}[name]
        seen = np.concatenate([observers[branch] for _, _, observers in loaded])
        assert np.allclose(seen, np.concatenate([batch.column(name).to_numpy() for batch in batches]), rtol=1e-5)


@pytest.mark.slow
def test_the_files_have_the_branches_of_jetclass_and_one_counter(ten: Path) -> None:
    with uproot.open(next(ten.glob("QCD_*.root"))) as file:
        tree = file["tree"]
        assert set(tree.keys()) == {*jetclass.BRANCHES, jetclass.COUNTER}
        lengths = ak.num(tree["part_px"].array()).tolist()
        assert tree["jet_nparticles"].array().tolist() == lengths
        assert tree[jetclass.COUNTER].array().tolist() == lengths
