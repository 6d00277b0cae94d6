"""A report tells like from unlike, says what could not be computed, and opens without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepfm.benchmarks.evaluate import EvaluateJetsConfig, main
from hepfm.benchmarks.jets import OBSERVABLES, SUBSTRUCTURE
from hepfm.benchmarks.metrics import Split, Training
from hepfm.benchmarks.reports.classifying import Wanted
from hepfm.benchmarks.reports.inputs import named
from hepfm.benchmarks.reports.jets import Request, Suite, evaluate_jets
from hepfm.benchmarks.reports.published_jets import JETNET_30, jetnet_class
from hepfm.benchmarks.samples import read_sample
from hepfm.benchmarks.scores.jet_suite import GROUPS
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents

JetMaker = Callable[..., Constituents]
DISTANCES = Suite(without=tuple(GROUPS))  # one-dimensional ones alone


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, toy_jets: JetMaker) -> Path:
    return evaluate_jets(
        toy_jets(seed=1),
        {"good": toy_jets(seed=2), "bad": toy_jets(seed=3, mean=30, spread=0.2)},
        tmp_path_factory.mktemp("report"),
        provenance={"good": {"file": "<b>a & b</b>"}},
        floor_reference=toy_jets(seed=4),
        baseline="bad",
        requests=(Request("jet_mass", 3.0), Request("jet_pt", 1e6)),
        replicas=30,
    )


def test_like_and_unlike_samples_are_told_apart(report: Path) -> None:
    data = json.loads((report.parent / "report.json").read_text())
    assert list(data["observables"]) == sorted(observable.name for observable in OBSERVABLES)
    for name in ("jet_mass", "multiplicity", "constituent_deta"):
        samples = data["observables"][name]["samples"]
        assert samples["good"]["compatible"], name
        assert not samples["bad"]["compatible"], name
        assert samples["bad"]["wasserstein_1"]["value"] > 3 * samples["good"]["floor"]["value"]
        times = samples["good"]["times_better_than_baseline"]
        ratio = samples["bad"]["wasserstein_1"]["value"] / samples["good"]["wasserstein_1"]["value"]
        assert times["value"] == pytest.approx(ratio)
    assert [verdict["met"] for verdict in data["verdicts"]] == [True, False]


def test_the_page_is_one_file_with_every_plot(report: Path) -> None:
    page = report.read_text()
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", page)
    assert "http://www.w3.org" in page  # names of XML formats only, never fetched
    assert not re.search(r"url\([\"']?https?:", page)
    assert page.count("<svg") == len(OBSERVABLES)
    assert page.count("<img") == 2  # jets in the eta-phi plane, light and dark
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    HTMLParser().feed(page)


def test_the_same_input_gives_the_same_figures(report: Path, toy_jets: JetMaker, tmp_path: Path) -> None:
    evaluate_jets(
        toy_jets(seed=1),
        {"good": toy_jets(seed=2)},
        tmp_path,
        provenance={},
        floor_reference=toy_jets(seed=4),
        suite=DISTANCES,
        replicas=30,
    )
    found = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path, report.parent))
    here, there = (data["observables"] for data in found)
    both = here.keys() & there.keys()
    assert len(both) > 3
    for name in both:
        assert here[name]["samples"]["good"]["floor"] == there[name]["samples"]["good"]["floor"]


def test_what_cannot_be_computed_is_never_zero(toy_jets: JetMaker, tmp_path: Path) -> None:
    single = Constituents(np.full(100, 500.0), np.zeros(100), np.zeros(100), np.arange(101))
    evaluate_jets(toy_jets(), {"single": single}, tmp_path, provenance={}, suite=DISTANCES, replicas=10)
    item = json.loads((tmp_path / "report.json").read_text())["observables"]["tau21"]["samples"]["single"]
    assert item["wasserstein_1"] is None
    assert item["undefined"] == 100
    assert "not computed" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("damage", ["few", "nan", "unit", "none"])
def test_bad_samples_are_refused(damage: str, toy_jets: JetMaker, tmp_path: Path) -> None:
    jets = toy_jets(seed=2)
    samples = {"s": jets}
    if damage == "few":
        samples = {"s": jets.range(0, 10)}
    elif damage == "nan":
        samples = {"s": Constituents(np.where(jets.pt > 60, np.nan, jets.pt), jets.deta, jets.dphi, jets.offsets)}
    elif damage == "unit":
        samples = {"s": Constituents(jets.pt * 1000, jets.deta, jets.dphi, jets.offsets)}
    else:
        samples = {}
    with pytest.raises(HepfmError):
        evaluate_jets(toy_jets(), samples, tmp_path, provenance={}, replicas=10)
    assert not (tmp_path / "report.json").exists()


def test_a_folder_that_is_no_corpus_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="is no corpus"):
        read_sample(tmp_path)
    (tmp_path / "jets.root").touch()
    with pytest.raises(HepfmError, match=r"is a folder of files, not a corpus \(name a file \(.*jets\.root\)"):
        read_sample(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(HepfmError, match=r"is a model, not a sample \(make one with it: hepfm generate"):
        read_sample(tmp_path)


@pytest.mark.slow
def test_more_samples_than_fit_in_one_plot(toy_jets: JetMaker, tmp_path: Path) -> None:
    samples = {f"sample {n}": toy_jets(seed=n, jets=60) for n in range(1, 8)}
    text = evaluate_jets(toy_jets(jets=60), samples, tmp_path, provenance={}, replicas=2).read_text()
    assert "Jet mass (1)" in text
    assert "Jet mass (2)" in text
    assert all(f"<th>{name}</th>" in text for name in samples)


@pytest.mark.slow
def test_every_metric_of_every_sample_is_told(toy_jets: JetMaker, tmp_path: Path) -> None:
    samples = {f"sample {n}": toy_jets(seed=n, jets=130) for n in (1, 2)}
    wanted = Wanted(("high", "posterior"), Split(30, 15, 15), Training(epochs=1, batch=20), 1)
    suite = Suite(without=("transport", "quantiled_kl"), classifiers=wanted, published="g")
    page = evaluate_jets(toy_jets(jets=130), samples, tmp_path, provenance={}, suite=suite, replicas=3)
    data = json.loads((tmp_path / "report.json").read_text())
    assert set(data["observables"]) == {item.name for item in (*OBSERVABLES, *SUBSTRUCTURE)}
    for name in samples:
        scores = data["scores"][name]
        assert scores["distances"]["fpd"]["value"] is None
        assert "needs 20,000" in scores["distances"]["fpd"]["note"]
        assert scores["distances"]["fpd"]["like_reference"] is None
        assert scores["manifolds"]["recall"]["value"]["value"] > 0
        assert scores["manifolds"]["recall"]["like_reference"] is None  # its floor is of half as many jets
        assert scores["correlation"]["floor"] is not None
        assert scores["transport"] == {}
        assert 0 <= data["classifiers"]["scores"]["high"]["auc"][name]["value"]["value"] <= 1
        assert data["classifiers"]["log_posterior"][name]["reference"]["value"]["value"] < 0
    text = page.read_text()
    assert "Log-posterior among the samples" in text
    assert "MPGAN" in text
    assert "FPD needs 20,000" in text


def test_published_jets_are_those_of_their_data_set() -> None:
    assert jetnet_class("jetnet", ("t",), 30) == "t"
    assert jetnet_class("jetnet", ("t", "g"), 30) is None
    assert jetnet_class("jetnet", ("t",), 150) is None
    assert jetnet_class("jetclass", ("t",), 30) is None
    assert all(any(each.fpd for each in rows) and any(each.w1efp for each in rows) for rows in JETNET_30.values())


def test_samples_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = tuple(Path(name) for name in ("a/jets.root", "b/jets.parquet", "c/jets.root", "reference.root"))
    assert list(named(paths)) == ["jets", "jets (2)", "jets (3)", "reference (2)"]
    (tmp_path / "v1.2").mkdir()
    assert list(named((tmp_path / "v1.2",))) == ["v1.2"]


def test_a_file_of_something_else_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "other.parquet")
    with pytest.raises(HepfmError, match="something else than jet records"):
        main(EvaluateJetsConfig(tmp_path / "other.parquet", (tmp_path / "other.parquet",), tmp_path / "out"))
    with pytest.raises(HepfmError, match="--trainings: must be at least 1"):
        main(EvaluateJetsConfig(tmp_path / "a", (tmp_path / "b",), tmp_path / "out", trainings=0))
    assert not (tmp_path / "out").exists()
