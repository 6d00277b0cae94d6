"""JetClass-II files, Parquet and ROOT: conventions undone, any range, bounded memory, bad files told apart."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
import vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.formats import jetclass2 as jetclass2_format
from hepfm.ingest.formats import parquet_table, root_table
from hepfm.ingest.formats.jetclass2 import COLUMNS, FILE_SCHEMA, LABELS, write_jetclass2
from hepfm.ingest.formats.windows import OpenFiles
from hepfm.ingest.sophon_groups import group_of
from hepfm.ingest.sources import jetclass2 as jetclass2_source
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.jetclass2 import JetClass2Source
from hepfm.ingest.tally import Tally

SPECIES = ("Electron", "Muon", "Photon", "ChargedHadron", "NeutralHadron")
FULL = JetClass2Source(generator=True)

Columns = dict[str, Any]


def lists(rng: np.random.Generator, lengths: np.ndarray, make: Callable[[int], np.ndarray]) -> ak.Array:
    return ak.unflatten(make(int(lengths.sum())), lengths)


def make_columns(n: int, seed: int, longest: int = 9) -> Columns:
    """The 54 columns of n jets, in the files' conventions."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, n)
    pt = lists(rng, lengths, lambda size: rng.uniform(1, 400, size))
    pt = ak.sort(pt, ascending=False)
    jet_eta, jet_phi = rng.uniform(-2.5, 2.5, n), rng.uniform(-np.pi, np.pi, n)
    deta = lists(rng, lengths, lambda size: rng.uniform(-0.8, 0.8, size))
    dphi = lists(rng, lengths, lambda size: rng.uniform(-0.8, 0.8, size))
    eta, phi = jet_eta + deta, jet_phi + dphi
    species = lists(rng, lengths, lambda size: rng.integers(0, 5, size))
    charge = np.where(ak.flatten(species) < 2, rng.choice([-1, 1], int(lengths.sum())), 0)
    charge = np.where(ak.flatten(species) == 3, rng.choice([-1, 1], len(charge)), charge)
    charge = ak.unflatten(charge, lengths)
    track = {name: lists(rng, lengths, lambda size: rng.normal(0, 1, size)) * (charge != 0) for name in "abcd"}
    vectors = vector.zip({"pt": pt, "eta": eta, "phi": phi, "mass": 0 * pt})
    jet = ak.sum(vectors, axis=1)
    particles = rng.integers(0, 6, n)
    generated = rng.integers(0, 7, n)
    columns: Columns = {
        "part_px": vectors.px,
        "part_py": vectors.py,
        "part_pz": vectors.pz,
        "part_energy": vectors.energy,
        "part_deta": deta * np.where(jet_eta > 0, 1, -1),
        "part_dphi": dphi,
        "part_d0val": track["a"],
        "part_d0err": abs(track["b"]),
        "part_dzval": track["c"],
        "part_dzerr": abs(track["d"]),
        "part_charge": charge,
        **{f"part_is{name}": species == number for number, name in enumerate(SPECIES)},
        "jet_pt": jet.pt,
        "jet_eta": jet_eta,
        "jet_phi": jet_phi,
        "jet_energy": jet.pt * np.cosh(jet_eta) + 20,
        "jet_sdmass": rng.uniform(0, 200, n),
        "jet_nparticles": lengths,
        **{f"jet_tau{k}": rng.random(n) for k in (1, 2, 3, 4)},
        "jet_label": rng.integers(0, 188, n),
    }
    for name in COLUMNS:
        if name.startswith("genpart_"):
            columns[name] = lists(rng, generated, lambda size: rng.normal(0, 50, size))
        elif name.startswith("genjet_"):
            columns[name] = rng.uniform(1, 3, n) * (30 if name == "genjet_energy" else 1)
        elif name.startswith("aux_genpart_is"):
            columns[name] = lists(rng, particles, lambda size: rng.random(size) < 0.4)
        elif name.startswith("aux_"):
            columns[name] = lists(rng, particles, lambda size: rng.integers(1, 30, size) / 10)
    return columns


def arrow_table(columns: Columns) -> pa.Table:
    arrays = []
    for field in FILE_SCHEMA:
        values = columns[field.name]
        if isinstance(values, ak.Array) and values.ndim == 2:
            flat = pa.array(ak.to_numpy(ak.flatten(values)), pa.float64())
            offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(values)))])
            flat = flat.cast(field.type.value_type, safe=False)
            arrays.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=field.type))
        else:
            arrays.append(pa.array(np.asarray(values)).cast(field.type, safe=False))
    return pa.table(arrays, schema=FILE_SCHEMA)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return arrow_table(make_columns(300, 1))


@pytest.fixture(scope="module")
def good(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jetclass2") / "good.parquet"
    pq.write_table(table, path, row_group_size=1_000)
    return path


@pytest.fixture(scope="module")
def as_root(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jetclass2") / "good.root"
    content = {name: ak.from_arrow(table[name].combine_chunks()) for name in table.column_names}
    content = {name: ak.without_parameters(array) for name, array in content.items()}
    with uproot.recreate(path) as file:
        file.mktree("other", {"part_px": "int32"})
        file["other"].extend({"part_px": np.arange(3)})
        file.mktree("jets", {name: array.type for name, array in content.items()})
        file["jets"].extend({name: array[:100] for name, array in content.items()})
        file["jets"].extend({name: array[100:] for name, array in content.items()})
    return path


@pytest.fixture(scope="module")
def as_rntuple(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jetclass2") / "rntuple.root"
    content = {name: ak.from_arrow(table[name].combine_chunks()) for name in table.column_names}
    with uproot.recreate(path) as file:
        jets = file.mkrntuple("jets", ak.Array({name: array[:100] for name, array in content.items()}))
        jets.extend(ak.Array({name: array[100:] for name, array in content.items()}))
    return path


@pytest.fixture
def altered(table: pa.Table, tmp_path: Path) -> Callable[..., Path]:
    """A Parquet file with some columns changed, or without one (None)."""

    def make(**changes: Any) -> Path:
        changed = table
        for name, change in changes.items():
            at = changed.schema.get_field_index(name)
            if change is None:
                changed = changed.remove_column(at)
            else:
                changed = changed.set_column(at, name, pa.array(change(changed[name].to_pylist())))
        path = tmp_path / "altered.parquet"
        pq.write_table(changed, path)
        return path

    return make


def at(index: int, value: Any) -> Callable[[list], list]:
    return lambda values: [*values[:index], value, *values[index + 1 :]]


def read_all(path: Path, source: JetClass2Source | None = None) -> pa.RecordBatch:
    source = source or JetClass2Source()
    batch = source.read(path, 0, source.entries(path))
    batch.validate(full=True)
    assert batch.schema.equals(source.schema, check_metadata=True)
    return batch


def point(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return records.points_of(batch, name)


# The data set


def test_the_labels_are_188_in_the_order_of_the_data_set() -> None:
    assert len(LABELS) == len(set(LABELS)) == 188
    known = {
        0: "X_bb",
        9: "X_gg",
        14: "X_tauhtauh",
        15: "X_YY_bbbb",
        57: "X_YY_ssc",
        90: "X_YY_bee",
        102: "X_YY_stauhtaue",
    }
    known |= {
        115: "X_YY_qqqb",
        131: "X_YY_bcev",
        160: "X_YY_qqtauhv",
        161: "QCD_bbccss",
        178: "QCD_b",
        187: "QCD_light",
    }
    assert {index: LABELS[index] for index in known} == known
    assert [index for index, label in enumerate(LABELS) if group_of(label) == "QCD"] == list(range(161, 188))


def test_generator_level_quantities_are_those_of_the_leading_particles(good: Path) -> None:
    jets, batch = ak.from_parquet(good), read_all(good, FULL)
    aux = ak.zip({name: jets[f"aux_genpart_{name}"] for name in ("pid", "pt", "eta", "phi", "mass")})
    for which, flag, rank in (("x", "X", 0), ("y1", "Y", 0), ("y2", "Y", 1)):
        flagged = aux[jets[f"aux_genpart_isRes{flag}"]]
        ordered = flagged[ak.argsort(-flagged.pt, axis=1, stable=True)]
        taken = ak.firsts(ordered[:, rank:])
        for ours, theirs in (("pdg_id", "pid"), ("pt", "pt"), ("eta", "eta"), ("phi", "phi"), ("mass", "mass")):
            assert batch[f"resonance_{which}_{ours}"].to_pylist() == taken[theirs].to_list()
    assert batch["resonance_y2_mass"].null_count > batch["resonance_x_mass"].null_count > 0
    assert np.array_equal(batch["generator_jet_pt"], jets.genjet_pt)
    assert np.array_equal(batch["generator_jet_softdrop_mass"], jets.genjet_sdmass)
    generated = {name: ak.values_astype(jets[f"genjet_{name}"], np.float64) for name in ("pt", "eta", "phi", "energy")}
    assert np.allclose(batch["generator_jet_mass"].to_numpy(), np.maximum(vector.zip(generated).mass, 0), atol=1e-3)


def test_a_jet_without_a_generated_jet_has_null(altered: Callable[..., Path]) -> None:
    batch = read_all(altered(genjet_pt=at(7, 0.0)), FULL)
    for name in ("pt", "eta", "phi", "mass", "softdrop_mass"):
        assert np.flatnonzero(batch[f"generator_jet_{name}"].is_null()).tolist() == [7]


# Containers


@pytest.mark.parametrize("source", [JetClass2Source(), FULL])
def test_root_trees_and_rntuples_give_the_records_of_the_parquet_file(
    source: JetClass2Source, good: Path, as_root: Path, as_rntuple: Path
) -> None:
    bound = source.bind([good, as_root, as_rntuple])
    expected = read_all(good, bound)
    for path in (as_root, as_rntuple):
        assert read_all(path, bound).equals(expected)
        assert np.array_equal(bound.keys(path), bound.keys(good))


def test_keys_tell_jets_apart(good: Path, altered: Callable[..., Path]) -> None:
    keys = JetClass2Source().keys(good)
    assert len(set(keys.tolist())) == 300
    other = JetClass2Source().keys(altered(jet_energy=at(4, 1000.0)))
    assert np.flatnonzero(keys != other).tolist() == [4]


def test_files_are_recognised_by_their_columns(good: Path, as_root: Path, as_rntuple: Path, tmp_path: Path) -> None:
    assert all(JetClass2Source.recognises(contents(path)) for path in (good, as_root, as_rntuple))
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(good, columns=["part_px", "jet_label"]), few)
    assert not JetClass2Source.recognises(contents(few))


def test_the_source_can_be_sent_to_another_process(good: Path) -> None:
    source = pickle.loads(pickle.dumps(FULL.bind([good])))  # noqa: S301
    assert source == FULL
    assert source.read(good, 3, 9).equals(FULL.read(good, 3, 9))
    assert source.settings() != JetClass2Source().settings()


def test_lists_that_may_be_null_or_large_are_read_when_they_are_not_null(table: pa.Table, tmp_path: Path) -> None:
    fields = [
        pa.field(f.name, pa.large_list(f.type.value_type) if pa.types.is_list(f.type) else f.type) for f in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "other.parquet")
    pq.write_table(table, tmp_path / "same.parquet")
    assert read_all(tmp_path / "other.parquet").equals(read_all(tmp_path / "same.parquet"))


# Ranges


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ranges=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted), min_size=1, max_size=8),
    group=st.sampled_from([7, 60, 300]),
    batch=st.sampled_from([1, 13, 64, 1000]),
)
def test_any_ranges_in_any_order_give_the_same_jets(
    ranges: list[list[int]], group: int, batch: int, table: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "jets.parquet"
    pq.write_table(table, path, row_group_size=group)
    whole = read_all(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_table, "BATCH_ENTRIES", batch)
        patch.setattr(jetclass2_source, "_OPEN", OpenFiles(2, jetclass2_source._OPEN._opening))
        for start, stop in ranges:
            assert JetClass2Source().read(path, start, stop).equals(whole.slice(start, stop - start))


@pytest.mark.parametrize("container", ["as_root", "as_rntuple"])
def test_windows_of_root_files_do_not_change_the_jets(
    container: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(container)
    whole = read_all(path)
    monkeypatch.setattr(root_table, "SMALL_BASKET_ENTRIES", 10)
    monkeypatch.setattr(root_table, "WINDOW_ENTRIES", 64)
    monkeypatch.setattr(jetclass2_source, "_OPEN", OpenFiles(2, jetclass2_source._OPEN._opening))
    for start, stop in ((0, 70), (70, 140), (130, 300), (5, 5), (1, 2)):
        assert JetClass2Source().read(path, start, stop).equals(whole.slice(start, stop - start))


def test_one_large_row_group_is_decoded_once_and_never_held_whole(table: pa.Table, tmp_path: Path) -> None:
    """As in the public files, of 100,000 jets in one row group."""
    path = tmp_path / "large.parquet"
    names = ["part_px", "part_py", "jet_pt"]
    large = pa.concat_tables([table.select(names)] * 1_000)
    pq.write_table(large, path, row_group_size=len(large))
    opened = parquet_table.ParquetTable(path)
    started: list[int] = []
    file = opened._file

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def iter_batches(self, *args: Any, **options: Any) -> Any:
            started.append(1)
            return file.iter_batches(*args, **options)

    opened._file = Counting()
    before, most = pa.total_allocated_bytes(), 0
    for start in range(0, len(large) - 500, 12_500):  # ascending, with gaps
        assert len(opened.read(names, start, start + 500)["jet_pt"]) == 500
        most = max(most, pa.total_allocated_bytes() - before)
    assert len(started) == 1
    assert most < large.nbytes / 5
    opened.read(names, 0, 10)
    assert len(started) == 2
    opened.close()


@pytest.mark.parametrize("range_", [(-1, 5), (0, 301), (9, 4)])
def test_a_range_that_leaves_the_file_is_refused(range_: tuple[int, int], good: Path, as_root: Path) -> None:
    for path in (good, as_root):
        with pytest.raises(HepfmError, match="it has 300"):
            JetClass2Source().read(path, *range_)


# What files may get wrong


def test_constituents_out_of_order_are_put_in_order(good: Path, altered: Callable[..., Path]) -> None:
    parts = [name for name in COLUMNS if name.startswith("part_")]
    swapped = altered(**dict.fromkeys(parts, lambda lists: [values[::-1] for values in lists]))
    ours, expected = read_all(swapped), read_all(good)
    assert ours["constituents"].flatten().field("pt").equals(expected["constituents"].flatten().field("pt"))
    assert np.allclose(point(ours, "deta"), point(expected, "deta"))


def test_angles_are_wrapped(good: Path, altered: Callable[..., Path]) -> None:
    turned = altered(
        part_dphi=lambda lists: [[phi - np.sign(phi) * 2 * np.pi for phi in values] for values in lists],
        jet_phi=lambda values: [phi - np.sign(phi) * 2 * np.pi for phi in values],
    )
    ours, expected = read_all(turned), read_all(good)
    assert np.allclose(point(ours, "dphi"), point(expected, "dphi"), atol=1e-6)
    assert np.allclose(ours["phi"], expected["phi"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"jet_label": at(3, 188)}, "'jet_label' is not one of 0 to 187"),
        ({"jet_label": at(3, -1)}, "'jet_label' is not one of 0 to 187"),
        ({"jet_energy": at(3, -1.0)}, "'jet_energy' is below the momentum"),
        ({"jet_energy": at(3, 2.0)}, "'jet_energy' is below the momentum"),
        ({"jet_nparticles": at(3, 77)}, "differ in length, or from 'jet_nparticles'"),
        ({"part_dzerr": at(3, [0.0] * 20)}, "differ in length, or from 'jet_nparticles'"),
        ({"part_charge": lambda lists: at(3, [300] * len(lists[3]))(lists)}, "'part_charge' is not a charge"),
        (
            {
                "part_charge": lambda lists: at(3, [0] * len(lists[3]))(lists),
                "part_d0val": lambda lists: at(3, [-1.0] * len(lists[3]))(lists),
            },
            "a neutral constituent has an impact parameter",
        ),
        ({"aux_genpart_isResX": at(3, [True] * 9)}, "its lists 'aux_genpart_...' differ in length"),
    ],
)
def test_a_jet_that_cannot_be_stops_or_is_left_out(
    changes: Columns, what: str, good: Path, altered: Callable[..., Path]
) -> None:
    path = altered(**changes)
    with pytest.raises(HepfmError, match=what) as caught:
        FULL.read(path, 0, 300)
    assert str(caught.value).startswith(f"{path}, entry 3: ")
    tally = Tally(on_bad="skip")
    batch = FULL.read(path, 0, 300, tally)
    assert [rejected.entry for rejected in tally.rejected] == [3]
    expected = FULL.read(good, 0, 300)
    assert batch["source_entry"].to_pylist() == [0, 1, 2, *range(4, 300)]
    assert batch.slice(3).equals(expected.slice(4))


def test_deta_that_is_not_flipped_is_told(good: Path, altered: Callable[..., Path], table: pa.Table) -> None:
    sign = np.where(table["jet_eta"].to_numpy() > 0, 1, -1)
    path = altered(part_deta=lambda lists: [(s * np.array(v)).tolist() for s, v in zip(sign, lists, strict=True)])
    with pytest.raises(HepfmError, match="'part_deta' is eta - jet_eta also where jet_eta is negative") as caught:
        JetClass2Source().bind([good, path])
    assert caught.value.where == str(path)


def test_a_charged_constituent_without_a_track_has_null_impact_parameters(
    table: pa.Table, altered: Callable[..., Path]
) -> None:
    charge = table["part_charge"][4].as_py()
    zeros = {name: at(4, [0.0] * len(charge)) for name in ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")}
    assert any(charge)
    jet = read_all(altered(**zeros))["constituents"][4].as_py()
    assert all(jet[0][name] is None for name in ("d0", "d0err", "dz", "dzerr"))


def test_values_that_are_not_finite_are_left_to_the_builder(altered: Callable[..., Path]) -> None:
    batch = read_all(altered(jet_pt=at(5, np.nan)))
    assert np.isnan(batch["pt"][5].as_py())


def test_missing_columns_are_named_for_the_first_file_that_lacks_some(good: Path, altered: Callable[..., Path]) -> None:
    lacking = altered(part_dzerr=None, jet_label=None)
    with pytest.raises(HepfmError, match=r"no column 'part_dzerr', 'jet_label'") as caught:
        JetClass2Source().bind([good, lacking])
    assert caught.value.where == str(lacking)


def test_generator_columns_are_needed_only_when_they_are_asked_for(altered: Callable[..., Path]) -> None:
    lacking = altered(genjet_pt=None, genpart_px=None)
    assert JetClass2Source().bind([lacking]).entries(lacking) == 300
    with pytest.raises(HepfmError, match="no column 'genjet_pt'"):
        FULL.bind([lacking])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"jet_pt": lambda values: [str(value) for value in values]}, "'jet_pt' holds string"),
        ({"jet_pt": at(5, None)}, "'jet_pt' has null values"),
        ({"part_px": at(5, None)}, "'part_px' has null values"),
        ({"part_px": at(5, [None])}, "'part_px' has null values"),
        ({"jet_pt": lambda values: [[value] for value in values]}, "'jet_pt' does not hold one number"),
        ({"part_px": lambda values: [1.0 for _ in values]}, "'part_px' does not hold a list"),
    ],
)
def test_columns_of_another_kind_are_refused(changes: Columns, what: str, altered: Callable[..., Path]) -> None:
    path = altered(**changes)
    with pytest.raises(HepfmError, match=what) as caught:
        JetClass2Source().read(path, 0, 300)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("container", ["good", "as_root", "as_rntuple"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_files_are_refused(
    container: str, share: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole = request.getfixturevalue(container)
    content = whole.read_bytes()
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(HepfmError) as caught:
        JetClass2Source().entries(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_damage_inside_a_file_with_checksums_is_found(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    write_jetclass2(path, [read_all_of(table, tmp_path)])
    content = bytearray(path.read_bytes())
    content[2_000] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(HepfmError, match="cannot be decoded"):
        JetClass2Source().read(path, 0, 300)


def read_all_of(table: pa.Table, folder: Path) -> pa.RecordBatch:
    pq.write_table(table, folder / "plain.parquet")
    return read_all(folder / "plain.parquet", FULL)


def test_files_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    text, tree, none = tmp_path / "text.parquet", tmp_path / "no_tree.root", tmp_path / "none.parquet"
    text.write_text("PARQUET?")
    with uproot.recreate(tree) as file:
        file["histogram"] = np.histogram([1.0])
    pq.write_table(FILE_SCHEMA.empty_table(), none)
    for path, what in (
        (text, "neither a Parquet nor a ROOT file"),
        (tree, "no tree and no RNTuple"),
        (none, "has no entries"),
        (tmp_path, "a folder"),
        (tmp_path / "absent", "no such file"),
    ):
        with pytest.raises(HepfmError, match=what):
            JetClass2Source().entries(path)


# Writing


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_a_written_file_has_the_columns_of_the_one_that_was_read(n: int, seed: int, tmp_path: Path) -> None:
    original = arrow_table(make_columns(n, seed))
    pq.write_table(original, tmp_path / "original.parquet")
    batch = read_all(tmp_path / "original.parquet", FULL)
    assert write_jetclass2(tmp_path / "written.parquet", [batch]) == n
    written = pq.read_table(tmp_path / "written.parquet")
    assert written.schema.equals(FILE_SCHEMA)
    for name in COLUMNS:
        ours, theirs = written[name].combine_chunks(), original[name].combine_chunks()
        if name in ("part_px", "part_py", "part_pz", "jet_energy", "genjet_energy"):
            ours, theirs = (a.flatten() if pa.types.is_list(a.type) else a for a in (ours, theirs))
            assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-3), name
        elif name.startswith(("part_", "jet_")):
            assert ours.equals(theirs), name
    again = read_all(tmp_path / "written.parquet", FULL)
    resonances = [name for name in batch.schema.names if name.startswith("resonance_")]
    assert len(resonances) == 15
    for name in (
        "eta",
        "phi",
        "softdrop_mass",
        "label",
        "generator_jet_pt",
        "generator_jet_softdrop_mass",
        *resonances,
    ):
        assert again[name].equals(batch[name]), name
    write_jetclass2(tmp_path / "without.parquet", [read_all(tmp_path / "original.parquet")])
    assert read_all(tmp_path / "without.parquet", FULL)["resonance_x_mass"].null_count == n


def test_equal_records_give_equal_bytes_however_they_come(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetclass2_format, "ROW_GROUP_ENTRIES", 40)
    batch = read_all(good)
    write_jetclass2(tmp_path / "a.parquet", [batch])
    write_jetclass2(tmp_path / "b.parquet", [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7)])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 8


def test_what_cannot_be_written_leaves_nothing(good: Path, tmp_path: Path) -> None:
    batch = read_all(good)
    column = batch.schema.get_field_index("label")
    foreign = batch.set_column(column, "label", pa.array(["Hbb"] * 300).dictionary_encode())
    unnamed = batch.set_column(column, "label", pa.array([None] * 300, pa.string()).dictionary_encode())
    for batches, what in (
        ([], "no jets"),
        ([foreign], "no label 'Hbb'"),
        ([unnamed], "has no label"),
        ([batch.remove_column(column)], "has no label"),
    ):
        with pytest.raises(HepfmError, match=what):
            write_jetclass2(tmp_path / "jets.parquet", batches)
    assert list(tmp_path.iterdir()) == []


# From files to a corpus


def test_a_corpus_is_built_from_both_containers(tmp_path: Path, good: Path) -> None:
    second = tmp_path / "second.root"
    other = arrow_table(make_columns(200, 2))
    content = {name: ak.from_arrow(other[name].combine_chunks()) for name in other.column_names}
    with uproot.recreate(second) as file:
        file.mktree("tree", {name: array.type for name, array in content.items()})
        file["tree"].extend(content)
    corpus = build(FULL, [good, second], tmp_path / "corpus", BuildOptions(run_entries=50))
    entries = corpus.manifest.splits
    assert sum(split.records for split in entries.values()) == 500
    assert corpus.manifest.labels == LABELS
    assert {"constituents.d0", "resonance_y1_mass", "generator_jet_pt"} <= set(corpus.manifest.provides)
    assert corpus.manifest.statistics["resonance_x_mass"]["nulls"] > 0
    assert corpus.manifest.provenance["source"] == "jetclass2"
    assert corpus.manifest.provenance["settings"]["generator"] is True
