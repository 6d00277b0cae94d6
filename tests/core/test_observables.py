"""Observables against independent formulas: brute-force clustering of small jets, analytic prongs, real jets."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.core import observables, records
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents

JETCLASS = Path(__file__).resolve().parents[2] / "../shared/data/jetclass"


def random_jets(seed: int, jets: int, most: int = 12, least: int = 0) -> Constituents:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(least, most + 1, jets)
    total = int(lengths.sum())
    return Constituents(
        rng.exponential(20.0, total) + 0.5,
        rng.normal(0, 0.3, total),
        rng.normal(0, 0.3, total),
        np.concatenate(([0], np.cumsum(lengths))),
    )


def vectors_of(jet: Constituents) -> list[np.ndarray]:
    """px, py, pz, E of each constituent of one jet."""
    return [
        np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])
        for pt, eta, phi in zip(jet.pt, jet.deta, jet.dphi, strict=True)
    ]


def rapidity_azimuth(vector: np.ndarray) -> tuple[float, float]:
    px, py, pz, energy = vector
    return 0.5 * np.log((energy + pz) / (energy - pz)), np.arctan2(py, px)


def squared_distance(a: np.ndarray, b: np.ndarray) -> float:
    (y1, phi1), (y2, phi2) = rapidity_azimuth(a), rapidity_azimuth(b)
    return (y1 - y2) ** 2 + ((phi1 - phi2 + np.pi) % (2 * np.pi) - np.pi) ** 2


def cluster_down_to(vectors: list[np.ndarray], count: int, power: int) -> list[np.ndarray]:
    """Generalised-kt pairwise clustering by exhaustive search: power 1 is kt, 0 Cambridge/Aachen."""
    vectors = list(vectors)
    while len(vectors) > count:
        pairs = list(combinations(range(len(vectors)), 2))
        pts = [np.hypot(*vector[:2]) for vector in vectors]
        distances = [min(pts[a], pts[b]) ** (2 * power) * squared_distance(vectors[a], vectors[b]) for a, b in pairs]
        i, j = pairs[int(np.argmin(distances))]
        merged = vectors[i] + vectors[j]
        vectors = [vector for k, vector in enumerate(vectors) if k not in (i, j)] + [merged]
    return vectors


def invariant_mass(vector: np.ndarray) -> float:
    return float(np.sqrt(max(vector[3] ** 2 - np.sum(vector[:3] ** 2), 0)))


def test_sums_agree_with_a_loop_over_jets() -> None:
    jets = random_jets(1, 50)
    for i in range(len(jets)):
        total = np.sum([np.zeros(4), *vectors_of(jets.range(i, i + 1))], axis=0)
        assert np.allclose([part[i] for part in observables.jet_four_vectors(jets)], total)
        assert observables.jet_mass(jets)[i] == pytest.approx(invariant_mass(total), abs=1e-5)
        assert observables.jet_pt(jets)[i] == pytest.approx(np.hypot(*total[:2]))
        assert observables.multiplicity(jets)[i] == len(vectors_of(jets.range(i, i + 1)))


def test_two_prongs_have_the_textbook_mass_and_direction() -> None:
    """m^2 = 2 pt1 pt2 (cosh(deta) - cos(dphi)) for two massless prongs."""
    jets = Constituents(np.array([300.0, 200.0]), np.array([-0.2, 0.3]), np.array([0.1, -0.3]), np.array([0, 2]))
    expected = np.sqrt(2 * 300 * 200 * (np.cosh(0.5) - np.cos(0.4)))
    assert observables.jet_mass(jets)[0] == pytest.approx(expected, rel=1e-12)
    eta, phi = observables.jet_eta_phi(Constituents(jets.pt[:1], jets.deta[:1], jets.dphi[:1], np.array([0, 1])))
    assert (eta[0], phi[0]) == (pytest.approx(-0.2), pytest.approx(0.1))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_nsubjettiness_agrees_with_exhaustive_clustering(beta: float) -> None:
    jets = random_jets(2, 60)
    taus = observables.nsubjettiness(jets, (1, 2, 3, 4), R0=0.8, beta=beta)
    for i in range(len(jets)):
        jet = jets.range(i, i + 1)
        vectors = vectors_of(jet)
        for count in (1, 2, 3, 4):
            expected = 0.0
            if len(vectors) > count:
                axes = cluster_down_to(vectors, count, power=1)
                near = [min(squared_distance(vector, axis) for axis in axes) ** (beta / 2) for vector in vectors]
                expected = float(np.sum(jet.pt * near) / np.sum(jet.pt * 0.8**beta))
            assert taus[count][i] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_two_equal_prongs_give_tau1_analytically() -> None:
    """The axis lies halfway: tau1 = (dR / 2) / R0, tau2 = 0, tau21 = 0."""
    jets = Constituents(np.array([100.0, 100.0]), np.zeros(2), np.array([-0.2, 0.2]), np.array([0, 2]))
    assert observables.nsubjettiness(jets)[1][0] == pytest.approx(0.25)
    assert observables.tau21(jets)[0] == 0
    assert np.isnan(observables.tau32(jets)[0])


def test_ratios_are_undefined_where_their_denominator_is_zero() -> None:
    jets = Constituents(
        np.array([5.0, 1.0, 2.0, 3.0]), np.full(4, 0.3), np.full(4, 0.3), np.array([0, 0, 1, 4])
    )  # empty, one constituent, three in one direction
    assert np.isnan(observables.tau21(jets)).all()
    assert np.allclose(observables.jet_mass(jets), 0, atol=1e-5)


def test_softdrop_agrees_with_exhaustive_declustering() -> None:
    jets = random_jets(3, 60, least=1)
    for beta in (0.0, 1.0):
        masses = observables.softdrop_mass(jets, zcut=0.1, beta=beta, R=0.8)
        for i in range(len(jets)):
            expected = brute_softdrop(vectors_of(jets.range(i, i + 1)), 0.1, beta, 0.8)
            assert masses[i] == pytest.approx(expected, rel=1e-6, abs=1e-4)


def brute_softdrop(vectors: list[np.ndarray], zcut: float, beta: float, R: float) -> float:
    """Recurse over index sets: the last Cambridge/Aachen step of a set splits it in two."""
    if len(vectors) == 1:
        return 0.0
    halves = split_in_two(vectors)
    prongs = [np.sum(half, axis=0) for half in halves]
    pts = [np.hypot(*prong[:2]) for prong in prongs]
    angle = np.sqrt(squared_distance(*prongs))
    if min(pts) / sum(pts) > zcut * (angle / R) ** beta:
        return invariant_mass(prongs[0] + prongs[1])
    return brute_softdrop(halves[int(np.argmax(pts))], zcut, beta, R)


def split_in_two(vectors: list[np.ndarray]) -> list[list[np.ndarray]]:
    groups = [[vector] for vector in vectors]
    while len(groups) > 2:
        sums = [np.sum(group, axis=0) for group in groups]
        i, j = min(combinations(range(len(groups)), 2), key=lambda p: squared_distance(sums[p[0]], sums[p[1]]))
        merged = groups[i] + groups[j]
        groups = [group for k, group in enumerate(groups) if k not in (i, j)] + [merged]
    return groups


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    jets = random_jets(4, 40)
    whole = observables.nsubjettiness(jets), observables.softdrop_mass(jets)
    monkeypatch.setattr(observables, "CHUNK_JETS", 7)
    for count, values in observables.nsubjettiness(jets).items():
        assert np.array_equal(values, whole[0][count])
    assert np.array_equal(observables.softdrop_mass(jets), whole[1])


def test_an_empty_sample_has_empty_observables() -> None:
    jets = random_jets(5, 0)
    assert len(observables.tau21(jets)) == len(observables.softdrop_mass(jets)) == len(observables.jet_mass(jets)) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1.5, 1.5), st.floats(0.1, 10))
def test_observables_do_not_depend_on_where_the_axis_points_or_on_the_energy_scale(
    seed: int, shift: float, scale: float
) -> None:
    """Boosts along the beam and rotations keep pt, mass and shapes; energies scale mass and pt, not shapes."""
    jets = random_jets(seed, 10)
    moved = Constituents(jets.pt * scale, jets.deta + shift, jets.dphi - shift, jets.offsets)
    assert np.allclose(observables.jet_pt(moved), scale * observables.jet_pt(jets))
    assert np.allclose(observables.jet_mass(moved), scale * observables.jet_mass(jets), rtol=1e-6, atol=1e-4)
    assert np.allclose(observables.tau21(moved), observables.tau21(jets), rtol=1e-6, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_select_range_and_concatenate_keep_whole_jets(seed: int) -> None:
    jets = random_jets(seed, 9)
    keep = np.random.default_rng(seed).random(9) < 0.5
    picked = jets.select(keep)
    expected = [jets.range(i, i + 1).pt.tolist() for i in np.flatnonzero(keep)]
    assert [picked.range(i, i + 1).pt.tolist() for i in range(len(picked))] == expected
    joined = observables.concatenate([jets.range(0, 4), jets.range(4, 9)])
    assert np.array_equal(joined.pt, jets.pt)
    assert np.array_equal(joined.offsets, jets.offsets)


def test_constituents_come_from_records() -> None:
    schema = records.schema("jets", ("pt", "deta", "dphi", "energy"), ())
    rows = [
        {"constituents": [{"pt": 2.0, "deta": 0.1, "dphi": 0.2, "energy": 3.0}], "source_file": 0, "source_entry": 0},
        {"constituents": [], "source_file": 0, "source_entry": 1},
        {"constituents": [{"pt": i + 1.0, "deta": 0.0, "dphi": 0.0, "energy": 3.0} for i in range(2)]},
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    jets = Constituents.from_batch(batch.slice(1))
    assert jets.offsets.tolist() == [0, 0, 2]
    assert jets.pt.tolist() == [1.0, 2.0]
    bare = pa.RecordBatch.from_pylist([], schema=records.schema("jets", ("pt",), ()))
    with pytest.raises(HepfmError, match=r"lack deta, dphi \(they have pt\)"):
        Constituents.from_batch(bare)


def test_values_no_constituent_can_have_are_refused_by_name() -> None:
    jets = random_jets(6, 5, least=2)
    for name, value in (("pt", -1.0), ("deta", np.nan), ("dphi", np.inf)):
        values = np.array(getattr(jets, name))
        values[jets.offsets[3]] = value
        broken = Constituents(**{**vars(jets), name: values})
        with pytest.raises(HepfmError, match=rf"a\.parquet: constituent {name} is .* in jet 3 \(1 such"):
            broken.check("a.parquet")
    assert jets.check("a.parquet") is jets


def test_real_jets_have_the_masses_of_their_four_vectors() -> None:
    file = JETCLASS / "jetclass_500_pfVectors.npy"
    if not file.exists():
        pytest.skip(f"{file} is absent")
    vectors, mask = np.load(file).astype(float), np.load(JETCLASS / "jetclass_500_pfMask.npy")[:, 0] > 0
    points = np.load(JETCLASS / "jetclass_500_pfPoints.npy")
    offsets = np.concatenate(([0], np.cumsum(mask.sum(axis=1))))
    pt = np.hypot(vectors[:, 0], vectors[:, 1])[mask]
    jets = Constituents(pt, points[:, 0][mask], points[:, 1][mask], offsets)
    px, py, pz, energy = (vectors[:, i].sum(axis=1, where=mask) for i in range(4))
    expected = np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0))
    assert np.allclose(observables.jet_pt(jets), np.hypot(px, py), rtol=1e-5)
    # Massless constituents: jets are lighter by the hadrons' own masses only.
    assert np.median(np.abs(observables.jet_mass(jets) / expected - 1)) < 0.02
    assert (observables.softdrop_mass(jets) <= observables.jet_mass(jets) + 1e-3).all()


def test_stdout_stays_free_for_results() -> None:
    code = (
        "import numpy as np; from hepfm.core.observables import *;"
        "j = Constituents(np.ones(3), np.arange(3.), np.zeros(3), np.array([0, 3]));"
        "tau21(j), softdrop_mass(j)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_d2_is_the_sum_over_pairs_and_triples() -> None:
    draws = np.random.default_rng(3)
    lengths = np.array([0, 1, 2, 3, 7, 12, 3, 1])
    points = int(lengths.sum())
    pt, deta, dphi = draws.exponential(20, points), draws.normal(0, 0.2, points), draws.normal(3.0, 0.4, points)
    jets = Constituents(pt, deta, dphi, np.concatenate([[0], np.cumsum(lengths)]))
    found = observables.d2(jets)
    for jet in range(len(jets)):
        inside = range(jets.offsets[jet], jets.offsets[jet + 1])
        z = pt / pt[list(inside)].sum() if len(inside) else pt

        def distance(i: int, j: int) -> float:
            turned = (dphi[i] - dphi[j] + np.pi) % (2 * np.pi) - np.pi
            return float(np.hypot(deta[i] - deta[j], turned))

        e2 = sum(z[i] * z[j] * distance(i, j) for i, j in combinations(inside, 2))
        e3 = sum(
            z[i] * z[j] * z[k] * distance(i, j) * distance(i, k) * distance(j, k) for i, j, k in combinations(inside, 3)
        )
        if len(inside) < 2:
            assert np.isnan(found[jet])
        else:
            assert found[jet] == pytest.approx(e3 / e2**3, rel=1e-9)


def test_d2_does_not_depend_on_how_jets_share_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(4)
    lengths = draws.integers(0, 60, 200)
    points = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    jets = Constituents(draws.exponential(5, points), *draws.normal(0, 0.3, (2, points)), offsets)
    whole = observables.d2(jets)
    monkeypatch.setattr(observables, "PAIR_ELEMENTS", 100)
    np.testing.assert_allclose(observables.d2(jets), whole, rtol=1e-10)


def test_d2_of_collinear_jets_is_undefined() -> None:
    jets = Constituents(np.ones(3), np.full(3, 0.1), np.full(3, 0.2), np.array([0, 3]))
    assert np.isnan(observables.d2(jets)).all()
