"""Grid files of ILD's calorimeter: cells to points and exactly back, units told by where the arrays lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from showers import bits, built, in_file_order, piecewise, positive, same_files

from hepfm.core.errors import HepfmError
from hepfm.core.records import points_of
from hepfm.ingest.formats import shower_files
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.formats.ildgrid import write_ildgrid
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.sources import shower_source
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.ildgrid import IldGridSource
from hepfm.ingest.voxels import voxelise


def make(
    path: Path,
    entries: int,
    group: str = "30x30",
    kind: str = "f4",
    seed: int = 0,
    cells: tuple[int, int] = (30, 30),
    chunks: tuple[int, ...] | bool | None = None,
    mev: float = 1.0,
) -> Path:
    """A file as the data set's own script makes them; ``mev`` is 1 of the file's units in MeV."""
    rng = np.random.default_rng(seed)
    shape = (entries, 30, *cells)
    dense = (rng.exponential(2 / mev, shape) * (rng.random(shape) < 0.02)).astype(kind)
    dense[0, 0, 0, :2] = -0.0, np.finfo(kind).smallest_subnormal
    prefix = f"{group}/" if group else ""
    with h5py.File(path, "w") as file:
        file.create_dataset(prefix + "layers", data=dense, compression="gzip" if chunks else None, chunks=chunks)
        file[prefix + "energy"] = rng.uniform(10, 100, (entries, 1)).astype(kind)
    return path


@pytest.fixture(scope="module", autouse=True)
def any_response() -> Iterator[None]:
    """Energies here are numbers whose bits matter: they are no calorimeter's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shower_source, "LEAST_RESPONSE", 0.0)
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ild") / "gamma.hdf5", 200, chunks=True)


def names(group: str) -> list[str]:
    return [f"{group}/{name}" if group else name for name in ("energy", "layers")]


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("group", "kind", "cells", "mev"),
        [
            ("30x30", "f4", (30, 30), 1.0),
            ("30x30", "f8", (30, 30), 1.0),
            ("10x10", "f4", (10, 10), 1.0),
            ("", "f4", (30, 30), 1000.0),
        ],
    )
    def test_a_file_comes_back_bit_by_bit(
        self, group: str, kind: str, cells: tuple[int, int], mev: float, tmp_path: Path
    ) -> None:
        path = make(tmp_path / "raw.hdf5", 40, group, kind, cells=cells, mev=mev)
        source = IldGridSource().bind([path])
        write_ildgrid(tmp_path / "back.hdf5", [source.read(path, 0, 40)], source.bound_geometry)
        same_files(path, tmp_path / "back.hdf5", names(group))

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), group=st.sampled_from(["30x30", ""]))
    def test_any_float32_comes_back(
        self, group: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("any")
        dense = np.zeros((1, 30, 30, 30), dtype="f4")
        values = data.draw(st.dictionaries(st.integers(0, 26_999), positive("float32"), max_size=5))
        for place, value in values.items():
            dense.reshape(-1)[place] = value
        with h5py.File(folder / "raw.hdf5", "w") as file:
            for name, array in zip(names(group), (np.float32([[50]]), dense), strict=True):
                file[name] = array
        source = IldGridSource().bind([folder / "raw.hdf5"])
        write_ildgrid(folder / "back.hdf5", [source.read(folder / "raw.hdf5", 0, 1)], source.bound_geometry)
        same_files(folder / "raw.hdf5", folder / "back.hdf5", names(group))

    def test_a_corpus_gives_the_file_back(self, tmp_path: Path) -> None:
        files = [make(tmp_path / f"{n}.hdf5", 80, seed=n, chunks=(50, 3, 7, 30)) for n in range(2)]
        corpus = built(IldGridSource(), files, tmp_path / "corpus")
        geometry = Geometry.from_data(corpus.manifest.geometry or {})
        for number, file in enumerate(files):
            write_ildgrid(tmp_path / "back.hdf5", in_file_order(corpus, number), geometry)
            same_files(file, tmp_path / "back.hdf5", names("30x30"))

    def test_another_geometry_s_showers_make_such_a_file(self, grid: Path, tmp_path: Path) -> None:
        """What was not read from a grid file is written as the published ones are."""
        source = IldGridSource().bind([grid])
        geometry = Geometry.from_data({**source.bound_geometry.to_data(), "stored": {}})
        batch = source.read(grid, 0, 5)
        write_ildgrid(tmp_path / "new.hdf5", [batch], geometry)
        with h5py.File(tmp_path / "new.hdf5") as file:
            assert np.array_equal(file["30x30/layers"][:].reshape(5, -1), voxelise(batch, geometry))
        with pytest.raises(HepfmError, match="no grid of equal layers"):
            write_ildgrid(tmp_path / "no.hdf5", [batch], DATASETS["1-pions"].geometry())
        assert not (tmp_path / "no.hdf5").exists()


class TestRecords:
    def test_cells_are_layer_x_z(self, tmp_path: Path) -> None:
        dense = np.zeros((2, 30, 30, 30), dtype="f4")
        dense[1, 4, 17, 2] = 2.5
        dense[1, 4, 17, 3] = 1.5
        with h5py.File(tmp_path / "raw.hdf5", "w") as file:
            file["30x30/layers"], file["30x30/energy"] = dense, np.array([[10.0], [55.5]])
        path = tmp_path / "raw.hdf5"
        source = IldGridSource().bind([path])
        batch = source.read(path, 0, 2)
        found = [points_of(batch, name).tolist() for name in ("layer", "cell_a", "cell_b", "energy")]
        assert found == [[4, 4], [17, 17], [2, 3], [2.5, 1.5]]
        assert batch.column("incident_energy").to_pylist() == [10.0, 55.5]
        assert [batch.column(f"direction_{axis}")[0].as_py() for axis in "xyz"] == [0, 1, 0]
        assert batch.column("particle").to_pylist() == [22, 22]
        centres = source.bound_geometry.centres
        voxel = 4 * 900 + 17 * 30 + 2
        assert centres.x[voxel] == pytest.approx(-75.911667 + 17.5 * 5.088333, abs=1e-3)
        assert centres.z[voxel] == pytest.approx(-77 + 2.5 * 5.088333, abs=1e-3)
        assert centres.y[voxel] == pytest.approx(1836.28 - 1811.34 + 0.26, abs=1e-2)

    def test_deposits_in_gev(self, tmp_path: Path) -> None:
        """At the root they are, unless the user says otherwise."""
        path = make(tmp_path / "raw.hdf5", 5, "", mev=1000.0)
        with h5py.File(path) as file:
            total = file["layers"][:].sum(dtype=float)
        gev, mev = (IldGridSource(energy_unit=unit).bind([path]) for unit in (None, "MeV"))
        assert points_of(gev.read(path, 0, 5), "energy").sum() == pytest.approx(1000 * total)
        assert points_of(mev.read(path, 0, 5), "energy").sum(dtype=float) == pytest.approx(total)
        assert (gev.settings(), mev.settings()) == ({"particle": 22}, {"energy_unit": "MeV", "particle": 22})

    def test_a_wrong_unit_is_found(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 40, "", mev=1.0)
        with pytest.raises(HepfmError, match="deposits above 5 times the incident energy"):
            built(IldGridSource(), [path], tmp_path / "corpus")

    def test_another_particle(self, grid: Path) -> None:
        batch = IldGridSource(particle=11).bind([grid]).read(grid, 0, 2)
        assert batch.column("particle").to_pylist() == [11, 11]


class TestRanges:
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 250), max_size=4))
    def test_pieces_are_the_whole(self, cuts: list[int], grid: Path) -> None:
        source = IldGridSource().bind([grid])
        assert piecewise(source, grid, cuts, 200).equals(source.read(grid, 0, 200))

    @pytest.mark.parametrize("chunks", [None, (60, 2, 2, 4), (13, 30, 30, 30), (60, 7, 30, 1)])
    def test_chunks_do_not_matter(
        self, chunks: tuple[int, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shower_files, "STRIPE_BYTES", 1_000_000)
        path = make(tmp_path / "raw.hdf5", 60, chunks=chunks)
        with h5py.File(path) as file:
            dense = file["30x30/layers"][:]
        source = IldGridSource().bind([path])
        batch = piecewise(source, path, [9, 40], 60)
        assert np.array_equal(bits(voxelise(batch, source.bound_geometry)), bits(dense.reshape(60, -1)))


class TestBadFiles:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda file: file.pop("30x30/energy"), "no array '30x30/energy'"),
            (lambda file: file.pop("30x30/layers"), "no array '30x30/layers'"),
            (lambda file: put(file, "30x30/layers", np.zeros((40, 45, 50, 18))), "45 layers, ILD has 30"),
            (lambda file: put(file, "30x30/layers", np.zeros((40, 30, 900))), "shape"),
            (lambda file: put(file, "30x30/layers", np.zeros((40, 30, 30, 30), int)), "int64"),
            (lambda file: put(file, "30x30/energy", np.zeros((39, 1))), "shape"),
            (lambda file: file.copy("30x30", "10x10"), "several grids: '10x10/layers', '30x30/layers'"),
            (lambda file: file.copy("30x30/layers", "layers"), "several grids: '30x30/layers', 'layers'"),
            (lambda file: [put(file, name, file[name][:0]) for name in names("30x30")], "no showers"),
        ],
    )
    def test_other_contents(self, change: Callable[[h5py.File], object], match: str, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 40)
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(HepfmError, match=match) as caught:
            IldGridSource().bind([path])
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("share", [0.1, 0.9])
    def test_truncated(self, share: float, grid: Path, tmp_path: Path) -> None:
        content = grid.read_bytes()
        (tmp_path / "x.hdf5").write_bytes(content[: int(share * len(content))])
        with pytest.raises(HepfmError, match="truncated"):
            IldGridSource().entries(tmp_path / "x.hdf5")

    def test_files_that_differ(self, grid: Path, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"double.*unlike"):
            IldGridSource().bind([grid, make(tmp_path / "double.hdf5", 3, kind="f8")])

    def test_recognised_by_names_and_shapes(self, grid: Path, tmp_path: Path) -> None:
        for path in (grid, make(tmp_path / "root.hdf5", 3, ""), make(tmp_path / "10.hdf5", 3, "10x10", cells=(10, 10))):
            assert IldGridSource.recognises(contents(path))


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values
