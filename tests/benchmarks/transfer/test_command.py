"""``hepfm bench generation-transfer``: one command trains, generates, compares, and goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from physics_tokens import jet_corpus, shower_corpus, tokens_of

from hepfm.benchmarks.transfer import command
from hepfm.benchmarks.transfer.command import GenerationTransferConfig, main
from hepfm.benchmarks.transfer.page import Curve, gain, picture, table
from hepfm.benchmarks.transfer.samples import held_out, subset
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.core.statistics import Estimate
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.pretrain.run import PretrainConfig
from hepfm.pretrain.run import main as pretrain
from hepfm.tokenize.apply import apply

TRAINING = TrainingConfig(steps=30, batch_records=64, warmup_steps=3, learning_rate=3e-3, validate_every=0)


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A backbone pretrained on jets, and shorter jets by its tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("transfer")
    tokens = tokens_of(jet_corpus(folder / "source", labels=()), folder)
    target = apply(folder / "tokenizer", jet_corpus(folder / "target", 300, 5, longest=4).path, folder / "tokens").path
    pretrain(PretrainConfig((tokens,), folder / "run", max_length=8, training=TRAINING))
    return folder / "run", target


def config_of(jets: tuple[Path, Path], out: Path) -> GenerationTransferConfig:
    return GenerationTransferConfig(
        jets[1], str(jets[0]), out, counts=(20, 200), seeds=2, steps=8, batch_records=32, judged=60
    )


def entries(path: Path, split: str) -> list[int]:
    return [int(n) for batch in Corpus.open(path).split(split) for n in values_of(batch.column("source_entry"))]


def test_subsets_are_nested_whole_corpora(jets: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = Corpus.open(jets[1])
    paths = {count: subset(corpus, count, 3, tmp_path / str(count) / "tokens") for count in (20, 100)}
    of = {count: {split: entries(path, split) for split in ("train", "val")} for count, path in paths.items()}
    assert [len(of[20][split]) for split in ("train", "val")] == [16, 4]
    assert set(of[20]["train"]) < set(of[100]["train"])
    assert set(of[20]["val"]) < set(of[100]["val"])
    assert not set(of[100]["train"]) & set(of[100]["val"])
    verify(paths[20])
    assert subset(corpus, 20, 3, paths[20]) == paths[20]  # again: what is there is used
    assert set(entries(subset(corpus, 20, 4, tmp_path / "other"), "train")) != set(of[20]["train"])
    whole = {
        int(n): tokens
        for batch in corpus.split("train")
        for n, tokens in zip(values_of(batch.column("source_entry")), batch.column("tokens").to_pylist(), strict=True)
    }
    for batch in Corpus.open(paths[20]).split("train"):
        numbers = values_of(batch.column("source_entry"))
        assert batch.column("tokens").to_pylist() == [whole[int(n)] for n in numbers]


@pytest.mark.slow
def test_one_command_makes_the_study_and_continues(
    jets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generated, calls = command.generated, []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generated(*arguments)

    monkeypatch.setattr(command, "generated", counted)
    config = config_of(jets, tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        main(config)
    main(config)
    assert len(calls) == 3 + 1 + 5  # two counts, protocols and seeds; three were done before
    result = json.loads((config.out / "result.json").read_text())
    names = {"jet_pt", "jet_mass", "multiplicity", "tau21", "tau32"}
    names |= {"mean", "constituent_pt", "constituent_deta", "constituent_dphi"}
    for protocol in ("full", "scratch"):
        assert set(result["distances"][protocol]) == set(result["exponents"][protocol]) == names
        assert all(len(found) == 2 for found in result["distances"][protocol].values())
    assert set(result["ratios"]) == {"scratch_over_full.20", "scratch_over_full.200"}
    assert result["distances"]["full"]["mean"][0]["value"] < result["distances"]["scratch"]["mean"][0]["value"]
    assert set(result["floors"]) == names
    told = capsys.readouterr().out
    assert "| 20 |" in told
    assert "gamma" in told
    assert (config.out / "transfer.svg").read_text().startswith("<?xml")
    assert not list(config.out.glob("runs/*/checkpoints/step-*"))
    before = (config.out / "result.json").read_bytes()
    main(config)
    assert len(calls) == 9
    assert (config.out / "result.json").read_bytes() == before
    with pytest.raises(HepfmError, match="other settings: steps"):
        main(replace(config, steps=9))


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [(), ("--tokenizer=cells",)], ids=["one stream", "several"])
def test_showers_of_another_detector_by_the_same_command(tokenizer: tuple[str, ...], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tokens = tokens_of(shower_corpus(tmp_path / "source"), tmp_path, *tokenizer)
    second = shower_corpus(tmp_path / "second", 200, 7, pitch=5.0)
    target = apply(tmp_path / "tokenizer", second.path, tmp_path / "tokens").path
    told = ("incident_energy",)
    pretrain(PretrainConfig((tokens,), tmp_path / "run", max_length=14, condition=told, training=TRAINING))
    config = GenerationTransferConfig(
        target, str(tmp_path / "run"), tmp_path / "study", (20, 100), seeds=1, steps=6, batch_records=16, judged=50
    )
    main(config)
    result = json.loads((config.out / "result.json").read_text())
    assert set(result["distances"]["full"]) == {"response", "hits", "mean_layer", "mean_radius", "mean"}
    assert result["published"]["nearer_than_scratch_at_100_showers"]["value"] == 0.44
    radius = held_out(Corpus.open(target), 50).values["mean_radius"].values
    assert radius.mean() < 0.6 * held_out(Corpus.open(tokens), 50).values["mean_radius"].values.mean()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"counts": (20, 500)}, "has 300 records, not 500"),
        ({"counts": (200, 20)}, "--counts: must rise"),
        ({"counts": (5,)}, "--counts: must rise, from 10 on"),
        ({"seeds": 0}, "--seeds"),
        ({"protocols": ("full", "full")}, "--protocols"),
        ({"judged": 10}, "--judged"),
        ({"backbone": "none"}, "no such run or artifact"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(
    jets: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(HepfmError, match=told) as error:
        main(replace(config_of(jets, tmp_path / "study"), **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_the_gain_over_scratch_has_the_errors_of_both() -> None:
    curves = [
        Curve(name, (100, 1000), {"mean": [Estimate(a, 0.01), Estimate(b, 0.01)], "pt": [Estimate(a, 0.01)] * 2}, laws)
        for name, a, b in (("full", 0.28, 0.2), ("scratch", 0.5, 0.25))
        for laws in ({"mean": None, "pt": None},)
    ]
    found = gain(curves[0], curves[1], 0)
    assert found.value == pytest.approx(0.44)
    assert found.error == pytest.approx(0.56 * np.hypot(0.01 / 0.28, 0.01 / 0.5))
    told = table(curves, 0.02, "showers", 3, 500).markdown()
    assert "| 44 ± 2% |" in told
    assert "not fitted" in told
    assert picture(curves, 0.02, "showers").axes[0].get_xscale() == "log"
