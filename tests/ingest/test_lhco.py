"""LHC Olympics: events to anti-kt jets, columns called px that hold pt, features of the same events."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jets_of_sources import built, check_ranges, label_names, point_lists, read_all, same
from lhco_events import features_of, flat, leading_jets, make_events, momenta, write
from pandas_layout import write_fixed, write_table

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, values_of
from hepfm.ingest.formats.lhco import FEATURES
from hepfm.ingest.sources import lhco
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.lhco import LhcOlympicsSource
from hepfm.ingest.tally import Tally

SOURCE = LhcOlympicsSource()
CUT = "events with 2 jets above 20 GeV"
EVENTS, LABEL = make_events(60, 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lhco") / "events_anomalydetection_v2.h5"
    return write(path, EVENTS, LABEL, chunks=(7, 2101), compression="gzip")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lhco") / "events_anomalydetection_v2.features.h5"
    return write_fixed(path, "df", [(FEATURES, features_of(EVENTS)), (["label"], LABEL[:, None].astype(int))])


def test_jets_are_those_of_fastjet_event_by_event(good: Path) -> None:
    tally = Tally()
    batch = read_all(SOURCE, good, tally=tally)
    assert tally.flow == {CUT: 60}
    entries, ranks = (values_of(batch.column(name)) for name in ("source_entry", "jet_index"))
    assert entries.tolist() == np.repeat(np.arange(60), 2).tolist()
    assert np.array_equal(entries, values_of(batch.column("event_id")))
    assert ranks.tolist() == [0, 1] * 60
    names = ("pt", "eta", "phi", "mass")
    columns = {name: np.asarray(batch.column(name)) for name in names}
    points = {name: point_lists(batch, name) for name in ("pt", "deta", "dphi", "energy")}
    for number, (entry, rank) in enumerate(zip(entries, ranks, strict=True)):
        jet, members = leading_jets(EVENTS[entry])[rank]
        assert np.isclose(columns["pt"][number], jet.perp(), rtol=1e-6)
        assert np.isclose(columns["eta"][number], jet.eta(), atol=1e-5)
        assert np.isclose(columns["phi"][number], jet.phi_std(), atol=1e-5)
        assert np.isclose(columns["mass"][number], jet.m(), rtol=1e-4, atol=1e-3)
        pt, eta, phi = EVENTS[entry][members].T
        order = np.argsort(-pt)
        assert np.allclose(points["pt"][number], pt[order], rtol=1e-6)
        assert np.allclose(points["energy"][number], (pt * np.cosh(eta))[order], rtol=1e-5)
        assert np.allclose(points["deta"][number], eta[order] - jet.eta(), atol=1e-5)
        turned = (phi[order] - jet.phi_std() + np.pi) % (2 * np.pi) - np.pi
        assert np.allclose(points["dphi"][number], turned, atol=1e-5)
    assert np.array_equal(batch.column("pt"), batch.column("pt_constituents"))
    assert label_names(batch) == [["QCD", "signal"][int(LABEL[entry])] for entry in entries]


@pytest.mark.parametrize(("radius", "jets"), [(0.4, 2), (0.8, 1), (0.4, 3)])
def test_radius_and_number_of_jets_can_be_chosen(good: Path, radius: float, jets: int) -> None:
    tally = Tally()
    source = LhcOlympicsSource(radius=radius, jets=jets).bind([good])
    batch = read_all(source, good, tally=tally)
    expected = [leading_jets(event, radius) for event in EVENTS]
    enough = [number for number, found in enumerate(expected) if len(found) >= jets]
    assert tally.flow == {f"events with {jets} jets above 20 GeV": len(enough)}
    assert values_of(batch.column("event_id")).tolist() == np.repeat(enough, jets).tolist()
    pt = np.asarray(batch.column("pt")).reshape(-1, jets)
    assert np.allclose(pt, [[jet.perp() for jet, _ in expected[number][:jets]] for number in enough], rtol=1e-6)


def test_events_with_fewer_jets_are_left_out_and_counted(tmp_path: Path) -> None:
    events = EVENTS[:6].copy()
    events[1, 1:] = 0  # one particle
    events[1, 0] = 500, 0.1, 1.0
    events[3] = 0  # none at all
    events[4, :, 0] *= 1e-3  # no jet above 20 GeV
    path = write(tmp_path / "a.h5", events, LABEL[:6])
    tally = Tally()
    batch = read_all(SOURCE, path, tally=tally)
    assert values_of(batch.column("event_id")).tolist() == [0, 0, 2, 2, 5, 5]
    assert tally.flow == {CUT: 3}
    tally = Tally()
    assert len(SOURCE.read(path, 3, 5, tally)) == 0
    assert tally.flow == {CUT: 0}


def test_a_jet_of_one_massless_particle_has_no_mass(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    events = np.zeros((200, 700, 3))
    events[:, 0] = np.stack([rng.uniform(500, 3000, 200), rng.normal(0, 2, 200), np.full(200, 0.3)], axis=1)
    events[:, 1] = np.stack([rng.uniform(30, 400, 200), rng.normal(0, 2, 200), np.full(200, -2.7)], axis=1)
    batch = read_all(SOURCE, write(tmp_path / "a.h5", events, np.zeros(200)))
    mass = np.asarray(batch.column("mass"))
    assert len(mass) == 400
    assert (lengths_of(batch.column("constituents")) == 1).all()
    assert ((mass >= 0) & (mass < 1e-3)).all()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_ranges_give_the_same_jets(good: Path, cuts: list[int]) -> None:
    check_ranges(SOURCE, good, cuts)


def test_any_number_of_events_at_a_time_gives_the_same_jets(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_all(SOURCE, good)
    monkeypatch.setattr(lhco, "PIECE_EVENTS", 7)
    tally = Tally()
    assert read_all(SOURCE, good, tally=tally).equals(whole)
    assert tally.flow == {CUT: 60}
    check_ranges(SOURCE, good, [3, 10, 21, 59])


class TestLayouts:
    def expected(self, good: Path) -> pa.RecordBatch:
        return read_all(SOURCE, good)

    def test_table_format_with_labels_of_their_own(self, good: Path, tmp_path: Path) -> None:
        path = write_table(tmp_path / "events.h5", "Particles", flat(EVENTS), LABEL[:, None].astype(np.int64))
        assert LhcOlympicsSource.recognises(contents(path))
        assert read_all(SOURCE, path).equals(self.expected(good))

    def test_named_columns(self, good: Path, tmp_path: Path) -> None:
        names = [f"{kind}{number}" for number in range(700) for kind in ("pt", "eta", "phi")]
        path = write_fixed(tmp_path / "a.h5", "df", [([*names, "label"], flat(EVENTS, LABEL))])
        assert read_all(SOURCE, path).equals(self.expected(good))

    def test_columns_wherever_they_stand(self, good: Path, tmp_path: Path) -> None:
        names = [f"{kind}{number}" for number in range(700) for kind in ("pt", "eta", "phi")]
        label, ids = LABEL[:, None], np.arange(60)[:, None]
        layouts: list[list[tuple[Any, np.ndarray]]] = [
            [(["label", *names], np.column_stack([label, flat(EVENTS)]))],
            [(["label"], label.astype(bool)), (names, flat(EVENTS))],
            [(["id"], ids), (["label"], label.astype(np.float32)), (names, flat(EVENTS))],
            [([*FEATURES, *names, "label"], np.column_stack([features_of(EVENTS), flat(EVENTS), label]))],
            [([*range(2100), "label"], flat(EVENTS, LABEL))],  # a label given to a frame of numbered columns
            [([*range(2100)], flat(EVENTS)), (["label"], label.astype(int))],
        ]
        for number, blocks in enumerate(layouts):
            path = write_fixed(tmp_path / f"{number}.h5", "events", blocks)
            assert LhcOlympicsSource.recognises(contents(path))
            assert read_all(SOURCE.bind([path]), path).equals(self.expected(good)), number

    def test_names_of_a_table_are_read_without_unpickling(self, good: Path, tmp_path: Path) -> None:
        values = np.concatenate([LABEL[:, None], flat(EVENTS), features_of(EVENTS)], axis=1)
        path = write_table(tmp_path / "a.h5", "df", values, names=[["label", *PX_NAMES, *FEATURES]])
        batch = read_all(LhcOlympicsSource(features=path).bind([path]), path)
        assert batch.select(SOURCE.schema.names).equals(self.expected(good))
        assert np.allclose(batch.column("tau2"), [0.2, 1.2] * 60)

    def test_a_column_that_is_not_read_is_told(self, tmp_path: Path, capsys: Any) -> None:
        names = [f"{kind}{number}" for number in range(700) for kind in ("pt", "eta", "phi")]
        path = write_fixed(tmp_path / "a.h5", "df", [([*names, "is_signal"], flat(EVENTS, LABEL))])
        assert set(label_names(read_all(SOURCE.bind([path]), path))) == {None}
        assert "a.h5: not read: is_signal" in capsys.readouterr().err

    def test_without_labels(self, tmp_path: Path) -> None:
        path = write(tmp_path / "black_box.h5", EVENTS, None)
        assert LhcOlympicsSource.recognises(contents(path))
        assert set(label_names(read_all(SOURCE, path))) == {None}
        for unlabelled, label in (("background", "QCD"), ("signal", "signal")):
            source = LhcOlympicsSource(unlabelled=unlabelled)  # type: ignore[arg-type]
            assert set(label_names(read_all(source, path))) == {label}

    def test_labels_in_the_file_are_not_overruled(self, good: Path) -> None:
        source = LhcOlympicsSource(unlabelled="signal", signal_label="W_qq")
        assert label_names(read_all(source, good)) == [["QCD", "W_qq"][int(label)] for label in LABEL.repeat(2)]

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_of_either_precision(self, good: Path, tmp_path: Path, kind: Any) -> None:
        path = write_fixed(tmp_path / "a.h5", "df", [(None, flat(EVENTS, LABEL).astype(kind))])
        ours, expected = (np.asarray(batch.column("mass")) for batch in (read_all(SOURCE, path), self.expected(good)))
        assert np.allclose(ours, expected, rtol=1e-3)

    def test_no_pickle_is_loaded(self, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        read_all(SOURCE.bind([good]), good)
        assert list(tmp_path.iterdir()) == []


PX_NAMES = [f"{kind}{number}" for number in range(700) for kind in ("px", "py", "pz")]


class TestPxIsPt:
    """The extra QCD sample: columns px0, py0, pz0, ... hold pt, eta, phi; 14 features follow; no label."""

    @pytest.fixture
    def extra(self, tmp_path: Path) -> Path:
        values = np.concatenate([flat(EVENTS), features_of(EVENTS)], axis=1)
        return write_fixed(tmp_path / "qcd_extra.h5", "df", [([*PX_NAMES, *FEATURES], values)])

    def test_numbers_are_believed_and_names_are_not(self, extra: Path, good: Path, capsys: Any) -> None:
        source = LhcOlympicsSource(unlabelled="background").bind([extra])
        assert "qcd_extra.h5: columns are called px, py, pz but hold pt, eta, phi" in capsys.readouterr().err
        batch, expected = read_all(source, extra), read_all(SOURCE, good)
        assert LhcOlympicsSource.recognises(contents(extra))
        for name in ("constituents", "pt", "eta", "phi", "mass"):
            assert batch.column(name).equals(expected.column(name))
        assert set(label_names(batch)) == {"QCD"}

    def test_what_are_momenta_is_read_as_momenta(self, tmp_path: Path, good: Path, capsys: Any) -> None:
        path = write_fixed(tmp_path / "a.h5", "df", [(PX_NAMES, flat(momenta(EVENTS)))])
        batch, expected = read_all(SOURCE.bind([path]), path), read_all(SOURCE, good)
        assert capsys.readouterr().err == ""
        assert np.array_equal(lengths_of(batch.column("constituents")), lengths_of(expected.column("constituents")))
        for name in ("pt", "eta", "phi", "mass"):
            assert np.allclose(batch.column(name), expected.column(name), rtol=1e-4, atol=1e-3), name

    def test_unnamed_momenta_as_well(self, tmp_path: Path, good: Path) -> None:
        batch = read_all(SOURCE, write(tmp_path / "a.h5", momenta(EVENTS), LABEL))
        assert np.allclose(batch.column("pt"), read_all(SOURCE, good).column("pt"), rtol=1e-5)

    def test_neither_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="neither pt, eta, phi nor px, py, pz"):
            SOURCE.entries(write(tmp_path / "a.h5", np.abs(momenta(EVENTS)), LABEL))

    def test_a_bad_particle_does_not_make_transverse_momenta_momenta(self, good: Path, tmp_path: Path) -> None:
        events = EVENTS.copy()
        events[5, 2, 0] *= -1
        tally = Tally(on_bad="skip")
        batch = read_all(SOURCE, write(tmp_path / "a.h5", events, LABEL), tally=tally)
        assert [(rejected.entry, rejected.what) for rejected in tally.rejected] == [(5, "a particle has negative pt")]
        others = np.delete(np.arange(120), [10, 11])
        assert batch.column("pt").equals(read_all(SOURCE, good).column("pt").take(pa.array(others)))

    @pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
    def test_numbers_in_another_order_are_refused(self, tmp_path: Path, order: tuple[int, ...]) -> None:
        with pytest.raises(HepfmError, match="neither pt, eta, phi nor px, py, pz"):
            SOURCE.entries(write(tmp_path / "a.h5", EVENTS[:, :, order], LABEL))

    def test_padding_with_minus_one_is_refused(self, tmp_path: Path) -> None:
        events = EVENTS.copy()
        events[(events == 0).all(axis=2)] = -1
        with pytest.raises(HepfmError, match="neither pt, eta, phi nor px, py, pz"):
            SOURCE.entries(write(tmp_path / "a.h5", events, LABEL))

    def test_tev_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"at most [\d.]+ GeV of transverse momentum \(is the unit GeV"):
            SOURCE.entries(write(tmp_path / "a.h5", EVENTS * [1e-3, 1, 1], LABEL))

    def test_its_own_features(self, extra: Path) -> None:
        batch = read_all(LhcOlympicsSource(features=extra).bind([extra]), extra)
        assert np.allclose(np.asarray(batch.column("tau1")).reshape(60, 2)[:, 0], 0.3 + np.arange(60))


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"radius": 0.0}, "--radius: must"), ({"jets": 0}, "--jets: must"), ({"signal_label": "QCD"}, "--signal-label")],
)
def test_impossible_settings(good: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(HepfmError, match=match):
        replace(SOURCE, **changes).bind([good])


def test_a_corpus_keeps_the_jets_of_an_event_together(good: Path, features: Path, tmp_path: Path) -> None:
    source = LhcOlympicsSource(features=features)
    corpus, table = built(source, [good], tmp_path / "corpus")
    assert corpus.manifest.labels == ("QCD", "signal")
    assert corpus.manifest.provenance["settings"]["features"] == source.bind([good]).features_sha256
    assert same(table, read_all(source.bind([good]), good))
    for name in corpus.splits():
        events = np.concatenate([values_of(batch.column("event_id")) for batch in corpus.split(name)])
        assert (np.unique(events, return_counts=True)[1] == 2).all()


def test_the_source_can_be_sent_to_another_process(good: Path, features: Path) -> None:
    source = LhcOlympicsSource(features=features, signal_label="X").bind([good])
    sent = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert sent == source
    assert (sent.labels, sent.schema) == (source.labels, source.schema)
    assert read_all(sent, good).equals(read_all(source, good))


def test_an_event_that_comes_twice_is_found(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SOURCE.keys(good)
    assert len(np.unique(keys)) == 60
    monkeypatch.setattr("hepfm.ingest.formats.lhco.KEY_EVENTS", 7)
    assert np.array_equal(SOURCE.keys(good), keys)
    events = EVENTS.copy()
    events[41] = events[3]
    events[[50, 51]] = 0  # no repetition of anything
    path = write(tmp_path / "twice.h5", events, LABEL)
    assert len(np.unique(SOURCE.keys(path))) == 59
    with pytest.raises(HepfmError, match=r"entry 41: came before"):
        built(SOURCE, [path], tmp_path / "corpus")


def test_cuts_come_in_the_same_order_from_every_range(good: Path) -> None:
    flows = []
    for start, stop in ((0, 0), (0, 60), (59, 60)):
        tally = Tally()
        SOURCE.read(good, start, stop, tally)
        flows.append(list(tally.flow))
    assert flows == [[CUT]] * 3
    assert lhco.MIN_JET_PT_GEV == 20
