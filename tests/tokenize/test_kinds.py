"""Every kind of tokenizer is fitted, saved, loaded and applied from the command line in the same way."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_jets import batch_of, full_batch, full_jets, jets

from hepfm.core.artifacts import read_artifact, write_artifact
from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.tokenize.apply import apply
from hepfm.tokenize.fit import _tell_empty_classes, fit_config, main
from hepfm.tokenize.registry import TOKENIZERS, load_tokenizer

NETWORK = ["--width=16", "--blocks=1", "--heads=2", "--steps=20", "--batch-records=32"]
KINDS: dict[str, list[str]] = {
    "vqvae": ["--codes=64", *NETWORK],
    "kmeans": ["--tokenizer=kmeans", "--codes=64"],
    "binning": ["--tokenizer", "binning", "--bins", "8", "5", "5"],
    "uniform": ["--tokenizer", "binning", "--bins", "8", "--edges", "uniform", "--ids", "each"],
}
FULL: dict[str, list[str]] = {
    "vqvae": ["--codes=64", "--network=mlp", "--features=full", *NETWORK],
    "kmeans": ["--tokenizer=kmeans", "--codes=64", "--features=full"],
    "binning": ["--tokenizer", "binning", "--bins", "8", "--ids", "each", "--features", "full"],
}


def fit(arguments: Sequence[str]) -> None:
    """What ``hepfm tokenizer fit`` does."""
    main(parse(fit_config(arguments), arguments, "hepfm tokenizer fit"))


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, arguments in KINDS.items():
        fit([str(corpus.path), "--out", str(folder / name), *arguments])
    return {name: folder / name for name in KINDS}


@pytest.fixture(scope="module")
def full_runs(full_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("full")
    for name, arguments in FULL.items():
        fit([str(full_corpus.path), "--out", str(folder / name), *arguments])
    return {name: folder / name for name in FULL}


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_it_says_how_good_it_is(runs: dict[str, Path], corpus: Corpus, kind: str) -> None:
    metrics = read_artifact(runs[kind] / "artifact", "tokenizer").metrics()
    assert metrics["points"] == corpus.split("val").points
    assert metrics["pt_error"] < 0.5
    assert metrics["deta_error"] < 0.1
    card = (runs[kind] / "artifact" / "README.md").read_text()
    assert "| pt | GeV | (log(x) - 1.8) * 1 |" in card


@every_kind
def test_applied_it_gives_sound_corpora(runs: dict[str, Path], corpus: Corpus, tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer(runs[kind])
    tokens = apply(runs[kind], corpus.path, tmp_path / "tokens")
    assert verify(tokens.path) == []
    block = next(iter(tokens.split("val")))
    for source in corpus.split("val"):
        part = block.slice(0, len(source))
        block = block.slice(len(source))
        for name, column in tokenizer.encode(source).columns(tokenizer.streams).items():
            assert part.column(name).to_pylist() == column.to_pylist()


@pytest.mark.slow
@every_kind
def test_processes_and_an_interruption_do_not_change_a_byte(
    runs: dict[str, Path], corpus: Corpus, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = apply(runs[kind], corpus.path, tmp_path / "alone")
    together = apply(runs[kind], corpus.path, tmp_path / "together", processes=2)
    assert together.digest == alone.digest
    from hepfm.tokenize import apply as module

    whole, calls = module.tokenize, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(module, "tokenize", failing)
    with pytest.raises(KeyboardInterrupt):
        apply(runs[kind], corpus.path, tmp_path / "stopped")
    monkeypatch.undo()
    assert apply(runs[kind], corpus.path, tmp_path / "stopped").digest == alone.digest


@every_kind
def test_an_id_outside_the_vocabulary_is_named(runs: dict[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(runs[kind])
    ids = np.zeros((3, len(tokenizer.streams)), dtype=np.int64)
    ids[1, -1] = tokenizer.streams[-1].codes
    with pytest.raises(HepfmError, match=rf"token id {ids[1, -1]} in record 1 is none of the tokenizer's"):
        tokenizer.decode(ids.squeeze(), np.array([0, 1, 3]))


@every_kind
def test_a_run_again_is_left_as_it_is(
    runs: dict[str, Path], corpus: Corpus, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit([str(corpus.path), "--out", str(runs[kind]), *KINDS[kind]])
    assert "is finished already" in capsys.readouterr().err
    with pytest.raises(HepfmError, match="holds a run with other settings"):
        fit([str(corpus.path), "--out", str(runs[kind]), *KINDS["kmeans" if kind != "kmeans" else "binning"]])


@every_kind
def test_no_records_and_empty_records_are_fine(runs: dict[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(runs[kind])
    data = jets(3)
    data["offsets"] = np.array([0, 0, len(data["pt"]), len(data["pt"])])
    assert tokenizer.encode(batch_of(data)).offsets.tolist() == data["offsets"].tolist()
    nothing = tokenizer.encode(batch_of(data).slice(0, 0))
    assert len(tokenizer.decode(nothing.ids, nothing.offsets)["pt"]) == 0


@pytest.mark.parametrize("kind", FULL)
def test_the_full_set_comes_back(full_runs: dict[str, Path], kind: str) -> None:
    """Nulls are exact where bins have one of their own; a codebook of 64 codes must get most of them."""
    tokenizer = load_tokenizer(full_runs[kind])
    data = full_jets(100, seed=9)
    tokens = tokenizer.encode(full_batch(data))
    decoded = tokenizer.decode(tokens.ids, tokens.offsets)
    null = np.isnan(decoded["d0"])
    for name in ("d0err", "dz", "dzerr"):
        np.testing.assert_array_equal(np.isnan(decoded[name]), null)
    wrong = {
        "null": null != (data["charge"] == 0),
        "charge": decoded["charge"] != data["charge"],
        "species": decoded["species"] != data["species"],
    }
    measured = read_artifact(full_runs[kind] / "artifact").metrics()
    assert measured["null_error"] <= 0.1
    limit = 0.0 if kind == "binning" else 0.1
    assert {name: float(mask.mean()) <= limit for name, mask in wrong.items()} == dict.fromkeys(wrong, True)
    assert np.nanmean(np.abs(decoded["d0"] - data["d0"])) < np.nanmean(np.abs(data["d0"]))


def test_a_file_of_settings_names_the_kind(corpus: Corpus, runs: dict[str, Path], tmp_path: Path) -> None:
    """A run's own config.yaml repeats it."""
    fit(["--config", str(runs["kmeans"] / "config.yaml"), "--out", str(tmp_path / "again")])
    first, second = (read_artifact(path / "artifact") for path in (runs["kmeans"], tmp_path / "again"))
    assert first.hash == second.hash


def test_an_unknown_kind_is_named(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=rf"no tokenizer is called 'runes' \(there is: {', '.join(TOKENIZERS)}\)"):
        fit([str(corpus.path), "--out", str(tmp_path / "run"), "--tokenizer", "runes"])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_help_lists_the_kinds(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(fit_config(["--tokenizer", kind]), ["--help"], "hepfm tokenizer fit")
    text = " ".join(capsys.readouterr().out.split())
    assert f"Tokenizers: {', '.join(TOKENIZERS)}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokenizer=kmeans", "--codes=100000", "--sample=1000000"], "100,000 codes are more than the .* points"),
        (["--tokenizer=kmeans", "--codes=1"], "--codes: must be at least 2"),
        (["--tokenizer=kmeans", "--codes=512", "--sample=100"], "--sample: must be at least 512"),
        (["--tokenizer=binning", "--bins", "4", "4"], "2 numbers, but 3 features: pt, deta, dphi"),
        (["--tokenizer=binning", "--bins", "0"], "--bins: must be at least 1"),
        (["--tokenizer=binning", "--bins", "3000"], r"3000 x 3000 x 3000 bins make .* ids.*--ids each"),
        (["--tokenizer=binning", "--sample", "0"], "--sample: must be at least 1, is 0"),
        (["--quantizer=fsq", "--levels", "60", "60", "60"], "216,000 codes are more than the .* points.*--levels"),
        (["--quantizer=fsq", "--levels", "2000", "2000", "2000"], "--levels: make 8,000,000,000 codes"),
        (["--quantizer=lfq", "--codes=1048576"], "1,048,576 codes are more than the .* points.*--codes"),
        (["--jet=-1"], "--jet: must not be negative, is -1"),
        (["--conditions", "mass", "mass"], "--conditions: names mass twice"),
        (["--tokenizer=binning", "--bins", "300000"], "300,000 bins are more than the .* points"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    corpus: Corpus, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(HepfmError, match=message):
        fit([str(corpus.path), "--out", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


def test_bins_of_many_codes_take_no_table_of_them(corpus: Corpus, tmp_path: Path) -> None:
    tracemalloc.start()
    fit([str(corpus.path), "--out", str(tmp_path / "run"), "--tokenizer=binning", "--bins", "400"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tokenizer = load_tokenizer(tmp_path / "run")
    assert tokenizer.codes == 400**3
    assert peak < tokenizer.codes


def test_a_reference_that_is_none_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    artifact = read_artifact(runs["kmeans"] / "artifact")
    known = artifact.reference()
    lacking = {name: value for name, value in known.items() if name != "decoded_pt"}
    for reference in (
        {},
        lacking,
        {**known, "features": known["features"][:, :2]},
        {**known, "ids": known["ids"] + 64},
    ):
        write_artifact(
            tmp_path / "other",
            kind="tokenizer",
            architecture=artifact.architecture,
            contract=artifact.contract,
            provenance={},
            weights=artifact.weights(),
            metrics={},
            reference=reference,
            card="",
        )
        with pytest.raises(HepfmError, match=r"reference\.npz|decode: token id"):
            load_tokenizer(tmp_path / "other")


@pytest.mark.parametrize("kind", ["kmeans", "binning"])
def test_an_altered_artifact_is_refused(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    artifact = read_artifact(runs[kind] / "artifact")
    weights = artifact.weights()
    changed = {name: value * 1.2 for name, value in weights.items()}
    missing = dict(list(weights.items())[1:])
    for altered, message in ((changed, "another token|other values"), (missing, "has no|are not those")):
        write_artifact(
            tmp_path / "other",
            kind="tokenizer",
            architecture=artifact.architecture,
            contract=artifact.contract,
            provenance={},
            weights=altered,
            metrics={},
            reference=artifact.reference(),
            card="",
        )
        with pytest.raises(HepfmError, match=message):
            load_tokenizer(tmp_path / "other")


def test_an_empty_class_is_told(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest names all classes of a source, also those that a selection left nothing of."""
    arguments = [str(corpus.path), "--out", str(tmp_path / "run"), *KINDS["binning"]]
    fit(arguments)
    assert "no record" not in capsys.readouterr().err
    split = corpus.manifest.splits["train"]
    other = replace(split, labels={"QCD": split.records, "Tbqq": 0})
    corpus = Corpus.open(corpus.path)
    corpus.manifest = replace(corpus.manifest, splits={**corpus.manifest.splits, "train": other})
    _tell_empty_classes(corpus)
    assert "warning: " in (told := capsys.readouterr().err)
    assert "no record of the train split is of class Tbqq" in told
