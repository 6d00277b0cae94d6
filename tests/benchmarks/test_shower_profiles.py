"""Parametrised showers are as near to full simulation, and their energy as good, as is claimed of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hepfm.benchmarks import simulate_showers
from hepfm.benchmarks.profiles_report import (
    MOST_NONLINEARITY,
    MOST_RESOLUTION,
    MOST_SEPARATION,
    EvaluateProfilesConfig,
    main,
)
from hepfm.benchmarks.shower_profiles import (
    REFERENCE_GEV,
    EnergyBin,
    Profiles,
    energy_bins,
    profiles_of,
    read_reference,
    separation,
)
from hepfm.core.errors import HepfmError
from hepfm.core.statistics import separation_power
from hepfm.ingest.gflash.simulation import GflashShowers

REFERENCE = Path(__file__).resolve().parents[2] / "../shared/data/calorimeter/ild_geant4_100k_histograms.npz"


@pytest.fixture(scope="module")
def simulation() -> GflashShowers:
    return GflashShowers(energy=REFERENCE_GEV, seed=11)


@pytest.fixture(scope="module")
def profiles(simulation: GflashShowers) -> Profiles:
    return profiles_of(simulation, 2_000, 200.0)


@pytest.fixture(scope="module")
def bins(simulation: GflashShowers) -> list[EnergyBin]:
    return energy_bins(simulation, 6_000)


@pytest.fixture
def reference() -> Path:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not there")
    return REFERENCE


class TestSeparationPower:
    def test_values_worked_by_hand(self) -> None:
        # 1/2 (0.25^2/0.75 + 0.25^2/1.25) of (1/4, 3/4) and (1/2, 1/2).
        assert separation_power(np.array([1, 3]), np.array([5, 5])) == pytest.approx(0.5 * (1 / 12 + 1 / 20))
        assert separation_power(np.array([1, 0, 0]), np.array([0, 0, 2])) == pytest.approx(1)

    @given(arrays(np.float64, 6, elements=st.floats(0.01, 10)), arrays(np.float64, 6, elements=st.floats(0.01, 10)))
    def test_it_is_symmetric_between_0_and_1_and_blind_to_scale(self, a: np.ndarray, b: np.ndarray) -> None:
        found = separation_power(a, b)
        assert 0 <= found <= 1
        assert separation_power(3 * b, a) == pytest.approx(found)
        assert separation_power(a, 7 * a) == pytest.approx(0, abs=1e-12)

    def test_it_needs_equal_bins_with_content(self) -> None:
        for a, b in (([1, 2], [1, 2, 3]), ([0, 0], [1, 2])):
            with pytest.raises(HepfmError, match="separation power"):
                separation_power(np.array(a), np.array(b))

    def test_its_error_is_that_of_the_sample(self) -> None:
        draws, flat = np.random.default_rng(1), np.ones(5)
        few, many = (separation(flat, draws.exponential(1, (size, 5)), "test") for size in (100, 10_000))
        assert few.value > many.value
        assert few.error > 3 * many.error


class TestProfiles:
    def test_both_profiles_hold_the_same_energy(self, profiles: Profiles) -> None:
        assert profiles.radial.sum(axis=1) == pytest.approx(profiles.layers.sum(axis=1))

    def test_they_are_as_near_to_full_simulation_as_claimed(self, profiles: Profiles, reference: Path) -> None:
        real = read_reference(reference)
        found = {
            "depth": separation_power(real.layers, profiles.layers.sum(axis=0)),
            "radius": separation_power(real.radial, profiles.radial.sum(axis=0)),
        }
        assert found["depth"] <= MOST_SEPARATION["depth"]
        assert found["radius"] <= MOST_SEPARATION["radius"]

    def test_the_mean_layer_is_that_of_full_simulation(self, profiles: Profiles, reference: Path) -> None:
        layer = np.arange(30)
        real = read_reference(reference).layers
        found = profiles.layers.sum(axis=0)
        assert found @ layer / found.sum() == pytest.approx(real @ layer / real.sum(), abs=0.15)


class TestEnergy:
    def test_the_response_is_linear(self, bins: list[EnergyBin]) -> None:
        assert [each.low for each in bins] == [10, 20, 30, 40, 50, 60, 70, 80]
        for each in bins:
            assert each.response.value == pytest.approx(1, abs=MOST_NONLINEARITY), each
            assert each.response.error < 0.002

    def test_the_resolution_is_that_of_the_calorimeter(self, bins: list[EnergyBin]) -> None:
        for each in bins:
            assert each.resolution.value == pytest.approx(each.expected, rel=MOST_RESOLUTION), each

    def test_without_weights_it_is_not(self, simulation: GflashShowers, monkeypatch: pytest.MonkeyPatch) -> None:
        calibration = simulation.calibration("photon")
        calibration.weights[:] = calibration.weights.mean()
        monkeypatch.setattr(GflashShowers, "calibration", lambda self, particle: calibration)
        raw = energy_bins(simulation, 3_000)
        assert max(each.resolution.value / each.expected for each in raw[4:]) > 2


class TestReport:
    def test_the_command_measures_prints_and_writes(
        self, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(EvaluateProfilesConfig(reference, tmp_path / "out", showers=600))
        told = capsys.readouterr()
        assert told.out.strip() == str(tmp_path / "out" / "index.html")
        assert "energy by radius" in told.err
        data = json.loads((tmp_path / "out" / "profiles.json").read_text())
        assert set(data["separation_power"]) == {"depth", "radius"}
        assert len(data["energy_bins"]) == 8
        assert (tmp_path / "out" / "index.html").read_text().count("<svg") == 6

    def test_what_is_no_reference_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "text.npz").write_text("no archive")
        np.savez(tmp_path / "other.npz", other=np.zeros(3))
        np.savez(tmp_path / "bins.npz", counts_1=np.ones(5), counts_3=np.ones(30), xyz_limits=np.ones((3, 2)))
        for name, message in (
            ("missing.npz", "cannot be read"),
            ("text.npz", "holds no profiles"),
            ("other.npz", "counts_1"),
            ("bins.npz", r"\(5,\)"),
        ):
            with pytest.raises(HepfmError, match=message):
                read_reference(tmp_path / name)

    def test_other_folders_and_too_few_showers_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(HepfmError, match="no report"):
            main(EvaluateProfilesConfig(REFERENCE, tmp_path))
        with pytest.raises(HepfmError, match="at least 500"):
            main(EvaluateProfilesConfig(REFERENCE, tmp_path / "new", showers=10))


def test_the_benchmark_simulates_in_every_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_showers, "SHOWERS", dict.fromkeys(simulate_showers.SHOWERS, 64))
    with simulate_showers.simulate_showers() as workload:
        assert {name: way.call() for name, way in workload.ways.items() if name != "random_numbers"} == {
            "ild": 64,
            "calochallenge2": 64,
            "calochallenge3": 64,
        }
        numbers = workload.ways["random_numbers"].call()
        assert isinstance(numbers, np.ndarray)
        assert numbers.size == 2 * 64 * workload.figures["spots_per_shower_ild"]()
