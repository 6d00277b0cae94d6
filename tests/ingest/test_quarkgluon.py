"""Quark-gluon jets: .npz, HDF5 and Parquet; massless particles, species and charge by PDG id."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
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

from hepfm.core.errors import HepfmError
from hepfm.core.records import SPECIES, values_of
from hepfm.ingest.formats.quark_gluon import charge_and_species
from hepfm.ingest.sources import quarkgluon
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.quarkgluon import QuarkGluonSource
from hepfm.ingest.tally import Tally

SOURCE = QuarkGluonSource()
# Charge and species of the ids that the data sets hold, written out.
PARTICLES = {
    22: (0, "photon"),
    211: (1, "charged_hadron"),
    -211: (-1, "charged_hadron"),
    321: (1, "charged_hadron"),
    -321: (-1, "charged_hadron"),
    2212: (1, "charged_hadron"),
    -2212: (-1, "charged_hadron"),
    130: (0, "neutral_hadron"),
    2112: (0, "neutral_hadron"),
    -2112: (0, "neutral_hadron"),
    11: (-1, "electron"),
    -11: (1, "electron"),
    13: (-1, "muon"),
    -13: (1, "muon"),
}


def make_jets(n: int, seed: int, most: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """X (n, most, 4) of pt, rapidity, phi (near the jet's, beyond pi as well), PDG id; not in order of pt. And y."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, most, 4))
    for jet, count in enumerate(rng.integers(1, most + 1, n)):
        x[jet, :count, 0] = 520 * rng.dirichlet(np.ones(count))
        x[jet, :count, 1] = rng.normal(rng.uniform(-1.7, 1.7), 0.1, count)
        x[jet, :count, 2] = rng.normal(rng.uniform(0, 2 * np.pi), 0.1, count)
        x[jet, :count, 3] = rng.choice(list(PARTICLES), count)
    return x, rng.integers(0, 2, n).astype(np.float64)


def cartesian(x: np.ndarray) -> list[np.ndarray]:
    """E, px, py, pz of the massless particles of each jet."""
    jets = []
    for jet in x:
        pt, eta, phi, _ = jet[jet[:, 0] > 0].T
        jets.append(np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1))
    return jets


def write_npz(path: Path, x: np.ndarray, y: np.ndarray, compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, X=x, y=y)
    return path


def write_hdf5(path: Path, x: np.ndarray, y: np.ndarray, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, **how)
        file.create_dataset("y", data=y)
    return path


def write_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    jets = cartesian(x.astype(np.float64))
    pdg = [jet[jet[:, 0] > 0, 3] for jet in x]
    columns: dict[str, Any] = {"label": y, "jet_pt": np.arange(len(y), dtype=np.float32)}
    columns |= {name: np.arange(len(y), dtype=np.float32) for name in ("jet_eta", "jet_phi", "jet_energy")}
    for number, name in enumerate(("part_energy", "part_px", "part_py", "part_pz")):
        columns[name] = [jet[:, number].astype(np.float32) for jet in jets]
    pq.write_table(pa.table({**columns, "part_pid": [ids.astype(np.float32) for ids in pdg]}), path)
    return path


JETS = make_jets(90, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("qg")
    return {
        "npz": write_npz(folder / "QG_jets.npz", *JETS),
        "stored": write_npz(folder / "stored.npz", *JETS, compressed=False),
        "hdf5": write_hdf5(folder / "qg.h5", *JETS, chunks=(16, 30, 4), compression="gzip"),
        "parquet": write_parquet(folder / "qg.parquet", *JETS),
    }


@pytest.mark.parametrize("form", ["npz", "stored", "hdf5", "parquet"])
def test_records_are_the_sums_of_massless_particles(files: dict[str, Path], form: str) -> None:
    x, y = JETS
    batch = read_all(SOURCE, files[form])
    jets = cartesian(x)
    check_sums(batch, [jet.astype(np.float32) for jet in jets] if form == "parquet" else jets)
    assert label_names(batch) == ["quark" if flag else "gluon" for flag in y]
    ids = [jet[jet[:, 0] > 0][np.argsort(-jet[jet[:, 0] > 0, 0], kind="stable"), 3] for jet in x]
    charges, species = point_lists(batch, "charge"), point_lists(batch, "species")
    for jet, expected in enumerate(ids):
        assert charges[jet].tolist() == [PARTICLES[number][0] for number in expected]
        assert [SPECIES[index] for index in species[jet]] == [PARTICLES[number][1] for number in expected]


def test_the_forms_of_the_arrays_give_the_same_records(files: dict[str, Path]) -> None:
    first = read_all(SOURCE, files["npz"])
    assert first.equals(read_all(SOURCE, files["stored"]))
    assert first.equals(read_all(SOURCE, files["hdf5"]))


def test_energy_and_pseudorapidity_are_those_of_massless_particles(files: dict[str, Path]) -> None:
    x, _ = JETS
    batch = read_all(SOURCE, files["npz"])
    eta = np.asarray(batch.column("eta"))
    for jet, (deta, pt, energy) in enumerate(
        zip(*(point_lists(batch, name) for name in ("deta", "pt", "energy")), strict=True)
    ):
        particles = x[jet][x[jet, :, 0] > 0]
        order = np.argsort(-particles[:, 0], kind="stable")
        assert np.allclose(deta + eta[jet], particles[order, 1], atol=1e-5)  # the stored rapidity
        assert np.allclose(energy, pt * np.cosh(deta + eta[jet]), rtol=1e-5)


def test_phi_beyond_pi_is_wrapped(files: dict[str, Path]) -> None:
    batch = read_all(SOURCE, files["npz"])
    assert (JETS[0][:, :, 2] > np.pi).any()
    phi = np.asarray(batch.column("phi"))
    assert ((phi >= -np.pi) & (phi < np.pi)).all()
    assert np.abs(np.concatenate(point_lists(batch, "dphi"))).max() < 1


@pytest.mark.parametrize("form", ["npz", "stored", "hdf5", "parquet"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_ranges_give_the_same_jets(files: dict[str, Path], form: str, cuts: list[int]) -> None:
    check_ranges(SOURCE, files[form], cuts)


def test_an_npz_is_decoded_as_far_as_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make_jets(4000, 3, most=10)
    path = write_npz(tmp_path / "a.npz", x, y)
    read: list[int] = []
    original = zipfile.ZipExtFile._read1  # type: ignore[attr-defined]

    def counted(self: Any, n: int) -> bytes:
        data = original(self, n)
        read.append(len(data))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", counted)
    for start in range(0, 4000, 500):
        SOURCE.read(path, start, start + 500)
    assert x.nbytes <= sum(read) < 1.2 * (x.nbytes + y.nbytes)  # each byte once, in ascending ranges


@pytest.mark.parametrize("compressed", [True, False])
def test_nothing_of_a_large_npz_is_held(tmp_path: Path, compressed: bool) -> None:
    import tracemalloc

    x = np.zeros((20_000, 50, 4))
    x[:, 0] = [500, 0, 0, 22]
    path = write_npz(tmp_path / "a.npz", x, np.zeros(20_000), compressed)
    tracemalloc.start()
    try:
        SOURCE.read(path, 15_000, 15_100)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < x.nbytes / 8


@pytest.mark.parametrize("form", ["npz", "stored", "hdf5", "parquet"])
def test_keys_tell_jets_apart_and_find_a_jet_again(
    files: dict[str, Path], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SOURCE.keys(files[form])
    assert keys is not None
    assert len(np.unique(keys)) == 90
    monkeypatch.setattr(quarkgluon, "KEY_WINDOW", 20)
    again = SOURCE.keys(files[form])
    assert again is not None
    assert np.array_equal(keys, again)


def test_a_jet_that_comes_twice_is_found(tmp_path: Path) -> None:
    x, y = JETS
    other = write_npz(tmp_path / "more.npz", np.concatenate([make_jets(20, 8)[0], x[7:8]]), y[:21])
    with pytest.raises(HepfmError, match="came before"):
        built(SOURCE, [write_npz(tmp_path / "qg.npz", x, y), other], tmp_path / "corpus")


@pytest.mark.parametrize("number", [0, 1, 111, 310, 3122, 12, 999999, 2.5, np.nan, np.inf])
def test_other_ids_have_no_species(number: float) -> None:
    charge, species = charge_and_species(np.array([number, 211.0]))
    assert (charge.tolist(), species.tolist()) == ([0, 1], [-1, SPECIES.index("charged_hadron")])


def test_all_forms_are_recognised_and_others_are_not(files: dict[str, Path], tmp_path: Path) -> None:
    for path in files.values():
        assert QuarkGluonSource.recognises(contents(path))
    assert contents(files["npz"]).container == "npz"
    other = tmp_path / "other.npz"
    np.savez(other, X=np.zeros((3, 4)), y=np.zeros(3))
    assert contents(other).shape("X") == (3, 4)
    assert not QuarkGluonSource.recognises(contents(other))
    sample = SAMPLES / "jetclass2" / "JetClassII_example.parquet"
    if not sample.exists():
        pytest.skip(f"no {sample}")
    assert not QuarkGluonSource.recognises(contents(sample))


def test_a_corpus_can_be_built_of_them(files: dict[str, Path], tmp_path: Path) -> None:
    corpus, table = built(SOURCE, [files["npz"]], tmp_path / "corpus")
    assert corpus.manifest.labels == ("gluon", "quark")
    assert same(table, read_all(SOURCE, files["npz"]))


def test_the_source_can_be_sent_to_another_process(files: dict[str, Path]) -> None:
    assert pickle.loads(pickle.dumps(SOURCE)).entries(files["npz"]) == 90  # noqa: S301


class TestBad:
    def refused(self, path: Path, match: str, entries: list[int]) -> None:
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(SOURCE, path)
        assert f"{path}, entry {entries[0]}" in str(caught.value)
        tally = Tally(on_bad="skip")
        batch = read_all(SOURCE, path, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == entries
        assert values_of(batch.column("source_entry")).tolist() == sorted({*range(30)} - {*entries})

    @pytest.mark.parametrize("write", [write_npz, write_hdf5, write_parquet])
    def test_a_label_that_is_neither(self, tmp_path: Path, write: Any) -> None:
        x, y = make_jets(30, 2)
        y[[4, 11]] = 2, np.nan
        self.refused(write(tmp_path / "jets.npz", x, y), "neither 0 nor 1", [4, 11])

    @pytest.mark.parametrize("write", [write_npz, write_parquet])
    def test_an_unknown_particle(self, tmp_path: Path, write: Any) -> None:
        x, y = make_jets(30, 2)
        x[9, 0, 3] = 310
        self.refused(write(tmp_path / "jets.npz", x, y), "unknown PDG id", [9])

    def test_a_particle_without_momentum(self, tmp_path: Path) -> None:
        x, y = make_jets(30, 2)
        x[9, 0, 0] = 0
        self.refused(write_npz(tmp_path / "jets.npz", x, y), "no energy", [9])

    def test_negative_pt_and_nan_reach_the_builder(self, tmp_path: Path) -> None:
        x, y = make_jets(30, 2)
        x[9, 0, 0], x[4, 0, 1] = -5, np.nan
        batch = read_all(SOURCE, write_npz(tmp_path / "jets.npz", x, y))
        assert point_lists(batch, "energy")[9].min() < 0
        assert np.isnan(point_lists(batch, "deta")[4]).all()

    @pytest.mark.parametrize("form", ["npz", "stored", "hdf5", "parquet"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
    def test_truncated(self, files: dict[str, Path], form: str, share: float) -> None:
        path = truncated(files[form], share)
        with pytest.raises(HepfmError, match=r"truncated|damaged|cannot be") as caught:
            read_all(SOURCE, path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("form", ["npz", "stored"])
    def test_damaged_inside(self, files: dict[str, Path], tmp_path: Path, form: str) -> None:
        content = bytearray(files[form].read_bytes())
        content[len(content) // 3 : len(content) // 3 + 100] = b"\x55" * 100
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(HepfmError, match="damaged"):
            read_all(SOURCE, tmp_path / "a.npz")

    def test_pickled_objects_are_not_loaded(self, tmp_path: Path) -> None:
        objects = np.empty((3, 2, 4), dtype=object)
        np.savez(tmp_path / "a.npz", X=objects, y=np.zeros(3))
        with pytest.raises(HepfmError, match="pickled objects"):
            SOURCE.entries(tmp_path / "a.npz")

    def test_stored_column_by_column(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", X=np.asfortranarray(np.ones((3, 2, 4))), y=np.zeros(3))
        with pytest.raises(HepfmError, match="column by column"):
            SOURCE.entries(tmp_path / "a.npz")

    def test_a_header_that_promises_more(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.ones((3, 2, 4)))
        header = buffer.getvalue().replace(b"(3, 2, 4)", b"(9, 2, 4)")
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("X.npy", header)
            archive.writestr("y.npy", buffer.getvalue())
        with pytest.raises(HepfmError, match="not the size"):
            SOURCE.entries(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        ("x", "y", "match"),
        [
            (np.ones((3, 2, 5)), np.ones(3), r"X is \(3, 2, 5\)"),
            (np.ones((3, 2, 4)), np.ones(4), r"y is \(4,\)"),
            (np.ones((0, 2, 4)), np.ones(0), "no entries"),
            (np.ones((3, 2, 4), dtype="S3"), np.ones(3), "holds |S3"),
        ],
    )
    @pytest.mark.parametrize("write", [write_npz, write_hdf5])
    def test_other_arrays(self, tmp_path: Path, x: Any, y: Any, match: str, write: Any) -> None:
        with pytest.raises(HepfmError, match=match):
            SOURCE.entries(write(tmp_path / "a.npz", x, y))

    def test_a_missing_array(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", X=np.ones((3, 2, 4)))
        with pytest.raises(HepfmError, match=r"no array 'y' \(it has X\)"):
            SOURCE.entries(tmp_path / "a.npz")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["X"] = np.ones((3, 2, 4))
        with pytest.raises(HepfmError, match=r"no data set 'y' \(it has X"):
            SOURCE.entries(tmp_path / "a.h5")
