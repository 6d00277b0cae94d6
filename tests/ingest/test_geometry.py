"""Geometries: cells and voxels one to one, positions where they belong, plain data and back, voxels exactly back."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from showers import SAMPLES, bits

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.formats.ild import DEPTHS_MM, FRONT_MM, PITCH_MM, SENSORS_MM, STEPS_MM, ild_grid, ild_points
from hepfm.ingest.formats.shower_batches import shower_batch
from hepfm.ingest.geometry import Bins, Geometry, Layer, Stored
from hepfm.ingest.voxels import Points, points_from_voxels, positions_of, voxelise, voxels_of

SMALL = Geometry(
    "small",
    "cylinder",
    (
        Layer(0, Bins.irregular((0.0, 5.0, 10.0)), Bins.sectors(1)),
        Layer(3, Bins.irregular((0.0, 1.0, 4.0, 9.0)), Bins.sectors(4)),
        Layer(12, Bins.irregular((2.0, 50.0)), Bins.sectors(2)),
    ),
    fastest="cell_a",
)
GRID = Geometry(
    "grid", "grid", tuple(Layer(n, Bins(3, -3.0, 2.0), Bins(2, 0.0, 5.0), 10.0 * n, 1.0) for n in range(4)), depth="y"
)
ALL = {**{name: found.geometry() for name, found in DATASETS.items()}, "small": SMALL, "grid": GRID}
ALL["ild"] = ild_grid(30, 30, Stored())
SCHEMA = records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), ("incident_energy",))
POSITIONS = records.schema("showers", ("layer", "x", "y", "z", "energy"), ("incident_energy",))


def as_batch(points: Points, wide: bool = False) -> pa.RecordBatch:
    schema = records.schema("showers", ("cell_a", "cell_b", "layer", "energy"), (), ("energy",) if wide else ())
    size = len(points.offsets) - 1
    return shower_batch(
        schema, points.offsets, {**vars(points.cells), "energy": points.energy}, {"source_entry": np.arange(size)}
    )


def at(layer: object, x: object, y: object, z: object, energy: object, offsets: object = None) -> pa.RecordBatch:
    values = dict(zip(("layer", "x", "y", "z", "energy"), map(np.asarray, (layer, x, y, z, energy)), strict=True))
    found = np.array([0, len(values["x"])]) if offsets is None else np.asarray(offsets)
    size = len(found) - 1
    return shower_batch(POSITIONS, found, values, {"incident_energy": np.ones(size), "source_entry": np.arange(size)})


@pytest.mark.parametrize("name", ALL)
class TestEveryGeometry:
    def test_every_voxel_is_one_cell_and_back(self, name: str) -> None:
        geometry = ALL[name]
        cells = geometry.cells
        voxels = geometry.voxel(cells.layer, cells.cell_a, cells.cell_b)
        assert np.array_equal(voxels, np.arange(geometry.voxels))
        assert len(set(zip(*vars(cells).values(), strict=True))) == geometry.voxels

    def test_a_voxel_lies_where_its_centre_is(self, name: str) -> None:
        geometry = ALL[name]
        first, second = (getattr(geometry.centres, axis) for axis in geometry.across)
        found = geometry.locate(geometry.cells.layer, first, second)
        assert np.array_equal(found, np.arange(geometry.voxels))

    def test_plain_data_and_back(self, name: str) -> None:
        data = ALL[name].to_data()
        back = Geometry.from_data(json.loads(json.dumps(data, allow_nan=False)))
        assert back == ALL[name]
        assert back.to_data() == data
        assert pickle.loads(pickle.dumps(back)) == back  # noqa: S301

    def test_no_such_cells(self, name: str) -> None:
        geometry = ALL[name]
        cells_a, cells_b = geometry.shape[0]
        wrong = [(-1, 0, 0), (len(geometry.layers), 0, 0), (0, -1, 0), (0, cells_a, 0), (0, 0, -1), (0, 0, cells_b)]
        assert geometry.voxel(*np.array(wrong).T).tolist() == [-1] * 6


class TestOrders:
    def test_rings_run_fastest_then_sectors_then_layers(self) -> None:
        cells = SMALL.cells
        assert cells.layer.tolist() == [0] * 2 + [1] * 12 + [2] * 2
        assert cells.cell_a.tolist() == [0, 1, *([0, 1, 2] * 4), 0, 0]
        assert cells.cell_b.tolist() == [0, 0, *np.repeat([0, 1, 2, 3], 3), 0, 1]

    def test_equal_layers_are_a_plain_reshape(self) -> None:
        geometry = ALL["2"]
        dense = np.arange(geometry.voxels).reshape(45, 16, 9)
        assert dense[7, 11, 3] == geometry.voxel(np.array([7]), np.array([3]), np.array([11]))[0]
        grid = np.arange(27_000).reshape(30, 30, 30)
        assert grid[5, 17, 2] == ALL["ild"].voxel(np.array([5]), np.array([17]), np.array([2]))[0]


class TestCentres:
    def test_of_rings_and_sectors(self) -> None:
        """Mid radius and mid angle, from -pi on (CaloChallenge's own evaluation)."""
        centres = SMALL.centres
        assert centres.radius[:5].tolist() == [2.5, 7.5, 0.5, 2.5, 6.5]
        assert centres.alpha[:2].tolist() == [0.0, 0.0]
        assert centres.alpha[[2, 5, 8, 11]] == pytest.approx(np.array([-0.75, -0.25, 0.25, 0.75]) * np.pi)
        assert centres.x[3] == pytest.approx(2.5 * np.cos(-0.75 * np.pi))
        assert centres.y[3] == pytest.approx(2.5 * np.sin(-0.75 * np.pi))
        assert np.isnan(centres.z).all()

    def test_of_a_grid_with_depth_y(self) -> None:
        centres = GRID.centres
        assert centres.x[:6].tolist() == [-2, -2, 0, 0, 2, 2]
        assert centres.z[:6].tolist() == [2.5, 7.5] * 3
        assert centres.y[[0, 6, 23]].tolist() == [0.5, 10.5, 30.5]

    def test_of_dataset_2(self) -> None:
        centres = ALL["2"].centres
        assert centres.z[::144] == pytest.approx(3.4 * (np.arange(45) + 0.5))
        assert centres.radius[:9] == pytest.approx(4.65 * (np.arange(9) + 0.5))


class TestVoxelise:
    @settings(max_examples=60)
    @given(st.data(), st.sampled_from(["small", "grid", "1-photons"]), st.sampled_from(["float32", "float64"]))
    def test_voxels_come_back_bit_by_bit(self, data: st.DataObject, name: str, kind: str) -> None:
        geometry = ALL[name]
        size = (data.draw(st.integers(0, 4)), geometry.voxels)
        values = st.one_of(
            st.sampled_from([0.0, -0.0, np.inf, 5e-324 if kind == "float64" else 1e-45]),
            st.floats(width=64 if kind == "float64" else 32, allow_nan=False),
        )
        dense = data.draw(hnp.arrays(kind, size, elements=values, fill=st.just(0.0)))
        back = voxelise(as_batch(points_from_voxels(dense, geometry), kind == "float64"), geometry)
        assert back.dtype == dense.dtype
        assert np.array_equal(bits(back), bits(dense))

    def test_only_zeros_are_no_points(self) -> None:
        dense = np.zeros((3, SMALL.voxels), dtype=np.float32)
        dense[0, [1, 13]] = 2.5, -1.0
        dense[2, 0] = -0.0
        points = points_from_voxels(dense, SMALL)
        assert points.offsets.tolist() == [0, 2, 2, 3]
        assert points.cells.layer.tolist() == [0, 1, 0]
        assert points.cells.cell_a.tolist() == [1, 2, 0]
        assert points.cells.cell_b.tolist() == [0, 3, 0]

    def test_points_in_one_voxel_are_summed(self) -> None:
        batch = at([0, 0, 1], [-2.5, -2.9, 0.1], [0, 0, 0], [1, 4, 9], [1.5, 2.0, 4.0])
        dense = voxelise(batch, GRID)
        expected = np.zeros((1, 24), dtype=np.float32)
        expected[0, [0, 6 + 3]] = 3.5, 4.0
        assert np.array_equal(dense, expected)

    def test_positions_outside_are_left_out_and_can_be_told(self) -> None:
        batch = at([0, 0, 9, 0, -1], [-3, 3, 0, -3.1, 0], [0] * 5, [0, 0, 0, 1, 0], [1, 2, 4, 8, 16], [0, 2, 5])
        assert voxels_of(batch, GRID).tolist() == [0, -1, -1, -1, -1]
        assert voxelise(batch, GRID).sum(axis=1).tolist() == [1, 0]

    def test_positions_in_a_cylinder(self) -> None:
        """Independently: the ring by the radius, the sector by the angle from -pi on."""
        rng = np.random.default_rng(0)
        geometry = ALL["1-pions"]
        x, y = rng.normal(0, 100, (2, 4000)).astype(np.float32)
        layer = rng.integers(0, 7, 4000)
        found = voxels_of(at(layer, x, y, np.zeros(4000), np.ones(4000)), geometry)
        for point in range(0, 4000, 7):
            bins = geometry.layers[layer[point]]
            radius = float(np.hypot(np.float64(x[point]), np.float64(y[point])))
            inside = [
                low <= radius < high for low, high in zip(bins.cell_a.listed, bins.cell_a.listed[1:], strict=False)
            ]  # type: ignore[union-attr]
            turn = (np.arctan2(np.float64(y[point]), np.float64(x[point])) + np.pi) / (2 * np.pi)
            sector = min(int(turn * bins.cell_b.cells), bins.cell_b.cells - 1)  # type: ignore[union-attr]
            if not any(inside):
                assert found[point] == -1
            else:
                cells = geometry.cells
                assert (cells.cell_a[found[point]], cells.cell_b[found[point]]) == (inside.index(True), sector)

    def test_both_ends_of_the_circle_are_sectors(self) -> None:
        batch = at([1, 1], [-3.0, -3.0], [0.0, -0.0], [0, 0], [1, 1])
        assert ALL["small"].cells.cell_b[voxels_of(batch, SMALL)].tolist() == [3, 0]

    def test_a_cell_that_is_not_there(self) -> None:
        points = points_from_voxels(np.eye(GRID.voxels, dtype=np.float32)[-1:], GRID)
        with pytest.raises(HepfmError, match=r"layer 3, cell_a 2, cell_b 1.*no such cell"):
            voxelise(as_batch(points), SMALL)

    def test_a_geometry_without_cells(self) -> None:
        with pytest.raises(HepfmError, match="has no cells"):
            voxelise(at([0], [0], [0], [0], [1]), ild_points(30, Stored()))

    def test_records_without_places(self) -> None:
        schema = records.schema("showers", ("energy", "time"), ())
        batch = shower_batch(
            schema, np.array([0, 1]), {"energy": np.ones(1), "time": np.ones(1)}, {"source_entry": [0]}
        )
        with pytest.raises(HepfmError, match="points have energy, time"):
            voxelise(batch, GRID)

    def test_another_number_of_voxels(self) -> None:
        with pytest.raises(HepfmError, match="it has 24 voxels"):
            points_from_voxels(np.zeros((2, 25)), GRID)

    def test_positions_of_cells_are_centres(self) -> None:
        dense = np.eye(GRID.voxels, dtype=np.float32)
        x, z = positions_of(as_batch(points_from_voxels(dense, GRID)), GRID)
        assert np.array_equal(x, GRID.centres.x)
        assert np.array_equal(z, GRID.centres.z)


class TestUnits:
    @settings(max_examples=300)
    @given(st.floats(2.0**-100, 2.0**100, width=32), st.sampled_from([("GeV", "MeV"), ("MeV", "GeV")]))
    def test_a_float32_comes_back_whatever_the_units(self, value: float, units: tuple[str, str]) -> None:
        stored = Stored(units[0], "<f4", units[1], "<f4")  # type: ignore[arg-type]
        raw = np.array([value], dtype=np.float32)
        assert stored.stored_deposits(stored.deposits(raw)) == raw
        assert stored.stored_incident(stored.incident(raw)) == raw
        assert stored.deposits(raw).dtype == (np.float64 if "energy" in stored.wide else np.float32)

    def test_units_are_what_they_say(self) -> None:
        stored = Stored("GeV", "<f4", "MeV", "<f4")
        assert stored.deposits(np.float32([0.5])) == 500
        assert stored.incident(np.float32([65536])) == 65.536

    def test_only_a_float64_in_mev_needs_to_be_kept_beside(self) -> None:
        """Because GeV does not give it back: of log-uniform energies 1 to 2% come back otherwise."""
        energies = np.exp(np.random.default_rng(0).uniform(np.log(1e3), np.log(1e6), 10_000))
        stored = Stored("MeV", "<f8", "MeV", "<f8")
        assert (stored.stored_incident(stored.incident(energies)) != energies).any()
        assert stored.keeps_mev
        assert not Stored("MeV", "<f4", "MeV", "<f4").keeps_mev
        assert not Stored("MeV", "<f8", "GeV", "<f8").keeps_mev


class TestSchema:
    def test_wide_quantities_are_float64(self) -> None:
        schema = records.schema("showers", ("x", "energy"), ("incident_energy",), ("energy", "incident_energy"))
        item = schema.field("points").type.value_type
        assert [str(item.field(name).type) for name in ("x", "energy")] == ["float", "double"]
        assert schema.field("incident_energy").type == pa.float64()
        assert schema.field("incident_energy").metadata[b"unit"] == b"GeV"

    def test_only_floats_can_be_wide(self) -> None:
        with pytest.raises(ValueError, match="layer is no float"):
            records.schema("showers", ("layer",), (), ("layer",))


class TestIld:
    def test_layers_are_those_of_the_published_histograms(self) -> None:
        sample = SAMPLES / "ild_geant4_100k_histograms.npz"
        if not sample.is_file():
            pytest.skip(f"{sample} is not there")
        published = np.load(sample)["layer_bottom_pos"]
        assert np.abs(published - SENSORS_MM[:30]).max() < 1e-3

    def test_depths_begin_at_the_front_and_ascend(self) -> None:
        assert DEPTHS_MM[0] == 0.0
        assert SENSORS_MM[0] == FRONT_MM
        assert np.allclose(np.add(DEPTHS_MM, FRONT_MM), SENSORS_MM)
        assert np.allclose(np.diff(DEPTHS_MM), STEPS_MM[:-1])
        assert min(STEPS_MM) > 0
        assert len(DEPTHS_MM) == len(STEPS_MM) == 78

    def test_the_grid_covers_153_mm_around_the_axis(self) -> None:
        edges = ALL["ild"].layers[0].cell_a.edges  # type: ignore[union-attr]
        assert edges[-1] - edges[0] == pytest.approx(30 * PITCH_MM)
        assert abs(edges[-1] + edges[0]) < PITCH_MM

    def test_another_size_is_centred(self) -> None:
        grid = ild_grid(10, 10, Stored())
        assert grid.centres.x.sum() == pytest.approx(0, abs=1e-9)
        assert grid.voxels == 3000


class TestManifestData:
    def test_neighbouring_layers_are_told_together(self) -> None:
        assert [len(group["ids"]) for group in ALL["3"].to_data()["layers"]] == [45]
        assert [group["ids"] for group in ALL["1-photons"].to_data()["layers"]] == [[0], [1], [2], [3], [12]]
        assert ALL["1-photons"].to_data()["order"] == ["layer", "cell_b", "cell_a"]

    @pytest.mark.parametrize("lost", ["layers", "kind", "order", "stored"])
    def test_something_else(self, lost: str) -> None:
        data = {name: value for name, value in GRID.to_data().items() if name != lost}
        with pytest.raises(HepfmError, match="no geometry of a calorimeter"):
            Geometry.from_data(data)

    def test_a_line_for_people(self) -> None:
        assert ALL["3"].summary() == (
            "CaloChallenge data set 3, electrons: 45 layers, 40,500 voxels, cylinder, threshold 0.01515 MeV"
        )
        assert ild_points(78, Stored()).summary() == "ILD calorimeters: 78 layers, points, threshold 0.1 MeV"
