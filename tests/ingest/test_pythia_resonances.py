"""Simulated JetClass-II: names of jets by what is in them, resonances of the masses that were drawn, and all labels."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.jetclass2 import GENERATOR_SCHEMA, LABELS, write_jetclass2
from hepfm.ingest.simulate.generator_level import generator_jets, resonance_columns
from hepfm.ingest.simulate.jetclass2_jets import PARTS, JetClass2Jets
from hepfm.ingest.simulate.jets import Jets
from hepfm.ingest.simulate.particles import Particles, Products, Quarks
from hepfm.ingest.simulate.qcd_labels import qcd_labels
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.resonance_events import draw_events, four_prong_modes, two_body, two_prong_modes
from hepfm.ingest.simulate.resonance_labels import KINDS, kinds_of, products_of, resonance_labels
from hepfm.ingest.simulate.straight import Layout, simulate_corpus
from hepfm.ingest.sources.jetclass2 import JetClass2Source

SAMPLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "jetclass2" / "JetClassII_example.parquet"
RESONANT = [label for label in LABELS if label.startswith("X_")]
TWO_PRONG = [label for label in RESONANT if not label.startswith("X_YY_")]
QCD = [label for label in LABELS if label.startswith("QCD_")]


def one_jet(events: int = 1, eta: float = 0.0, phi: float = 3.1) -> Jets:
    """A jet in each event, at the same place."""
    one = np.ones(events)
    return Jets(
        np.arange(events),
        *(one * component for component in (np.cos(phi), np.sin(phi), np.sinh(eta), np.cosh(eta))),
        np.arange(events + 1),
        np.arange(events),
    )


def label_of(inside: list[str], outside: list[str]) -> str | None:
    """The label of a jet of one resonance: products that lie 0.3 from its axis, and others that lie 0.9 from it."""
    names = inside + outside
    phi = 3.1 + np.array([0.3] * len(inside) + [0.9] * len(outside))  # on both sides of pi
    nothing = np.zeros(len(names), dtype=int)
    kinds = np.array([KINDS.index(name) for name in names])
    labels, sources = resonance_labels(one_jet(), Products(nothing, nothing, kinds, 0.0 * phi, phi))
    assert (labels[0] < 0) == (sources[0] < 0)
    return None if labels[0] < 0 else LABELS[labels[0]]


def lost_product_of(label: str) -> list[str]:
    """What a resonance of which this is the label may have lost: nothing, or one more product."""
    products = products_of(label)
    return [] if not label.startswith("X_YY_") or len(products) == 4 else ["q"]


class TestResonanceNames:
    @pytest.mark.parametrize("label", RESONANT)
    def test_every_label_is_a_list_of_products_that_leads_back_to_it(self, label: str) -> None:
        products = list(products_of(label))
        prefix = "X_YY_" if label.startswith("X_YY_") else "X_"
        assert prefix + "".join(products) == label
        lost = lost_product_of(label)
        assert len(products + lost) == (4 if prefix == "X_YY_" else 2)
        for order in permutations(products):
            assert label_of(list(order), lost) == label

    @given(st.lists(st.sampled_from(KINDS[:-1]), min_size=2, max_size=4).filter(lambda names: len(names) != 3))
    def test_a_name_spells_what_is_in_the_jet_and_nothing_else(self, products: list[str]) -> None:
        label = label_of(products, [])
        if label is not None:
            assert Counter(products_of(label)) == Counter(products)
            assert label.startswith("X_YY_") == (len(products) == 4)

    @pytest.mark.parametrize(
        ("inside", "outside", "label"),
        [
            (["b", "b"], [], "X_bb"),
            (["b"], ["b"], None),
            (["tauh", "tauh"], [], "X_tauhtauh"),
            (["taue", "tauh"], [], "X_tauhtaue"),
            (["taue", "taum"], [], None),
            (["q", "c", "b", "b"], [], "X_YY_bbcq"),
            (["b", "c", "b"], ["q"], "X_YY_bbc"),
            (["b", "b"], ["c", "q"], None),
            (["b", "b"], ["b", "b"], None),  # two of four are not X -> bb
            (["b", "b", "e"], ["e"], "X_YY_bbe"),
            (["b", "b", "tauh"], ["tauh"], None),
            (["b", "tauh", "tauh"], ["b"], "X_YY_btauhtauh"),
            (["e", "e", "m", "m"], [], None),
            (["s", "c", "m"], ["v"], "X_YY_csmv"),  # a neutrino may be anywhere
            (["s", "c", "m", "v"], [], "X_YY_csmv"),
            (["s", "c", "v"], ["m"], None),
            (["s", "m", "v"], ["c"], None),
            (["q", "q", "tauh"], ["v"], "X_YY_qqtauhv"),
            (["q", "q", "taue"], ["v"], "X_YY_qqtauev"),
        ],
    )
    def test_products_beyond_the_radius_are_missing(
        self, inside: list[str], outside: list[str], label: str | None
    ) -> None:
        assert label_of(inside, outside) == label

    def test_of_two_resonances_the_first_that_gives_a_label_counts(self) -> None:
        kinds = np.array([KINDS.index(name) for name in "ccssbbqq"])
        resonance = np.array([0, 0, 1, 1, 2, 2, 3, 3])
        event = np.array([0, 0, 0, 0, 0, 0, 2, 2])
        phi = np.array([0.0, 1.0, 0.1, 0.2, 0.0, 0.1, 0.0, 0.0])
        labels, sources = resonance_labels(one_jet(4, phi=0.0), Products(event, resonance, kinds, 0 * phi, phi))
        assert [LABELS[label] if label >= 0 else None for label in labels] == ["X_ss", None, "X_qq", None]
        assert sources.tolist() == [1, -1, 3, -1]

    def test_the_real_jets_are_named_as_the_rules_name_them(self) -> None:
        if not SAMPLE.exists():
            pytest.skip(f"{SAMPLE} is not there")
        import pyarrow.parquet as pq

        rows = [row for row in pq.read_table(SAMPLE).to_pylist() if LABELS[row["jet_label"]].startswith("X_")]
        named = [(name_of_real_jet(row), LABELS[row["jet_label"]]) for row in rows]
        wrong = [pair for pair in named if pair[0] != pair[1]]
        assert len(named) == 79
        assert not wrong


def aux(row: dict, flag: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chosen = np.array(row[f"aux_genpart_is{flag}"], dtype=bool)
    pid, eta, phi = (np.array(row[f"aux_genpart_{name}"])[chosen] for name in ("pid", "eta", "phi"))
    return pid.astype(int), eta, phi


def jet_of(row: dict) -> Jets:
    pt, eta, phi = (row[f"jet_{name}"] for name in ("pt", "eta", "phi"))
    px, py, pz, energy = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), row["jet_energy"]
    return Jets(np.zeros(1, int), *(np.array([x]) for x in (px, py, pz, energy)), np.arange(2), np.arange(1))


def name_of_real_jet(row: dict) -> str | None:
    """The label by our rules; the lists name the products, and after them those of the taus, tau by tau."""
    pid, eta, phi = aux(row, "ResDecayProd")
    from_taus = np.abs(aux(row, "TauDecayProd")[0])
    kinds = kinds_of(pid)
    taus = np.flatnonzero(np.abs(pid) == 15)
    starts = np.flatnonzero(from_taus == 16)
    assert len(starts) == len(taus)
    for tau, decay in zip(taus, np.split(from_taus, starts[1:]), strict=True) if len(taus) else ():
        kinds[tau] = KINDS.index("taue" if 11 in decay else "taum" if 13 in decay else "tauh")
    nothing = np.zeros(len(pid), dtype=int)
    label = resonance_labels(jet_of(row), Products(nothing, nothing, kinds, eta, phi))[0][0]
    return LABELS[label] if label >= 0 else None


def quarks(pdg: list[int], pt: list[float] | None = None, phi: list[float] | None = None) -> Quarks:
    nothing = np.zeros(len(pdg))
    return Quarks(
        nothing.astype(int),
        np.array(pdg, dtype=int),
        np.array(pt or [50.0] * len(pdg)),
        nothing,
        np.array(phi or [3.0] * len(pdg)),
    )


class TestQcdNames:
    @given(st.tuples(*[st.integers(0, 4)] * 3), st.randoms(use_true_random=False))
    def test_quarks_of_each_flavour_are_counted_up_to_two(self, counts: tuple[int, ...], random) -> None:
        flavours = [(-1) ** k * pdg for pdg, count in zip((5, 4, 3), counts, strict=True) for k in range(count)]
        flavours += [1, -2]
        random.shuffle(flavours)
        spelled = "".join(name * min(count, 2) for name, count in zip("bcs", counts, strict=True))
        assert LABELS[qcd_labels(one_jet(), quarks(flavours))[0]] == f"QCD_{spelled or 'light'}"

    def test_the_names_are_the_27_of_the_data_set(self) -> None:
        found = {
            LABELS[qcd_labels(one_jet(), quarks([5] * b + [4] * c + [3] * s))[0]] for b, c, s in np.ndindex(3, 3, 3)
        }
        assert found == set(QCD)

    def test_soft_and_distant_quarks_and_those_of_other_events_do_not_count(self) -> None:
        given_quarks = quarks([5, -5, 4, 3], [9.9, 10.1, 500.0, 30.0], [3.0, -3.1, 3.1 - 0.81, 3.1 - 0.79])
        assert LABELS[qcd_labels(one_jet(), given_quarks)[0]] == "QCD_bs"
        assert [LABELS[label] for label in qcd_labels(one_jet(3), given_quarks)] == ["QCD_bs", *["QCD_light"] * 2]

    def test_the_real_jets_are_named_as_the_rule_names_them(self) -> None:
        if not SAMPLE.exists():
            pytest.skip(f"{SAMPLE} is not there")
        import pyarrow.parquet as pq

        named = []
        for row in pq.read_table(SAMPLE).to_pylist():
            if LABELS[row["jet_label"]].startswith("QCD_"):
                pid, eta, phi = aux(row, "QcdParton")
                pt = np.array(row["aux_genpart_pt"])[np.array(row["aux_genpart_isQcdParton"], dtype=bool)]
                assert (pt > 10).all()
                found = qcd_labels(jet_of(row), Quarks(np.zeros(len(pid), int), pid, pt, eta, phi))
                named.append((LABELS[found[0]], LABELS[row["jet_label"]]))
        assert len(named) == 21
        assert all(ours == theirs for ours, theirs in named)


def mass_of(events: dict[str, np.ndarray], which: np.ndarray) -> np.ndarray:
    total = [np.where(which, events[name], 0).sum(axis=1) for name in ("px", "py", "pz", "energy")]
    return np.sqrt(np.maximum(total[3] ** 2 - total[0] ** 2 - total[1] ** 2 - total[2] ** 2, 0))


class TestHardEvents:
    @pytest.mark.parametrize(("modes", "prongs"), [(two_prong_modes(), 2), (four_prong_modes(), 4)])
    def test_momentum_charge_and_colour_are_kept_at_every_decay(self, modes: tuple, prongs: int) -> None:
        events = draw_events(modes, 3_000, np.random.default_rng(1))
        thirds = np.zeros(40, dtype=int)
        thirds[[1, 2, 3, 4, 5, 11, 13, 15, 37]] = [-1, 2, -1, 2, -1, -3, -3, -3, 3]
        charge = thirds[np.abs(events["id"])] * np.sign(events["id"])
        assert events["id"].shape == (3_000, 4 + 2 * (prongs if prongs == 2 else 6))
        mother = events["mother1"][0]
        assert (events["mother1"] == mother).all()
        for parent in (number for number in range(3, events["id"].shape[1] + 1) if (mother == number).any()):
            mine = mother == parent
            for name in ("px", "py", "pz", "energy"):
                assert np.allclose(events[name][:, mine].sum(axis=1), events[name][:, parent - 1], atol=1e-6)
            assert (charge[:, mine].sum(axis=1) == charge[:, parent - 1]).all()
            assert (np.sort(events["colour"][:, mine]) == np.sort(events["anticolour"][:, mine])).all()
        coloured = np.isin(np.abs(events["id"]), (1, 2, 3, 4, 5, 21))
        assert ((events["colour"] + events["anticolour"] > 0) == coloured).all()
        assert (charge[:, 2:4].sum(axis=1) == 0).all()
        for number in (3, 4):
            which = np.broadcast_to(np.arange(events["id"].shape[1]) == number - 1, events["id"].shape)
            assert np.allclose(mass_of(events, which), events["mass"][:, number - 1], atol=1e-3)

    def test_masses_are_free_in_their_ranges(self) -> None:
        two = draw_events(two_prong_modes(), 20_000, np.random.default_rng(2))
        mass = two["mass"][:, 2:4]
        assert 15 <= mass.min() < 16
        assert 495 < mass.max() <= 500
        hard = mass[two["scale"] > 1_000]
        filled = np.histogram(hard, bins=10, range=(15, 500))[0] / len(hard) / 2
        assert np.abs(filled - 0.1).max() < 0.01  # flat where nothing limits it
        assert (mass <= 0.5 * two["scale"][:, None] + 1e-9).all()
        four = draw_events(four_prong_modes(), 20_000, np.random.default_rng(3))
        x, y1, y2 = four["mass"][:, 2], four["mass"][:, 4], four["mass"][:, 5]
        assert set(np.unique(np.abs(four["id"][:, [4, 5]]))) == {35, 37}
        assert (y1 + y2 <= x + 1e-9).all()
        assert min(y1.min(), y2.min()) >= 10
        assert abs(np.isclose(y1, y2).mean() - 0.5) < 0.02
        assert np.corrcoef(y1, y2)[0, 1] < 0.99

    def test_scalars_decay_isotropically(self) -> None:
        count = 50_000
        parent = np.tile([30.0, -40.0, 120.0, np.sqrt(30**2 + 40**2 + 120**2 + 90**2)], (count, 1))
        mass = np.full(count, 90.0)
        one, other = two_body(parent, mass, mass / 9, mass / 30, np.random.default_rng(4))
        assert np.allclose(one + other, parent)
        invariant = np.sqrt(one[:, 3] ** 2 - (one[:, :3] ** 2).sum(axis=1))
        assert np.allclose(invariant, 10.0, atol=1e-6)
        # In the rest frame the cosine to the direction of flight is flat, which makes the energy flat.
        energy = (one[:, 3] - one[:, 3].min()) / np.ptp(one[:, 3])
        assert np.abs(np.histogram(energy, bins=10, range=(0, 1))[0] / count - 0.1).max() < 0.006

    def test_all_resonant_labels_can_come(self) -> None:
        assert set().union(*(mode.labels for mode in two_prong_modes())) == set(TWO_PRONG)
        assert set().union(*(mode.labels for mode in four_prong_modes())) == set(RESONANT) - set(TWO_PRONG)


class TestGeneratorLevel:
    def test_the_nearest_generated_jet_is_taken_and_neutrinos_are_not_in_it(self) -> None:
        # Event 0: two hard particles, 0.3 and 1.0 from the jet, a neutrino beside the first. Event 1: nothing near.
        phi = np.array([0.3, -1.0, 0.3, 2.0])
        pt = np.array([300.0, 900.0, 500.0, 400.0])
        event, zero = np.array([0, 0, 0, 1]), np.zeros(4)
        momenta = (pt * np.cos(phi), pt * np.sin(phi), zero, pt)
        particles = Particles(event, np.array([211, 211, 14, 22]), *momenta, zero, zero, zero)
        columns, known = generator_jets(one_jet(2, phi=0.0), particles)
        assert known["generator_jet_pt"].tolist() == [True, False]
        assert columns["generator_jet_pt"] == pytest.approx([300.0, 0.0])
        assert columns["generator_jet_phi"] == pytest.approx([0.3, 0.0])

    def test_no_jets_no_columns(self) -> None:
        none, zero = one_jet(0), np.zeros(0)
        columns, _ = generator_jets(none, Particles(np.zeros(0, int), *[zero] * 8))
        assert {len(column) for column in columns.values()} == {0}
        truth, known = resonance_columns((), np.zeros(0, int))
        assert set(truth) == set(known)


def simulated(part: str, jets: int, seed: int = 1, keep: tuple[str, ...] = ()) -> pa.RecordBatch:
    simulation = JetClass2Jets(seed, (part,), keep)
    simulation.check()
    batches = list(simulation.batches(part, 0, jets))
    assert all(batch.schema.equals(GENERATOR_SCHEMA) for batch in batches)
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


@pytest.fixture(scope="module")
def samples() -> dict[str, pa.RecordBatch]:
    pytest.importorskip("pythia8mc")
    return {part: simulated(part, 120) for part in PARTS}


class TestSimulated:
    def test_jets_are_in_the_acceptance(self, samples: dict[str, pa.RecordBatch]) -> None:
        for batch in samples.values():
            assert len(batch) == 120
            pt, eta = (batch.column(name).to_numpy() for name in ("pt", "eta"))
            assert ((pt > 200) & (pt < 2_500) & (np.abs(eta) < 2.5)).all()
            assert pt.min() < 350
            assert pt.max() > 1_000
            assert batch.column("source_entry").to_pylist() == list(range(120))

    def test_each_part_has_its_labels(self, samples: dict[str, pa.RecordBatch]) -> None:
        names = {part: set(batch.column("label").to_pylist()) for part, batch in samples.items()}
        assert names["Res2P"] <= set(TWO_PRONG)
        assert len(names["Res2P"]) > 10
        assert names["Res34P"] <= set(RESONANT) - set(TWO_PRONG)
        assert len(names["Res34P"]) > 40
        assert names["QCD"] | names["QCDFlavour"] <= set(QCD)
        assert len(names["QCDFlavour"]) > len(names["QCD"])

    def test_resonances_are_there_where_the_label_says_so(self, samples: dict[str, pa.RecordBatch]) -> None:
        for part, batch in samples.items():
            known = [batch.column(f"resonance_{name}_mass").null_count == 0 for name in ("x", "y1", "y2")]
            assert known == {"Res2P": [True, False, False], "Res34P": [True] * 3}.get(part, [False] * 3)
        four = samples["Res34P"]
        x, y1, y2 = (four.column(f"resonance_{name}_mass").to_numpy() for name in ("x", "y1", "y2"))
        assert ((x >= 25) & (x <= 500) & (y1 + y2 <= x + 1e-2)).all()
        pt1, pt2 = (four.column(f"resonance_{name}_pt").to_numpy() for name in ("y1", "y2"))
        assert (pt1 >= pt2).all()
        labels = np.array(four.column("label").to_pylist())
        charged = np.array([label[-1] == "v" for label in labels])
        ids = np.abs(np.stack([four.column(f"resonance_{name}_pdg_id").to_numpy() for name in ("y1", "y2")]))
        assert (ids[:, charged] == 37).all()
        assert (ids[:, np.isin(labels, ["X_YY_bbgg", "X_YY_ccee", "X_YY_gggg"])] == 35).all()

    def test_the_generated_jet_of_two_prongs_has_the_mass_of_the_resonance(
        self, samples: dict[str, pa.RecordBatch]
    ) -> None:
        batch = samples["Res2P"]
        seen = ~np.isin(batch.column("label").to_pylist(), ["X_tauhtaue", "X_tauhtaum", "X_tauhtauh"])
        ratio = batch.column("generator_jet_mass").to_numpy()[seen] / batch.column("resonance_x_mass").to_numpy()[seen]
        assert 0.95 < np.median(ratio) < 1.15
        assert np.mean((ratio > 0.7) & (ratio < 1.5)) > 0.7
        deta = batch.column("eta").to_numpy() - batch.column("resonance_x_eta").to_numpy()
        assert np.median(np.abs(deta)) < 0.1

    def test_leptonic_labels_hold_their_leptons(self, samples: dict[str, pa.RecordBatch]) -> None:
        batch = samples["Res2P"]
        labels = batch.column("label").to_pylist()
        species = batch.column("constituents")
        for label, name in (("X_ee", "electron"), ("X_mm", "muon")):
            jets = [species[i].as_py() for i, found in enumerate(labels) if found == label]
            assert jets
            leading = [jet[0]["species"] == name for jet in jets]
            assert np.mean(leading) > 0.7

    def test_a_longer_sequence_begins_with_the_same_jets_and_others_are_other_jets(
        self, samples: dict[str, pa.RecordBatch]
    ) -> None:
        again = simulated("Res2P", 20)
        assert again.equals(samples["Res2P"].slice(0, 20))
        assert not simulated("Res2P", 20, seed=2).column("pt").equals(again.column("pt"))

    def test_labels_can_be_chosen(self) -> None:
        pytest.importorskip("pythia8mc")
        batch = simulated("Res34P", 30, keep=("X_YY_bbg", "X_YY_sqev", "QCD_b"))
        assert set(batch.column("label").to_pylist()) == {"X_YY_bbg", "X_YY_sqev"}
        assert JetClass2Jets(keep=("X_bb", "QCD_b")).streams == ("Res2P", "QCD", "QCDFlavour")

    def test_raw_files_give_the_records_back(self, samples: dict[str, pa.RecordBatch], tmp_path: Path) -> None:
        [file] = write_raw(JetClass2Jets(1, ("Res34P",)), "jetclass2", tmp_path / "raw", 40)
        assert file.name == "Res34P_000.parquet"
        again = tmp_path / "QCD.parquet"
        write_jetclass2(again, [samples["QCD"]])
        source = JetClass2Source(generator=True)
        for path, made in ((file, samples["Res34P"].slice(0, 40)), (again, samples["QCD"])):
            read = source.read(path, 0, source.entries(path))
            assert read.schema.equals(made.schema)
            for name in ("label", "pt", "eta", "softdrop_mass", "tau3", "generator_jet_pt", "resonance_y2_mass"):
                assert read.column(name).to_pylist() == made.column(name).to_pylist()
            for name in ("deta", "dphi", "d0", "d0err", "energy"):
                ours, theirs = (records.points_of(batch, name) for batch in (read, made))
                assert np.allclose(ours, theirs, rtol=1e-5, atol=2e-6, equal_nan=True)

    def test_a_corpus_is_made_straight(self, tmp_path: Path) -> None:
        pytest.importorskip("pythia8mc")
        corpus = simulate_corpus(JetClass2Jets(1, ("Res2P",)), tmp_path / "corpus", 30, Layout((1, 0, 0)))
        assert corpus.manifest.splits["train"].records == 30


class TestRequests:
    @pytest.mark.parametrize(
        ("parts", "keep", "told"),
        [
            (("Res5P",), (), "Res5P.*Res34P"),
            (("QCD", "QCD"), (), "only once"),
            ((), (), "at least one"),
            (("QCD",), ("X_YY_bbcs",), "no label 'X_YY_bbcs'"),
            (("QCD",), ("X_bb",), "at least one part that has"),
        ],
    )
    def test_impossible_ones_are_refused_before_work(
        self, parts: tuple[str, ...], keep: tuple[str, ...], told: str
    ) -> None:
        with pytest.raises(HepfmError, match=told):
            JetClass2Jets(1, parts, keep).check()

    def test_without_pythia_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pythia8mc", None)
        with pytest.raises(HepfmError, match=r"hepfm\[simulate\]"):
            JetClass2Jets().check()

    def test_a_sequence_is_the_same_whatever_other_parts_are_asked_for(self) -> None:
        pytest.importorskip("pythia8mc")
        one, other = JetClass2Jets(parts=("QCD",)), JetClass2Jets()
        assert one.identity("QCD", 3) == other.identity("QCD", 3) != other.identity("QCDFlavour", 3)
        assert one.identity("QCD", 3) != JetClass2Jets(seed=2).identity("QCD", 3)

    @pytest.mark.parametrize(("part", "label"), [("QCD", "QCD_light"), ("Res34P", "X_YY_bbbb")])
    def test_what_has_another_identity_has_other_jets(self, part: str, label: str) -> None:
        whole, some = JetClass2Jets(parts=(part,)), JetClass2Jets(parts=(part,), keep=(label, "X_bb"))
        assert whole.identity(part, 0) != some.identity(part, 0)
        # Labels that a part cannot have, and their order, change nothing.
        assert some.identity(part, 0) == JetClass2Jets(keep=("X_cc", label)).identity(part, 0)
        few, fewer = (simulated(part, 20, keep=keep).column("pt").to_pylist() for keep in ((), (label,)))
        assert not set(few) & set(fewer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "jets", "least"), [("Res2P", 600, 15), ("Res34P", 3_000, 135), ("QCDFlavour", 3_000, 27)]
)
def test_the_labels_of_a_part_appear(part: str, jets: int, least: int) -> None:
    pytest.importorskip("pythia8mc")
    assert len(set(simulated(part, jets, seed=4).column("label").to_pylist())) >= least
