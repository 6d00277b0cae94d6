"""LHC Olympics: features of the same events, and files that are bad or compressed with Blosc."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from jets_of_sources import check_ranges, read_all, truncated
from lhco_events import features_of, flat, make_events, write
from pandas_layout import write_fixed

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.formats.lhco import FEATURES
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
        assert re.fullmatch("[0-9a-f]{64}", bound.settings()["features"])

    def test_a_features_file_alone_says_what_it_is_for(self, features: Path) -> None:
        assert LhcOlympicsSource.recognises(contents(features))
        with pytest.raises(HepfmError, match=r"jet features, no particles \(.*--features"):
            SOURCE.entries(features)

    def test_a_particle_file_has_no_features(self, good: Path) -> None:
        with pytest.raises(HepfmError, match="no columns pxj1"):
            LhcOlympicsSource(features=good).bind([good])


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


@pytest.mark.filterwarnings("ignore:\\s*your performance may suffer")
@pytest.mark.parametrize("layout", ["fixed", "table"])
@pytest.mark.parametrize("complib", [None, "zlib", "blosc"])
@pytest.mark.parametrize("named", [False, True])
def test_what_pandas_writes_is_read(good: Path, tmp_path: Path, layout: str, complib: str | None, named: bool) -> None:
    pytest.importorskip("tables", reason="needs pandas and PyTables")
    import pandas as pd

    names = [f"{kind}{number}" for number in range(700) for kind in ("px", "py", "pz")]
    frame = pd.DataFrame(flat(EVENTS), columns=names if named else None)
    frame["label"] = LABEL.astype(int)  # beside numbered columns: names of two types
    how = {"complib": complib, "complevel": 9} if complib else {}
    frame.to_hdf(tmp_path / "events.h5", key="df", format=layout, **how)
    values = pd.DataFrame(features_of(EVENTS), columns=list(FEATURES))
    values.assign(label=LABEL).to_hdf(tmp_path / "features.h5", key="df", format=layout, **how)
    source = LhcOlympicsSource(features=tmp_path / "features.h5").bind([tmp_path / "events.h5"])
    batch = read_all(source, tmp_path / "events.h5")
    assert batch.select(SOURCE.schema.names).equals(read_all(SOURCE, good))
    assert np.allclose(batch.column("tau1"), 0.3 + np.arange(60).repeat(2))
