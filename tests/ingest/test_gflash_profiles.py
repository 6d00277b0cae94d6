"""Formulas of parametrised showers against values worked by hand, and what is drawn against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core.errors import HepfmError
from hepfm.ingest.gflash.longitudinal import Medium, Profiles, draw_profiles, log_shape, share_of_pair
from hepfm.ingest.gflash.material import ELEMENTS, MATERIALS, Slice, critical_energy, mixture
from hepfm.ingest.gflash.radial import radial_shape, relative_depth
from hepfm.ingest.gflash.showers import draw_showers

TUNGSTEN_LIKE = Medium(z=72.0, critical_energy=8.0, sampling_frequency=1.5, response=0.7)
HOMOGENEOUS = Medium(z=70.0, critical_energy=8.0, sampling_frequency=1e12, response=1.0)


def profiles(alpha: float, maximum: float, energy: float = 50.0, start: float = 0.0, count: int = 1) -> Profiles:
    one = np.ones(count)
    return Profiles(energy * one, start * one, alpha * one, maximum * one, alpha * one)


class TestMaterial:
    def test_critical_energies_and_moliere_radii_are_those_of_the_tables(self) -> None:
        # 2.66 (6.76 x 74/183.84)^1.1 = 2.66 x 2.7211^1.1 = 2.66 x 3.0075; 21.2/8.00 x 6.76/19.3 cm = 9.28 mm.
        assert critical_energy(ELEMENTS["W"]) == pytest.approx(8.000, abs=0.001)
        for name, radius, energy in (("tungsten", 9.33, 7.97), ("lead", 16.02, 7.43), ("iron", 17.19, 21.7)):
            found = mixture([Slice(name, 3.0)])
            assert found.moliere == pytest.approx(radius, rel=0.05)  # PDG, Moliere radius in mm
            assert found.critical_energy == pytest.approx(energy, rel=0.08)  # PDG, for electrons

    @pytest.mark.parametrize(
        ("material", "length"),  # PDG: radiation lengths in mm
        [
            *(("tungsten", 3.504), ("lead", 5.612), ("iron", 17.57), ("copper", 14.36), ("aluminium", 88.97)),
            *(("silicon", 93.7), ("polystyrene", 413.1), ("liquid_argon", 140.0), ("air", 303_900.0)),
        ],
    )
    def test_radiation_lengths_are_those_of_the_tables(self, material: str, length: float) -> None:
        assert mixture([Slice(material, length)]).depth == pytest.approx(1.0, rel=0.01)

    def test_a_minimally_ionising_particle_loses_what_the_tables_say(self) -> None:
        assert mixture([Slice("silicon", 0.525)]).ionisation == pytest.approx(0.0525 * 2.329 * 1.664)
        assert mixture([Slice("polystyrene", 10)]).ionisation == pytest.approx(2.05, rel=0.02)  # PDG: 1.936 MeV cm2/g

    def test_fractions_are_of_a_whole(self) -> None:
        for name, material in MATERIALS.items():
            assert sum(material.fractions.values()) == pytest.approx(1, abs=2e-4), name

    def test_a_gap_dilutes(self) -> None:
        dense, diluted = (mixture([Slice("tungsten", 2), Slice("air", gap)]) for gap in (1e-6, 2.0))
        assert diluted.moliere == pytest.approx(2 * dense.moliere, rel=1e-3)
        assert diluted.depth == pytest.approx(dense.depth, rel=1e-3)
        assert diluted.critical_energy == pytest.approx(dense.critical_energy, rel=1e-2)

    @given(st.lists(st.tuples(st.sampled_from(sorted(MATERIALS)), st.floats(0.01, 50)), min_size=1, max_size=5))
    def test_order_and_cutting_do_not_matter(self, plates: list[tuple[str, float]]) -> None:
        whole = mixture([Slice(*plate) for plate in plates])
        halves = mixture([Slice(name, thickness / 2) for name, thickness in [*plates, *plates[::-1]]])
        for name, value in vars(whole).items():
            assert getattr(halves, name) == pytest.approx(value), name

    def test_an_unknown_material_names_those_there_are(self) -> None:
        with pytest.raises(HepfmError, match=r"no data of material 'kryptonite'.*tungsten, lead"):
            mixture([Slice("kryptonite", 1.0)])


class TestLongitudinal:
    def test_parameters_are_those_worked_by_hand(self) -> None:
        # ln y = 9, 1/F_S = 2/3, 1 - e/mip = 0.3, Z = 72.
        shape = log_shape(TUNGSTEN_LIKE, np.array([9.0]))
        assert np.exp(shape.maximum) == pytest.approx([9 - 0.812 - 0.366667 - 0.207], abs=1e-5)
        assert np.exp(shape.alpha) == pytest.approx([0.81 + 4.122 + 0.2825 - 0.317333], abs=1e-5)
        assert shape.maximum_width == pytest.approx([1 / 8.75])
        assert shape.alpha_width == pytest.approx([1 / 6.29])
        assert shape.correlation == pytest.approx([0.577])

    def test_y_is_the_energy_in_critical_energies(self) -> None:
        assert TUNGSTEN_LIKE.log_y(np.array([8.0, 80.0])) == pytest.approx([math.log(1e3), math.log(1e4)])

    def test_drawn_parameters_have_the_means_widths_and_correlation(self) -> None:
        energy = np.full(40_000, 20.0)
        drawn = draw_profiles(TUNGSTEN_LIKE, energy, np.zeros(len(energy)), np.random.default_rng(1))
        shape = log_shape(TUNGSTEN_LIKE, TUNGSTEN_LIKE.log_y(energy[:1]))
        maximum, alpha = np.log(drawn.maximum), np.log(drawn.alpha)
        assert maximum.mean() == pytest.approx(shape.maximum[0], abs=4 * shape.maximum_width[0] / 200)
        assert alpha.mean() == pytest.approx(shape.alpha[0], abs=4 * shape.alpha_width[0] / 200)
        assert maximum.std() == pytest.approx(shape.maximum_width[0], rel=0.02)
        assert alpha.std() == pytest.approx(shape.alpha_width[0], rel=0.02)
        assert np.corrcoef(maximum, alpha)[0, 1] == pytest.approx(shape.correlation[0], abs=0.02)

    @given(st.floats(1.5, 8), st.floats(2, 10), st.floats(0, 6))
    def test_a_profile_has_its_maximum_and_mean_where_the_gamma_distribution_has(
        self, alpha: float, maximum: float, start: float
    ) -> None:
        edges = np.linspace(0, 400, 80_001)
        share = profiles(alpha, maximum, start=start).fractions(edges)[0]
        middles = 0.5 * (edges[1:] + edges[:-1])
        assert share.sum() == pytest.approx(1, abs=1e-6)
        assert share @ middles == pytest.approx(start + maximum * alpha / (alpha - 1), rel=1e-3, abs=0.01)
        assert middles[np.argmax(share)] == pytest.approx(start + maximum, abs=0.02)

    def test_a_shower_ends_behind_a_thin_detector(self) -> None:
        # alpha = 2, T = 1: 1 - (1 + t) exp(-t) in front of t.
        assert profiles(2.0, 1.0).fractions(np.array([0.0, 1.0, 3.0]))[0] == pytest.approx(
            [1 - 2 * math.exp(-1), 2 * math.exp(-1) - 4 * math.exp(-3)]
        )


class TestPairs:
    def test_shares_have_the_moments_of_complete_screening(self) -> None:
        # With u = 2x - 1 the density is 9/7 (2/3 + u^2/3)/2 in u: <u^2> = 13/35, <u^4> = 6/35 + 3/49.
        u = 2 * share_of_pair(400_000, np.random.default_rng(2)) - 1
        assert u.mean() == pytest.approx(0, abs=0.004)
        assert (u**2).mean() == pytest.approx(13 / 35, abs=0.003)
        assert (u**4).mean() == pytest.approx(6 / 35 + 3 / 49, abs=0.003)

    def test_a_photon_becomes_two_showers_that_share_its_energy_and_start(self) -> None:
        energy = np.linspace(5, 50, 20_000)
        showers = draw_showers(TUNGSTEN_LIKE, "photon", energy, np.random.default_rng(3))
        assert np.bincount(showers.particle, showers.profiles.energy) == pytest.approx(energy)
        first, second = showers.profiles.start.reshape(2, -1)
        assert np.array_equal(first, second)
        assert first.mean() == pytest.approx(9 / 7, abs=0.04)
        assert first.std() == pytest.approx(9 / 7, abs=0.05)

    def test_an_electron_showers_at_once(self) -> None:
        showers = draw_showers(TUNGSTEN_LIKE, "electron", np.full(5, 10.0), np.random.default_rng(3))
        assert not showers.profiles.start.any()
        assert np.array_equal(showers.particle, np.arange(5))


class TestRadial:
    def test_homogeneous_parameters_are_those_worked_by_hand(self) -> None:
        # ln E = 4, Z = 70, tau = k2 = 0.645, where both exponentials of the tail are 1.
        shape = radial_shape(HOMOGENEOUS, np.array([math.exp(4)]), np.array([[0.645]]))
        assert shape.core[0] == pytest.approx([0.0251 + 0.01276 + 0.08953 * 0.645])
        assert shape.tail[0] == pytest.approx([2 * (0.659 - 0.2163)])
        assert shape.weight[0] == pytest.approx([0.93867], abs=1e-4)

    def test_sampling_changes_them_as_worked_by_hand(self) -> None:
        # tau = 1, F_S = 2, e/mip = 0.7.
        sampled = Medium(70.0, 8.0, 2.0, 0.7)
        energy, tau = np.array([math.exp(4)]), np.array([[1.0]])
        before, after = (radial_shape(medium, energy, tau) for medium in (HOMOGENEOUS, sampled))
        assert after.core - before.core == pytest.approx(-0.0203 * 0.3 + 0.0397 * 0.5 / math.e)
        assert after.tail - before.tail == pytest.approx(-0.14 * 0.3 - 0.495 * 0.5 / math.e)
        assert after.weight - before.weight == pytest.approx(0.3 * (0.348 - 0.642 * 0.5))

    def test_half_of_core_and_tail_lies_within_their_radius(self) -> None:
        shape = radial_shape(HOMOGENEOUS, np.array([50.0]), np.array([[1.0]]))
        only_core, only_tail = (type(shape)(shape.core, shape.tail, np.array(weight)) for weight in (1.0, 0.0))
        assert only_core.inside(shape.core) == pytest.approx(0.5)
        assert only_tail.inside(shape.tail) == pytest.approx(0.5)
        assert shape.inside(np.array(0.0)) == pytest.approx(0)
        assert shape.inside(np.array(1e6)) == pytest.approx(1)

    def test_tau_is_1_at_the_maximum_of_a_shower_like_the_average(self) -> None:
        # t/<t> x alpha/(alpha - 1), with <t> = T alpha/(alpha - 1), is t/T.
        found = relative_depth(profiles(4.0, 6.0, start=1.5), np.array([0.5, 1.5, 4.5, 7.5]))
        assert found[0] == pytest.approx([0, 0, 0.5, 1.0])

    @given(st.floats(1, 1000), st.floats(0, 5), st.floats(0.3, 5), st.floats(0.5, 1))
    def test_parameters_are_possible_at_any_depth_and_energy(
        self, energy: float, tau: float, frequency: float, response: float
    ) -> None:
        shape = radial_shape(Medium(70.0, 8.0, frequency, response), np.array([energy]), np.array([[tau]]))
        assert 0 < shape.core[0, 0] <= shape.tail[0, 0]
        assert 0 <= shape.weight[0, 0] <= 1
