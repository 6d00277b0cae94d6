"""LHC Olympics: events to anti-kt jets, columns called px that hold pt, features of the same events."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastjet
import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jets_of_sources import built, check_ranges, label_names, point_lists, read_all, same, truncated
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


def make_events(n: int, seed: int, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Dijet events (n, 700, 3) of pt, eta, phi, zero-padded, and labels (n,)."""
    rng = np.random.default_rng(seed)
    events = np.zeros((n, 700, 3))
    for event in range(n):
        count = rng.integers(20, most + 1)
        side = rng.integers(0, 2, count)
        axis = rng.uniform(-np.pi, np.pi)
        phi = axis + np.pi * side + rng.normal(0, 0.3, count)
        events[event, :count, 0] = rng.exponential(60, count)
        events[event, :count, 1] = rng.normal(np.array([0.5, -0.7])[side], 0.3)
        events[event, :count, 2] = (phi + np.pi) % (2 * np.pi) - np.pi
    return events, rng.integers(0, 2, n).astype(np.float64)


def momenta(events: np.ndarray) -> np.ndarray:
    pt, eta, phi = np.moveaxis(events, 2, 0)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=2)


def leading_jets(event: np.ndarray, radius: float = 1.0) -> list[tuple[fastjet.PseudoJet, np.ndarray]]:
    """Jets of one event by fastjet's own interface, and indices of their particles."""
    particles = []
    for index, (px, py, pz) in enumerate(momenta(event[None])[0]):
        if event[index].any():
            particle = fastjet.PseudoJet(px, py, pz, float(np.sqrt(px * px + py * py + pz * pz)))
            particle.set_user_index(index)
            particles.append(particle)
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = fastjet.sorted_by_pt(sequence.inclusive_jets(20.0))
    # Their momenta are copied: they do not outlive the sequence.
    return [
        (
            fastjet.PseudoJet(jet.px(), jet.py(), jet.pz(), jet.e()),
            np.array([p.user_index() for p in jet.constituents()]),
        )
        for jet in jets
    ]


def flat(events: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    rows = events.reshape(len(events), 2100)
    return rows if label is None else np.column_stack([rows, label])


def write(path: Path, events: np.ndarray, label: np.ndarray | None, **how: Any) -> Path:
    """As events_anomalydetection_v2.h5: one block of numbered columns, the last the label."""
    return write_fixed(path, "df", [(None, flat(events, label))], **how)


def features_of(events: np.ndarray) -> np.ndarray:
    """What a features file holds of each event (n, 14)."""
    rows = []
    for number, event in enumerate(events):
        row: list[float] = []
        for index, (jet, _) in enumerate(leading_jets(event)[:2]):
            row += [jet.px(), jet.py(), jet.pz(), jet.m(), 0.3 + number, 0.2 + index, 0.1]
        rows.append(row + [0.0] * (14 - len(row)))
    return np.array(rows)


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

    def test_its_own_features(self, extra: Path) -> None:
        batch = read_all(LhcOlympicsSource(features=extra).bind([extra]), extra)
        assert np.allclose(np.asarray(batch.column("tau1")).reshape(60, 2)[:, 0], 0.3 + np.arange(60))


class TestFeatures:
    def test_subjettiness_is_added_to_the_jets_it_belongs_to(self, good: Path, features: Path) -> None:
        source = LhcOlympicsSource(features=features).bind([good])
        batch, plain = read_all(source, good), read_all(SOURCE, good)
        assert {"tau1", "tau2", "tau3"} == set(batch.schema.names) - set(plain.schema.names)
        assert all(batch.column(name).equals(plain.column(name)) for name in plain.schema.names)
        assert np.allclose(batch.column("tau1"), 0.3 + np.arange(60).repeat(2))
        assert np.allclose(batch.column("tau2"), [0.2, 1.2] * 60)
        check_ranges(source, good, [7, 30, 31])

    def test_jets_of_nearly_equal_pt_may_be_swapped(self, good: Path, tmp_path: Path) -> None:
        values = features_of(EVENTS)
        values[4] = np.concatenate([values[4, 7:], values[4, :7]])
        other = write_fixed(tmp_path / "f.h5", "df", [(FEATURES, values)])
        batch = read_all(LhcOlympicsSource(features=other).bind([good]), good)
        assert np.allclose(batch.column("tau2"), [0.2, 1.2] * 60)  # each jet has its own, whatever its place

    def test_events_that_disagree_are_refused(self, good: Path, tmp_path: Path) -> None:
        values = features_of(EVENTS)
        values[5, 2] += 10
        values[9, 7:10] *= 1.01
        other = write_fixed(tmp_path / "f.h5", "df", [(FEATURES, values)])
        source = LhcOlympicsSource(features=other).bind([good])
        with pytest.raises(HepfmError, match="entry 5: its jets are not those of the features file"):
            read_all(source, good)
        tally = Tally(on_bad="skip")
        batch = read_all(source, good, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == [5, 9]
        assert not {5, 9} & set(values_of(batch.column("event_id")))
        assert len(batch) == 116

    def test_features_in_another_order_are_of_other_events(self, good: Path, tmp_path: Path) -> None:
        other = write_fixed(tmp_path / "f.h5", "df", [(FEATURES, features_of(EVENTS)[::-1])])
        with pytest.raises(HepfmError, match=r"of the first 60 events are not those of events_anomaly.*right one"):
            LhcOlympicsSource(features=other).bind([good])

    def test_features_of_fewer_events(self, good: Path, tmp_path: Path) -> None:
        other = write_fixed(tmp_path / "f.h5", "df", [(FEATURES, features_of(EVENTS[:50]))])
        with pytest.raises(HepfmError, match=r"has 50 events, events_anomalydetection_v2\.h5 has 60"):
            LhcOlympicsSource(features=other).bind([good])

    def test_they_are_for_one_file_two_jets_and_radius_one(self, good: Path, features: Path) -> None:
        for source, files in (
            (LhcOlympicsSource(features=features), [good, good]),
            (LhcOlympicsSource(features=features, jets=1), [good]),
            (LhcOlympicsSource(features=features, radius=0.8), [good]),
        ):
            with pytest.raises(HepfmError, match="one file of events, 2 jets and radius 1"):
                source.bind(files)

    def test_the_settings_hold_their_checksum(self, good: Path, features: Path) -> None:
        bound = LhcOlympicsSource(features=features).bind([good])
        assert re.fullmatch("[0-9a-f]{64}", bound.settings()["features_sha256"])
        assert "features" not in bound.settings()  # where they lie does not matter

    def test_a_features_file_alone_says_what_it_is_for(self, features: Path) -> None:
        assert LhcOlympicsSource.recognises(contents(features))
        with pytest.raises(HepfmError, match=r"jet features, no particles \(.*--features"):
            SOURCE.entries(features)

    def test_a_particle_file_has_no_features(self, good: Path) -> None:
        with pytest.raises(HepfmError, match="no columns pxj1"):
            LhcOlympicsSource(features=good).bind([good])


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"radius": 0.0}, "--radius: must"), ({"jets": 0}, "--jets: must"), ({"signal_label": "QCD"}, "--signal-label")],
)
def test_impossible_settings(good: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(HepfmError, match=match):
        replace(SOURCE, **changes).bind([good])


class TestBad:
    def refused(self, events: np.ndarray, label: np.ndarray, match: str, entries: list[int], folder: Path) -> None:
        path = write(folder / "a.h5", events, label)
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(SOURCE, path)
        assert f"{path}, entry {entries[0]}" in str(caught.value)
        tally = Tally(on_bad="skip")
        batch = read_all(SOURCE, path, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == entries
        kept = sorted({*range(len(events))} - {*entries})
        assert values_of(batch.column("event_id")).tolist() == np.repeat(kept, 2).tolist()
        assert tally.flow[CUT] == len(kept)
        # The other events' jets are what they are without the bad ones.
        others = read_all(SOURCE, write(folder / "b.h5", events[kept], label[kept]))
        assert batch.column("constituents").equals(others.column("constituents"))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("column", [0, 1, 2])
    def test_what_is_not_finite_is_never_clustered(self, tmp_path: Path, value: float, column: int) -> None:
        events = EVENTS[:12].copy()
        events[5, 2, column] = value
        self.refused(events, LABEL[:12], "a particle is not finite", [5], tmp_path)

    def test_another_label(self, tmp_path: Path) -> None:
        label = LABEL[:12].copy()
        label[[2, 8]] = 2, np.nan
        self.refused(EVENTS[:12], label, "label is neither 0 nor 1", [2, 8], tmp_path)

    @pytest.mark.parametrize(
        ("column", "value", "match"), [(0, -3.0, "negative pt"), (1, 40.0, "impossible eta"), (2, 7.0, "or phi")]
    )
    def test_impossible_particles(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: int, value: float, match: str
    ) -> None:
        monkeypatch.setattr("hepfm.ingest.formats.lhco.LOOKED_AT_EVENTS", 4)
        events = EVENTS[:12].copy()
        events[6, 3, column] = value
        self.refused(events, LABEL[:12], match, [6], tmp_path)

    @pytest.mark.parametrize("width", [5, 2099, 2102])
    def test_another_number_of_columns(self, tmp_path: Path, width: int) -> None:
        path = write_fixed(tmp_path / "a.h5", "df", [(None, np.ones((4, width)))])
        assert not LhcOlympicsSource.recognises(contents(path))
        with pytest.raises(HepfmError, match=f"has {width} columns"):
            SOURCE.entries(path)

    def test_columns_in_another_order(self, tmp_path: Path) -> None:
        names = [f"{kind}{number}" for kind in ("px", "py", "pz") for number in range(700)]
        with pytest.raises(HepfmError, match="its column 1 is called 'px1'"):
            SOURCE.entries(write_fixed(tmp_path / "a.h5", "df", [(names, flat(EVENTS))]))

    def test_labels_of_another_number_of_rows(self, good: Path, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            del file["df/axis1"]
            file["df/axis1"] = np.arange(59)
        with pytest.raises(HepfmError, match=r"is \(60, 2101\), its labels are for \(59, 2101\)"):
            SOURCE.entries(path)

    def test_pickled_columns(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("df/block0_values", (1,), dtype=h5py.vlen_dtype(np.uint8))
        with pytest.raises(HepfmError, match="holds more than numbers"):
            SOURCE.entries(tmp_path / "a.h5")

    def test_no_events(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="has no events"):
            SOURCE.entries(write(tmp_path / "a.h5", EVENTS[:0], LABEL[:0]))
        with pytest.raises(HepfmError, match="first 256 events have no particles"):
            SOURCE.entries(write(tmp_path / "b.h5", 0 * EVENTS[:9], LABEL[:9]))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
    def test_truncated(self, good: Path, share: float) -> None:
        with pytest.raises(HepfmError, match="truncated or damaged"):
            read_all(SOURCE, truncated(good, share))

    def test_a_chunk_that_is_damaged(self, good: Path, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r") as file:
            chunk = file["df/block0_values"].id.get_chunk_info(3)
        with path.open("r+b") as raw:
            raw.seek(chunk.byte_offset + chunk.size // 2)
            raw.write(b"\x55" * 40)
        with pytest.raises(HepfmError, match=r"rows .* cannot be decoded .*fetch it again"):
            read_all(SOURCE, path)


def blosc_file(path: Path) -> Path:
    """A file whose one chunk claims to be compressed with Blosc, as PyTables does it."""
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group["axis1"], group["block0_items"] = np.arange(4), np.arange(2101)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 2101))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 8, 4 * 2101 * 8, 5, 1, 0))
        space = h5py.h5s.create_simple((4, 2101))
        data = h5py.h5d.create(group.id, b"block0_values", h5py.h5t.IEEE_F64LE, space, plist)
        data.write_direct_chunk((0, 0), b"\x02\x01\x33\x08" + bytes(60))
    return path


def test_without_its_filter_a_file_in_blosc_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepfm.ingest.formats.hdf5_rows.h5z.filter_avail", lambda code: code != 32001)
    path = blosc_file(tmp_path / "a.h5")
    assert LhcOlympicsSource.recognises(contents(path))
    with pytest.raises(HepfmError, match=r"compressed with .*32001.*\(pip install hdf5plugin\)"):
        SOURCE.entries(path)


def test_files_in_blosc_can_be_read_with_its_filter(good: Path, tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="needs hdf5plugin")
    how = hdf5plugin.Blosc(cname="blosclz", clevel=5)
    path = write(tmp_path / "a.h5", EVENTS, LABEL, chunks=(7, 2101), compression=how)
    assert read_all(SOURCE, path).equals(read_all(SOURCE, good))


def test_a_corpus_keeps_the_jets_of_an_event_together(good: Path, features: Path, tmp_path: Path) -> None:
    source = LhcOlympicsSource(features=features)
    corpus, table = built(source, [good], tmp_path / "corpus")
    assert corpus.manifest.labels == ("QCD", "signal")
    assert corpus.manifest.provenance["settings"]["features_sha256"] == source.bind([good]).features_sha256
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


def test_cuts_come_in_the_same_order_from_every_range(good: Path) -> None:
    flows = []
    for start, stop in ((0, 0), (0, 60), (59, 60)):
        tally = Tally()
        SOURCE.read(good, start, stop, tally)
        flows.append(list(tally.flow))
    assert flows == [[CUT]] * 3
    assert lhco.MIN_JET_PT_GEV == 20
