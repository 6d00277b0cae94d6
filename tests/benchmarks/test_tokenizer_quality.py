"""What a tokenizer loses is measured as it is: nothing of an identity, known noise at its known width."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from hepfm.benchmarks.tokenizers.classifier import classify
from hepfm.benchmarks.tokenizers.compare import compared, named
from hepfm.benchmarks.tokenizers.evaluation import as_data, evaluate
from hepfm.benchmarks.tokenizers.measures import half_width, measure_codes, measure_features, measure_records
from hepfm.benchmarks.tokenizers.page import page
from hepfm.benchmarks.tokenizers.sample import EVERYTHING, Reconstruction
from hepfm.core.observables import Constituents, jet_mass
from hepfm.core.statistics import Values, wasserstein_1_paired
from hepfm.tokenize.features import KINEMATIC, FeatureSpec
from hepfm.tokenize.tokens import Stream

SampleMaker = Callable[..., Reconstruction]
LABELS = ("QCD", "Tbqq")


@pytest.fixture(scope="module")
def jets() -> SampleMaker:
    """Makes narrow (QCD) and wide (Tbqq) jets that decode to themselves; all ids are 0."""

    def make(n: int = 600, seed: int = 0) -> Reconstruction:
        draws = np.random.default_rng(seed)
        label = np.arange(n) % 2
        lengths = draws.integers(5, 30, n)
        record = np.repeat(np.arange(n), lengths)
        points = {"pt": draws.exponential(20, len(record)) + 0.5}
        for name in ("deta", "dphi"):
            points[name] = draws.normal(0, 1, len(record)) * np.where(label[record], 0.2, 0.08)
        ids = np.zeros((len(record), 1), dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Reconstruction(
            "jets", KINEMATIC, (Stream("", 16),), False, LABELS, label, offsets, points, dict(points), ids
        )

    return make


def changed(sample: Reconstruction, **features: np.ndarray) -> Reconstruction:
    return replace(sample, decoded=sample.decoded | features)


def test_what_decodes_to_itself_loses_nothing(jets: SampleMaker) -> None:
    sample = jets()
    for row in (*measure_records(sample, replicas=10), *measure_features(sample, replicas=10)):
        for item in row.classes.values():
            assert item.residual is not None
            assert item.distance is not None
            assert item.floor is not None
            assert item.residual.half_width.value == item.residual.mean.value == item.distance.value == 0
            assert item.floor.value > 0
    found = classify(sample, replicas=10)
    assert found is not None
    assert found.lost.value == 0
    assert found.lost_auc.value == 0
    assert found.scores["original"] == found.scores["original on decoded"]


def test_known_noise_has_its_known_width(jets: SampleMaker) -> None:
    sample = jets(2000)
    draws = np.random.default_rng(1)
    noise = draws.normal(0.02, 0.05, len(sample.record))
    pt = sample.original["pt"] * (1 + draws.normal(0, 0.1, len(sample.record)))
    rows = {
        row.quantity.name: row for row in measure_features(changed(sample, deta=sample.original["deta"] + noise, pt=pt))
    }
    deta, relative = rows["deta"].classes[EVERYTHING].residual, rows["pt"].classes[EVERYTHING].residual
    assert deta is not None
    assert relative is not None
    for found, known in ((deta.mean, 0.02), (deta.median, 0.02), (deta.half_width, 0.05), (relative.half_width, 0.1)):
        assert abs(found.value - known) < 5 * found.error
        assert 0 < found.error < 0.05 * 0.1
    assert rows["pt"].relative
    assert not rows["deta"].relative
    assert rows["dphi"].classes["QCD"].residual is not None


def test_a_scaled_jet_has_a_scaled_mass_in_its_class_alone(jets: SampleMaker) -> None:
    sample = jets()
    tops = sample.label[sample.record] == 1
    doubled = changed(sample, pt=sample.original["pt"] * np.where(tops, 2.0, 1.0))
    rows = {row.quantity.name: row for row in measure_records(doubled, replicas=10)}
    mass = jet_mass(Constituents(*sample.original.values(), sample.offsets))  # type: ignore[arg-type]
    item = rows["jet_mass"].classes
    top, qcd = item["Tbqq"], item["QCD"]
    assert top.residual is not None
    assert qcd.residual is not None
    assert top.distance is not None
    assert top.residual.median.value == pytest.approx(np.median(mass[sample.label == 1]))
    assert qcd.residual.half_width.value == pytest.approx(0, abs=1e-6)
    assert top.distance.value == pytest.approx(
        wasserstein_distance(mass[sample.label == 1], 2 * mass[sample.label == 1])
    )
    for scale_free in ("tau21", "tau32", "d2"):
        residual = rows[scale_free].classes["Tbqq"].residual
        assert residual is not None
        assert residual.half_width.value == pytest.approx(0, abs=1e-9)


def test_half_width_is_one_standard_deviation_of_a_normal_distribution() -> None:
    assert half_width(np.random.default_rng(0).normal(3, 2, 200_000)) == pytest.approx(2, rel=0.01)


def test_paired_error_is_that_of_pairs() -> None:
    draws = np.random.default_rng(0)
    values = draws.normal(0, 1, 2000)
    before, after = (Values.per_record(side) for side in (values, values + 0.1))
    shifted = wasserstein_1_paired(after, before, key="a", replicas=30)
    assert shifted.value == pytest.approx(0.1)
    assert shifted.error < 1e-9  # every replica is shifted by 0.1 as well


def test_perplexity_and_bits_of_known_codes(jets: SampleMaker) -> None:
    sample = jets(2000)
    points = len(sample.record)
    even = replace(sample, ids=(np.arange(points) % 16)[:, None])
    rate = measure_codes(even)
    assert rate.bits == 4
    assert rate.use == 1
    assert rate.streams[0].perplexity == pytest.approx(16, rel=1e-4)
    assert rate.entropy_bits == pytest.approx(4, abs=1e-3)
    half = measure_codes(replace(sample, ids=(np.arange(points) % 4)[:, None]))
    assert half.use == 0.25
    assert half.streams[0].perplexity == pytest.approx(4, rel=1e-4)
    two = replace(
        sample, streams=(Stream("a", 16), Stream("b", 4)), ids=np.stack([np.arange(points) % 16] * 2, axis=1) % (16, 4)
    )
    assert measure_codes(two).bits == 6
    assert measure_codes(replace(two, continuous=True)).bits == 38


def test_entropy_of_rare_codes_is_not_underestimated() -> None:
    draws = np.random.default_rng(0)
    codes, points = 1000, 4000
    sample = Reconstruction(
        "jets", KINEMATIC, (Stream("", codes),), False, (), np.full(1, -1), np.array([0, points]), {}, {},
        draws.integers(0, codes, (points, 1)),
    )  # fmt: skip
    rate = measure_codes(sample)
    plug_in = np.log2(rate.streams[0].perplexity)
    assert abs(rate.entropy_bits - np.log2(codes)) < 0.3 * abs(plug_in - np.log2(codes))


def test_a_classifier_loses_what_the_tokenizer_loses(jets: SampleMaker) -> None:
    sample = jets(800)
    draws = np.random.default_rng(2)
    blurred = {name: draws.normal(0, 0.15, len(sample.record)) for name in ("deta", "dphi")}
    found = classify(changed(sample, **blurred), replicas=30)
    assert found is not None
    good, bad = found.scores["original"], found.scores["decoded"]
    assert good.accuracy.value > 0.9
    assert good.auc.value > 0.97
    assert abs(bad.accuracy.value - 0.5) < 5 * bad.accuracy.error  # nothing tells the classes apart any more
    assert found.lost.value == pytest.approx(good.accuracy.value - bad.accuracy.value)
    assert found.lost.value > 5 * found.lost.error
    assert classify(replace(sample, labels=("QCD",), label=np.zeros(800, dtype=np.int64))) is None


def test_categories_and_nulls(jets: SampleMaker) -> None:
    sample = jets(300)
    points = len(sample.record)
    charge = FeatureSpec("charge", "e", categories=(-1, 0, 1))
    d0 = FeatureSpec("d0", "mm", null_with="track")
    original = {"charge": np.zeros(points, dtype=np.int8), "d0": np.where(np.arange(points) % 2, np.nan, 1.0)}
    decoded = {"charge": (np.arange(points) % 4 == 0).astype(np.int8), "d0": original["d0"] + 0.5}
    rows = measure_features(replace(sample, features=(charge, d0), original=original, decoded=decoded), replicas=10)
    share = rows[0].classes[EVERYTHING].differing
    assert share is not None
    assert share.value == pytest.approx(0.25, abs=0.001)
    item = rows[1].classes[EVERYTHING]
    assert item.left_out == points // 2
    assert item.residual is not None
    assert item.residual.mean.value == pytest.approx(0.5)


def test_showers_have_energies_and_cells() -> None:
    draws = np.random.default_rng(0)
    n, hits = 60, 40
    features = tuple(FeatureSpec(name, "", integer=True) for name in ("layer", "cell_a", "cell_b"))
    points = {feature.name: draws.integers(0, 10, n * hits).astype(np.int16) for feature in features}
    points["energy"] = draws.exponential(1, n * hits).astype(np.float32)
    decoded = points | {"energy": points["energy"] * 2, "layer": points["layer"] + 1, "cell_a": points["cell_a"] * 0}
    sample = Reconstruction(
        "showers", (*features, FeatureSpec("energy", "MeV", "log")), (Stream("", 8),), False, (), np.full(n, -1),
        np.arange(n + 1) * hits, points, decoded, np.zeros((n * hits, 1), dtype=np.int64),
    )  # fmt: skip
    found = evaluate(sample, replicas=10)
    rows = {row.quantity.name: row.classes[EVERYTHING] for row in found.records}
    sums = points["energy"].reshape(n, hits).sum(axis=1) / 1000
    energy, depth, cells = (rows[name].residual for name in ("energy_sum", "mean_layer", "occupied_cells"))
    assert energy is not None
    assert depth is not None
    assert cells is not None
    assert energy.mean.value == pytest.approx(sums.mean(), rel=1e-5)
    assert depth.mean.value == pytest.approx(1)
    assert depth.half_width.value == pytest.approx(0, abs=1e-6)
    assert cells.mean.value < 0
    assert found.classification is None
    assert found.features[3].classes[EVERYTHING].residual is not None


def test_the_page_shows_every_class_and_needs_no_network(jets: SampleMaker) -> None:
    sample = jets(200)
    found = evaluate(changed(sample, pt=sample.original["pt"] * 1.01), replicas=5)
    text = page(found, "A <tokenizer>", "today", {"command": "hepfm"})
    assert "A &lt;tokenizer&gt;" in text
    assert "Tbqq" in text
    assert text.count("<figure>") == 2 * 5 + 3
    addresses = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', text))
    assert addresses <= {"data:,"}
    data = json.loads(json.dumps(as_data(found)))
    assert data["constituents"]["pt"]["classes"]["QCD"]["residual"]["median"]["value"] == pytest.approx(0.01)


def test_comparing_says_the_same_as_evaluating(jets: SampleMaker) -> None:
    sample = jets(300)
    noisy = changed(sample, pt=sample.original["pt"] * np.random.default_rng(0).normal(1, 0.1, len(sample.record)))
    found = compared(noisy, replicas=10)
    mass = measure_records(noisy, replicas=10)[0].classes[EVERYTHING].residual
    assert mass is not None
    assert found.distortions["records.jet_mass"].value.value == mass.half_width.value
    assert set(found.distortions) >= {"records.d2", "points.pt", "points.deta"}
    assert found.distortions["points.deta"].value.value == 0


def test_tokenizers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert list(named(["a/tok", "b/tok/", "tok/artifact", "c"])) == ["tok", "tok (2)", "tok (3)", "c"]
