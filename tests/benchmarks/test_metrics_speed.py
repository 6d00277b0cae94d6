"""The benchmark of metrics compares ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hepfm.benchmarks import metrics, metrics_speed
from hepfm.benchmarks.scores.shower_features import Axes
from hepfm.benchmarks.workload import measure


def test_both_ways_to_polynomials_agree() -> None:
    jets = metrics_speed.random_jets(3, 8)
    looped = metrics_speed.looped_polynomials(jets)
    np.testing.assert_allclose(metrics.connected_polynomials(jets), looped, rtol=1e-9)


def test_both_ways_to_shower_features_agree() -> None:
    sample = metrics_speed.simulated(0, 64)
    found = metrics.shower_features(sample)
    dense = np.concatenate([hits.dense(6_480) for hits in sample.chunks(sample.geometry.threshold)])
    by_layer = metrics_speed.layer_by_layer(dense, Axes.of(sample.geometry)).reshape(64, 45, 8)
    columns = ("layer_energy", "sparsity", "centre_eta", "width_eta", "centre_phi", "width_phi", "centre_r", "width_r")
    for number, name in enumerate(columns):
        np.testing.assert_allclose(getattr(found, name), by_layer[..., number], rtol=1e-6, atol=1e-5, err_msg=name)


def test_the_benchmark_gives_ratios_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "JETS": 40,
        "LOOPED_JETS": 4,
        "SHOWERS": 64,
        "WHOLE_JETS": 60,
        "WHOLE_SHOWERS": 64,
        "REPLICAS": 2,
    }.items():
        monkeypatch.setattr(metrics_speed, name, value)
    with metrics_speed.metrics_speed() as workload:
        result = measure("metrics", workload, repeats=1)
    assert result["value"] == result["rates"]["polynomials"]
    assert result["ratios"].keys() == {"polynomials_einsum", "shower_features_dense"}
    assert all(seconds > 0 for name, seconds in result["figures"].items() if name.startswith("seconds"))
    parts = {name: seconds for name, seconds in result["figures"].items() if name.endswith("_s")}
    assert {"jets_quantities_s", "jets_transport_s", "showers_separation_s", "showers_manifolds_s"} <= parts.keys()
    for what, whole in (("jets", "seconds_60_jets"), ("showers", "seconds_64_showers")):
        together = sum(seconds for name, seconds in parts.items() if name.startswith(what))
        assert 0.8 * result["figures"][whole] < together <= result["figures"][whole]
