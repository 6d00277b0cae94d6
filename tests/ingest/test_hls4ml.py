"""hls4ml jets: columns by the names in the file, of which one has no column."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jets_of_sources import built, check_ranges, label_names, point_lists, read_all, same, truncated

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.hls4ml import Hls4mlSource
from hepfm.ingest.tally import Tally

SOURCE = Hls4mlSource()
POINT_NAMES = [
    *("j1_px", "j1_py", "j1_pz", "j1_e", "j1_erel", "j1_pt", "j1_ptrel", "j1_eta", "j1_etarel"),
    *("j1_etarot", "j1_phi", "j1_phirel", "j1_phirot", "j1_deltaR", "j1_costheta", "j1_costhetarel", "j1_pdgid"),
]
COLUMNS = POINT_NAMES[:-1]  # j1_pdgid is named but not stored
JET_NAMES = ["j_ptfrac", "j_pt", "j_eta", "j_mass", "j_tau1_b1", "j_tau2_b1", "j_tau3_b1", "j_tau1_b2"]
JET_NAMES += [f"j_more{number}" for number in range(44)] + ["j_mass_mmdt"]
FLAGS = ["j_g", "j_q", "j_w", "j_z", "j_t", "j_undef"]
JET_NAMES += FLAGS


def make_jets(n: int, seed: int, most: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """jetConstituentList (n, most, 16) and jets (n, 59), zero-padded, ordered by pt; float32 values as float64."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, most, 16))
    points[:, :, COLUMNS.index("j1_pt")] = -np.sort(-rng.exponential(50, (n, most)), axis=1)
    for name in ("j1_etarel", "j1_phirel"):
        points[:, :, COLUMNS.index(name)] = rng.normal(0, 0.2, (n, most))
    jet_eta = rng.uniform(-2, 2, n)
    eta = jet_eta[:, None] + points[:, :, COLUMNS.index("j1_etarel")]
    points[:, :, COLUMNS.index("j1_e")] = np.cosh(eta) * points[:, :, COLUMNS.index("j1_pt")]
    points[np.arange(most) >= rng.integers(1, most + 1, n)[:, None]] = 0
    jets = rng.uniform(1, 100, (n, 59))
    jets[:, 1], jets[:, 2] = rng.normal(1000, 50, n), jet_eta
    jets[:, -6:] = 0
    jets[np.arange(n), 53 + rng.integers(0, 5, n)] = 1
    return points.astype(np.float32).astype(np.float64), jets.astype(np.float32).astype(np.float64)


def write(path: Path, points: np.ndarray, jets: np.ndarray, names: list[str] | None = None, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("jetConstituentList", data=points, **how)
        file.create_dataset("jets", data=jets, **how and {"compression": "gzip"})
        file.create_dataset("particleFeatureNames", data=np.array(names or POINT_NAMES, dtype="S"))
        file.create_dataset("jetFeatureNames", data=np.array(JET_NAMES, dtype="S"))
        file.create_dataset("jetImage", data=np.zeros((len(jets), 3, 3)))
    return path


def write_parquet(path: Path, points: np.ndarray, jets: np.ndarray) -> Path:
    filled = points[:, :, COLUMNS.index("j1_pt")] != 0
    columns: dict[str, Any] = {
        name: [row[mask] for row, mask in zip(points[:, :, number].astype(np.float32), filled, strict=True)]
        for number, name in enumerate(COLUMNS)
    }
    columns |= {name: jets[:, number].astype(np.float32) for number, name in enumerate(JET_NAMES[:-6])}
    pq.write_table(pa.table({**columns, "label": jets[:, 53:58].argmax(axis=1).astype(np.int8)}), path)
    return path


JETS = make_jets(70, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hls4ml")
    return {
        "hdf5": write(folder / "jetImage_0_150p_0_70.h5", *JETS, chunks=(11, 20, 16), compression="gzip"),
        "parquet": write_parquet(folder / "train.parquet", *JETS),
    }


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_columns_are_found_by_name(files: dict[str, Path], form: str) -> None:
    points, jets = JETS
    batch = read_all(SOURCE, files[form])
    theirs = {"pt": "j1_pt", "deta": "j1_etarel", "dphi": "j1_phirel", "energy": "j1_e"}
    for jet in range(70):
        there = points[jet][points[jet, :, 5] > 0]
        for ours, name in theirs.items():
            assert np.array_equal(point_lists(batch, ours)[jet], there[:, COLUMNS.index(name)]), name
        parts = vector.array({"pt": there[:, 5], "phi": there[:, COLUMNS.index("j1_phirel")]})
        total = np.hypot(parts.x.sum(), parts.y.sum())
        assert np.isclose(batch.column("pt_constituents")[jet].as_py(), total, rtol=1e-6)
    columns = {"pt": "j_pt", "eta": "j_eta", "mass": "j_mass", "softdrop_mass": "j_mass_mmdt"}
    for ours, name in {**columns, **{f"tau{n}": f"j_tau{n}_b1" for n in (1, 2, 3)}}.items():
        assert np.array_equal(batch.column(ours), jets[:, JET_NAMES.index(name)]), name
    assert label_names(batch) == ["gqwzt"[number] for number in jets[:, 53:58].argmax(axis=1)]


def test_the_two_forms_give_the_same_records(files: dict[str, Path]) -> None:
    assert read_all(SOURCE, files["hdf5"]).equals(read_all(SOURCE, files["parquet"]))


def test_the_name_without_a_column_may_stand_anywhere(files: dict[str, Path], tmp_path: Path) -> None:
    names = [*POINT_NAMES[:4], "j1_pdgid", *POINT_NAMES[4:-1]]
    assert read_all(SOURCE, write(tmp_path / "a.h5", *JETS, names=names)).equals(read_all(SOURCE, files["hdf5"]))


def test_a_pdg_id_that_is_stored_is_no_shift(tmp_path: Path, files: dict[str, Path]) -> None:
    points = np.insert(JETS[0], 4, 211.0, axis=2)
    points[JETS[0][:, :, 5] == 0] = 0
    names = [*POINT_NAMES[:4], "j1_pdgid", *POINT_NAMES[4:-1]]
    assert read_all(SOURCE, write(tmp_path / "a.h5", points, JETS[1], names=names)).equals(
        read_all(SOURCE, files["hdf5"])
    )


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_ranges_give_the_same_jets(files: dict[str, Path], form: str, cuts: list[int]) -> None:
    check_ranges(SOURCE, files[form], cuts)


def test_keys_are_the_same_in_both_forms(files: dict[str, Path]) -> None:
    keys = SOURCE.keys(files["hdf5"])
    assert len(np.unique(keys)) == 70
    assert np.array_equal(keys, SOURCE.keys(files["parquet"]))


def test_both_are_recognised(files: dict[str, Path]) -> None:
    assert all(Hls4mlSource.recognises(contents(path)) for path in files.values())


def test_a_corpus_can_be_built_of_them(files: dict[str, Path], tmp_path: Path) -> None:
    corpus, table = built(SOURCE, [files["hdf5"]], tmp_path / "corpus")
    assert (corpus.manifest.axis, corpus.manifest.labels) == ("stored", ("g", "q", "w", "z", "t"))
    assert same(table, read_all(SOURCE, files["hdf5"]))


def test_the_source_can_be_sent_to_another_process(files: dict[str, Path]) -> None:
    assert pickle.loads(pickle.dumps(SOURCE)).entries(files["hdf5"]) == 70  # noqa: S301


class TestBad:
    @pytest.mark.parametrize("flags", [(0, 0, 0, 0, 0, 1), (1, 1, 0, 0, 0, 0), (0, 0, 2, 0, 0, 0), (np.nan,) * 6])
    def test_a_jet_of_no_or_several_classes(self, tmp_path: Path, flags: tuple[float, ...]) -> None:
        jets = JETS[1].copy()
        jets[[6, 40], -6:] = flags
        path = write(tmp_path / "a.h5", JETS[0], jets)
        with pytest.raises(HepfmError, match=r"entry 6: it has not exactly one of the five classes"):
            read_all(SOURCE, path)
        tally = Tally(on_bad="skip")
        batch = read_all(SOURCE, path, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == [6, 40]
        assert values_of(batch.column("source_entry")).tolist() == sorted({*range(70)} - {6, 40})

    def test_a_label_beyond_the_classes(self, files: dict[str, Path], tmp_path: Path) -> None:
        table = pq.read_table(files["parquet"])
        label = pa.array([5, -1, *[0] * 68], pa.int8())
        at = table.schema.get_field_index("label")
        pq.write_table(table.set_column(at, "label", label), tmp_path / "a.parquet")
        tally = Tally(on_bad="skip")
        assert len(read_all(SOURCE, tmp_path / "a.parquet", tally=tally)) == 68

    def test_fewer_names_than_columns(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="names 15 columns, there are 16"):
            SOURCE.entries(write(tmp_path / "a.h5", *JETS, names=POINT_NAMES[:15]))

    def test_a_missing_name(self, tmp_path: Path) -> None:
        names = ["j1_other" if name == "j1_etarel" else name for name in POINT_NAMES]
        with pytest.raises(HepfmError, match="no j1_etarel"):
            SOURCE.entries(write(tmp_path / "a.h5", *JETS, names=names))

    def test_another_number_of_jets(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"jetConstituentList is \(70, 20, 16\) and jets is \(60, 59\)"):
            SOURCE.entries(write(tmp_path / "a.h5", JETS[0], JETS[1][:60]))

    def test_a_missing_data_set(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["jets"] = JETS[1]
        with pytest.raises(HepfmError, match=r"no data set 'jetConstituentList' \(it has jets"):
            SOURCE.entries(tmp_path / "a.h5")

    @pytest.mark.parametrize("form", ["hdf5", "parquet"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
    def test_truncated(self, files: dict[str, Path], form: str, share: float) -> None:
        with pytest.raises(HepfmError, match=r"truncated|damaged"):
            read_all(SOURCE, truncated(files[form], share))
