"""What goes wrong is told on one line, with exit code 2, and leaves nothing that looks whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

Hepfm = Callable[..., Any]


def refused(result: Any, *told: str) -> None:
    assert result.code == 2, result.err
    assert result.last.startswith("hepfm: ")
    for text in told:
        assert text in result.last, result.last


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, jetclass_files: list[Path]) -> Path:
    from hepfm.ingest.build import BuildOptions, build
    from hepfm.ingest.sources.registry import source

    out = tmp_path_factory.mktemp("corpus") / "corpus"
    build(source("jetclass"), jetclass_files, out, BuildOptions())
    return out


def test_no_such_command(hepfm: Hepfm) -> None:
    refused(hepfm("ingset", "x"), "no command 'hepfm ingset x'", "ingest")
    refused(hepfm("tokenizer", "train"), "tokenizer fit, tokenizer apply")


def test_help_names_every_command(hepfm: Hepfm) -> None:
    from hepfm.cli import COMMANDS

    shown = hepfm("--help")
    assert shown.code == 0
    assert all(f"hepfm {command.words} " in shown.out for command in COMMANDS)


def test_help_of_a_group_names_its_commands_alone(hepfm: Hepfm) -> None:
    shown = hepfm("corpus", "--help")
    assert shown.code == 0
    assert all(f"hepfm corpus {name} " in shown.out for name in ("verify", "inspect", "card", "merge", "mix"))
    assert "hepfm pretrain" not in shown.out
    refused(hepfm("nonsense", "--help"), "no command 'hepfm nonsense --help'")


def test_missing_file(hepfm: Hepfm, tmp_path: Path) -> None:
    refused(hepfm("ingest", "jetclass", tmp_path / "none.root", "--out", tmp_path / "c"), "none.root")
    assert not (tmp_path / "c").exists()


def test_no_files(hepfm: Hepfm, tmp_path: Path) -> None:
    refused(hepfm("ingest", "jetclass", "--out", tmp_path / "c"))


@pytest.mark.parametrize("content", [b"", b"root", b"plain text, no ROOT file" * 100])
def test_not_a_root_file(hepfm: Hepfm, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.root").write_bytes(content)
    refused(hepfm("ingest", "jetclass", tmp_path / "a.root", "--out", tmp_path / "c"), "a.root")


def test_a_truncated_root_file(hepfm: Hepfm, tmp_path: Path, jetclass_files: list[Path]) -> None:
    whole = jetclass_files[0].read_bytes()
    (tmp_path / "a.root").write_bytes(whole[: len(whole) // 2])
    refused(hepfm("ingest", "jetclass", tmp_path / "a.root", "--out", tmp_path / "c"), "a.root")


def test_a_tree_of_something_else_is_told_with_what_it_has(hepfm: Hepfm, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("Events", {"x": np.arange(3)})
    refused(
        hepfm("ingest", "jetclass", tmp_path / "a.root", "--out", tmp_path / "c"),
        "tree 'Events'",
        "part_px",
        "it has x",
    )


def test_a_missing_branch_is_named(hepfm: Hepfm, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("tree", {"jet_pt": np.arange(3.0)})
    refused(hepfm("ingest", "jetclass", tmp_path / "a.root", "--out", tmp_path / "c"), "part_px", "jet_pt")


def test_a_tree_without_entries(hepfm: Hepfm, tmp_path: Path, jetclass_files: list[Path]) -> None:
    with uproot.open(jetclass_files[0]) as file, uproot.recreate(tmp_path / "a.root") as empty:
        arrays = file["tree"].arrays(entry_stop=0)
        empty.mktree("tree", {name: arrays[name] for name in arrays.fields})
    refused(hepfm("ingest", "jetclass", tmp_path / "a.root", "--out", tmp_path / "c"), "a.root")


def test_zero_selected_jets_show_the_cut_flow(hepfm: Hepfm, tmp_path: Path, jetclass_files: list[Path]) -> None:
    out = tmp_path / "c"
    result = hepfm("ingest", "jetclass", *jetclass_files, "--out", out, "--pt-min", 5000)
    refused(result, "6000", "0")
    assert not (out / "corpus.json").exists()
    assert hepfm("ingest", "jetclass", *jetclass_files, "--out", out).code == 0


def test_a_folder_in_use_by_another_corpus(hepfm: Hepfm, corpus: Path, jetclass_files: list[Path]) -> None:
    before = (corpus / "corpus.json").read_bytes()
    refused(hepfm("ingest", "jetclass", jetclass_files[0], "--out", corpus), "another corpus")
    assert (corpus / "corpus.json").read_bytes() == before


def test_a_folder_with_something_else(hepfm: Hepfm, tmp_path: Path, jetclass_files: list[Path]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(hepfm("ingest", "jetclass", *jetclass_files, "--out", tmp_path), "not empty")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_is_named(hepfm: Hepfm, corpus: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shard = copy / "train" / "000000.tar"
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    shard.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    verified = hepfm("corpus", "verify", copy)
    assert verified.code == 2
    assert "train/000000.tar" in verified.out + verified.err
    fitted = hepfm("tokenizer", "fit", copy, "--out", tmp_path / "tok", "--steps", 50, "--codes", 32)
    refused(fitted, "train/000000.tar")


def test_a_folder_that_is_no_corpus(hepfm: Hepfm, tmp_path: Path) -> None:
    refused(hepfm("tokenizer", "fit", tmp_path, "--out", tmp_path / "tok"), "is no corpus")
    refused(hepfm("corpus", "inspect", tmp_path / "none"), "none")


def test_a_corpus_is_no_token_corpus_and_no_tokenizer(hepfm: Hepfm, corpus: Path, tmp_path: Path) -> None:
    refused(hepfm("pretrain", corpus, "--out", tmp_path / "run"), str(corpus))
    refused(hepfm("tokenizer", "apply", corpus, corpus, "--out", tmp_path / "tokens"), str(corpus))
    refused(hepfm("generate", corpus, "--out", tmp_path / "jets.root"), str(corpus))
    assert not (tmp_path / "tokens" / "corpus.json").exists()


def test_bad_values_are_told_before_work_starts(hepfm: Hepfm, corpus: Path, tmp_path: Path) -> None:
    result = hepfm("tokenizer", "fit", corpus, "--out", tmp_path / "tok", "--codes", 10_000_000)
    refused(result, "codes")
    refused(hepfm("tokenizer", "fit", corpus, "--out", tmp_path / "tok", "--batch-records", 0), "--batch-records")
    assert not (tmp_path / "tok" / "artifact").exists()


def test_a_class_that_is_missing_from_a_split_is_told(hepfm: Hepfm, tmp_path: Path, jetclass_files: list[Path]) -> None:
    done = hepfm("ingest", "jetclass", *jetclass_files, "--out", tmp_path / "c", "--splits", 0.8, 0.1, 0.1)
    splits = json.loads((tmp_path / "c" / "corpus.json").read_text())["splits"]
    lacking = {(name, label) for name in splits for label in ("QCD", "Tbqq") if not splits[name]["labels"].get(label)}
    assert lacking  # two classes of three runs each cannot be in three splits
    assert {(name, label) for name, label in lacking if f"note: {name} has no {label}:" in done.err} == lacking


def test_a_checkpoint_that_would_run_something(hepfm: Hepfm, tmp_path: Path) -> None:
    import os

    import torch

    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": Runs()}, tmp_path / "a.ckpt")
    told = hepfm("models", "import", tmp_path / "a.ckpt", "--out", tmp_path / "out")
    refused(told, "a.ckpt: refused: its pickle names 'posix.system'")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
