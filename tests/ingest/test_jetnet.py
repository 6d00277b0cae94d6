"""JetNet: classes by file name, relative particles, a mask instead of lengths."""

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
from hepfm.ingest.sources.jetnet import JetNetSource
from hepfm.ingest.tally import Tally


def make_jets(n: int, seed: int, most: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """particle_features (n, most, 4) and jet_features (n, 4) float32; masked particles anywhere, not ordered."""
    rng = np.random.default_rng(seed)
    particles = np.zeros((n, most, 4), dtype=np.float32)
    for jet in range(n):
        there = rng.permutation(most)[: rng.integers(1, most + 1)]
        particles[jet, there, 0] = rng.normal(0, 0.2, len(there))
        particles[jet, there, 1] = rng.normal(0, 0.2, len(there))
        particles[jet, there, 2] = rng.dirichlet(np.ones(len(there)))
        particles[jet, there, 3] = 1
    jets = np.stack(
        [rng.normal(1000, 50, n), rng.uniform(-2, 2, n), rng.uniform(10, 200, n), particles[:, :, 3].sum(axis=1)],
        axis=1,
    )
    return particles, jets.astype(np.float32)


def write(path: Path, particles: np.ndarray, jets: np.ndarray, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("particle_features", data=particles, **how)
        file.create_dataset("jet_features", data=jets)
    return path


def write_parquet(
    path: Path, particles: np.ndarray, jets: np.ndarray, form: str = "lists", kinds: np.ndarray | None = None
) -> Path:
    """The same, with the features' names as columns: ``lists`` of what is there, or ``masked`` or ``zero`` padding."""
    there = particles[:, :, 3] == 1 if form == "lists" else np.ones(particles.shape[:2], dtype=bool)
    names = ("etarel", "phirel", "ptrel", "mask")[: 4 if form == "masked" else 3]
    columns: dict[str, Any] = {
        name: [row[mask] for row, mask in zip(particles[:, :, number], there, strict=True)]
        for number, name in enumerate(names)
    }
    columns |= dict(zip(("pt", "eta", "mass", "num_particles"), jets.T, strict=True))
    pq.write_table(pa.table(columns if kinds is None else {**columns, "type": kinds}), path, row_group_size=33)
    return path


JETS = make_jets(80, 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("jetnet") / "g.hdf5", *JETS, chunks=(9, 30, 4), compression="gzip")


def test_particles_are_those_of_the_mask_times_the_jet(good: Path) -> None:
    particles, jets = JETS
    batch = read_all(JetNetSource(), good)
    for name, column in {"pt": 0, "eta": 1, "mass": 2}.items():
        assert np.array_equal(batch.column(name), jets[:, column])
    for jet in range(80):
        deta, dphi, ptrel, _ = particles[jet][particles[jet, :, 3] == 1].T.astype(np.float64)
        order = np.argsort(-ptrel, kind="stable")
        assert np.allclose(point_lists(batch, "pt")[jet], (ptrel * jets[jet, 0])[order], rtol=1e-6)
        assert np.array_equal(point_lists(batch, "deta")[jet], deta[order])  # of either sign of eta
        assert np.array_equal(point_lists(batch, "dphi")[jet], dphi[order])
        parts = vector.array({"pt": ptrel * jets[jet, 0], "phi": dphi})
        total = np.hypot(parts.x.sum(), parts.y.sum())
        assert np.isclose(batch.column("pt_constituents")[jet].as_py(), total, rtol=1e-6)
    assert (jets[:, 1] < 0).any()


def test_what_the_files_lack_is_not_there(good: Path) -> None:
    schema = JetNetSource().schema
    assert set(schema.field("constituents").type.value_type.names) == {"pt", "deta", "dphi"}
    assert not {"phi", "tau1", "event_id"} & set(schema.names)
    assert JetNetSource.axis == "stored"


@pytest.mark.parametrize(
    ("name", "label"), [("g", "g"), ("q150", "q"), ("t30", "t"), ("w150", "w"), ("z", "z"), ("t", "t")]
)
def test_the_class_is_in_the_files_name(tmp_path: Path, name: str, label: str, capsys: Any) -> None:
    path = write(tmp_path / f"{name}.hdf5", *JETS)
    bound = JetNetSource().bind([path])
    assert label_names(read_all(bound, path)) == [label] * 80
    assert f"{name}.hdf5: {label}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gluons", "g_30", "x", "150", "gg", "t1500", "Ag"])
def test_a_name_that_does_not_tell_is_an_error_unless_the_class_is_given(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / f"{name}.hdf5", *JETS)
    with pytest.raises(HepfmError, match=r"name does not tell .*--label"):
        JetNetSource().bind([path])
    source = JetNetSource(label="w").bind([path])
    assert set(label_names(read_all(source, path))) == {"w"}
    assert source.settings() == {"label": "w"}


def test_a_fifth_feature_in_front_is_the_class(tmp_path: Path) -> None:
    particles, jets = JETS
    kinds = np.arange(80) % 5
    path = write(tmp_path / "mixed.hdf5", particles, np.column_stack([kinds, jets]).astype(np.float32))
    batch = read_all(JetNetSource().bind([path]), path)
    assert label_names(batch) == ["gqtwz"[kind] for kind in kinds]
    assert np.array_equal(batch.column("pt"), jets[:, 0])
    assert set(label_names(read_all(JetNetSource(label="t"), path))) == {"t"}


@pytest.mark.parametrize("form", ["lists", "masked", "zero"])
def test_parquet_files_of_the_same_jets_give_the_same_records(good: Path, tmp_path: Path, form: str) -> None:
    path = write_parquet(tmp_path / "g150.parquet", *JETS, form)
    assert JetNetSource.recognises(contents(path))
    source = JetNetSource().bind([path])
    assert read_all(source, path).equals(read_all(source, good))
    assert np.array_equal(source.keys(path), source.keys(good))
    check_ranges(source, path, [20, 33, 34, 79])


def test_a_column_of_types_is_the_class(tmp_path: Path) -> None:
    kinds = np.arange(80) % 5
    path = write_parquet(tmp_path / "all.parquet", *JETS, kinds=kinds)
    assert label_names(read_all(JetNetSource().bind([path]), path)) == ["gqtwz"[kind] for kind in kinds]
    assert set(label_names(read_all(JetNetSource(label="t"), path))) == {"t"}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_ranges_give_the_same_jets(good: Path, cuts: list[int]) -> None:
    check_ranges(JetNetSource(), good, cuts)


def test_large_chunks_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    particles, jets = make_jets(2000, 3, most=5)
    path = write(tmp_path / "g.hdf5", particles, jets, chunks=(700, 5, 4), compression="gzip")
    decoded: list[tuple[int, int]] = []
    from hepfm.ingest.formats import hdf5_rows

    original = hdf5_rows.Rows._decode
    monkeypatch.setattr(
        hdf5_rows.Rows,
        "_decode",
        lambda self, start, stop: decoded.append((start, stop)) or original(self, start, stop),
    )
    for start in range(0, 2000, 100):
        JetNetSource().read(path, start, start + 100)
    assert [piece for piece in decoded if piece[1] - piece[0] > 100] == [(0, 700), (700, 1400), (1400, 2000)]
    check_ranges(JetNetSource(), path, [1, 650, 699, 701, 1399, 1400, 1999])


def test_the_same_jets_with_more_particles_have_the_same_keys(good: Path, tmp_path: Path) -> None:
    particles, jets = JETS
    more = jets.copy()
    more[:, 3] += 50
    wide = write(tmp_path / "g150.hdf5", np.concatenate([particles] * 5, axis=1), more)
    keys = JetNetSource().keys(good)
    assert len(np.unique(keys)) == 80
    assert np.array_equal(keys, JetNetSource().keys(wide))


def test_it_is_recognised(good: Path, tmp_path: Path) -> None:
    assert JetNetSource.recognises(contents(good))
    assert not JetNetSource.recognises(contents(write(tmp_path / "a.h5", JETS[0], JETS[1][:, :3])))
    assert not JetNetSource.recognises(contents(write(tmp_path / "b.h5", JETS[0], JETS[1][:50])))


def test_a_corpus_of_two_classes(good: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "t.hdf5", *make_jets(60, 2))
    corpus, table = built(JetNetSource(), [good, other], tmp_path / "corpus")
    assert corpus.manifest.labels == ("g", "q", "t", "w", "z")
    assert same(table, read_all(JetNetSource(), good), read_all(JetNetSource(), other))


def test_the_source_can_be_sent_to_another_process(good: Path) -> None:
    source = pickle.loads(pickle.dumps(JetNetSource(label="q")))  # noqa: S301
    assert set(label_names(read_all(source, good))) == {"q"}


class TestBad:
    def refused(self, path: Path, match: str, entries: list[int]) -> None:
        source = JetNetSource()
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(source, path)
        assert f"{path}, entry {entries[0]}" in str(caught.value)
        tally = Tally(on_bad="skip")
        batch = read_all(source, path, tally=tally)
        assert [rejected.entry for rejected in tally.rejected] == entries
        assert values_of(batch.column("source_entry")).tolist() == sorted({*range(80)} - {*entries})

    def test_a_mask_that_is_neither(self, tmp_path: Path) -> None:
        particles = JETS[0].copy()
        particles[5, 3, 3], particles[70, 0, 3] = 0.5, np.nan
        self.refused(write(tmp_path / "g.hdf5", particles, JETS[1]), "mask is neither", [5, 70])

    def test_an_unknown_type(self, tmp_path: Path) -> None:
        kinds = np.zeros(80, dtype=np.float32)
        kinds[[8, 9]] = 5, 0.5
        jets = np.column_stack([kinds, JETS[1]])
        self.refused(write(tmp_path / "g.hdf5", JETS[0], jets), "type is not one of g, q, t, w, z", [8, 9])

    def test_masks_and_types_of_parquet_files(self, tmp_path: Path) -> None:
        particles, kinds = JETS[0].copy(), np.zeros(80)
        particles[5, 3, 3], particles[70, 0, 3] = 0.5, np.nan
        self.refused(write_parquet(tmp_path / "g.parquet", particles, JETS[1], "masked"), "mask is neither", [5, 70])
        kinds[[8, 9]] = 5, 0.5
        self.refused(write_parquet(tmp_path / "z.parquet", *JETS, kinds=kinds), "type is not one of", [8, 9])

    def test_parquet_lists_of_different_length(self, tmp_path: Path) -> None:
        table = pq.read_table(write_parquet(tmp_path / "g.parquet", *JETS))
        lists = table.column("ptrel").to_pylist()
        lists[9] = [*lists[9], 0.1]
        pq.write_table(table.set_column(2, "ptrel", pa.array(lists)), tmp_path / "q.parquet")
        with pytest.raises(HepfmError, match=r"entry 9: 'etarel' has \d+ values and 'ptrel' has"):
            read_all(JetNetSource(), tmp_path / "q.parquet")

    def test_nan_reaches_the_builder(self, tmp_path: Path) -> None:
        jets = JETS[1].copy()
        jets[3, 2] = np.nan
        assert np.isnan(read_all(JetNetSource(), write(tmp_path / "g.hdf5", JETS[0], jets)).column("mass")[3].as_py())

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
    def test_truncated(self, good: Path, share: float) -> None:
        with pytest.raises(HepfmError, match="truncated or damaged"):
            read_all(JetNetSource(label="g"), truncated(good, share))

    @pytest.mark.parametrize(
        ("particles", "jets", "match"),
        [
            (JETS[0][:, :, :3], JETS[1], r"particle_features is \(80, 30, 3\)"),
            (JETS[0], JETS[1][:, :3], r"jet_features is \(80, 3\)"),
            (JETS[0], JETS[1][:40], r"jet_features is \(40, 4\)"),
            (JETS[0].astype(int), JETS[1], "floats are needed"),
            (JETS[0][:0], JETS[1][:0], "no entries"),
        ],
    )
    def test_other_shapes(self, tmp_path: Path, particles: np.ndarray, jets: np.ndarray, match: str) -> None:
        with pytest.raises(HepfmError, match=match):
            JetNetSource().entries(write(tmp_path / "g.hdf5", particles, jets))

    def test_a_missing_data_set(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "g.hdf5", "w") as file:
            file["jet_features"] = JETS[1]
        with pytest.raises(HepfmError, match=r"no data set 'particle_features' \(it has jet_features"):
            JetNetSource().entries(tmp_path / "g.hdf5")
