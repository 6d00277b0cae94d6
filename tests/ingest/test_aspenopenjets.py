"""AspenOpenJets HDF5: units, signs, sentinels, PUPPI weights, order and events; what is written is read back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import vector
from aspenopenjets_files import make_raw, write_raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.formats.aspenopenjets import write_aspenopenjets
from hepfm.ingest.sources import aspenopenjets as source_module
from hepfm.ingest.sources.aspenopenjets import AspenOpenJetsSource
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.tally import Tally

JETS = 400
SPECIES = {211: "charged_hadron", 130: "neutral_hadron", 22: "photon", 11: "electron", 13: "muon"}
SPECIES |= {1: "hf_hadron", 2: "hf_em"}


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    return make_raw(JETS, 1)


@pytest.fixture(scope="module")
def good(raw: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("aoj") / "RunG_batch0.h5", raw)


@pytest.fixture
def altered(raw: dict[str, np.ndarray], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the good file with data sets changed (or, where the change gives None, left out)."""

    def make(**changes: Callable[[np.ndarray], np.ndarray | None]) -> Path:
        changed = {name: changes.get(name, np.copy)(values.copy()) for name, values in raw.items()}
        return write_raw(
            tmp_path / "altered.h5", {name: values for name, values in changed.items() if values is not None}
        )

    return make


def read_all(path: Path, source: AspenOpenJetsSource | None = None, tally: Tally | None = None) -> pa.RecordBatch:
    source = source or AspenOpenJetsSource()
    return source.read(path, 0, source.entries(path), tally)


def jets_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    return batch.to_pylist()


@pytest.mark.parametrize("puppi", ["apply", "ignore"])
def test_jets_are_those_of_a_reader_written_jet_by_jet(raw: dict[str, np.ndarray], good: Path, puppi: Any) -> None:
    batch = read_all(good, AspenOpenJetsSource(puppi=puppi))
    batch.validate(full=True)
    assert batch.schema.equals(AspenOpenJetsSource().schema, check_metadata=True)
    for jet, found in enumerate(jets_of(batch)):
        rows = [row for row in raw["PFCands"][jet].astype(np.float64) if row[3] > 0]
        scale = [row[10] if puppi == "apply" else 1.0 for row in rows]
        rows = [row * np.array([s] * 4 + [1] * 7) for row, s in zip(rows, scale, strict=True) if s > 0]
        rows.sort(key=lambda row: -np.hypot(row[0], row[1]))
        pt, eta, phi, softdrop = raw["jet_kinematics"][jet]
        assert len(found["constituents"]) == len(rows)
        for row, constituent in zip(rows, found["constituents"], strict=True):
            momentum = vector.obj(px=row[0], py=row[1], pz=row[2], E=row[3])
            axis = vector.obj(pt=1.0, eta=float(eta), phi=float(phi), mass=0.0)
            assert constituent["pt"] == pytest.approx(momentum.pt, rel=1e-6)
            assert constituent["energy"] == pytest.approx(momentum.E, rel=1e-6)
            assert constituent["deta"] == pytest.approx(momentum.eta - eta, abs=1e-6)
            assert constituent["dphi"] == pytest.approx(momentum.deltaphi(axis), abs=1e-6)
            assert constituent["charge"] == row[8]
            assert constituent["species"] == SPECIES.get(abs(int(row[9])))
            assert constituent["puppi_weight"] == row[10]
            expected = [-10 * row[4], 10 * row[5], 10 * row[6], 10 * row[7]] if row[5] >= 0 else [None] * 4
            for name, value in zip(("d0", "d0err", "dz", "dzerr"), expected, strict=True):
                assert constituent[name] == (None if value is None else pytest.approx(value, rel=1e-6))
        total = np.sum([row[:4] for row in rows], axis=0)
        assert found["pt"] == pt
        assert found["pt_constituents"] == pytest.approx(np.hypot(total[0], total[1]), rel=1e-6)
        assert found["mass"] == pytest.approx(np.sqrt(total[3] ** 2 - (total[:3] ** 2).sum()), rel=1e-5)
        assert found["softdrop_mass"] == (None if softdrop < 0 else softdrop)
        assert [found[f"tau{n}"] for n in (1, 2, 3, 4)] == raw["jet_tagging"][jet, 1:5].tolist()
        assert [found[name] for name in ("run", "lumi", "event")] == raw["event_info"][jet].tolist()


def test_neutrals_and_charged_candidates_without_track_have_no_impact_parameters(good: Path) -> None:
    batch = read_all(good)
    charge, d0 = records.points_of(batch, "charge"), records.points_of(batch, "d0")
    assert np.isnan(d0[charge == 0]).all()
    assert 0 < np.isnan(d0[charge != 0]).mean() < 1
    assert not (d0 == 10).any()


def test_an_impact_parameter_of_exactly_minus_one_cm_is_kept_where_there_is_a_track(
    raw: dict[str, np.ndarray], altered: Callable[..., Path]
) -> None:
    where = np.argwhere(raw["PFCands"][:, :, 5] > 0)[0]

    def change(candidates: np.ndarray) -> np.ndarray:
        candidates[where[0], where[1], 4] = -1
        candidates[where[0], where[1], 10] = 1
        return candidates

    batch = read_all(altered(PFCands=change)).slice(int(where[0]), 1)
    assert (records.points_of(batch, "d0") == 10).sum() == 1


def test_a_displaced_decay_has_positive_d0_times_dphi(altered: Callable[..., Path]) -> None:
    """Tracks from a vertex that flew along the jet axis: Delphes' d0 has the sign of dphi, CMS's the opposite."""
    flight = 0.2  # cm

    def displaced(candidates: np.ndarray) -> np.ndarray:
        phi_jet = make_raw(JETS, 1)["jet_kinematics"][:, 2].astype(np.float64)[:, None]
        px, py = candidates[:, :, 0].astype(np.float64), candidates[:, :, 1].astype(np.float64)
        x, y = flight * np.cos(phi_jet), flight * np.sin(phi_jet)
        pt = np.where(px == 0, 1, np.hypot(px, py))
        cms = (y * px - x * py) / pt
        candidates[:, :, 4] = np.where(candidates[:, :, 5] > 0, cms, candidates[:, :, 4])
        return candidates

    batch = read_all(altered(PFCands=displaced))
    d0, dphi = records.points_of(batch, "d0"), records.points_of(batch, "dphi")
    tracked = np.isfinite(d0) & (np.abs(dphi) > 1e-3)
    assert tracked.sum() > 100
    assert (d0[tracked] * dphi[tracked] > 0).all()
    assert np.allclose(d0[tracked], 10 * flight * np.sin(dphi[tracked]), atol=1e-4)


def test_candidates_of_weight_zero_are_left_out_and_counted(raw: dict[str, np.ndarray], good: Path) -> None:
    used = raw["PFCands"][:, :, 3] > 0
    weightless = used & (raw["PFCands"][:, :, 10] == 0)
    assert weightless.any()
    for puppi, left in (("apply", used.sum() - weightless.sum()), ("ignore", used.sum())):
        tally = Tally()
        batch = read_all(good, AspenOpenJetsSource(puppi=puppi), tally)
        assert len(records.points_of(batch, "pt")) == left
        assert tally.flow["candidates"] == used.sum()
        assert tally.flow.get("candidates of PUPPI weight above 0") == (left if puppi == "apply" else None)


def test_constituents_are_in_order_of_the_pt_that_records_have(good: Path) -> None:
    for jet in jets_of(read_all(good)):
        pt = [constituent["pt"] for constituent in jet["constituents"]]
        assert pt == sorted(pt, reverse=True)


def test_jets_cut_to_150_in_the_file_are_counted(altered: Callable[..., Path]) -> None:
    def change(tagging: np.ndarray) -> np.ndarray:
        tagging[:7, 0], tagging[7, 0] = 151, 150
        return tagging

    def fill(candidates: np.ndarray) -> np.ndarray:
        candidates[:8] = candidates[:8, :1]
        return candidates

    tally = Tally()
    read_all(altered(jet_tagging=change, PFCands=fill), tally=tally)
    assert tally.flow[source_module.MANY] == 7


def test_a_number_of_constituents_beyond_one_byte_counts_from_zero_again(altered: Callable[..., Path]) -> None:
    """NanoAOD keeps it in one byte, so that a jet of 260 candidates says 4 and has 150 in the file."""

    def change(tagging: np.ndarray) -> np.ndarray:
        tagging[3, 0] = 260 % 256
        return tagging

    def fill(candidates: np.ndarray) -> np.ndarray:
        candidates[3] = candidates[3, :1]
        return candidates

    tally = Tally()
    batch = read_all(altered(jet_tagging=change, PFCands=fill), AspenOpenJetsSource(puppi="ignore"), tally)
    assert len(batch) == JETS
    assert records.lengths_of(batch.column("constituents"))[3] == 150
    assert tally.flow[source_module.MANY] == 1


def test_jets_of_a_collision_are_known_by_key_id_and_index(raw: dict[str, np.ndarray], good: Path) -> None:
    keys, batch = AspenOpenJetsSource().keys(good), read_all(good)
    info = [tuple(row) for row in raw["event_info"].tolist()]
    assert len(set(keys.tolist())) == len(set(info)) < JETS
    ids = batch.column("event_id").to_pylist()
    assert len(set(zip(info, keys.tolist(), ids, strict=True))) == len(set(info))
    assert AspenOpenJetsSource.shares_events
    expected = [info[:jet].count(info[jet]) for jet in range(JETS)]
    assert batch.column("jet_index").to_pylist() == expected
    assert max(expected) == 3


@pytest.mark.parametrize("window", [4096, 32, 7])
def test_any_ranges_give_the_same_jets(good: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(source_module, "MOST_WINDOW_JETS", window)
    monkeypatch.setattr(source_module, "LOOK_BACK", 1)
    monkeypatch.setattr(source_module, "_OPEN", source_module.OpenFiles(2, source_module._OpenFile))
    source, whole, tally = AspenOpenJetsSource(), read_all(good), Tally()
    cuts = np.unique(np.random.default_rng(window).integers(0, JETS, 25)).tolist()
    parts = [source.read(good, *pair, tally) for pair in zip([0, *cuts], [*cuts, JETS], strict=True)]
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([whole]).combine_chunks())
    assert len(source.read(good, 5, 5)) == len(source.read(good, 0, 0)) == 0
    once = Tally()
    read_all(good, tally=once)
    assert tally.flow == once.flow
    assert list(tally.flow) == list(once.flow)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jets=st.integers(1, 60), seed=st.integers(0, 2**32 - 1), puppi=st.sampled_from(["apply", "ignore"]))
def test_records_survive_the_way_through_a_file(jets: int, seed: int, puppi: Any, tmp_path: Path) -> None:
    source, number = AspenOpenJetsSource(puppi=puppi), len(list(tmp_path.iterdir()))
    batch = read_all(write_raw(tmp_path / f"{number}.h5", make_raw(jets, seed)), source)
    weights: Any = "applied" if puppi == "apply" else "not_applied"
    assert write_aspenopenjets(tmp_path / f"{number}-copy.h5", [batch], weights) == jets
    assert_same_jets(read_all(tmp_path / f"{number}-copy.h5", source), batch)


def assert_same_jets(found: pa.RecordBatch, expected: pa.RecordBatch) -> None:
    """Equal but for the rounding of float32 on the way through px, py, pz and cm."""
    theirs, ours = found.column("constituents").flatten(), expected.column("constituents").flatten()
    assert found.column("constituents").offsets.equals(expected.column("constituents").offsets)
    for name in ("charge", "species", "puppi_weight"):
        assert theirs.field(name).equals(ours.field(name)), name
    for name in ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr"):
        assert theirs.field(name).is_null().equals(ours.field(name).is_null()), name
        got, want = records.values_of(theirs.field(name)), records.values_of(ours.field(name))
        assert np.allclose(got, want, rtol=1e-6, atol=1e-6, equal_nan=True), name
    for name in expected.schema.names[1:]:
        if name == "mass":  # a small difference of large numbers
            energy = np.asarray(expected.column("pt")) * np.cosh(np.asarray(expected.column("eta")))
            squared = (np.asarray(batch.column("mass")).astype(float) ** 2 for batch in (found, expected))
            assert (np.abs(np.subtract(*squared)) < 1e-6 * energy**2).all()
        elif name == "pt_constituents":
            assert np.allclose(found.column(name), expected.column(name), rtol=1e-6)
        else:
            assert found.column(name).equals(expected.column(name)), name


def test_a_written_file_is_laid_out_as_the_data_set(raw: dict[str, np.ndarray], good: Path, tmp_path: Path) -> None:
    write_aspenopenjets(tmp_path / "copy.h5", [read_all(good, AspenOpenJetsSource(puppi="ignore"))], "not_applied")
    with h5py.File(tmp_path / "copy.h5") as file:
        assert {name: (item.shape, item.dtype) for name, item in file.items()} == {
            name: (values.shape, values.dtype) for name, values in raw.items()
        }
        assert np.array_equal(file["event_info"], raw["event_info"])
        assert np.array_equal(file["jet_kinematics"], raw["jet_kinematics"])
        assert np.array_equal(file["jet_tagging"][:, :5], raw["jet_tagging"][:, :5])
        assert (file["jet_tagging"][:, 5:] == -1).all()
        for ours, theirs in zip(file["PFCands"], raw["PFCands"], strict=True):
            theirs = theirs[np.argsort(-np.hypot(theirs[:, 0], theirs[:, 1]), kind="stable")]
            known = theirs[:, 9] != 310  # an id that no species has
            assert np.allclose(ours[known], theirs[known], rtol=1e-5, atol=1e-5)
            assert (ours[~known][:, 9] == 0).all()


def test_equal_records_give_equal_bytes_however_they_come(good: Path, tmp_path: Path) -> None:
    batch = read_all(good)
    write_aspenopenjets(tmp_path / "a.h5", [batch])
    write_aspenopenjets(tmp_path / "b.h5", [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7, 90), batch.slice(97)])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_more_than_150_constituents_are_cut_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_raw(5, 3, longest=140)
    batch = read_all(write_raw(tmp_path / "raw.h5", raw), AspenOpenJetsSource(puppi="ignore"))
    column = batch.column("constituents")
    jet = int(records.lengths_of(column).argmax())
    doubled = pa.concat_arrays([column.slice(jet, 1), column.slice(jet, 1)])
    lists = pa.ListArray.from_arrays(pa.array([0, len(doubled.flatten())], pa.int32()), doubled.flatten())
    long = batch.slice(jet, 1).set_column(0, batch.schema.field(0), lists.cast(column.type))
    size = len(doubled.flatten())
    assert size > 150
    write_aspenopenjets(tmp_path / "long.h5", [long])
    assert "1 of 1 jets were cut to their 150 hardest" in capsys.readouterr().err
    tally = Tally()
    assert len(records.points_of(read_all(tmp_path / "long.h5", tally=tally), "pt")) <= 150
    assert tally.flow[source_module.MANY] == 1
    with h5py.File(tmp_path / "long.h5") as file:
        assert file["jet_tagging"][0, 0] == size


def test_candidates_are_written_in_order_of_the_pt_they_are_written_with(good: Path, tmp_path: Path) -> None:
    batch = read_all(good)  # in order of the weighted pt
    write_aspenopenjets(tmp_path / "copy.h5", [batch])
    with h5py.File(tmp_path / "copy.h5") as file:
        pt = np.hypot(file["PFCands"][:, :, 0], file["PFCands"][:, :, 1])
        weighted = pt * file["PFCands"][:, :, 10]
    assert (np.diff(pt, axis=1) <= 1e-6 * pt[:, 1:]).all()
    assert (np.diff(weighted, axis=1) > 0).any()
    assert_same_jets(read_all(tmp_path / "copy.h5"), batch)


def test_jets_without_tracks_weights_or_events_can_be_written(good: Path, tmp_path: Path) -> None:
    full = read_all(good)
    points = full.column("constituents").flatten()
    kept = pa.StructArray.from_arrays([points.field(name) for name in ("pt", "deta", "dphi")], ["pt", "deta", "dphi"])
    lists = pa.ListArray.from_arrays(full.column("constituents").offsets, kept)
    schema = records.schema("jets", ("pt", "deta", "dphi"), ("eta", "phi"))
    columns = [lists.cast(schema.field(0).type), *(full.column(name) for name in schema.names[1:])]
    write_aspenopenjets(tmp_path / "bare.h5", [pa.RecordBatch.from_arrays(columns, schema=schema)])
    bare = read_all(tmp_path / "bare.h5")
    for name in ("d0", "d0err", "dz", "dzerr", "species"):
        assert bare.column("constituents").flatten().field(name).null_count == len(points)
    assert (records.points_of(bare, "puppi_weight") == 1).all()
    pt, deta = records.points_of(bare, "pt"), records.points_of(bare, "deta")
    assert np.allclose(pt, records.points_of(full, "pt"), rtol=1e-6)
    eta = np.repeat(full.column("eta").to_numpy(), records.lengths_of(full.column("constituents")))
    assert np.allclose(records.points_of(bare, "energy"), pt * np.cosh(eta + deta), rtol=1e-5)
    assert np.allclose(bare.column("pt"), bare.column("pt_constituents"), rtol=1e-5)
    assert bare.column("tau1").null_count == bare.column("softdrop_mass").null_count == JETS
    assert len(set(AspenOpenJetsSource().keys(tmp_path / "bare.h5").tolist())) == JETS


def test_a_write_that_fails_leaves_nothing(good: Path, tmp_path: Path) -> None:
    def failing() -> Any:
        yield read_all(good)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_aspenopenjets(tmp_path / "jets.h5", failing())
    with pytest.raises(HepfmError, match="no jets"):
        write_aspenopenjets(tmp_path / "jets.h5", [])
    with pytest.raises(HepfmError, match="no jet eta"):
        write_aspenopenjets(tmp_path / "jets.h5", [read_all(good).drop_columns(["eta"])])
    batch = read_all(good)  # as merging with jets of known phi leaves those that have none
    at = batch.schema.get_field_index("phi")
    unknown = batch.set_column(at, batch.schema.field(at), pa.array([None] * JETS, pa.float32()))
    with pytest.raises(HepfmError, match="no jet phi"):
        write_aspenopenjets(tmp_path / "jets.h5", [batch, unknown])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.5, np.nan, 300.0])
def test_a_charge_that_is_no_charge_stops_or_is_left_out(altered: Callable[..., Path], value: float) -> None:
    def change(candidates: np.ndarray) -> np.ndarray:
        candidates[[3, 10], 0, 8] = value
        return candidates

    path = altered(PFCands=change)
    with pytest.raises(HepfmError, match="entry 3: a charge"):
        read_all(path)
    tally = Tally("skip")
    batch = read_all(path, tally=tally)
    assert [rejected.entry for rejected in tally.rejected] == [3, 10]
    assert batch.column("source_entry").to_pylist() == [entry for entry in range(JETS) if entry not in (3, 10)]


@pytest.mark.parametrize("window", [4096, 3])
def test_a_jet_twice_in_its_collision_stops_or_is_left_out(
    altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    def repeated(values: np.ndarray) -> np.ndarray:
        values[[3, 10]] = values[[2, 9]]
        return values

    monkeypatch.setattr(source_module, "WINDOW_JETS", window)
    path = altered(**dict.fromkeys(source_module.SHAPES, repeated))
    with pytest.raises(HepfmError, match="entry 3: a jet that stands twice in its collision"):
        read_all(path)
    tally = Tally("skip")
    batch = read_all(path, tally=tally)
    assert [rejected.entry for rejected in tally.rejected] == [3, 10]
    assert batch.column("source_entry").to_pylist() == [entry for entry in range(JETS) if entry not in (3, 10)]
    alone = Tally("skip")
    assert len(AspenOpenJetsSource().read(path, 3, 4, alone)) == 0
    assert [rejected.entry for rejected in alone.rejected] == [3]


def test_equal_jets_of_different_collisions_stay(altered: Callable[..., Path]) -> None:
    def repeated(values: np.ndarray) -> np.ndarray:
        values[3] = values[2]
        return values

    def apart(info: np.ndarray) -> np.ndarray:
        info[3] = info[2] + 1
        return info

    changes = dict.fromkeys(source_module.SHAPES, repeated) | {"event_info": apart}
    assert len(read_all(altered(**changes))) == JETS


@pytest.mark.parametrize("told", [1.0, 149.0, 200.0, np.nan])
def test_a_number_of_constituents_that_is_not_theirs_stops_or_is_left_out(
    altered: Callable[..., Path], told: float
) -> None:
    def change(tagging: np.ndarray) -> np.ndarray:
        tagging[5, 0] = told
        return tagging

    path = altered(jet_tagging=change)
    with pytest.raises(HepfmError, match="entry 5: a jet has more or fewer candidates"):
        read_all(path)
    tally = Tally("skip")
    assert 5 not in read_all(path, tally=tally).column("source_entry").to_pylist()
    assert [rejected.entry for rejected in tally.rejected] == [5]


def test_values_that_are_not_finite_are_left_to_the_builder(altered: Callable[..., Path]) -> None:
    def change(candidates: np.ndarray) -> np.ndarray:
        candidates[4, 0, 0] = np.nan
        return candidates

    batch = read_all(altered(PFCands=change))
    assert len(batch) == JETS
    assert not np.isfinite(records.points_of(batch.slice(4, 1), "pt")).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PFCands": lambda values: None}, "no data set 'PFCands'"),
        ({"event_info": lambda values: None}, "no data set 'event_info'"),
        ({"PFCands": lambda values: values[:, :, :10]}, r"not \(N, 150, 11\)"),
        ({"jet_tagging": lambda values: values[:, :12]}, r"not \(N, 13\)"),
        ({"event_info": lambda values: values.astype(np.float64)}, "integers"),
        ({"jet_kinematics": lambda values: values.astype("S8")}, "floats"),
        ({"jet_kinematics": lambda values: values[:-1]}, "numbers of jets disagree"),
        ({name: lambda values: values[:0] for name in source_module.SHAPES}, "no jets"),
    ],
)
def test_another_layout_is_told(altered: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    path = altered(**changes)
    with pytest.raises(HepfmError, match=message) as error:
        AspenOpenJetsSource().entries(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.0005, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_told(good: Path, tmp_path: Path, fraction: float) -> None:
    content = good.read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(HepfmError, match=r"truncated|empty|not an HDF5") as error:
        read_all(path)
    assert str(path) in str(error.value)


def test_a_damaged_chunk_is_told(good: Path, tmp_path: Path) -> None:
    with h5py.File(good) as file:
        chunk = file["PFCands"].id.get_chunk_info(0)
    content = bytearray(good.read_bytes())
    content[chunk.byte_offset + 4 : chunk.byte_offset + chunk.size] = b"\xff" * (chunk.size - 4)
    path = tmp_path / "damaged.h5"
    path.write_bytes(content)
    with pytest.raises(HepfmError, match="'PFCands' cannot be decoded"):
        read_all(path)


def test_ranges_outside_the_file_and_files_that_are_not_there_are_told(good: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="it has 400"):
        AspenOpenJetsSource().read(good, 390, 401)
    with pytest.raises(HepfmError, match="no such file"):
        AspenOpenJetsSource().entries(tmp_path / "missing.h5")
    with pytest.raises(HepfmError, match="folder"):
        AspenOpenJetsSource().entries(tmp_path)


def test_it_is_recognised_and_can_be_sent_to_another_process(good: Path, tmp_path: Path) -> None:
    assert AspenOpenJetsSource.recognises(contents(good))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["event_info"] = np.zeros((3, 3))
    assert not AspenOpenJetsSource.recognises(contents(tmp_path / "other.h5"))
    source = AspenOpenJetsSource(puppi="ignore")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.settings() == {"puppi": "ignore"} != AspenOpenJetsSource().settings()
    assert copy.entries(good) == JETS


def test_a_corpus_never_divides_a_collision(good: Path, tmp_path: Path) -> None:
    options = BuildOptions(run_entries=20, block_records=64, shard_entries=200, splits=(0.5, 0.25, 0.25))
    corpus = build(AspenOpenJetsSource(), [good], tmp_path / "corpus", options)
    splits = corpus.manifest.splits
    assert sum(split.records for split in splits.values()) == JETS
    seen: dict[int, str] = {}
    for name in splits:
        for block in corpus.split(name):
            for event in block.column("event_id").to_pylist():
                assert seen.setdefault(event, name) == name
    assert dict(corpus.manifest.provenance["cut_flow"])["candidates"] > 0
