"""Padded point clouds: both layouts, both orders of axes, padding at either end, three kinds of depth; exactly back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from showers import SAMPLES, built, in_file_order, piecewise, same_files

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest import command
from hepfm.ingest.build import BuildOptions
from hepfm.ingest.command import IngestConfig, InspectConfig
from hepfm.ingest.formats.ild import DEPTHS_MM, FRONT_MM, ild_grid
from hepfm.ingest.formats.showerclouds import depth_of_fraction, fraction_of_depth, write_showerclouds
from hepfm.ingest.geometry import Geometry, Stored
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.showerclouds import ShowerCloudsSource
from hepfm.ingest.tally import Tally
from hepfm.ingest.voxels import voxelise

EVENTS = ("energy", "events")
CELLS = ("genE", "showers")


def clouds(rng: np.random.Generator, entries: int, rows: int, depth: str = "layer", front: bool = True) -> np.ndarray:
    """Events (n, rows, 4): x [mm], depth, z [mm], E [GeV]; the first is empty, the last full."""
    lengths = rng.integers(1, rows, entries)
    lengths[0], lengths[-1] = 0, rows
    values = np.zeros((entries, rows, 4), dtype="f4")
    filled = np.arange(rows) < lengths[:, None]
    filled = filled[:, ::-1] if front else filled
    size = int(filled.sum())
    along = rng.integers(0, 30, size) if depth == "layer" else rng.uniform(0, 30, size)
    along = along + (FRONT_MM if depth == "mm" else 0)
    values[filled] = np.stack(
        [rng.normal(0, 60, size), along, rng.normal(40, 60, size), rng.exponential(5e-3, size) + 1e-6], axis=1
    )
    return values


def make(path: Path, values: np.ndarray, last: bool = True, direction: str = "", kind: str = "f4", **more: Any) -> Path:
    """A file of ``events``; ``last``: the four columns are the last axis."""
    rng = np.random.default_rng(7)
    unit = rng.normal(size=(len(values), 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    with h5py.File(path, "w") as file:
        array = values if last else values.transpose(0, 2, 1)
        file.create_dataset("events", data=array.astype(kind), **more)
        file["energy"] = rng.uniform(10, 90, (len(values), 1)).astype("f4")
        if direction:
            file["p_norm_local"] = unit if direction == "rows" else unit.T
    return path


def make_cells(path: Path, entries: int, incident: str = "genE", rows: int = 60, seed: int = 0) -> Path:
    """A file of ``showers``: cells without repetition, in order of energy, padded at the end."""
    rng = np.random.default_rng(seed)
    values = np.zeros((entries, rows, 4), dtype="f4")
    for shower in range(1, entries):
        size = int(rng.integers(1, rows + 1))
        cells = np.unravel_index(rng.choice(27_000, size, replace=False), (30, 30, 30))
        values[shower, :size] = np.stack([*cells, np.sort(rng.exponential(5, size) + 0.01)[::-1]], axis=1)
    with h5py.File(path, "w") as file:
        file["showers"] = values
        file[incident] = rng.uniform(10, 100, (entries, 1) if incident == "incident_energies" else entries).astype("f4")
    return path


def bound(path: Path, **options: Any) -> ShowerCloudsSource:
    return ShowerCloudsSource(**options).bind([path])


class TestRoundTrip:
    @pytest.mark.parametrize("depth", ["layer", "fraction", "mm"])
    @pytest.mark.parametrize("front", [True, False])
    @pytest.mark.parametrize("last", [True, False])
    def test_events(self, last: bool, front: bool, depth: str, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(0), 60, 300, depth, front)
        path = make(tmp_path / "raw.h5", values, last)
        source = bound(path)
        layout = source.bound_geometry.stored.layout
        assert (layout["depth"], layout["padding"]) == (depth, "front" if front else "end")
        write_showerclouds(tmp_path / "back.h5", [source.read(path, 0, 60)], source.bound_geometry)
        same_files(path, tmp_path / "back.h5", EVENTS)

    @pytest.mark.parametrize("incident", ["genE", "incident_energies"])
    def test_showers_of_cells(self, incident: str, tmp_path: Path) -> None:
        path = make_cells(tmp_path / "raw.h5", 40, incident)
        source = bound(path)
        write_showerclouds(tmp_path / "back.h5", [source.read(path, 0, 40)], source.bound_geometry)
        same_files(path, tmp_path / "back.h5", (incident, "showers"))

    @pytest.mark.parametrize("direction", ["rows", "columns"])
    def test_directions(self, direction: str, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(0), 20, 30), direction=direction)
        source = bound(path)
        batch = source.read(path, 5, 20)
        with h5py.File(path) as file:
            unit = file["p_norm_local"][:] if direction == "rows" else file["p_norm_local"][:].T
        for axis, column in (("x", 0), ("z", 1), ("y", 2)):  # the third is along the depth
            assert np.array_equal(batch.column(f"direction_{axis}").to_numpy(), unit[5:, column])
        write_showerclouds(tmp_path / "back.h5", [source.read(path, 0, 20)], source.bound_geometry)
        same_files(path, tmp_path / "back.h5", (*EVENTS, "p_norm_local"))

    @settings(max_examples=200)
    @given(st.floats(0, 77.9990234375, width=32))
    def test_any_fraction_of_a_layer_comes_back(self, value: float) -> None:
        depth = np.array([value], dtype=np.float32)
        layer, y = depth_of_fraction(depth)
        assert DEPTHS_MM[int(layer[0])] <= y[0]
        assert fraction_of_depth(layer, y).astype(np.float32) == depth

    def test_a_corpus_gives_the_files_back(self, tmp_path: Path) -> None:
        """Also where one is padded to another length: to that of the longest."""
        rng = np.random.default_rng(0)
        files = [
            make(
                tmp_path / "0.h5", clouds(rng, 70, 50, "fraction"), last=False, chunks=(30, 4, 11), compression="gzip"
            ),
            make(tmp_path / "1.h5", clouds(rng, 70, 50, "fraction"), last=False),
        ]
        corpus = built(ShowerCloudsSource(), files, tmp_path / "corpus", processes=2)
        geometry = Geometry.from_data(corpus.manifest.geometry or {})
        for number, file in enumerate(files):
            write_showerclouds(tmp_path / "back.h5", in_file_order(corpus, number), geometry)
            same_files(file, tmp_path / "back.h5", EVENTS)

    def test_files_padded_to_different_lengths_go_together(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        files = [make(tmp_path / f"{rows}.h5", clouds(rng, 20, rows)) for rows in (30, 50)]
        source = ShowerCloudsSource().bind(files)
        assert source.bound_geometry.stored.layout["rows"] == 50
        write_showerclouds(tmp_path / "back.h5", [source.read(files[0], 0, 20)], source.bound_geometry)
        with h5py.File(files[0]) as file, h5py.File(tmp_path / "back.h5") as back:
            assert np.array_equal(back["events"][:, 20:], file["events"][:])
            assert not back["events"][:, :20].any()

    def test_other_showers_make_such_a_file(self, tmp_path: Path) -> None:
        """Cells of the grid become positions of their centres in layers."""
        path = make_cells(tmp_path / "raw.h5", 5)
        batch = bound(path).read(path, 0, 5)
        geometry = ild_grid(30, 30, Stored())
        write_showerclouds(tmp_path / "new.h5", [batch], geometry)
        source = bound(tmp_path / "new.h5")
        back = voxelise(source.read(tmp_path / "new.h5", 0, 5), geometry)
        assert back == pytest.approx(voxelise(batch, geometry), rel=1e-6)


class TestRecords:
    def test_of_events(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 20, 40)
        path = make(tmp_path / "raw.h5", values, last=False)
        batch = bound(path).read(path, 0, 20)
        kept = values[..., 3] != 0
        assert np.array_equal(lengths_of(batch.column("points")), kept.sum(axis=1))
        assert np.array_equal(points_of(batch, "x"), values[kept][:, 0])
        assert np.array_equal(points_of(batch, "z"), values[kept][:, 2])
        assert np.array_equal(points_of(batch, "layer"), values[kept][:, 1])
        assert np.array_equal(points_of(batch, "energy"), values[kept][:, 3].astype(float) * 1000)
        assert "direction_x" not in batch.schema.names

    def test_depths_in_mm_begin_at_the_front(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 20, 40, "mm")
        path = make(tmp_path / "raw.h5", values)
        y = points_of(bound(path).read(path, 0, 20), "y")
        assert y == pytest.approx(values[values[..., 3] != 0][:, 1] - 1811.3402, abs=1e-3)

    def test_of_cells(self, tmp_path: Path) -> None:
        path = make_cells(tmp_path / "raw.h5", 20)
        batch = bound(path).read(path, 0, 20)
        with h5py.File(path) as file:
            values = file["showers"][:]
        kept = values[values[..., 3] != 0]
        for column, name in enumerate(("cell_a", "cell_b", "layer", "energy")):
            assert np.array_equal(points_of(batch, name), kept[:, column])
        assert batch.column("direction_y").to_pylist() == [1.0] * 20

    def test_a_row_without_energy_is_padding_wherever_it_lies(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 20, 40)
        values[-1, 7, 3] = 0
        values[3, 0] = 5, 5, 5, 0
        path = make(tmp_path / "raw.h5", values)
        assert lengths_of(bound(path).read(path, 0, 20).column("points"))[-1] == 39

    def test_the_sample_of_generated_showers(self, tmp_path: Path) -> None:
        sample = SAMPLES / "ild_point_cloud_2showers.h5"
        if not sample.is_file():
            pytest.skip(f"{sample} is not there")
        source = bound(sample)
        assert source.entries(sample) == 2
        batch = source.read(sample, 0, 2)
        assert lengths_of(batch.column("points")).tolist() == [163, 236]
        assert batch.column("incident_energy").to_pylist() == pytest.approx([15.62006, 41.92682])
        assert batch.column("direction_y").to_pylist() == pytest.approx([0.80807569, 0.80587693])
        with h5py.File(sample) as file:
            assert points_of(batch, "energy").sum() == pytest.approx(file["events"][..., 3].sum() * 1000, rel=1e-5)
        write_showerclouds(tmp_path / "back.h5", [batch], source.bound_geometry)
        same_files(sample, tmp_path / "back.h5", (*EVENTS, "p_norm_local"))


class TestRanges:
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 200), max_size=4), last=st.booleans(), chunked=st.booleans())
    def test_pieces_are_the_whole(
        self, cuts: list[int], last: bool, chunked: bool, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("ranges") / "raw.h5"
        more = {"chunks": (150, 13, 1) if last else (150, 1, 13), "compression": "gzip"} if chunked else {}
        make(path, clouds(np.random.default_rng(2), 200, 50), last, direction="columns", **more)
        source = bound(path)
        assert piecewise(source, path, cuts, 200).equals(source.read(path, 0, 200))


class TestCommand:
    def test_what_was_found_out_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(1), 60, 40), last=False)
        options = BuildOptions(run_entries=20)
        command.ingest(IngestConfig("auto", (path,), tmp_path / "c", options, processes=1))
        said = capsys.readouterr().err
        command.inspect_corpus(InspectConfig(tmp_path / "c"))
        for text in (said, capsys.readouterr().out):
            assert "ILD electromagnetic calorimeter: 30 layers, points" in text
            for found in ("array events", "axis 2", "padding front", "depth layer", "deposits GeV <f4"):
                assert found in text

    def test_a_file_of_two_formats_is_not_guessed(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(1), 20, 40))
        with h5py.File(path, "a") as file:
            file["layers"] = np.ones((20, 30, 30, 30), "f4")
        with pytest.raises(HepfmError, match=r"of several formats: ildgrid, showerclouds \(say hepfm ingest NAME"):
            command.ingest(IngestConfig("auto", (path,), tmp_path / "c", processes=1))


class TestWhatIsRefused:
    def test_cells_that_are_none(self, tmp_path: Path) -> None:
        path = make_cells(tmp_path / "raw.h5", 20)
        with h5py.File(path, "a") as file:
            for entry, column, value in ((3, 0, 30), (5, 1, -1), (7, 2, 4.5), (9, 0, np.nan)):
                file["showers"][entry, 0, column] = value
        source = bound(path)
        with pytest.raises(HepfmError, match="entry 3: a cell index that is no whole number from 0 to 29"):
            source.read(path, 0, 20)
        tally = Tally("skip")
        batch = source.read(path, 0, 20, tally)
        assert [rejected.entry for rejected in tally.rejected] == [3, 5, 7, 9]
        assert batch.column("source_entry").to_pylist() == [n for n in range(20) if n not in (3, 5, 7, 9)]

    def test_a_depth_that_is_no_layer(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 300, 40)
        values[200, -1, 1] = 3.5
        path = make(tmp_path / "raw.h5", values)
        with pytest.raises(HepfmError, match=r"entry 200: .*no layer from 0 to 29.*--depth"):
            bound(path).read(path, 0, 300)
        given_depth = bound(path, depth="fraction")
        assert given_depth.settings() == {"depth": "fraction", "particle": 22}
        batch = given_depth.read(path, 0, 300)
        write_showerclouds(tmp_path / "back.h5", [batch], given_depth.bound_geometry)
        same_files(path, tmp_path / "back.h5", EVENTS)

    def test_layers_of_the_hadronic_calorimeter(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 200, 40)
        values[199, -1, 1] = 70
        path = make(tmp_path / "raw.h5", values)
        with pytest.raises(HepfmError, match="--layers"):
            bound(path).read(path, 0, 200)
        assert len(bound(path, layers=78).read(path, 0, 200)) == 200
        values[3, -1, 1] = 70
        assert len(bound(make(tmp_path / "early.h5", values)).bound_geometry.layers) == 78

    def test_depths_of_nothing_known(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 20, 40)
        values[-1, :, 1] = 400
        with pytest.raises(HepfmError, match=r"depths from 0 to 400.*--depth"):
            bound(make(tmp_path / "raw.h5", values))

    def test_incident_energies_in_mev(self, tmp_path: Path) -> None:
        path = make_cells(tmp_path / "raw.h5", 20)
        with h5py.File(path, "a") as file:
            gev = file["genE"][:].copy()
            file["genE"][:] = gev * 1000
        with pytest.raises(HepfmError, match="--incident-unit"):
            bound(path)
        batch = bound(path, incident_unit="MeV").read(path, 0, 20)
        assert batch.column("incident_energy").to_numpy() == pytest.approx(gev)

    @pytest.mark.filterwarnings("error")
    def test_garbage_is_told_without_warnings(self, tmp_path: Path) -> None:
        path = make_cells(tmp_path / "raw.h5", 20)
        with h5py.File(path, "a") as file:
            file["genE"][:] = np.float32(3e38)
            file["showers"][:, 0, 3] = -np.float32(3e38)
            file["showers"][1, 1, 3] = np.inf
            file["showers"][2, 1, 3] = -np.inf
        with pytest.raises(HepfmError, match="incident"):
            bound(path).read(path, 0, 20)

    def test_too_many_points_for_the_layout(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(1), 20, 40))
        source = bound(path)
        geometry = source.bound_geometry.to_data()
        geometry["stored"]["layout"]["rows"] = 39
        with pytest.raises(HepfmError, match="40 points, the layout 39 rows"):
            write_showerclouds(tmp_path / "back.h5", [source.read(path, 0, 20)], Geometry.from_data(geometry))
        assert not (tmp_path / "back.h5").exists()

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda file: file.pop("energy"), "no array 'energy'"),
            (lambda file: put(file, "energy", np.ones((19, 1))), "shape"),
            (lambda file: put(file, "events", np.ones((20, 40, 5))), "only one, must have 4 columns"),
            (lambda file: put(file, "events", np.ones((20, 4, 4))), "only one, must have 4 columns"),
            (lambda file: put(file, "events", np.ones((20, 160))), "shape"),
            (lambda file: put(file, "events", np.ones((20, 40, 4), int)), "int64"),
            (lambda file: put(file, "p_norm_local", np.ones((20, 2))), "p_norm_local"),
            (lambda file: put(file, "layer_counts", np.ones((20, 30))), "rows of counts"),
            (lambda file: [put(file, name, file[name][:0]) for name in EVENTS], "no showers"),
        ],
    )
    def test_other_contents(self, change: Callable[[h5py.File], object], match: str, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(1), 20, 40))
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(HepfmError, match=match) as caught:
            bound(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_cannot_be_told_is_not_guessed(self, tmp_path: Path) -> None:
        same, other, both = (make_cells(tmp_path / f"{name}.h5", 20) for name in ("same", "other", "both"))
        for path in (same, other):
            with h5py.File(path, "a") as file:
                file["incident_energies"] = file["genE"][:][:, None]
        assert bound(same).bound_geometry.stored.layout["incident"] == "genE"
        with h5py.File(other, "a") as file:
            file["incident_energies"][3] = 1.0
        with pytest.raises(HepfmError, match="'genE' and 'incident_energies' differ"):
            bound(other)
        with h5py.File(both, "a") as file:
            file["events"] = file["showers"][:]
        with pytest.raises(HepfmError, match="clouds in both 'showers' and 'events'"):
            ShowerCloudsSource().entries(both)

    @pytest.mark.parametrize("direction", ["rows", "columns"])
    def test_directions_of_three_showers(self, direction: str, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(0), 3, 30), direction=direction)
        batch = bound(path).read(path, 1, 2)
        with h5py.File(path) as file:
            unit = file["p_norm_local"][:] if direction == "rows" else file["p_norm_local"][:].T
        assert batch.column("direction_x").to_pylist() == [unit[1, 0]]
        either = make(tmp_path / "either.h5", clouds(np.random.default_rng(0), 3, 30), direction=direction)
        with h5py.File(either, "a") as file:
            put(file, "p_norm_local", np.eye(3))
        with pytest.raises(HepfmError, match="whether rows are showers cannot be told"):
            bound(either)

    def test_a_direction_that_is_none(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.h5", clouds(np.random.default_rng(0), 20, 30), direction="rows")
        with h5py.File(path, "a") as file:
            file["p_norm_local"][4] *= 2
            file["p_norm_local"][6, 0] = np.nan
        tally = Tally("skip")
        assert len(bound(path).read(path, 0, 20, tally)) == 18
        assert [(found.entry, found.what) for found in tally.rejected] == [
            (entry, "its direction is no unit vector") for entry in (4, 6)
        ]

    @pytest.mark.parametrize("share", [0.1, 0.9])
    def test_truncated(self, share: float, tmp_path: Path) -> None:
        content = make(tmp_path / "raw.h5", clouds(np.random.default_rng(1), 20, 40)).read_bytes()
        (tmp_path / "x.h5").write_bytes(content[: int(share * len(content))])
        with pytest.raises(HepfmError, match="truncated"):
            ShowerCloudsSource().entries(tmp_path / "x.h5")

    def test_files_of_both_layouts(self, tmp_path: Path) -> None:
        events = make(tmp_path / "events.h5", clouds(np.random.default_rng(1), 20, 40))
        with pytest.raises(HepfmError, match=r"cells.*unlike .*events"):
            ShowerCloudsSource().bind([events, make_cells(tmp_path / "cells.h5", 5)])

    def test_recognised_by_names_and_shapes(self, tmp_path: Path) -> None:
        values = clouds(np.random.default_rng(1), 20, 40)
        for last in (True, False):
            assert ShowerCloudsSource.recognises(contents(make(tmp_path / f"{last}.h5", values, last)))
        assert ShowerCloudsSource.recognises(contents(make_cells(tmp_path / "cells.h5", 5, "incident_energies")))


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.pop(name, None)
    file[name] = values
