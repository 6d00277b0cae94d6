"""A report of showers holds every sample and metric, tells like from unlike, and refuses what does not compare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepfm.benchmarks.metrics import SPLITS, Hits, ShowerSample, Split, Training
from hepfm.benchmarks.reports import showers as report_module
from hepfm.benchmarks.reports.classifying import Wanted
from hepfm.benchmarks.reports.displays import showers_near
from hepfm.benchmarks.reports.published_tables import data_set_of
from hepfm.benchmarks.reports.shower_command import EvaluateShowersConfig, main
from hepfm.benchmarks.reports.showers import evaluate_showers, halves_of, measure
from hepfm.benchmarks.scores.shower_suite import ShowerSide
from hepfm.core.errors import HepfmError
from hepfm.ingest.geometry import Bins, Geometry, Layer

NAMES = ("like", "soft")


def samples_of(toy_showers: Any, showers: int = 150) -> dict[str, ShowerSample]:
    scales = zip(NAMES, (1.0, 0.8), strict=True)
    return {name: toy_showers(showers=showers, seed=n + 1, scale=scale) for n, (name, scale) in enumerate(scales)}


@pytest.fixture(scope="module")
def data(toy_showers) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    found, _ = measure(toy_showers(showers=150), samples_of(toy_showers), replicas=10)
    return dict(json.loads(json.dumps(found)))


def test_like_and_unlike_samples_are_told_apart(data: dict[str, Any]) -> None:
    assert set(data["scores"]) == set(NAMES)
    like, soft = data["scores"]["like"], data["scores"]["soft"]
    assert like["separation"]["response"]["like_reference"] is True
    assert soft["separation"]["response"]["like_reference"] is False
    passed = [part["like_reference"] for part in like["separation"].values() if part["value"]]
    assert np.mean(passed) > 0.8
    assert len(soft["response"]) == 10
    for part in soft["response"]:
        if part["response_ratio"]:
            assert part["response_ratio"]["value"] == pytest.approx(0.8, rel=1e-3)


def test_what_cannot_be_computed_is_never_zero(data: dict[str, Any]) -> None:
    for name in NAMES:
        fpd = data["scores"][name]["distances"]["fpd"]
        assert fpd["value"] is None
        assert fpd["like_reference"] is None
        assert "needs 10,000" in fpd["note"]


@pytest.mark.slow
def test_classifiers_are_trained_on_the_asked_split(toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    evaluate_showers(
        toy_showers(showers=150),
        {name: toy_showers(showers=150, seed=n + 1) for n, name in enumerate(NAMES)},
        tmp_path,
        provenance={},
        without=("separation", "manifolds", "distances"),
        classifiers=Wanted(("high", "low", "posterior"), Split(30, 15, 15), Training(epochs=1, batch=20), 1),
        replicas=2,
    )
    found = json.loads((tmp_path / "report.json").read_text())["classifiers"]
    for name in ("high", "low"):
        scores = found["scores"][name]["auc"]
        assert set(scores) == set(NAMES)
        assert all(0 <= part["value"]["value"] <= 1 and part["floor"] for part in scores.values())
    assert all(part["reference"]["value"]["value"] < 0 for part in found["log_posterior"].values())


@pytest.mark.slow
def test_a_classifier_that_needs_more_showers_says_so(toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    real, made = toy_showers(showers=60), toy_showers(showers=60, seed=1)
    wanted = Wanted(("high", "resnet"), SPLITS["1-photons"], Training(), 1)
    without = ("separation", "manifolds", "distances")
    page = evaluate_showers(real, {"s": made}, tmp_path, provenance={}, without=without, classifiers=wanted, replicas=2)
    scores = json.loads((tmp_path / "report.json").read_text())["classifiers"]["scores"]
    assert scores["high"]["auc"]["s"]["value"] is None
    assert "needs 121,000" in scores["high"]["auc"]["s"]["note"]
    assert "121,000" in page.read_text()


@pytest.mark.slow
def test_the_page_is_one_file_with_everything(toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    origin = {"like": {"corpus": "<b>a & b</b>", "made by": {"command": "hepfm ingest gflash"}}}
    path = evaluate_showers(
        toy_showers(showers=80), samples_of(toy_showers, 80), tmp_path, provenance=origin, replicas=3
    )
    page = path.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["provenance"] == origin
    assert "FPD needs 10,000" in page
    assert "not computed" in page
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", page)
    assert not re.search(r"url\([\"']?https?:", page)
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    assert "CaloDiffusion" in page  # published beside ours: these are the cells of data set 1
    assert "Showers in space" in page
    assert page.count("<img") == 4  # correlations and events, light and dark
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("few", "30 showers are too few: a comparison needs 50"),
        ("nan", "s: an energy of shower 3 is nan"),
        ("unit", "sample 's': the median of visible over incident energy is"),
        ("energies", "sample 's': has other incident energies"),
        ("binning", "sample 's': has another binning"),
        ("none", "no sample to compare"),
    ],
)
def test_what_does_not_compare_is_one_line(damage: str, told: str, toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    sample = replace(toy_showers(showers=80, seed=1), name="s")

    def changed(change: Any) -> ShowerSample:
        def read() -> Iterator[Hits]:
            return (change(hits) for hits in sample.read())

        return replace(sample, read=read)

    def broken(hits: Hits) -> Hits:
        energy = hits.energy.copy()
        energy[np.flatnonzero(hits.shower == 3)[0]] = np.nan
        return replace(hits, energy=energy)

    samples = {
        "few": {"s": sample.limited(30)},
        "nan": {"s": changed(broken)},
        "unit": {"s": changed(lambda hits: replace(hits, energy=hits.energy / 1000))},
        "energies": {"s": changed(lambda hits: replace(hits, incident=hits.incident * 1.5, energy=hits.energy * 1.5))},
        "binning": {"s": replace(toy_showers("1-pions", showers=80), name="s")},
        "none": {},
    }[damage]
    with pytest.raises(HepfmError) as error:
        evaluate_showers(toy_showers(showers=80), samples, tmp_path / "out", provenance={}, replicas=4)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_halves_hold_every_shower_once(toy_showers) -> None:  # type: ignore[no-untyped-def]
    whole = ShowerSide(toy_showers(showers=90))
    halves = halves_of(whole, 0)
    totals = [np.sort(side.features.total) for side in halves]
    assert [len(part) for part in totals] == [45, 45]
    np.testing.assert_array_equal(np.sort(np.concatenate(totals)), np.sort(whole.features.total))


def test_displayed_showers_are_the_nearest_in_energy(toy_showers) -> None:  # type: ignore[no-untyped-def]
    sample = toy_showers("ild", showers=70)
    features = ShowerSide(sample).features
    shown = showers_near(sample, features.incident, np.array([12.0, 50.0, 1e6]))
    for each, energy in zip(shown, (12.0, 50.0, 1e6), strict=True):
        nearest = np.argmin(np.abs(np.log(features.incident / energy)))
        assert each.incident == features.incident[nearest]
        assert each.energy.sum() == pytest.approx(features.total[nearest])


def test_published_tables_belong_to_their_cells(toy_showers) -> None:  # type: ignore[no-untyped-def]
    assert data_set_of(toy_showers("2", showers=1).geometry) == "2"
    assert data_set_of(toy_showers("ild", showers=1).geometry) is None


@pytest.mark.slow
def test_any_geometry_with_cells_gets_a_report(tmp_path: Path) -> None:
    bins = Bins.irregular((-20.0, -5.0, 5.0, 20.0))
    geometry = Geometry("two layers of nine cells", "grid", (Layer(0, bins, bins), Layer(4, bins, bins)))
    draws = np.random.default_rng(0)

    def sample(name: str) -> ShowerSample:
        return ShowerSample.of_arrays(name, geometry, draws.exponential(9, (70, 18)), draws.uniform(1, 2, 70))

    page = evaluate_showers(sample("a"), {"b": sample("b")}, tmp_path, provenance={}, replicas=3)
    assert "two layers of nine cells" in page.read_text()
    assert "CaloClouds (DDPM)" not in page.read_text()  # whose figures are of ILD's cells


def test_options_that_make_no_report_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "evaluate_showers", None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    here = tmp_path / "missing.h5"
    for options, told in (
        ({"out": tmp_path / "other"}, "holds something that is no report"),
        ({"out": tmp_path / "r", "limit": 0}, "must be at least 1"),
        ({"out": tmp_path / "r", "replicas": 1}, "must be at least 2"),
        ({"out": tmp_path / "r"}, "no such corpus or file"),
    ):
        with pytest.raises(HepfmError, match=told):
            main(EvaluateShowersConfig(here, (here,), **options))  # type: ignore[arg-type]
    with pytest.raises(HepfmError, match="no sample"):
        main(EvaluateShowersConfig(here, (), tmp_path / "r"))
