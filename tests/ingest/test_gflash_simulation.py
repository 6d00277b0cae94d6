"""Simulated showers: reproducible, in the public formats and straight in a corpus, with the physics they claim."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of, values_of
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.gflash.simulation import BATCH_SHOWERS, GflashShowers
from hepfm.ingest.shards import concatenate
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.straight import Layout, simulate_corpus
from hepfm.ingest.sources.calochallenge import CaloChallengeSource
from hepfm.ingest.sources.ildgrid import IldGridSource
from hepfm.ingest.sources.showerclouds import ShowerCloudsSource
from hepfm.ingest.sources.showerdata import ShowerDataSource
from hepfm.ingest.voxels import voxelise
from hepfm.ingest.workers import Workers

ILD = GflashShowers(seed=3)
FORMATS = [
    ("ild", "ildgrid", IldGridSource()),
    ("ild", "showerclouds", ShowerCloudsSource()),
    ("calochallenge2", "calochallenge", CaloChallengeSource()),
    ("calochallenge3", "calochallenge", CaloChallengeSource()),
]


def some(simulation: GflashShowers, count: int = 100, stream: str = "", number: int = 0) -> pa.RecordBatch:
    return concatenate(list(simulation.batches(stream or simulation.streams[0], number, count)))


def copied(simulation: GflashShowers) -> GflashShowers:
    """What a worker process gets of it."""
    return pickle.loads(pickle.dumps(simulation))  # noqa: S301


class TestSequences:
    def test_the_same_settings_give_the_same_showers(self) -> None:
        assert some(ILD).equals(some(copied(ILD)))
        assert not some(ILD).column("points").equals(some(GflashShowers(seed=4)).column("points"))
        assert not some(ILD).column("points").equals(some(ILD, number=1).column("points"))

    def test_more_of_a_sequence_begin_with_the_same(self) -> None:
        few, many = some(ILD, 10), some(ILD, 2 * BATCH_SHOWERS + 5)
        assert len(many) == 2 * BATCH_SHOWERS + 5
        assert many.slice(0, 10).equals(few)
        assert values_of(many.column("source_entry")).tolist() == list(range(len(many)))

    @pytest.mark.parametrize("detector", ["ild", "calochallenge2"])
    def test_other_particles_do_not_change_a_sequence(self, detector: str) -> None:
        both = GflashShowers(detector=detector, particles=("electron", "photon"))
        alone = GflashShowers(detector=detector, particles=("photon",))
        assert both.streams == ("electron", "photon")
        assert some(both, 20, "photon").equals(some(alone, 20))
        assert both.identity("photon", 2) == alone.identity("photon", 2) != both.identity("electron", 2)

    def test_other_energies_are_other_showers(self) -> None:
        other = replace(ILD, energy=(10.0, 90.0))
        assert ILD.identity("photon", 0) != other.identity("photon", 0)
        first, second = (some(simulation).column("incident_energy").to_numpy() for simulation in (ILD, other))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.4  # 4 standard deviations of independent ones

    def test_settings_tell_everything_that_shapes_the_records(self, tmp_path: Path) -> None:
        described = ILD.settings()
        assert described["detector"]["sections"][0]["layers"][0][1]["material"] == "tungsten"
        assert set(described["calibration"]["photon"]) == {
            "layer_weights_gev_per_mev",
            "weighted_sums_gev",
            "incident_energies_gev",
        }
        for other in ({"energy": (10.0, 90.0)}, {"spectrum": "log-uniform"}, {"seed": 9}, {"particles": ("electron",)}):
            assert replace(ILD, **other).settings() != described


class TestRecords:
    @pytest.mark.parametrize("detector", ["ild", "calochallenge2"])
    def test_records_are_what_they_claim(self, detector: str) -> None:
        simulation = GflashShowers(detector=detector)
        simulation.check()
        batch, geometry = some(simulation, 200), simulation.layout
        assert batch.schema.equals(simulation.schema)
        low, high = simulation.calorimeter.energy
        incident = values_of(batch.column("incident_energy"))
        assert low <= incident.min() < incident.max() <= high
        assert set(values_of(batch.column("particle"))) == {22 if detector == "ild" else 11}
        assert set(values_of(batch.column(f"direction_{geometry.depth}"))) == {1.0}
        assert points_of(batch, "energy").min() >= np.float32(geometry.threshold)
        assert (np.diff(geometry.voxel(*(points_of(batch, n) for n in ("layer", "cell_a", "cell_b")))) != 0).all()

    def test_the_spectra_are_uniform_and_log_uniform(self) -> None:
        uniform = values_of(some(ILD, 1_280).column("incident_energy"))
        assert uniform.mean() == pytest.approx(55, abs=3)  # four standard deviations
        assert np.quantile(uniform, [0.25, 0.75]) == pytest.approx([32.5, 77.5], abs=5)
        logarithmic = values_of(some(GflashShowers(detector="calochallenge2"), 256).column("incident_energy"))
        assert np.log10(logarithmic).mean() == pytest.approx(1.5, abs=0.2)

    def test_the_challenges_showers_sum_to_their_energy(self) -> None:
        batch = some(GflashShowers(detector="calochallenge2", energy=(50.0, 500.0)), 256)
        response = total_mev(batch) / 1e3 / values_of(batch.column("incident_energy"))
        assert response.mean() == pytest.approx(1, abs=0.01)

    def test_silicon_sees_as_much_as_its_thickness_promises(self) -> None:
        # 0.0525 cm x 2.329 x 1.664 MeV of some 8.5 MeV that a particle loses in a pair's half, e/mip 0.7; half of that
        # in the last third: about 2% of the energy.
        batch = some(ILD, 128)
        response = total_mev(batch) / 1e3 / values_of(batch.column("incident_energy"))
        assert 0.018 < response.mean() < 0.025

    def test_showers_point_along_the_axis_through_the_origin(self) -> None:
        geometry, batch = ILD.layout, some(ILD, 256)
        dense = voxelise(batch, geometry).astype(np.float64).sum(axis=0)
        for centres in (geometry.centres.x, geometry.centres.z):
            assert dense @ centres / dense.sum() == pytest.approx(0, abs=0.3)


def total_mev(batch: pa.RecordBatch) -> np.ndarray:
    shower = np.repeat(np.arange(len(batch)), lengths_of(batch.column("points")))
    return np.bincount(shower, points_of(batch, "energy"), len(batch))


class TestFormats:
    @pytest.mark.parametrize(("detector", "form", "source"), FORMATS)
    def test_files_give_equal_showers_back(self, tmp_path: Path, detector: str, form: str, source: Any) -> None:
        simulation = GflashShowers(detector=detector)
        (path,) = write_raw(simulation, form, tmp_path / "raw", 70)
        found, made = source.read(path, 0, 70), some(simulation, 70)
        assert found.schema.names == made.schema.names
        for name in made.schema.names:
            assert found.column(name).equals(made.column(name)), name

    @pytest.mark.parametrize("detector", ["ild", "calochallenge2"])
    def test_showerdata_give_equal_voxels_back(self, tmp_path: Path, detector: str) -> None:
        simulation = GflashShowers(detector=detector)
        (path,) = write_raw(simulation, "showerdata", tmp_path / "raw", 40)
        found, made = ShowerDataSource().read(path, 0, 40), some(simulation, 40)
        # The format has z along the depth, and centres of cells.
        geometry = replace(simulation.layout, depth="z")
        renamed = {"x": points_of(found, "x"), "y": points_of(found, "y"), "layer": points_of(found, "layer")}
        voxel = geometry.locate(renamed["layer"].astype(int), renamed["x"], renamed["y"])
        cells = [points_of(made, name) for name in ("layer", "cell_a", "cell_b")]
        assert np.array_equal(voxel, geometry.voxel(*cells))
        assert points_of(found, "energy") == pytest.approx(points_of(made, "energy"), rel=1e-6)
        assert values_of(found.column("incident_energy")) == pytest.approx(
            values_of(made.column("incident_energy")), rel=1e-6
        )
        assert values_of(found.column("particle")).tolist() == values_of(made.column("particle")).tolist()
        assert set(values_of(found.column("direction_z"))) == {1.0}

    def test_readers_see_the_geometry_that_the_simulation_has(self, tmp_path: Path) -> None:
        (path,) = write_raw(ILD, "showerclouds", tmp_path / "raw", 5)
        found = ShowerCloudsSource().bind([path]).bound_geometry
        assert found == ILD.layout
        assert Geometry.from_data(ILD.geometry) == ILD.layout

    def test_clouds_have_room_for_the_largest_showers(self, tmp_path: Path) -> None:
        high = GflashShowers(energy=(900.0, 1000.0))
        (path,) = write_raw(high, "showerclouds", tmp_path / "raw", 64)
        most = lengths_of(some(high, 64).column("points")).max()
        assert 1_700 < most < 6_000
        assert lengths_of(ShowerCloudsSource().read(path, 0, 64).column("points")).max() == most

    def test_a_detector_of_ones_own_is_written_as_showerdata(self, tmp_path: Path) -> None:
        described = tmp_path / "own.yaml"
        described.write_text(OWN)
        simulation = GflashShowers(detector=str(described))
        simulation.check()
        assert simulation.formats == ("showerdata",)
        (path,) = write_raw(simulation, "showerdata", tmp_path / "raw", 10)
        assert len(ShowerDataSource().read(path, 0, 10)) == 10
        with pytest.raises(HepfmError, match="not written as 'ildgrid'"):
            write_raw(simulation, "ildgrid", tmp_path / "grid", 10)

    def test_a_corpus_does_not_depend_on_processes(self, tmp_path: Path) -> None:
        layout = Layout(shard_records=40, block_records=20)
        one, two = (
            simulate_corpus(ILD, tmp_path / str(processes), 100, layout, Workers(processes)) for processes in (1, 2)
        )
        assert one.manifest.kind == "showers"
        assert Geometry.from_data(one.manifest.geometry or {}) == ILD.layout
        names = sorted(path.relative_to(one.path) for path in one.path.rglob("*.tar"))
        assert names
        for name in names:
            assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
        assert records.kind_of(one.manifest.schema) == "showers"


OWN = """
name: lead and scintillator
sections: [{repeat: 66, layers: [[{material: lead, thickness: 2, role: absorber},
                                  {material: polystyrene, thickness: 4, role: active}]]}]
cells: {kind: grid, first: 20, second: 20, size: 30}
stochastic: 0.1
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy": (90.0, 10.0)}, "90 to 10 GeV are impossible"),
        ({"energy": (-1.0, 10.0)}, "impossible"),
        ({"energy": (10.0, 1e5)}, "holds from 1 to 1000 GeV"),
        ({"particles": ("muon",)}, "no showers of 'muon'"),
        ({"detector": "atlas"}, "no detector 'atlas'"),
    ],
)
def test_impossible_settings_stop_before_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=message):
        write_raw(GflashShowers(**settings), "ildgrid", tmp_path / "raw", 10)
    assert not list(tmp_path.glob("raw/*.h5"))
