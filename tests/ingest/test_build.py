from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from toy_source import LABELS, ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.ingest import build as build_module
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.selection import JetSelection
from hepfm.ingest.verify import verify

Options = Callable[..., BuildOptions]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def origins(corpus: Corpus, split: str) -> list[tuple[int, int]]:
    return [
        pair
        for batch in corpus.split(split)
        for pair in zip(batch["source_file"].to_pylist(), batch["source_entry"].to_pylist(), strict=True)
    ]


def test_every_entry_is_in_the_corpus_once_and_unchanged(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (400, 300, 150))
    corpus = build(ToySource(), files, tmp_path / "c", toy_options())
    found = [row for split in corpus.splits() for batch in corpus.split(split) for row in batch.to_pylist()]
    expected = []
    for number, file in enumerate(files):
        for row in ToySource().read(file, 0, ToySource().entries(file)).to_pylist():
            expected.append({**row, "source_file": number})
    assert sorted(found, key=lambda row: (row["source_file"], row["source_entry"])) == expected
    assert verify(corpus.path) == []


def test_the_manifest_tells_what_is_there(toy_corpus: Corpus) -> None:
    manifest = toy_corpus.manifest
    assert {name: split.records for name, split in manifest.splits.items()} == {
        "train": 4800,
        "val": 600,
        "test": 600,
    }
    assert manifest.schema.equals(ToySource().schema, check_metadata=True)
    assert manifest.labels == LABELS
    assert manifest.axis == "stored"
    assert manifest.provides[:2] == ("constituents.pt", "constituents.deta")
    assert manifest.provenance["cut_flow"] == [["entries", 6000], ["read", 6000], ["possible", 6000]]
    assert [file["entries"] for file in manifest.provenance["files"]] == [2000, 1000, 2000, 1000]
    assert not any("/" in file["name"] for file in manifest.provenance["files"])
    batches = list(toy_corpus.split("train"))
    pt = np.concatenate([batch["pt"].to_numpy() for batch in batches]).astype(np.float64)
    figures = manifest.statistics["pt"]
    assert (figures["count"], figures["nulls"]) == (4800, 0)
    assert (figures["min"], figures["max"]) == (pt.min(), pt.max())
    assert (figures["mean"], figures["std"]) == pytest.approx((pt.mean(), pt.std()))
    d0 = pa.chunked_array([batch["constituents"].flatten().field(3) for batch in batches])
    assert manifest.statistics["constituents.d0"]["nulls"] == d0.null_count > 0
    lengths = np.concatenate([batch["constituents"].value_lengths().to_numpy() for batch in batches])
    assert manifest.statistics["constituents"]["mean"] == pytest.approx(lengths.mean())
    labels = [label for batch in batches for label in batch["label"].to_pylist()]
    assert manifest.splits["train"].labels == {label: labels.count(label) for label in LABELS}


def test_bytes_do_not_depend_on_processes_nor_on_where_files_lie(
    tmp_path: Path, toy_options: Options, toy_corpus: Corpus
) -> None:
    moved = write_files(tmp_path / "elsewhere" / "deep", (2000, 1000, 2000, 1000))
    again = build(ToySource(), moved, tmp_path / "again", toy_options(), processes=2)
    assert content(again.path) == content(toy_corpus.path)


def test_neighbouring_entries_share_a_split(toy_corpus: Corpus) -> None:
    split_of = {origin: name for name in toy_corpus.splits() for origin in origins(toy_corpus, name)}
    for file, entries in enumerate((2000, 1000, 2000, 1000)):
        for start in range(0, entries, 50):
            assert len({split_of[file, entry] for entry in range(start, start + 50)}) == 1


def test_every_block_mixes_classes_and_files(toy_corpus: Corpus) -> None:
    for split in toy_corpus.splits():
        for batch in toy_corpus.split(split):
            if len(batch) == 64:
                assert len(set(batch["source_file"].to_pylist())) == 4
                assert len(set(batch["label"].to_pylist())) == 3


def test_records_of_a_block_are_not_in_the_order_of_the_files(toy_corpus: Corpus) -> None:
    entries = toy_corpus.split("train").read(0)["source_entry"].to_numpy()
    assert 0.2 < (np.diff(entries) > 0).mean() < 0.8


def test_selection_leaves_what_passes_and_counts_the_rest(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (1000, 1000, 1000))
    selection = JetSelection(pt_min=700, eta_max=1.5, labels=("qcd", "higgs"), min_constituents=2, max_constituents=4)
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(), selection)
    rows = [row for split in corpus.splits() for batch in corpus.split(split) for row in batch.to_pylist()]
    expected = [
        {**row, "source_file": number, "constituents": row["constituents"][:4]}
        for number, file in enumerate(files)
        for row in ToySource().read(file, 0, 1000).to_pylist()
        if row["pt"] >= 700 and abs(row["eta"]) <= 1.5 and row["label"] != "top" and len(row["constituents"]) > 1
    ]
    assert sorted(rows, key=lambda row: (row["source_file"], row["source_entry"])) == expected
    flow = dict(corpus.manifest.provenance["cut_flow"])
    assert list(flow)[:3] == ["entries", "read", "possible"]
    assert flow["entries"] == flow["read"] == flow["possible"] == 3000
    assert list(flow.values())[3:7] == sorted(list(flow.values())[3:7], reverse=True)
    assert flow["constituents >= 2"] == len(expected)
    assert flow["jets cut to 4 constituents"] > 0
    assert corpus.manifest.statistics["constituents"]["max"] == 4
    assert verify(corpus.path) == []


def test_an_event_with_several_jets_stays_in_one_split(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (2000,), events=True)
    corpus = build(ToySource(), files, tmp_path / "c", toy_options())
    split_of: dict[int, set[str]] = {}
    for name in corpus.splits():
        for _, entry in origins(corpus, name):
            split_of.setdefault(entry, set()).add(name)
    assert {len(names) for names in split_of.values()} == {1}
    assert sum(split.records for split in corpus.manifest.splits.values()) == sum(i % 3 for i in range(2000))
    assert dict(corpus.manifest.provenance["cut_flow"]) == {"entries": 2000, "read": 1999, "possible": 1999}


def test_too_few_entries_all_go_to_training_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = build(ToySource(), write_files(tmp_path / "raw", (800, 900)), tmp_path / "c")
    assert corpus.splits() == ["train"]
    assert "too few to be split" in capsys.readouterr().err
    assert "too few to be split" in corpus.manifest.provenance["notes"][0]


def test_a_finished_corpus_is_not_built_again(
    tmp_path: Path, toy_options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_files(tmp_path / "raw", (300,))
    build(ToySource(), files, tmp_path / "c", toy_options())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").rglob("*")}
    build(ToySource(), files, tmp_path / "c", toy_options())
    assert "is already built" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "c").rglob("*")} == before


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"splits": (0.5, 0.25, 0.25)}, {"run_entries": 60}, {"block_records": 65}],
)
def test_another_corpus_in_the_folder_is_an_error(
    tmp_path: Path, toy_options: Options, changes: dict[str, Any]
) -> None:
    files = write_files(tmp_path / "raw", (300,))
    build(ToySource(), files, tmp_path / "c", toy_options())
    before = content(tmp_path / "c")
    with pytest.raises(HepfmError, match="holds another corpus"):
        build(ToySource(), files, tmp_path / "c", toy_options(**changes))
    assert content(tmp_path / "c") == before


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300,))
    with pytest.raises(HepfmError, match="not empty and not a corpus"):
        build(ToySource(), files, tmp_path / "raw", toy_options())
    assert len(list((tmp_path / "raw").iterdir())) == 1
    with pytest.raises(HepfmError, match="is a file"):
        build(ToySource(), files, files[0], toy_options())


def test_a_selection_that_leaves_nothing_prints_its_cut_flow(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300,))
    flow = "entries: 300, read: 300, possible: 300, pt >= 5000 GeV: 0"
    with pytest.raises(HepfmError, match=f"no record is left.*{flow}"):
        build(ToySource(), files, tmp_path / "c", toy_options(), JetSelection(pt_min=5000))
    assert not (tmp_path / "c").exists()


def test_a_split_may_be_left_empty(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (200, 200))
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(splits=(1.0, 0.0, 0.0)))
    assert corpus.splits() == ["train"]
    with pytest.raises(HepfmError, match=r"has no split 'val' \(there is: train\)"):
        corpus.split("val")


def test_bad_files_are_named_before_anything_is_built(tmp_path: Path) -> None:
    files = write_files(tmp_path / "raw", (300, 200))
    cases: list[tuple[list[Path], str]] = [
        ([], "no file was given"),
        ([tmp_path / "none.toy"], "none.toy: no such file"),
        ([tmp_path], "is a folder"),
        ([files[0], files[0]], "000.toy: was given twice"),
        ([files[0], tmp_path / "raw" / ".." / "raw" / "000.toy"], "given twice"),
    ]
    for given, message in cases:
        with pytest.raises(HepfmError, match=message):
            build(ToySource(), given, tmp_path / "c")
    copy = tmp_path / "copy.toy"
    copy.write_bytes(files[0].read_bytes())
    with pytest.raises(HepfmError, match=r"copy.toy: is a copy of .*000.toy"):
        build(ToySource(), [*files, copy], tmp_path / "c")
    copy.write_text("no json")
    with pytest.raises(HepfmError, match=r"copy.toy: is not a toy file"):
        build(ToySource(), [*files, copy], tmp_path / "c")
    with pytest.raises(HepfmError, match="no file holds an entry"):
        build(ToySource(), write_files(tmp_path / "empty", (0,)), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_value_that_is_not_finite_stops_or_is_left_out(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300,), bad=77)
    with pytest.raises(HepfmError, match=r"000.toy, entry 77: pt is not finite \(--on-bad skip"):
        build(ToySource(), files, tmp_path / "c", toy_options())
    # What was finished is kept: it is the same either way.
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(on_bad="skip"))
    flow = dict(corpus.manifest.provenance["cut_flow"])
    assert flow == {"entries": 300, "read": 300, "rejected: pt is not finite": 1, "possible": 299}
    assert verify(corpus.path) == []


@pytest.mark.parametrize("change", ["longer", "as long"])
def test_a_file_that_changes_while_it_is_read_stops_the_build(
    tmp_path: Path, toy_options: Options, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    files, make_plan = write_files(tmp_path / "raw", (300,)), build_module.make_plan

    os.utime(files[0], (0, 0))  # so that the change is in another tick of the clock

    def meanwhile(*arguments: Any) -> Any:
        text = files[0].read_text()
        files[0].write_text(text + " " if change == "longer" else text.replace("qcd", "top"))
        return make_plan(*arguments)

    monkeypatch.setattr(build_module, "make_plan", meanwhile)
    with pytest.raises(HepfmError, match=r"000.toy: changed while it was being read \(run again\)"):
        build(ToySource(), files, tmp_path / "c", toy_options())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(splits=(0.5, 0.1, 0.1)), "no fractions of a whole"),
        (BuildOptions(splits=(1.5, -0.5, 0.0)), "no fractions of a whole"),
        (BuildOptions(run_entries=0), "--run-entries: must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: BuildOptions, message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        build(ToySource(), write_files(tmp_path / "raw", (10,)), tmp_path / "c", options)
