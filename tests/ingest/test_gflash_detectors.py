"""Detectors are configurations; impossible ones stop before work starts and say why; calibration comes from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hepfm.core.config import to_dict
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.ild import DEPTHS_MM
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.gflash.calibrate import Calibration, calibration_of, check_containment, expected, signal_scale
from hepfm.ingest.gflash.detectors import DETECTORS, Cells, Detector, Section, detector_of
from hepfm.ingest.gflash.material import Slice
from hepfm.ingest.gflash.stack import stack_of

LEAD, SCINTILLATOR = Slice("lead", 2.0, "absorber"), Slice("polystyrene", 4.0, "active")
SANDWICH = Detector(
    name="lead and scintillator",
    sections=(Section(66, ((LEAD, SCINTILLATOR),)),),
    cells=Cells("grid", 20, 20, 30.0),
    stochastic=0.1,
)


def test_a_file_can_describe_any_detector(tmp_path: Path) -> None:
    path = tmp_path / "sandwich.yaml"
    path.write_text(yaml.safe_dump(to_dict(SANDWICH)))
    assert detector_of(str(path)) == SANDWICH
    path.write_text(
        """
        name: small
        sections:
          - repeat: 60
            layers:
              - - {material: lead, thickness: 2, role: absorber}
                - {material: air, thickness: 1}
                - {material: liquid_argon, thickness: 4, role: active}
        cells: {kind: cylinder, first: 30, second: 8, size: 10}
        stochastic: 0.1
        particles: [electron, photon]
        """
    )
    found = detector_of(str(path))
    found.check()
    check_containment(found)
    assert len(found.layers) == 60
    geometry = found.geometry()
    assert (geometry.kind, geometry.voxels, geometry.fastest) == ("cylinder", 60 * 240, "cell_a")
    assert [layer.position for layer in geometry.layers[:3]] == [0.0, 7.0, 14.0]
    assert Geometry.from_data(geometry.to_data()) == geometry


def test_a_file_that_is_no_detector_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: wrong\nabsorber: lead\n")
    with pytest.raises(HepfmError, match="unknown setting 'absorber'"):
        detector_of(str(path))
    with pytest.raises(HepfmError, match=r"no detector 'cms'.*ild, calochallenge2, calochallenge3"):
        detector_of("cms")
    with pytest.raises(HepfmError, match=r"no detector 'missing\.yaml'"):
        detector_of("missing.yaml")


def test_layers_of_ild_stand_where_its_sensors_do() -> None:
    # The thicknesses of the detector model against positions that were published on their own.
    thickness = [sum(slice_.thickness for slice_ in layer) for layer in DETECTORS["ild"].layers]
    ends = np.cumsum(thickness)
    assert ends - ends[0] == pytest.approx(DEPTHS_MM[:30], abs=2e-3)
    tungsten = [slice_.thickness for layer in DETECTORS["ild"].layers for slice_ in layer if slice_.role == "absorber"]
    assert tungsten == [2.1] * 20 + [4.2] * 10
    assert stack_of(DETECTORS["ild"]).edges[-1] == pytest.approx(25.3, abs=0.1)  # 24 of them in tungsten


def test_a_layer_of_the_challenge_has_the_published_depth() -> None:
    detector = DETECTORS["calochallenge2"]
    assert sum(slice_.thickness for slice_ in detector.layers[0]) == pytest.approx(3.4)
    assert np.diff(stack_of(detector).edges) == pytest.approx(0.8, abs=0.01)


def test_thicker_absorbers_are_seen_less() -> None:
    seen = stack_of(DETECTORS["ild"]).seen
    depth = np.diff(stack_of(DETECTORS["ild"]).edges)
    # What a layer sees of a constant density of energy does not depend on what stands in front of it.
    assert seen * depth == pytest.approx((seen * depth)[0])
    assert seen[25] / seen[15] == pytest.approx(0.5, abs=0.02)


def changed(**parts: Any) -> Detector:
    return replace(SANDWICH, **parts)


def layered(*slices: Slice) -> Detector:
    return changed(sections=(Section(30, (slices,)),))


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (layered(Slice("adamantium", 2.0, "absorber"), SCINTILLATOR), "no data of material 'adamantium'.*tungsten"),
        (layered(LEAD), "layer 0: no slice with the role active"),
        (layered(SCINTILLATOR), "layer 0: no slice with the role absorber"),
        (layered(Slice("lead", -2.0, "absorber"), SCINTILLATOR), "-2 mm of lead"),
        (changed(sections=()), "has no layers"),
        (changed(cells=Cells("grid", 0, 20, 30.0)), "impossible cells"),
        (changed(cells=Cells("grid", 20, 20, float("nan"))), "impossible cells"),
        (changed(cells=Cells("grid", 20, 20, float("inf"))), "impossible cells"),
        (changed(cells=Cells("grid", 20, 20, 30.0, (float("nan"), 0.0))), "impossible cells"),
        (changed(cells=Cells("grid", 20_000, 20_000, 30.0)), "26,400,000,000 voxels.*at most"),
        (changed(sections=(Section(10**9, ((LEAD, SCINTILLATOR),)),)), "1,000,000,000 layers.*at most"),
        (layered(Slice("lead", 1e300, "absorber"), SCINTILLATOR), "at most 10 m"),
        (changed(stochastic=17.0), "c is 17"),
        (changed(stochastic=1e-9), "c is 1e-09"),
        (changed(threshold=-1.0), "threshold is -1"),
        (changed(threshold=float("inf")), "threshold is inf"),
        (changed(threshold=10_000.0), "threshold is 10000 MeV.*least incident energy"),
        (changed(energy=(50.0, 10.0)), "50 to 10 GeV are impossible"),
        (changed(energy=(0.0, 10.0)), "0 to 10 GeV are impossible"),
        (changed(energy=(0.1, 10.0)), "holds from 1 to 1000 GeV"),
        (changed(energy=(10.0, 5000.0)), "holds from 1 to 1000 GeV"),
        (changed(particles=("pion",)), "no showers of 'pion'.*photon, electron"),
        (changed(particles=("photon", "photon")), "only once"),
    ],
)
def test_impossible_detectors_say_why(detector: Detector, message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        detector.check()


class TestContainment:
    @pytest.mark.parametrize("name", sorted(DETECTORS))
    def test_those_built_in_hold_their_showers(self, name: str) -> None:
        check_containment(DETECTORS[name])

    def test_too_few_cells_say_how_much_is_lost_and_what_to_change(self) -> None:
        small = replace(DETECTORS["ild"], cells=Cells("grid", 8, 8, 5.0))
        with pytest.raises(HepfmError, match=r"lose \d+\.\d% .* beside 8 x 8 cells of 5 mm.*more or larger cells"):
            check_containment(small)

    def test_too_few_layers_too(self) -> None:
        ild = DETECTORS["ild"]
        with pytest.raises(HepfmError, match=r"of 100 GeV lose .* behind the last layer.*more layers"):
            check_containment(replace(ild, sections=ild.sections[:3]))

    def test_what_is_kept_and_lost_is_everything(self) -> None:
        found = expected(DETECTORS["ild"], "photon")
        assert found.kept.sum(axis=1) + found.behind + found.beside == pytest.approx(1)
        assert np.all(np.diff(found.behind[1:]) > 0)  # higher energies reach further

    def test_a_wide_cell_keeps_everything_sideways(self) -> None:
        wide = replace(DETECTORS["ild"], cells=Cells("grid", 1, 1, 1e6))
        assert expected(wide, "photon").beside == pytest.approx(0, abs=1e-5)


class TestCalibration:
    def test_expected_signals_give_the_incident_energy(self) -> None:
        detector = DETECTORS["ild"]
        calibration, found = calibration_of(detector, "photon"), expected(detector, "photon")
        signals = found.energy[:, None] * found.kept * signal_scale(detector, stack_of(detector))
        assert calibration.energy(signals) == pytest.approx(found.energy)

    def test_layers_behind_thick_absorbers_weigh_more(self) -> None:
        weights = calibration_of(DETECTORS["ild"], "photon").weights
        assert weights[25] / weights[15] == pytest.approx(2, rel=0.05)

    def test_an_empty_shower_has_no_energy(self) -> None:
        assert calibration_of(DETECTORS["ild"], "photon").energy(np.zeros((1, 30))) == pytest.approx([0.0])

    def test_its_data_are_enough_to_use_it(self) -> None:
        calibration = calibration_of(DETECTORS["ild"], "photon")
        data = calibration.to_data()
        again = Calibration(*(np.array(values) for values in data.values()))
        signals = np.random.default_rng(1).exponential(30, (5, 30))
        assert again.energy(signals) == pytest.approx(calibration.energy(signals))

    def test_calibrated_deposits_sum_to_the_incident_energy(self) -> None:
        detector = DETECTORS["calochallenge2"]
        found = expected(detector, "electron")
        total = (found.kept * signal_scale(detector, stack_of(detector))).sum(axis=1)
        assert total[1:-1] == pytest.approx(1000, rel=0.005)
