"""showerdata files: read as the package writes them, written so that the package reads them, exactly back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from showers import bits, built, in_file_order, piecewise

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.formats.ild import ild_points
from hepfm.ingest.formats.showerdata import STORED, write_showerdata
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.sources import shower_source
from hepfm.ingest.sources.calochallenge import CaloChallengeSource
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.showerdata import ShowerDataSource
from hepfm.ingest.tally import Tally

ARRAYS = {
    "energies": "<f4",
    "directions": "<f4",
    "pdg": "<i4",
    "shower_ids": "<i4",
    "num_points": "<i4",
    "shape": "<i8",
}


def make(path: Path, entries: int, columns: int = 5, seed: int = 0, whole: bool = True, **attributes: float) -> Path:
    """A file with the data sets that the package's ``Showers.save`` makes; a shower without points among them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, entries)
    lengths[entries // 2] = 0
    with h5py.File(path, "w") as file:
        lists = file.create_dataset("showers", (entries,), h5py.vlen_dtype(np.dtype("float32")))
        for entry, length in enumerate(lengths):
            points = rng.normal(0, 50, (length, columns)).astype("f4")
            points[:, 2] = rng.integers(0, 78, length) if whole else rng.uniform(0, 500, length)
            points[:, 3] = rng.exponential(2e-3, length)
            lists[entry] = points.reshape(-1)
        direction = rng.normal(size=(entries, 3))
        file["energies"] = rng.uniform(10, 90, (entries, 1)).astype("f4")
        file["directions"] = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype("f4")
        file["pdg"] = rng.choice([22, 11, -211], entries).astype("i4")
        file["shower_ids"] = rng.permutation(entries).astype("i4") + 5
        file["num_points"] = lengths.astype("i4")
        file["shape"] = np.array([entries, 40, columns])
        file.attrs["showerdata_version"] = "0.7.0"
        file.attrs.update(attributes)
    return path


@pytest.fixture(scope="module", autouse=True)
def any_response() -> Iterator[None]:
    """Energies here are numbers whose bits matter: they are no calorimeter's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shower_source, "LEAST_RESPONSE", 0.0)
        yield


def bound(path: Path, **options: Any) -> ShowerDataSource:
    return ShowerDataSource(**options).bind([path])


def same_files(first: Path, second: Path) -> None:
    with h5py.File(first) as one, h5py.File(second) as other:
        assert set(one) == set(other)
        assert dict(one.attrs) == dict(other.attrs)
        for name, kind in ARRAYS.items():
            assert one[name].dtype == other[name].dtype == np.dtype(kind)
            assert np.array_equal(one[name][:], other[name][:]), name
        assert len(one["showers"]) == len(other["showers"])
        for mine, theirs in zip(one["showers"][:], other["showers"][:], strict=True):
            assert mine.dtype == theirs.dtype == np.float32
            assert np.array_equal(bits(mine), bits(theirs))


@pytest.fixture(scope="module")
def pions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("showerdata") / "pions.h5", 200)


class TestRoundTrip:
    @pytest.mark.parametrize("whole", [True, False])
    @pytest.mark.parametrize("columns", [4, 5])
    def test_a_file_comes_back_bit_by_bit(self, columns: int, whole: bool, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", 60, columns, whole=whole)
        source = bound(path)
        assert source.bound_geometry.stored.layout["depth"] == ("layer" if whole else "mm")
        assert write_showerdata(tmp_path / "back.h5", [source.read(path, 0, 60)], source.bound_geometry) == 60
        same_files(path, tmp_path / "back.h5")

    def test_what_the_file_tells_of_the_calorimeter_comes_back(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", 20, num_layers=78, sampling_fraction=0.025)
        source = bound(path)
        assert len(source.bound_geometry.layers) == 78
        assert source.bound_geometry.sampling_fraction == 0.025
        write_showerdata(tmp_path / "back.h5", [source.read(path, 0, 20)], source.bound_geometry)
        same_files(path, tmp_path / "back.h5")

    def test_writing_holds_a_few_showers(self, tmp_path: Path) -> None:
        """Whole blocks of showers with thousands of points would take a gigabyte."""
        geometry = DATASETS["3"].geometry()
        with h5py.File(tmp_path / "raw.hdf5", "w") as file:
            file.create_dataset("showers", data=np.full((200, 40_500), 0.1, "f4"), chunks=(20, 40_500))
            file["incident_energies"] = np.full((200, 1), 5000.0, "f4")
        source = CaloChallengeSource().bind([tmp_path / "raw.hdf5"])
        batches = [source.read(tmp_path / "raw.hdf5", start, start + 100) for start in (0, 100)]
        tracemalloc.start()
        try:
            assert write_showerdata(tmp_path / "new.h5", batches, geometry) == 200
            assert tracemalloc.get_traced_memory()[1] < 150e6
        finally:
            tracemalloc.stop()

    def test_a_corpus_gives_the_file_back(self, tmp_path: Path) -> None:
        files = [make(tmp_path / f"{n}.h5", 90, seed=n) for n in range(2)]
        corpus = built(ShowerDataSource(), files, tmp_path / "corpus", processes=2)
        geometry = Geometry.from_data(corpus.manifest.geometry or {})
        for number, file in enumerate(files):
            write_showerdata(tmp_path / "back.h5", in_file_order(corpus, number), geometry)
            same_files(file, tmp_path / "back.h5")

    def test_bytes_do_not_depend_on_batches(self, pions: Path, tmp_path: Path) -> None:
        source = bound(pions)
        batch = source.read(pions, 0, 200)
        write_showerdata(tmp_path / "one.h5", [batch], source.bound_geometry)
        write_showerdata(tmp_path / "many.h5", [batch.slice(n, 9) for n in range(0, 200, 9)], source.bound_geometry)
        assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()

    @pytest.mark.parametrize("entry", [0, 1])
    @pytest.mark.parametrize("times", [1, 3])
    def test_equal_numbers_of_points(self, entry: int, times: int, tmp_path: Path) -> None:
        """Lists of one length are still lists; entry 1 has no points."""
        path = make(tmp_path / "raw.h5", 3)
        source = bound(path)
        batch = source.read(path, entry, entry + 1)
        write_showerdata(tmp_path / "back.h5", [batch] * times, source.bound_geometry)
        again = bound(tmp_path / "back.h5").read(tmp_path / "back.h5", 0, times)
        assert lengths_of(again.column("points")).tolist() == [lengths_of(batch.column("points"))[0]] * times
        assert np.array_equal(points_of(again, "x"), np.tile(points_of(batch, "x"), times))

    def test_voxels_become_points_at_their_centres(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        dense = (rng.exponential(5, (4, 6480)) * (rng.random((4, 6480)) < 0.1)).astype("f4")
        with h5py.File(tmp_path / "2.hdf5", "w") as file:
            file["showers"], file["incident_energies"] = dense, np.full((4, 1), 20_000, "f4")
        voxels = CaloChallengeSource().bind([tmp_path / "2.hdf5"])
        write_showerdata(tmp_path / "2.h5", [voxels.read(tmp_path / "2.hdf5", 0, 4)], voxels.bound_geometry)
        batch = bound(tmp_path / "2.h5").read(tmp_path / "2.h5", 0, 4)
        geometry = DATASETS["2"].geometry()
        found = geometry.locate(*(points_of(batch, name) for name in ("layer", "x", "y")))
        assert np.array_equal(found, np.nonzero(dense)[1])
        assert points_of(batch, "energy") == pytest.approx(dense[dense != 0], rel=1e-6)
        assert batch.column("particle").to_pylist() == [11] * 4
        assert batch.column("direction_z").to_pylist() == [1.0] * 4
        assert batch.column("shower_id").to_pylist() == [0, 1, 2, 3]

    def test_the_package_reads_what_is_written_and_the_other_way(self, pions: Path, tmp_path: Path) -> None:
        showerdata = pytest.importorskip("showerdata")
        theirs = showerdata.load(pions)
        theirs.save(tmp_path / "theirs.h5")
        source = bound(tmp_path / "theirs.h5")
        write_showerdata(tmp_path / "back.h5", [source.read(tmp_path / "theirs.h5", 0, 200)], source.bound_geometry)
        assert showerdata.load(tmp_path / "back.h5") == theirs


class TestRecords:
    def test_are_what_the_file_holds(self, pions: Path) -> None:
        batch = bound(pions).read(pions, 0, 200)
        with h5py.File(pions) as file:
            points = np.concatenate(file["showers"][:]).reshape(-1, 5)
            assert np.array_equal(lengths_of(batch.column("points")), file["num_points"][:])
            assert np.array_equal(batch.column("shower_id").to_numpy(), file["shower_ids"][:])
            assert np.array_equal(batch.column("particle").to_numpy(), file["pdg"][:])
            assert np.array_equal(batch.column("incident_energy").to_numpy(), file["energies"][:, 0])
            for number, axis in enumerate("xyz"):
                assert np.array_equal(batch.column(f"direction_{axis}").to_numpy(), file["directions"][:, number])
        for column, name in enumerate(("x", "y", "layer", "energy", "time")):
            expected = points[:, column].astype(float) * (1000 if name == "energy" else 1)
            assert np.array_equal(points_of(batch, name), expected)

    def test_four_columns_have_no_time(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", 5, columns=4)
        assert "points.time" not in [f"points.{f.name}" for f in bound(path).schema.field("points").type.value_type]

    def test_depths_in_mm(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", 20, whole=False)
        with h5py.File(path) as file:
            points = np.concatenate(file["showers"][:]).reshape(-1, 5)
        assert np.array_equal(points_of(bound(path).read(path, 0, 20), "z"), points[:, 2])

    def test_a_detector_that_is_named(self, pions: Path) -> None:
        geometry = bound(pions, detector="ild").bound_geometry
        assert len(geometry.layers) == 78
        assert geometry.layers[-1].position == ild_points(78, STORED).layers[-1].position
        assert geometry.across == ("x", "y")
        assert bound(pions).bound_geometry.layers == ()

    def test_files_of_layers_and_of_mm_do_not_go_together(self, pions: Path, tmp_path: Path) -> None:
        other = make(tmp_path / "mm.h5", 20, whole=False)
        with pytest.raises(HepfmError, match=r"mm\.h5: holds .*depth mm.*unlike .*depth layer"):
            ShowerDataSource().bind([pions, other])

    def test_showers_without_points_tell_no_depth(self, tmp_path: Path) -> None:
        paths = [make(tmp_path / f"{number}.h5", 20, whole=False) for number in range(2)]
        with h5py.File(paths[0], "a") as file:
            file["showers"][:] = [np.zeros(0, "f4")] * 20
            file["num_points"][:] = 0
        assert ShowerDataSource().bind(paths).bound_geometry.stored.layout["depth"] == "mm"
        assert bound(paths[0]).bound_geometry.stored.layout["depth"] == "layer"

    def test_layers_with_a_fraction_are_not_taken_as_mm(self, pions: Path, tmp_path: Path) -> None:
        path = tmp_path / "x.h5"
        path.write_bytes(pions.read_bytes())
        with h5py.File(path, "a") as file:
            for entry, points in enumerate(file["showers"][:]):
                points.reshape(-1, 5)[:, 2] *= 0.9
                file["showers"][entry] = points
        with pytest.raises(HepfmError, match=r"third column goes from 0 to 69\.3: layers with a fraction, or mm\?"):
            bound(path)
        assert bound(path, depth="mm").bound_geometry.stored.layout["depth"] == "mm"


class TestRanges:
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 250), max_size=4))
    def test_pieces_are_the_whole(self, cuts: list[int], pions: Path) -> None:
        source = bound(pions)
        assert piecewise(source, pions, cuts, 200).equals(source.read(pions, 0, 200))

    def test_a_range_beyond_the_end(self, pions: Path) -> None:
        with pytest.raises(HepfmError, match="it has 200"):
            bound(pions).read(pions, 190, 201)


class TestWhatIsRefused:
    def changed(self, pions: Path, folder: Path, change: Callable[[h5py.File], object]) -> Path:
        path = folder / "x.h5"
        path.write_bytes(pions.read_bytes())
        with h5py.File(path, "a") as file:
            change(file)
        return path

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda file: assign(file, "showers", 7, np.ones(12, "f4")), "no whole points"),
            (lambda file: assign(file, "num_points", 7, 1000), "'num_points' disagrees"),
            (lambda file: assign(file, "directions", 7, (0, 0, 0)), "no unit vector"),
            (lambda file: assign(file, "showers", 150, np.full(5 * 39, 2.5, "f4")), "no whole number|disagrees"),
        ],
    )
    def test_single_showers(
        self, change: Callable[[h5py.File], object], match: str, pions: Path, tmp_path: Path
    ) -> None:
        path = self.changed(pions, tmp_path, change)
        with pytest.raises(HepfmError, match=match):
            bound(path).read(path, 0, 200)
        tally = Tally("skip")
        batch = bound(path).read(path, 0, 200, tally)
        assert len(tally.rejected) == 1
        assert len(batch) == 199
        assert tally.rejected[0].entry not in batch.column("source_entry").to_pylist()

    def test_layers_beyond_those_there_are(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", 20, num_layers=10)
        with pytest.raises(HepfmError, match="no whole number from 0 to 9"):
            bound(path).read(path, 0, 20)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda file: file.pop("pdg"), "no array 'pdg'"),
            (lambda file: file.pop("shape"), "no array 'shape'"),
            (lambda file: put(file, "shape", np.array([200, 40, 6])), "6 columns"),
            (lambda file: put(file, "shape", np.array([200, 40])), "0 columns"),
            (lambda file: put(file, "energies", np.ones(200)), "shape"),
            (lambda file: put(file, "directions", np.ones((200, 2))), "shape"),
            (lambda file: put(file, "pdg", np.ones(200)), "holds float64"),
            (lambda file: put(file, "showers", np.ones(200)), "holds float64"),
            (lambda file: put(file, "showers", np.array(["a"] * 200, dtype=h5py.string_dtype())), "expected lists"),
            (lambda file: file.attrs.update(num_layers=-3), "should count layers"),
        ],
    )
    def test_other_contents(
        self, change: Callable[[h5py.File], object], match: str, pions: Path, tmp_path: Path
    ) -> None:
        path = self.changed(pions, tmp_path, change)
        with pytest.raises(HepfmError, match=match) as caught:
            bound(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("share", [0.1, 0.9])
    def test_truncated(self, share: float, pions: Path, tmp_path: Path) -> None:
        content = pions.read_bytes()
        (tmp_path / "x.h5").write_bytes(content[: int(share * len(content))])
        with pytest.raises(HepfmError, match="truncated"):
            ShowerDataSource().entries(tmp_path / "x.h5")

    def test_damaged_lists(self, pions: Path, tmp_path: Path) -> None:
        content = bytearray(pions.read_bytes())
        at = content.index(b"GCOL")  # where HDF5 keeps what varies in length
        content[at : at + 4096] = bytes(4096)
        (tmp_path / "x.h5").write_bytes(content)
        with pytest.raises(HepfmError, match=r"x\.h5"):
            bound(tmp_path / "x.h5").read(tmp_path / "x.h5", 0, 200)

    def test_nothing_half_written(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="no showers to write"):
            write_showerdata(tmp_path / "out" / "x.h5", [], ild_points(30, STORED))
        assert not list((tmp_path / "out").iterdir())

    def test_recognised_by_names_and_shapes(self, pions: Path) -> None:
        assert ShowerDataSource.recognises(contents(pions))


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def assign(file: h5py.File, name: str, entry: int, value: object) -> None:
    file[name][entry] = value
