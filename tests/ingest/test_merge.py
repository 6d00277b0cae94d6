from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from derived import (
    OPTIONS,
    OTHER_LABELS,
    OtherSource,
    batch_corpus,
    content,
    origins,
    raw_files,
    rows,
    showers,
    token_corpus,
    toy,
)
from toy_source import LABELS, ToySource

from hepfm.core.errors import HepfmError
from hepfm.ingest import shards, tools
from hepfm.ingest.build import build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.merge import merge
from hepfm.ingest.verify import verify


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Corpus, Corpus]:
    """Two corpora of one source, the first twice as large, and one of another."""
    folder = tmp_path_factory.mktemp("parents")
    return (
        toy(folder / "a", (1000, 1000), 1),
        toy(folder / "b", (500, 300, 200), 2),
        toy(folder / "c", (600, 400), 3, OtherSource()),
    )


@pytest.fixture(scope="module")
def merged(parents: tuple[Corpus, Corpus, Corpus], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return merge(parents[:2], tmp_path_factory.mktemp("merged") / "corpus")


def shifted(corpus: Corpus, split: str, files: int) -> list[dict[str, Any]]:
    return [{**row, "source_file": row["source_file"] + files} for row in rows(corpus, split)]


def by_origin(row: dict[str, Any]) -> tuple[int, int]:
    return row["source_file"], row["source_entry"]


def test_every_record_is_there_once_unchanged_and_in_its_split(
    parents: tuple[Corpus, Corpus, Corpus], merged: Corpus
) -> None:
    a, b, _ = parents
    for split in ("train", "val", "test"):
        assert sorted(rows(merged, split), key=by_origin) == sorted(
            rows(a, split) + shifted(b, split, 2), key=by_origin
        )
    files = a.manifest.provenance["files"] + b.manifest.provenance["files"]
    assert merged.manifest.provenance["files"] == files
    assert [parent["digest"] for parent in merged.manifest.provenance["parents"]] == [a.digest, b.digest]
    assert merged.manifest.provenance["parents"][0]["cut_flow"] == a.manifest.provenance["cut_flow"]
    assert verify(merged.path) == []


def test_every_block_mixes_the_parents_in_proportion(merged: Corpus) -> None:
    for split in merged.splits():
        for batch in merged.split(split):
            share = (batch["source_file"].to_numpy() < 2).mean()
            assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / len(batch))
    # A shard is made of whole rounds, in which the proportion is exact.
    split = merged.split("train")
    for shard in merged.manifest.splits["train"].shards:
        files = np.concatenate([split.read(block)["source_file"].to_numpy() for block in split.blocks_of(shard.number)])
        assert abs((files < 2).sum() - shard.records * 2 / 3) <= 1


def test_records_are_not_in_the_order_of_a_parent(merged: Corpus) -> None:
    batch = merged.split("train").read(0)
    steps = np.diff((batch["source_file"].to_numpy() < 2).astype(int))
    assert 10 < np.count_nonzero(steps) < 50


def test_labels_and_quantities_are_united(parents: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    a, _, c = parents
    merged = merge([a, c], tmp_path / "m")
    assert merged.manifest.labels == (*LABELS, "zprime")
    assert set(merged.manifest.provides) == set(a.manifest.provides) | set(c.manifest.provides)
    assert list(merged.manifest.schema.names) == [
        "constituents",
        "pt",
        "eta",
        "mass",
        "label",
        "source_file",
        "source_entry",
    ]
    expected = [{**row, "mass": None} for row in rows(a, "val")]
    for row in shifted(c, "val", 2):
        constituents = [{**constituent, "d0": None, "species": None} for constituent in row["constituents"]]
        expected.append({**row, "eta": None, "constituents": constituents})
    assert sorted(rows(merged, "val"), key=by_origin) == sorted(expected, key=by_origin)
    lacks = [parent["lacks"] for parent in merged.manifest.provenance["parents"]]
    assert lacks == [["mass"], ["constituents.d0", "constituents.species", "eta"]]
    nulls = merged.manifest.statistics["mass"]["nulls"]
    assert nulls == a.manifest.splits["train"].records
    assert merged.manifest.provenance["source"] == "toy + other"
    assert verify(merged.path) == []


def test_the_order_of_the_labels_is_that_of_the_corpora(parents: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    a, _, c = parents
    merged = merge([c, a], tmp_path / "m")
    assert merged.manifest.labels == (*OTHER_LABELS, "higgs")
    counts = merged.manifest.splits["train"].labels
    for name, count in counts.items():
        assert count == sum(corpus.manifest.splits["train"].labels.get(name, 0) for corpus in (a, c))


def test_only_common_quantities_on_request(parents: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    a, _, c = parents
    merged = merge([a, c], tmp_path / "m", common=True)
    assert set(merged.manifest.provides) == set(a.manifest.provides) & set(c.manifest.provides)
    assert not any(figures["nulls"] for figures in merged.manifest.statistics.values())
    assert verify(merged.path) == []


def test_bytes_depend_neither_on_processes_nor_on_an_interruption(
    parents: tuple[Corpus, Corpus, Corpus], merged: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert content(merge(parents[:2], tmp_path / "two", processes=2).path) == content(merged.path)
    encode, calls = shards.encode, []

    def failing(batch: pa.RecordBatch) -> pa.Buffer:
        calls.append(batch)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return encode(batch)

    monkeypatch.setattr(shards, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        merge(parents[:2], tmp_path / "c")
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").rglob("*.tar")}
    assert done
    assert content(merge(parents[:2], tmp_path / "c").path) == content(merged.path)
    assert all(file.stat().st_mtime_ns == time for file, time in done.items())


def test_another_seed_gives_another_order_of_the_same_records(
    parents: tuple[Corpus, Corpus, Corpus], merged: Corpus, tmp_path: Path
) -> None:
    other = merge(parents[:2], tmp_path / "c", seed=1)
    assert origins(other, "val") != origins(merged, "val")
    assert sorted(origins(other, "val")) == sorted(origins(merged, "val"))


def test_what_cannot_be_one_corpus_is_refused(parents: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    a, b, _ = parents
    constituent_axis = toy(tmp_path / "axis", (200,), 4, replace(ToySource(), axis="constituent_sum"))
    shower = batch_corpus(tmp_path / "showers", showers([50.0], [3]), [10])
    half = toy(tmp_path / "half", (1000, 1000, 300), 1)  # its first files are those of a
    for corpora, message in (
        ([a], "there is nothing to merge"),
        ([a, a], "is the same corpus as"),
        ([a, constituent_axis], "has axis constituent_sum, .* stored"),
        ([a, shower], "holds showers, .* jets"),
        ([a, half], r"source file 000.toy is in .* too: its records would come twice"),
    ):
        with pytest.raises(HepfmError, match=message):
            merge(corpora, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    geometry = {"layers": 5}
    other = batch_corpus(tmp_path / "other", showers([60.0], [3]), [11], geometry=geometry, identity={"other": 1})
    with pytest.raises(HepfmError, match=r"has geometry \{'layers': 5\}, .* None"):
        merge([shower, other], tmp_path / "m")
    with pytest.raises(HepfmError, match="holds another corpus"):
        merge([a, b], a.path)


def test_a_quantity_of_another_unit_is_refused(tmp_path: Path) -> None:
    batch = showers([50.0, 20.0], [3, 2])
    field = batch.schema.field("incident_energy")
    schema = batch.schema.set(1, field.with_metadata({"unit": "MeV", "meaning": "energy"}))
    first = batch_corpus(tmp_path / "a", batch, [10])
    second = batch_corpus(tmp_path / "b", pa.RecordBatch.from_arrays(batch.columns, schema=schema), [11])
    with pytest.raises(HepfmError, match=r"incident_energy is float \[GeV\] in one corpus, float \[MeV\] in another"):
        merge([first, second], tmp_path / "m")


@pytest.fixture(scope="module")
def token_parents(parents: tuple[Corpus, Corpus, Corpus]) -> tuple[Corpus, Corpus]:
    """Token corpora beside the corpora they were made from."""
    a, b = (token_corpus(corpus, corpus.path.parent / "work") for corpus in parents[:2])
    return a, b


def test_token_corpora_of_one_tokenizer_become_one_that_carries_it(
    token_parents: tuple[Corpus, Corpus], merged: Corpus, tmp_path: Path
) -> None:
    tokens = merge(token_parents, tmp_path / "m")
    assert tokens.manifest.tokens == {"tokenizer": "a" * 64, "codes": 8}
    assert (tokens.path / "tokenizer" / "config.json").read_text() == '{"tokenizer": "a"}'
    assert tokens.manifest.provenance["files"] == merged.manifest.provenance["files"]
    length_of = {by_origin(row): len(row["constituents"]) for row in rows(merged)}
    assert {by_origin(row): len(row["tokens"]) for row in rows(tokens)} == length_of
    parent = tokens.manifest.provenance["parents"][1]
    assert parent["tokens"]["source"] == token_parents[1].manifest.tokens["source"]  # type: ignore[index]
    assert verify(tokens.path) == []


def test_token_corpora_of_other_tokenizers_or_of_unknown_files_are_refused(
    token_parents: tuple[Corpus, Corpus], parents: tuple[Corpus, Corpus, Corpus], tmp_path: Path
) -> None:
    other = token_corpus(parents[1], tmp_path / "other", "b")
    with pytest.raises(HepfmError, match=r"is of tokenizer b{64}, .* a{64}"):
        merge([token_parents[0], other], tmp_path / "m")
    lonely = token_corpus(parents[1], tmp_path / "lonely")
    with pytest.raises(HepfmError, match=r"the corpus it was made from, which is not there.*merge before tokenizing"):
        merge([token_parents[0], lonely], tmp_path / "m")


def test_an_altered_tokenizer_is_not_passed_on(token_parents: tuple[Corpus, Corpus], tmp_path: Path) -> None:
    file = token_parents[0].path / "tokenizer" / "config.json"
    whole = file.read_text()
    file.write_text("[]")
    try:
        with pytest.raises(HepfmError, match=r"tokenizer/config.json: is missing or was altered"):
            merge(token_parents, tmp_path / "m")
    finally:
        file.write_text(whole)


def test_lists_of_refused_entries_stay_with_the_corpora_that_were_built(tmp_path: Path) -> None:
    built = []
    for seed in (1, 2):
        files = raw_files(tmp_path / f"raw-{seed}", (300,), seed, bad=7)
        built.append(build(ToySource(), files, tmp_path / f"c-{seed}", replace(OPTIONS, on_bad="skip")))
        assert list(built[-1].manifest.files) == ["rejected.jsonl"]
    merged = merge(built, tmp_path / "m")
    assert merged.manifest.files == {}
    assert len(rows(merged)) == 598
    flows = [dict(parent["cut_flow"]) for parent in merged.manifest.provenance["parents"]]
    assert [flow["entries"] for flow in flows] == [300, 300]
    assert verify(merged.path) == []


def test_the_command_merges(
    parents: tuple[Corpus, Corpus, Corpus], merged: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tools.MergeConfig(tuple(corpus.path for corpus in parents[:2]), tmp_path / "m", processes=1)
    tools.merge_corpora(config)
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'm'}\n"
    assert "train: 2,400 jets" in told.err
    assert Corpus.open(tmp_path / "m").digest == merged.digest
