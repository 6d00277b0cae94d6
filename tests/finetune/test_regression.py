"""Quantities are estimated by the path of taggers: what is learned, in which unit, what is measured and refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from backbones import backbone_artifact
from labelled_jets import labelled_corpus
from physics_tokens import shower_corpus, tokens_of

from hepfm import cli, models
from hepfm.core.artifacts import read_artifact
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.finetune.labelled import LabelledCorpora
from hepfm.finetune.protocols import ProtocolConfig
from hepfm.finetune.regression import MeasuredCorpora, Response, Target, load_regressor
from hepfm.finetune.tag import TagConfig, main
from hepfm.ingest.corpus import Corpus

QUICK = TrainingConfig(steps=60, batch_records=64, learning_rate=1e-2, warmup_steps=5, validation_records=40)


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tokens of showers whose hits tell their incident energy, and a backbone of random weights."""
    folder = tmp_path_factory.mktemp("showers")
    tokens = tokens_of(shower_corpus(folder / "calo"), folder, "--tokenizer=kmeans", "--codes=32", "--steps=2")
    backbone = backbone_artifact(folder / "backbone", folder / "tokenizer" / "artifact", "next-token")
    return tokens, backbone


def test_the_incident_energy_of_showers_is_estimated(
    showers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, backbone = showers
    main(
        TagConfig(
            (tokens,), tmp_path / "run", backbone=str(backbone), head="pool", target="incident_energy", training=QUICK
        )
    )
    regressor, artifact = load_regressor(tmp_path / "run")
    assert (regressor.target.unit, regressor.target.transform) == ("GeV", "signed_log")
    assert 10 <= regressor.target.low < regressor.target.high <= 100
    assert models.load(tmp_path / "run")[0].target == regressor.target
    assert "GeV" in (artifact.path / "README.md").read_text()
    out = tmp_path / "report"
    arguments = ["evaluate", "regression", str(tmp_path / "run"), str(tokens), "--split", "val", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["hepfm", *arguments, "--replicas", "20"])
    cli.main()
    assert "incident_energy [GeV]" in capsys.readouterr().out
    rows = {row["name"]: row["response"] for row in json.loads((out / "report.json").read_text())["rows"]}
    assert rows["all"]["median"]["value"] == pytest.approx(1, abs=0.15)
    assert rows["all"]["resolution"]["value"] < 0.6 * rows["constant"]["resolution"]["value"]
    assert rows["all"]["resolution"]["error"] > 0
    assert "bin 5" in rows
    assert "<svg" in (out / "index.html").read_text()


def test_a_mass_is_estimated_by_a_network_without_backbone_too(tmp_path: Path) -> None:
    corpus = labelled_corpus(tmp_path / "jets", jets=60)
    training = dataclasses.replace(QUICK, steps=3, batch_records=16)
    main(TagConfig((corpus,), tmp_path / "run", model="deep-sets", target="jet_mass", jets=40, training=training))
    regressor, artifact = load_regressor(tmp_path / "run")
    assert artifact.provenance["jets"] == 40
    found, true = regressor.judge(Corpus.open(corpus).split("test"))
    records = Corpus.open(corpus).split("test").read(0)
    assert np.array_equal(true[: len(records)], records.column("mass").to_numpy().astype(np.float64))
    np.testing.assert_allclose(regressor.predict(records.slice(3, 1)), found[3], rtol=1e-5)


def test_a_target_is_standardised_and_comes_back() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 500)
    for transform in ("signed_log", "identity"):
        target = Target("x", "x", unit="GeV", transform=transform).surveyed(values)  # type: ignore[arg-type]
        numbers = target.standardised(values)
        assert abs(numbers.mean()) < 1e-5
        assert numbers.std() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(target.physical(numbers), values, rtol=1e-4)
    with pytest.raises(HepfmError, match=r"is 3 GeV in every training record"):
        Target("x", "x", unit="GeV").surveyed(np.full(4, 3.0))


def test_the_response_is_that_of_a_gaussian() -> None:
    draws = np.random.default_rng(1)
    true = draws.uniform(1, 10, 20_000)
    true[:100] = 0
    found = true * draws.normal(1.1, 0.11, len(true))
    response = Response.of(found, true, True, key="test", replicas=50)
    assert (response.records, response.left_out) == (19_900, 100)
    assert abs(response.median.value - 1.1) < 4 * response.median.error < 0.01
    assert abs(response.resolution.value - 0.1) < 4 * response.resolution.error < 0.01
    shifted = Response.of(true + draws.normal(2, 0.5, len(true)), true, False, key="test", replicas=50)
    assert shifted.left_out == 0
    assert abs(shifted.resolution.value - 0.5) < 4 * shifted.resolution.error


def batch_of(masses: list[float | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {"mass": pa.array(masses, pa.float32()), "pt": pa.array([2.0] * len(masses), pa.float32())}
    )


def test_unknown_targets_are_left_out_and_values_that_are_no_number_named() -> None:
    target = Target("jet_mass", "mass", unit="GeV")
    assert target.known(batch_of([1.0, None, 3.0]), "mine").tolist() == [True, False, True]
    with pytest.raises(HepfmError, match="mine: jet_mass of record 7 is not finite"):
        target.known(batch_of([1.0, None, float("nan")]), "mine", first=5)
    correction = Target("pt_correction", "pt", over="mass")
    np.testing.assert_allclose(correction.values(batch_of([1.0, 4.0])), [2.0, 0.5])
    with pytest.raises(HepfmError, match="record 1"):
        correction.known(batch_of([1.0, 0.0]), "mine")


def test_fewer_records_are_among_more(tmp_path: Path) -> None:
    corpus = labelled_corpus(tmp_path / "jets", jets=60)
    measured = MeasuredCorpora.of(LabelledCorpora.open([corpus], labelled=False), "jet_pt")

    class Nothing:
        columns: tuple[str, ...] = ("eta",)

        def read(self, batch: pa.RecordBatch, where: object, first: int = 0) -> torch.Tensor:
            return torch.zeros(len(batch))

    taken = []
    for count in (10, 30):
        batches = measured.batches("train", Nothing(), 0, count)  # type: ignore[arg-type]
        assert batches is not None
        assert batches.reader.order.epoch_records(0) == count
        taken.append(set(batches.batch(0, count).targets.tolist()))
    assert taken[0] < taken[1]
    with pytest.raises(HepfmError, match="100 are asked for"):
        measured.batches("train", Nothing(), 0, 100)  # type: ignore[arg-type]


def test_a_frozen_backbone_estimates_too_and_repeats_to_the_bit(showers: tuple[Path, Path], tmp_path: Path) -> None:
    tokens, backbone = showers
    config = TagConfig(
        (tokens,),
        tmp_path / "one",
        backbone=str(backbone),
        head="linear",
        target="incident_energy",
        protocol=ProtocolConfig("frozen"),
        training=dataclasses.replace(QUICK, steps=3),
    )
    main(config)
    main(dataclasses.replace(config, out=tmp_path / "two"))
    one, two = (read_artifact(tmp_path / name / "artifact").weights() for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    before = read_artifact(backbone).weights()
    assert torch.equal(one["backbone.embedding.weight"], before["embedding.weight"])
