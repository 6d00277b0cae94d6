"""JetClass ROOT files: what is written is read back, in JetClass's own conventions; bad files are told apart."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats import jetclass as jetclass_format
from hepfm.ingest.formats import root_table
from hepfm.ingest.formats.arrays import pt_order
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetclass import COUNTER, LABELS, SCHEMA, write_jetclass
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.plausible import faults
from hepfm.ingest.sources import jetclass as jetclass_source
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.jetclass import JetClassSource
from hepfm.ingest.tally import Tally

FLOATS = ["px", "py", "pz", "energy", "deta", "dphi", "d0val", "d0err", "dzval", "dzerr", "charge"]
FLAGS = ["isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon"]
JETS = ["pt", "eta", "phi", "energy", "nparticles", "sdmass", "tau1", "tau2", "tau3", "tau4"]
AUX = ["genpart_eta", "genpart_phi", "genpart_pid", "genpart_pt", "truth_match"]
EXPECTED = {
    **{f"part_{name}": "float[]" for name in FLOATS},
    **{f"part_{name}": "int32_t[]" for name in FLAGS},
    "label_QCD": "float",
    **{f"label_{name}": "bool" for name in ("Hbb", "Hcc", "Hgg", "H4q", "Hqql")},
    **{f"label_{name}": "int32_t" for name in ("Zqq", "Wqq", "Tbqq", "Tbl")},
    **{f"jet_{name}": "float" for name in JETS},
    **{f"aux_{name}": "float" for name in AUX},
}


def make_records(n: int, seed: int, longest: int = 12) -> pa.RecordBatch:
    """Jets with every quantity of a JetClass file."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    size = offsets[-1]
    rank = np.arange(size) - np.repeat(offsets[:-1], lengths)
    charge = rng.integers(-1, 2, size)
    species = np.where(charge == 0, rng.integers(1, 3, size), np.array([0, 3, 4])[rng.integers(0, 3, size)])
    species[rng.random(size) < 0.1] = -1
    deta, dphi = rng.uniform(-0.8, 0.8, (2, size)).astype(np.float32)
    eta = rng.uniform(-2, 2, n).astype(np.float32)
    pt = (500 * 0.8**rank * rng.uniform(0.99, 1.0, size)).astype(np.float32)
    points = {
        "pt": pt,
        "deta": deta,
        "dphi": dphi,
        "energy": pt * np.cosh(deta + np.repeat(eta, lengths)) + 0.1,
        "d0": rng.normal(0, 1, size),
        "d0err": rng.exponential(0.1, size),
        "dz": rng.normal(0, 1, size),
        "dzerr": rng.exponential(0.1, size),
        "charge": charge,
        "species": species,
    }
    columns = {
        "pt": rng.uniform(500, 1000, n),
        "pt_constituents": np.zeros(n),
        "eta": eta,
        "phi": rng.uniform(-np.pi, np.pi, n),
        "mass": rng.uniform(30, 200, n),
        "softdrop_mass": rng.uniform(0, 200, n),
        **{f"tau{k}": rng.random(n) for k in (1, 2, 3, 4)},
        "label": rng.integers(0, 10, n),
        "source_file": np.zeros(n),
        "source_entry": np.arange(n),
    }
    return jet_batch(SCHEMA, LABELS, offsets, points, columns)


def read_all(path: Path) -> pa.RecordBatch:
    source = JetClassSource()
    return source.read(path, 0, source.entries(path))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jetclass") / "good.root"
    write_jetclass(path, [make_records(300, 1)])
    return path


@pytest.fixture
def altered(good: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the good file with changed branches, a branch left out, or another name of the tree."""

    def make(leave_out: str = "", tree: str = "tree", **changes: Any) -> Path:
        content = uproot.open(good)["tree"].arrays(list(EXPECTED), library="ak", how=dict)
        for name, change in changes.items():
            content[name] = change(content[name])
        content.pop(leave_out, None)
        path = tmp_path / "altered.root"
        with uproot.recreate(path) as file:
            file.mktree(tree, {name: array.type for name, array in content.items()})
            file[tree].extend(content)
        return path

    return make


def with_value(index: int, value: float) -> Callable[[ak.Array], np.ndarray]:
    def change(array: ak.Array) -> np.ndarray:
        values = ak.to_numpy(array).copy()
        values[index] = value
        return ak.Array(values)

    return change


def test_a_written_file_has_the_branches_of_jetclass_and_one_counter(good: Path) -> None:
    tree = uproot.open(good)["tree"]
    assert [branch.name for branch in tree.branches if branch.name != COUNTER] == list(EXPECTED)
    assert {name: tree[name].typename for name in EXPECTED} == EXPECTED
    assert len(EXPECTED) == 41


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_records_survive_the_way_through_a_file(n: int, seed: int, tmp_path: Path) -> None:
    written = make_records(n, seed)
    assert write_jetclass(tmp_path / "jets.root", [written]) == n
    read = read_all(tmp_path / "jets.root")
    read.validate(full=True)
    assert read.schema.equals(JetClassSource().schema, check_metadata=True)
    ours, theirs = written.column("constituents").flatten(), read.column("constituents").flatten()
    assert np.array_equal(
        records.lengths_of(written.column("constituents")), records.lengths_of(read.column("constituents"))
    )
    for name in ("deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr", "charge", "species"):
        assert theirs.field(name).equals(ours.field(name)), name
    assert np.allclose(theirs.field("pt"), ours.field("pt"), rtol=3e-7)
    for name in ("pt", "eta", "phi", "softdrop_mass", "tau1", "tau2", "tau3", "tau4", "label", "source_entry"):
        assert read.column(name).equals(written.column(name)), name
    assert np.allclose(read.column("mass"), written.column("mass"), atol=0.05)


def test_the_file_follows_the_conventions_of_jetclass(good: Path) -> None:
    content = uproot.open(good)["tree"].arrays(library="ak", how=dict)
    lengths = ak.to_numpy(content[COUNTER])
    raw = {name: ak.to_numpy(ak.flatten(array, axis=None)) for name, array in content.items()}
    batch = read_all(good)
    sign = np.where(raw["jet_eta"] > 0, 1, -1)
    assert (sign < 0).any()
    assert np.array_equal(raw["part_deta"], records.points_of(batch, "deta") * np.repeat(sign, lengths))
    assert np.array_equal(raw["part_dphi"], records.points_of(batch, "dphi"))
    neutral = raw["part_charge"] == 0
    assert (raw["part_d0val"][neutral] == 0).all()
    assert np.array_equal(np.isnan(records.points_of(batch, "d0")), neutral)
    momentum = np.hypot(*(ak.to_numpy(ak.sum(content[f"part_p{axis}"], axis=1)) for axis in "xy"))
    assert np.allclose(momentum, batch.column("pt_constituents"), rtol=1e-5)
    assert np.isnan(raw["aux_truth_match"]).all()


def test_the_tree_may_have_any_name(good: Path, altered: Callable[..., Path]) -> None:
    path = altered(tree="Events")
    assert JetClassSource.recognises(contents(path))
    assert read_all(path).equals(read_all(good))


def test_constituents_out_of_order_are_put_in_order(good: Path, altered: Callable[..., Path]) -> None:
    parts = [name for name in EXPECTED if name.startswith("part_")]
    swapped = read_all(altered(**dict.fromkeys(parts, lambda array: array[:, ::-1])))
    assert swapped.equals(read_all(good))


def test_constituents_of_equal_pt_keep_their_order() -> None:
    pt = np.array([1, 2, 2, 1, 5, 4, 4, 9, 9], dtype=np.float32)
    order = pt_order(pt, np.array([0, 4, 4, 7, 9]))
    assert order is not None
    assert order.tolist() == [1, 2, 0, 3, 4, 5, 6, 7, 8]


def test_dphi_is_wrapped(altered: Callable[..., Path], good: Path) -> None:
    turned = read_all(altered(part_dphi=lambda array: array - np.sign(array) * np.float32(2 * np.pi)))
    dphi = records.points_of(turned, "dphi")
    assert np.allclose(dphi, records.points_of(read_all(good), "dphi"), atol=1e-6)
    assert ((dphi >= -np.pi) & (dphi < np.pi)).all()


@pytest.mark.parametrize("window", [None, 64])
def test_any_ranges_give_the_same_jets(good: Path, monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    if window:
        monkeypatch.setattr(root_table, "SMALL_BASKET_ENTRIES", 10)
        monkeypatch.setattr(root_table, "WINDOW_ENTRIES", window)
    monkeypatch.setattr(jetclass_source, "_OPEN", OpenFiles(2, jetclass_source._OPEN._opening))
    source = JetClassSource()
    whole = source.read(good, 0, 300)
    parts = [source.read(good, start, min(start + 70, 300)) for start in range(0, 300, 70)]
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([whole]).combine_chunks())
    assert len(source.read(good, 5, 5)) == 0


def test_a_file_is_opened_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = jetclass_source._OPEN._opening
    counting = OpenFiles(2, lambda path: opened.append(path) or original(path))
    monkeypatch.setattr(jetclass_source, "_OPEN", counting)
    path = tmp_path / "jets.root"
    write_jetclass(path, [make_records(20, 1)])
    for start in range(0, 20, 5):
        JetClassSource().read(path, start, start + 5)
    assert len(opened) == 1
    write_jetclass(path, [make_records(30, 2)])
    assert JetClassSource().entries(path) == 30


def test_the_source_can_be_sent_to_another_process(good: Path) -> None:
    assert pickle.loads(pickle.dumps(JetClassSource())).entries(good) == 300  # noqa: S301


def test_equal_records_give_equal_bytes_however_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetclass_format, "BASKET_ENTRIES", 40)
    batch = make_records(100, 3)
    write_jetclass(tmp_path / "a.root", [batch])
    write_jetclass(tmp_path / "b.root", [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7, 90), batch.slice(97)])
    assert (tmp_path / "a.root").read_bytes() == (tmp_path / "b.root").read_bytes()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Any:
        yield make_records(10, 1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jetclass(tmp_path / "jets.root", failing())
    with pytest.raises(HepfmError, match="no jets"):
        write_jetclass(tmp_path / "jets.root", [])
    assert list(tmp_path.iterdir()) == []


def test_jets_without_labels_or_jet_quantities_can_be_written(tmp_path: Path) -> None:
    full = make_records(20, 1, longest=3)
    column = full.column("constituents").flatten()
    schema = records.schema("jets", ("pt", "deta", "dphi"), ())
    offsets = records.offsets_of(full.column("constituents"))
    points = {name: column.field(name).to_numpy() for name in ("pt", "deta", "dphi")}
    origin = {"source_file": np.zeros(20), "source_entry": np.arange(20)}
    write_jetclass(tmp_path / "jets.root", [jet_batch(schema, (), offsets, points, origin)])
    raw = uproot.open(tmp_path / "jets.root")["tree"].arrays(library="ak")
    assert np.allclose(ak.flatten(np.hypot(raw["part_px"], raw["part_py"])), points["pt"], rtol=1e-6)
    assert np.allclose(ak.flatten(raw["part_energy"]), points["pt"] * np.cosh(points["deta"]), rtol=1e-6)
    assert np.allclose(raw["jet_pt"], np.hypot(ak.sum(raw["part_px"], 1), ak.sum(raw["part_py"], 1)), atol=1e-3)
    assert not any(ak.any(raw[f"label_{label}"]) for label in LABELS)
    assert not ak.any(raw["part_d0val"])
    assert not ak.any(raw["jet_tau1"])


def test_a_label_that_jetclass_lacks_cannot_be_written(tmp_path: Path) -> None:
    batch = make_records(5, 1)
    foreign = pa.DictionaryArray.from_arrays(pa.array([0] * 5, pa.int16()), pa.array(["X_bb"]))
    batch = batch.set_column(batch.schema.get_field_index("label"), batch.schema.field("label"), foreign)
    with pytest.raises(HepfmError, match="no label 'X_bb'"):
        write_jetclass(tmp_path / "jets.root", [batch])


def test_real_jets_written_as_root_come_back(real_jetclass_files: list[Path]) -> None:
    batches = [read_all(path) for path in real_jetclass_files]
    table = pa.Table.from_batches(batches)
    assert len(table) == 500
    counts = table.column("label").combine_chunks().value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in counts}["Tbqq"] == 65
    pt = table.column("pt").to_numpy()
    assert ((pt > 495) & (pt < 1005)).all()
    assert np.allclose(pt, table.column("pt_constituents").to_numpy(), rtol=1e-5)
    top = np.asarray(table.column("label").to_pylist()) == "Tbqq"
    assert 160 < np.median(table.column("mass").to_numpy()[top]) < 180


def test_an_rntuple_gives_the_jets_of_the_tree(good: Path, tmp_path: Path) -> None:
    content = uproot.open(good)["tree"].arrays(list(EXPECTED), library="ak", how=dict)
    with uproot.recreate(tmp_path / "jets.root") as file:
        jets = file.mkrntuple("tree", {name: array[:100] for name, array in content.items()})
        jets.extend({name: array[100:] for name, array in content.items()})
    source = JetClassSource().bind([tmp_path / "jets.root"])
    assert JetClassSource.recognises(contents(tmp_path / "jets.root"))
    assert read_all(tmp_path / "jets.root").equals(read_all(good))
    assert np.array_equal(source.keys(tmp_path / "jets.root"), source.keys(good))


def in_jet(jet: int, value: float, where: str = "first") -> Callable[[ak.Array], ak.Array]:
    """A constituent of one jet, or all of them, with another value."""

    def change(array: ak.Array) -> ak.Array:
        values, start = ak.to_numpy(ak.flatten(array)).copy(), int(ak.sum(ak.num(array)[:jet]))
        values[start : start + (1 if where == "first" else ak.num(array)[jet])] = value
        return ak.unflatten(values, ak.num(array))

    return change


def shortened(jet: int) -> Callable[[ak.Array], ak.Array]:
    def change(array: ak.Array) -> ak.Array:
        lengths = ak.to_numpy(ak.num(array)).copy()
        values = np.delete(ak.to_numpy(ak.flatten(array)), lengths[:jet].sum())
        lengths[jet] -= 1
        return ak.unflatten(values, lengths)

    return change


JET = 17  # has constituents, the first of which is charged; its label is Tbqq
UNEQUAL, CHARGE = "its lists of constituents differ in length", "'part_charge' is not a charge in units of e"
VALUE, BELOW = "a label is neither 0 nor 1", "'jet_energy' is below the momentum of the jet"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label_QCD": with_value(JET, 1)}, "more than one label is set"),
        ({"label_QCD": with_value(JET, np.nan)}, VALUE),
        ({"label_QCD": with_value(JET, 0.5)}, VALUE),
        ({"label_Tbl": with_value(JET, 5)}, VALUE),
        ({"label_Wqq": with_value(JET, -1)}, VALUE),
        ({"part_charge": in_jet(JET, np.nan)}, CHARGE),
        ({"part_charge": in_jet(JET, 300)}, CHARGE),
        ({"part_charge": in_jet(JET, 0.5)}, CHARGE),
        ({"part_charge": in_jet(JET, 0, "all"), "part_d0val": in_jet(JET, 1)}, "a neutral constituent has an impact"),
        ({"part_dphi": shortened(JET)}, UNEQUAL),
        ({"jet_nparticles": with_value(JET, 77)}, UNEQUAL),
        ({"jet_nparticles": with_value(JET, np.nan)}, UNEQUAL),
        ({"jet_energy": with_value(JET, -1)}, BELOW),
        ({"jet_energy": with_value(JET, 0)}, BELOW),
        ({"jet_energy": with_value(JET, -5000)}, BELOW),
        ({"jet_energy": with_value(JET, 400)}, BELOW),
    ],
)
def test_a_jet_that_cannot_be_stops_or_is_left_out(
    changes: dict[str, Any], what: str, good: Path, altered: Callable[..., Path]
) -> None:
    path, source = altered(**changes), JetClassSource()
    with pytest.raises(HepfmError, match=what) as caught:
        source.bind([path]).read(path, 0, 300)
    assert str(caught.value).startswith(f"{path}, entry {JET}: ")
    tally = Tally(on_bad="skip")
    batch = source.read(path, 0, 300, tally)
    assert [rejected.entry for rejected in tally.rejected] == [JET]
    expected = read_all(good)
    assert (
        pa.Table.from_batches([batch]).combine_chunks()
        == pa.concat_tables(
            pa.Table.from_batches([part]) for part in (expected.slice(0, JET), expected.slice(JET + 1))
        ).combine_chunks()
    )


def test_several_things_wrong_leave_each_jet_out_once(altered: Callable[..., Path]) -> None:
    tally = Tally(on_bad="skip")
    path = altered(jet_energy=with_value(7, -1), label_QCD=with_value(7, 9), part_charge=in_jet(JET, 0.5))
    assert len(JetClassSource().read(path, 0, 300, tally)) == 298
    assert sorted(rejected.entry for rejected in tally.rejected) == [7, JET]


def test_deta_that_is_not_flipped_is_told(good: Path, altered: Callable[..., Path]) -> None:
    sign = np.where(uproot.open(good)["tree"]["jet_eta"].array(library="np") > 0, 1, -1).astype(np.float32)
    path = altered(part_deta=lambda array: array * sign)
    with pytest.raises(HepfmError, match="'part_deta' is eta - jet_eta also where jet_eta is negative") as caught:
        JetClassSource().entries(path)
    assert caught.value.where == str(path)
    assert JetClassSource().entries(good) == 300


def test_a_charged_constituent_without_a_track_survives_the_way_through_a_file(
    altered: Callable[..., Path], tmp_path: Path
) -> None:
    zeros = {f"part_{name}": in_jet(JET, 0) for name in ("d0val", "d0err", "dzval", "dzerr")}
    batch = read_all(altered(**zeros))
    jet = batch.column("constituents")[JET].as_py()
    assert jet[0]["charge"] != 0
    assert [jet[0][name] for name in ("d0", "d0err", "dz", "dzerr")] == [None] * 4
    write_jetclass(tmp_path / "again.root", [batch])
    again = read_all(tmp_path / "again.root").column("constituents").flatten()
    for name in ("d0", "d0err", "dz", "dzerr"):
        assert again.field(name).equals(batch.column("constituents").flatten().field(name))
    only = read_all(altered(**{"part_d0val": in_jet(JET, 0)})).column("constituents")[JET].as_py()
    assert only[0]["d0"] == 0


def test_angles_in_degrees_are_left_for_the_builder_to_refuse(altered: Callable[..., Path]) -> None:
    batch = read_all(altered(jet_phi=with_value(JET, 150), part_dphi=in_jet(JET, -40)))
    broken = {what: records.tolist() for what, records in faults(batch)}
    assert broken["phi is no angle in rad (degrees?)"] == [JET]
    assert broken["constituents.dphi is no angle in rad (degrees?)"] == [JET]


def test_a_soft_drop_mass_below_0_by_rounding_is_0(altered: Callable[..., Path]) -> None:
    masses = read_all(altered(jet_sdmass=lambda array: ak.Array([-0.3, -7.0, *array[2:]]))).column("softdrop_mass")
    assert masses.to_pylist()[:2] == [0, -7]


class TestBadFiles:
    def fails(self, path: Path, match: str) -> None:
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.fails(tmp_path / "no.root", "no such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.fails(tmp_path, "a folder")

    @pytest.mark.parametrize(("content", "match"), [(b"", "an empty file"), (b"PK\x03\x04 zip", "not a ROOT file")])
    def test_not_root(self, tmp_path: Path, content: bytes, match: str) -> None:
        (tmp_path / "jets.root").write_bytes(content)
        self.fails(tmp_path / "jets.root", match)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
    def test_truncated(self, good: Path, tmp_path: Path, share: float) -> None:
        content = good.read_bytes()
        (tmp_path / "jets.root").write_bytes(content[: max(int(share * len(content)), 10)])
        self.fails(tmp_path / "jets.root", "truncated|not a readable ROOT file")

    def test_damaged_inside(self, good: Path, tmp_path: Path) -> None:
        content = bytearray(good.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 20_000] = bytes(20_000)
        (tmp_path / "jets.root").write_bytes(content)
        self.fails(tmp_path / "jets.root", "cannot be decoded|cannot be read")

    def test_a_tree_of_other_data(self, tmp_path: Path) -> None:
        with uproot.recreate(tmp_path / "jets.root") as file:
            file["Events"] = {"run": np.zeros(3)}
        self.fails(tmp_path / "jets.root", r"has no branch 'part_pz', .*\(it has run\)")

    def test_a_missing_branch(self, altered: Callable[..., Path]) -> None:
        self.fails(altered(leave_out="part_d0val"), r"no branch 'part_d0val' \(it has .*part_px")

    def test_no_entries(self, tmp_path: Path) -> None:
        with uproot.recreate(tmp_path / "jets.root") as file:
            file.mktree("tree", {name: "var * float32" if "part" in name else "float32" for name in EXPECTED})
        self.fails(tmp_path / "jets.root", "no entries")

    def test_a_number_where_a_list_belongs(self, altered: Callable[..., Path]) -> None:
        self.fails(altered(part_px=lambda array: ak.values_astype(ak.num(array), np.float32)), "part_px")

    def test_what_is_not_finite_is_left_to_the_builder(self, altered: Callable[..., Path]) -> None:
        path = altered(jet_tau2=with_value(17, np.nan))
        assert np.isnan(JetClassSource().read(path, 17, 18).column("tau2")[0].as_py())

    def test_a_jet_without_a_label_has_none(self, altered: Callable[..., Path]) -> None:
        names = [name for name in EXPECTED if name.startswith("label_")]
        batch = JetClassSource().read(altered(**dict.fromkeys(names, with_value(4, 0))), 0, 10)
        assert batch.column("label").is_null().to_pylist() == [row == 4 for row in range(10)]

    def test_a_range_beyond_the_end(self, good: Path) -> None:
        with pytest.raises(HepfmError, match="it has 300"):
            JetClassSource().read(good, 290, 301)
