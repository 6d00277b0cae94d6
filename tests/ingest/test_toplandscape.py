"""Top-tagging landscape: three forms of the same jets give the same records."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jets_of_sources import (
    SAMPLES,
    built,
    check_ranges,
    check_sums,
    label_names,
    point_lists,
    read_all,
    same,
    truncated,
)
from pandas_layout import write_fixed, write_table

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.sources import toplandscape
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.toplandscape import FLAT_COLUMNS, TopLandscapeSource
from hepfm.ingest.tally import Tally

SOURCE = TopLandscapeSource()


def make_jets(n: int, seed: int, most: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Zero-padded E, px, py, pz (n, 200, 4) float32 of jets of about 600 GeV, massive constituents, and labels."""
    rng = np.random.default_rng(seed)
    values = np.zeros((n, 200, 4), dtype=np.float32)
    for jet, count in enumerate(rng.integers(1, most + 1, n)):
        share = np.sort(rng.dirichlet(np.ones(count)))[::-1]
        pt, eta, phi = 600 * share, rng.normal(rng.normal(), 0.2, count), rng.normal(3.1, 0.2, count)
        mass = rng.choice([0, 0.14, 0.94], count)
        momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1)
        energy = np.sqrt((momentum**2).sum(axis=1) + mass**2)
        values[jet, :count] = np.column_stack([energy, momentum])
    return values, rng.integers(0, 2, n)


def write_original(path: Path, values: np.ndarray, label: np.ndarray, **how: Any) -> Path:
    truth = np.full((len(values), 4), 999, dtype=np.float32)
    block = np.concatenate([values.reshape(len(values), 800), truth], axis=1)
    return write_table(path, "table", block, np.stack([np.full(len(label), 2), label], axis=1), **how)


def write_lists(path: Path, values: np.ndarray, label: np.ndarray, **options: Any) -> Path:
    filled = values[:, :, 0] > 0
    columns: dict[str, Any] = {"label": label, "jet_nparticles": filled.sum(axis=1)}
    for number, name in enumerate(("part_energy", "part_px", "part_py", "part_pz")):
        columns[name] = [row[mask] for row, mask in zip(values[:, :, number], filled, strict=True)]
    columns["part_deta"] = [np.full(mask.sum(), 77, np.float32) for mask in filled]  # flipped there; not to be used
    for name in ("jet_pt", "jet_eta", "jet_phi", "jet_energy"):
        columns[name] = np.arange(len(label), dtype=np.float32)
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_flat(path: Path, values: np.ndarray, label: np.ndarray) -> Path:
    columns = dict(zip(FLAT_COLUMNS, values.reshape(len(values), 800).T, strict=True))
    pq.write_table(pa.table({**columns, "truthE": values[:, 0, 0], "ttv": label * 0, "is_signal_new": label}), path)
    return path


JETS = make_jets(120, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("top")
    return {
        "original": write_original(folder / "train.h5", *JETS, chunks=(40,), compression="gzip"),
        "lists": write_lists(folder / "lists.parquet", *JETS, row_group_size=50),
        "flat": write_flat(folder / "flat.parquet", *JETS),
    }


@pytest.mark.parametrize("form", ["original", "lists", "flat"])
def test_records_are_the_sums_of_the_constituents(files: dict[str, Path], form: str) -> None:
    values, label = JETS
    batch = read_all(SOURCE, files[form])
    check_sums(batch, [jet[jet[:, 0] > 0] for jet in values])
    assert label_names(batch) == ["top" if flag else "QCD" for flag in label]
    assert values_of(batch.column("source_entry")).tolist() == list(range(120))
    assert set(batch.schema.field("constituents").type.value_type.names) == {"pt", "deta", "dphi", "energy"}


def test_the_three_forms_give_the_same_records(files: dict[str, Path]) -> None:
    first, *others = (read_all(SOURCE, path) for path in files.values())
    assert all(first.equals(other) for other in others)


def test_constituents_out_of_order_are_put_in_order_of_pt(tmp_path: Path) -> None:
    values, label = make_jets(20, 5)
    shuffled = values[:, np.random.default_rng(1).permutation(200)]  # padding in between as well
    batch = read_all(SOURCE, write_original(tmp_path / "a.h5", shuffled, label))
    for pt in point_lists(batch, "pt"):
        assert (np.diff(pt) <= 0).all()
    assert batch.equals(read_all(SOURCE, write_original(tmp_path / "b.h5", values, label)))


@pytest.mark.parametrize("form", ["original", "lists", "flat"])
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_ranges_give_the_same_jets(files: dict[str, Path], form: str, cuts: list[int]) -> None:
    check_ranges(SOURCE, files[form], cuts)


@pytest.mark.parametrize("chunk", [1, 7, 600, 1000])
def test_any_chunks_give_the_same_jets(tmp_path: Path, chunk: int) -> None:
    jets = make_jets(1000, 3, most=4)
    path = write_original(tmp_path / "chunked.h5", *jets, chunks=(chunk,))
    check_ranges(SOURCE, path, [3, 599, 601, 700])
    assert read_all(SOURCE, path).equals(read_all(SOURCE, write_original(tmp_path / "whole.h5", *jets)))


@pytest.mark.parametrize("form", ["original", "lists", "flat"])
def test_keys_tell_jets_apart_and_find_a_jet_again(
    files: dict[str, Path], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SOURCE.keys(files[form])
    assert keys is not None
    assert len(np.unique(keys)) == 120
    monkeypatch.setattr(toplandscape, "KEY_WINDOW", 50)
    again = SOURCE.keys(files[form])
    assert again is not None
    assert np.array_equal(keys, again)


def test_all_forms_are_recognised_and_jetclass2_is_not(files: dict[str, Path]) -> None:
    for path in files.values():
        assert TopLandscapeSource.recognises(contents(path))
    sample = SAMPLES / "jetclass2" / "JetClassII_example.parquet"
    if not sample.exists():
        pytest.skip(f"no {sample}")
    assert not TopLandscapeSource.recognises(contents(sample))


@pytest.mark.parametrize("layout", ["table", "fixed"])
def test_columns_are_found_by_name(tmp_path: Path, layout: str) -> None:
    values, label = make_jets(30, seed=5)
    original = write_original(tmp_path / "original.h5", values, label)
    truth = [f"truth{part}" for part in ("E", "PX", "PY", "PZ")]
    names = [*truth, *(f"{part}_{number}" for part in ("PX", "PY", "PZ", "E") for number in range(200))]
    momenta = [values[:, :, part] for part in (1, 2, 3, 0)]
    block = np.concatenate([np.full((len(label), 4), 999, dtype=np.float32), *momenta], axis=1)
    flags = np.stack([label, np.full(len(label), 2)], axis=1)
    columns = [names, ["is_signal_new", "ttv"]]
    path = tmp_path / "other.h5"
    if layout == "table":
        write_table(path, "table", block, flags, names=columns)
    else:
        write_fixed(path, "table", [(columns[0], block), (columns[1], flags)])
    assert TopLandscapeSource.recognises(contents(path))
    assert read_all(SOURCE, path).equals(read_all(SOURCE, original))
    assert (SOURCE.keys(path) == SOURCE.keys(original)).all()


def test_real_top_jets_have_the_mass_of_the_top_quark(tmp_path: Path) -> None:
    """Real JetClass jets, laid out as the landscape's: QCD and hadronic top jets."""
    vectors, classes = (SAMPLES / "jetclass" / f"jetclass_500_{name}.npy" for name in ("pfVectors", "labels"))
    if not vectors.exists():
        pytest.skip(f"no {vectors}")
    px_py_pz_e, flags = np.load(vectors), np.load(classes)
    chosen = flags[:, [0, 8]].any(axis=1)  # QCD, Tbqq
    values = np.zeros((chosen.sum(), 200, 4), dtype=np.float32)
    values[:, :128] = px_py_pz_e[chosen][:, [3, 0, 1, 2]].transpose(0, 2, 1)
    batch = read_all(SOURCE, write_original(tmp_path / "a.h5", values, flags[chosen, 8].astype(int)))
    top = np.asarray(label_names(batch)) == "top"
    mass, pt = (np.asarray(batch.column(name)) for name in ("mass", "pt"))
    assert 160 < np.median(mass[top]) < 180
    assert np.median(mass[~top]) < 120
    assert ((pt > 495) & (pt < 1005)).all()


def test_a_corpus_can_be_built_of_them(files: dict[str, Path], tmp_path: Path) -> None:
    corpus, table = built(SOURCE, [files["original"]], tmp_path / "corpus")
    assert (corpus.manifest.axis, corpus.manifest.labels) == ("constituent_sum", ("QCD", "top"))
    assert same(table, read_all(SOURCE, files["original"]))


def test_the_source_can_be_sent_to_another_process(files: dict[str, Path]) -> None:
    assert pickle.loads(pickle.dumps(SOURCE)).entries(files["lists"]) == 120  # noqa: S301


class TestBad:
    def refused(self, path: Path, match: str, entries: list[int]) -> None:
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(SOURCE, path)
        assert f"{path}, entry {entries[0]}" in str(caught.value)
        tally = Tally(on_bad="skip")
        batch = read_all(SOURCE, path, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == entries
        assert not set(values_of(batch.column("source_entry"))) & set(entries)
        assert len(batch) == SOURCE.entries(path) - len(entries)

    @pytest.mark.parametrize("write", [write_original, write_lists, write_flat])
    def test_a_label_that_is_neither(self, tmp_path: Path, write: Any) -> None:
        values, label = make_jets(20, 2)
        label[[4, 11]] = 2, -1
        self.refused(write(tmp_path / "jets", values, label), "neither 0 nor 1", [4, 11])

    def test_momentum_without_energy(self, tmp_path: Path) -> None:
        values, label = make_jets(20, 2)
        values[7, 0, 0] = 0
        self.refused(write_original(tmp_path / "a.h5", values, label), "momentum but no energy", [7])

    def test_negative_energy_and_nan_reach_the_builder(self, tmp_path: Path) -> None:
        values, label = make_jets(20, 2)
        values[3, 0, 0], values[5, 0, 1] = -1, np.nan
        batch = read_all(SOURCE, write_original(tmp_path / "a.h5", values, label))
        assert point_lists(batch, "energy")[3].min() == -1
        assert np.isnan(point_lists(batch, "pt")[5]).any()

    def test_no_pickle_is_loaded(self, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        read_all(SOURCE, files["original"])
        SOURCE.keys(files["original"])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("form", ["original", "lists", "flat"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
    def test_truncated(self, files: dict[str, Path], form: str, share: float) -> None:
        path = truncated(files[form], share)
        with pytest.raises(HepfmError, match=r"truncated|damaged|cannot be") as caught:
            read_all(SOURCE, path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_other_widths(self, tmp_path: Path) -> None:
        path = write_table(tmp_path / "a.h5", "table", np.zeros((5, 800), np.float32), np.zeros((5, 2), np.int64))
        with pytest.raises(HepfmError, match=r"\(800, 2\), not \(804, 2\)"):
            SOURCE.entries(path)

    def test_a_named_column_that_is_missing(self, tmp_path: Path) -> None:
        names = [[f"a{number}" for number in range(804)], ["ttv", "is_signal_new"]]
        block, flags = np.zeros((5, 804), np.float32), np.zeros((5, 2), np.int64)
        path = write_table(tmp_path / "a.h5", "table", block, flags, names=names)
        with pytest.raises(HepfmError, match=r"no column E_0, PX_0, PY_0, \.\.\."):
            SOURCE.entries(path)

    def test_another_name(self, tmp_path: Path) -> None:
        path = write_table(tmp_path / "a.h5", "df", np.zeros((5, 804), np.float32), np.zeros((5, 2), np.int64))
        with pytest.raises(HepfmError, match="no data frame 'table'"):
            SOURCE.entries(path)
        assert not TopLandscapeSource.recognises(contents(path))

    def test_lists_of_different_length(self, files: dict[str, Path], tmp_path: Path) -> None:
        table = pq.read_table(files["lists"])
        px = table.column("part_px").to_pylist()
        px[9] = px[9] + [1.0]
        at = table.schema.get_field_index("part_px")
        pq.write_table(table.set_column(at, "part_px", pa.array(px)), tmp_path / "a.parquet")
        with pytest.raises(HepfmError, match="entry 9: 'part_px' has"):
            read_all(SOURCE, tmp_path / "a.parquet")

    @pytest.mark.parametrize(("content", "match"), [(b"", "an empty file"), (b"plain text", "not an HDF5 file")])
    def test_other_files(self, tmp_path: Path, content: bytes, match: str) -> None:
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(HepfmError, match=match):
            SOURCE.entries(tmp_path / "a.h5")

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="no such file"):
            SOURCE.entries(tmp_path / "no.h5")
        with pytest.raises(HepfmError, match="a folder"):
            SOURCE.entries(tmp_path)

    def test_a_range_beyond_the_end(self, files: dict[str, Path]) -> None:
        with pytest.raises(HepfmError, match="it has 120"):
            SOURCE.read(files["original"], 100, 121)
