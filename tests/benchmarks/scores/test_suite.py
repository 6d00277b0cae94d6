"""Everything in one call: what can be computed is, what cannot is told, and never a 0 in its place."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hepfm.benchmarks import metrics
from hepfm.benchmarks.scores import jet_suite, shower_suite
from hepfm.benchmarks.scores.physics_distances import FPD_SIZES, KPD_BATCH, Sizes
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents

TOY = metrics.Protocol(60, 3, "resampled")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of FPD, KPD and coverage that toy samples can fill."""
    for name in ("jetnet", "calochallenge"):
        monkeypatch.setitem(FPD_SIZES, name, Sizes(40, 120, 4, 3))
        monkeypatch.setitem(KPD_BATCH, name, 40)
    monkeypatch.setattr(jet_suite, "COVERAGE_JETS", 10)


def outcomes(data: Any) -> list[dict[str, Any]]:
    """All outcomes in a report."""
    if isinstance(data, dict) and data.keys() == {"value", "floor", "note", "limit"}:
        return [data]
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list) else []
    return [found for part in parts for found in outcomes(part)]


def test_jets_get_all_their_scores(toy_jets, small_batches: None) -> None:  # type: ignore[no-untyped-def]
    real, made = toy_jets(jets=600), toy_jets(jets=500, seed=1, spread=0.13)
    scores = metrics.jet_scores(real, made, TOY, replicas=10)
    data = json.loads(json.dumps(scores.to_data()))
    assert len(data["wasserstein"]) == 10
    for name in ("softdrop_mass", "tau32", "d2", "constituent_deta"):
        assert data["wasserstein"][name]["value"]["error"] > 0
    assert set(data["batched"]) == {"w1m", "w1p", "w1p_deta", "w1p_dphi", "w1p_pt", "w1efp"}
    assert all(part["value"] is not None for part in outcomes(data))
    assert data["wasserstein"]["jet_mass"]["value"]["value"] > 3 * data["wasserstein"]["jet_mass"]["floor"]["value"]
    assert data["distances"]["fpd"]["value"]["value"] > data["distances"]["fpd"]["floor"]["value"]


def test_what_needs_more_jets_is_told_in_its_place(toy_jets) -> None:  # type: ignore[no-untyped-def]
    jets = toy_jets(jets=80)
    data = metrics.jet_scores(jets, toy_jets(jets=80, seed=1), replicas=4).to_data()
    for group, name, needed in (
        ("batched", "w1m", "50,000"),
        ("batched", "w1p_pt", "50,000"),
        ("distances", "fpd", "20,000"),
        ("distances", "kpd", "5,000"),
        ("transport", "mmd", "100"),
        ("quantiled_kl", "jet_mass", "300"),
    ):
        assert data[group][name]["value"] is None
        assert f"needs {needed}" in data[group][name]["note"]
    assert data["wasserstein"]["jet_mass"]["value"] is not None
    assert data["quantiled_kl"]["constituent_pt"]["value"] is not None


def test_bad_jets_are_one_line(toy_jets) -> None:  # type: ignore[no-untyped-def]
    jets = toy_jets(jets=60)
    in_mev = Constituents(jets.pt * 1000, jets.deta, jets.dphi, jets.offsets)
    with pytest.raises(HepfmError, match="another unit"):
        metrics.jet_scores(jets, in_mev)
    broken = Constituents(np.where(np.arange(len(jets.pt)) == 5, np.nan, jets.pt), jets.deta, jets.dphi, jets.offsets)
    with pytest.raises(HepfmError, match="constituent pt is nan in jet 0"):
        metrics.jet_scores(jets, broken)
    with pytest.raises(HepfmError, match="10 jets are too few: a comparison needs 50"):
        metrics.jet_scores(jets, jets.range(0, 10))


def test_showers_get_all_their_scores(toy_showers, small_batches: None) -> None:  # type: ignore[no-untyped-def]
    real, made = toy_showers("1-photons", 500), toy_showers("1-photons", 500, seed=1, scale=1.1)
    data = json.loads(json.dumps(metrics.shower_scores(real, made, replicas=5).to_data()))
    parts = {name for name in data["separation"] if name.endswith("GeV")}
    assert len(data["separation"]) - len(parts) == 2 + 5 + 2 * 4 + 3 * 5
    assert set(data["means"]) == {
        *("response", "layer energy", "centre eta", "centre phi", "width eta", "width phi"),
        *("centre r", "width r", "sparsity", "voxel energy"),
    }
    assert data["means"]["response"]["value"]["value"] > 0.5
    assert data["response"][0]["response_ratio"]["value"] == pytest.approx(1.1, abs=0.02)
    assert data["manifolds"]["precision"]["value"] is not None
    assert data["distances"]["kpd"]["value"] is not None
    assert data["correlation"]["floor"] is not None


def test_a_grid_gets_the_ild_set(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sides = (toy_showers("ild", 100, seed=seed, scale=0.03) for seed in (0, 1))
    scores = metrics.shower_scores(*sides, replicas=2)
    assert len(scores.ild) == 8
    assert scores.ild["occupancy"].value is not None
    assert scores.distances["fpd"].value is None
    assert "FPD needs 10,000" in scores.distances["fpd"].note


def test_prdc_takes_what_fits_and_says_so(toy_showers, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("1-photons", 100)
    monkeypatch.setattr(shower_suite, "MOST_VOXEL_BYTES", 16 * 368 * 60)
    scores = metrics.shower_scores(sample, sample, replicas=2)
    assert "of the first 60 showers" in scores.manifolds["recall"].note
    assert scores.manifolds["recall"].value is not None


def test_the_references_threshold_holds_for_both(toy_showers) -> None:  # type: ignore[no-untyped-def]
    real, made = toy_showers(showers=60), toy_showers(showers=60, seed=1)
    unknown = replace(made, geometry=replace(made.geometry, threshold=None))
    told, untold = (metrics.shower_scores(real, sample, replicas=2).to_data() for sample in (made, unknown))
    assert told == untold


def test_bad_showers_are_one_line(toy_showers) -> None:  # type: ignore[no-untyped-def]
    real = toy_showers(showers=100)
    with pytest.raises(HepfmError, match="another binning"):
        metrics.shower_scores(real, toy_showers("2", 60))
    with pytest.raises(HepfmError, match="median of visible over incident energy"):
        metrics.shower_scores(real, toy_showers(showers=100, scale=1e-3))
    with pytest.raises(HepfmError, match="40 showers are too few: a comparison needs 50"):
        metrics.shower_scores(real, toy_showers(showers=40))


def test_what_is_kept_of_a_side_changes_no_number(toy_jets, toy_showers, small_batches: None) -> None:  # type: ignore[no-untyped-def]
    real, made = toy_jets(jets=300), toy_jets(jets=300, seed=1)
    side = metrics.JetSide(real)
    once = [metrics.jet_scores(side, other, TOY, replicas=3).to_data() for other in (toy_jets(jets=200, seed=2), made)]
    assert once[1] == metrics.jet_scores(real, made, TOY, replicas=3).to_data()
    showers = toy_showers(showers=130), toy_showers(showers=130, seed=1)
    kept = metrics.ShowerSide(showers[0])
    found = [metrics.shower_scores(kept, other, replicas=2).to_data() for other in (showers[1].limited(90), showers[1])]
    assert found[1] == metrics.shower_scores(*showers, replicas=2).to_data()


def test_groups_can_be_left_out_and_parts_are_timed(toy_jets, toy_showers) -> None:  # type: ignore[no-untyped-def]
    told: list[str] = []
    seconds = metrics.Seconds(told=lambda name, _: told.append(name))
    scores = metrics.jet_scores(
        toy_jets(jets=80), toy_jets(jets=80, seed=1), replicas=2, without=("transport", "batched"), seconds=seconds
    )
    assert scores.transport == scores.batched == {}
    assert scores.manifolds["recall"].value is not None
    assert told == list(seconds.parts)
    assert {"quantities", "wasserstein", "manifolds"} <= set(told)
    assert "transport" not in told
    showers = metrics.shower_scores(
        toy_showers(showers=60), toy_showers(showers=60, seed=1), replicas=2, without=("separation", "manifolds")
    )
    assert showers.separation == []
    assert showers.correlation.value is not None
    assert showers.to_data()["manifolds"] == {}
