"""What another program reads from an export is what the corpus holds."""

from __future__ import annotations

import errno
import io
import json
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from derived import OtherSource, batch_corpus, content, rows, showers, token_corpus, toy

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, sha256_file
from hepfm.ingest import tools
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.export import parquet_tables
from hepfm.ingest.export.folder import export
from hepfm.ingest.export.samples import samples
from hepfm.ingest.merge import merge

TABLES = ("parquet", "awkward", "datasets", "webdataset")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """Jets with nulls in every place, showers, and tokens."""
    folder = tmp_path_factory.mktemp("corpora")
    plain = toy(folder / "plain", (400, 300), 1)
    other = toy(folder / "other", (300,), 2, OtherSource())
    return {
        "jets": merge([plain, other], folder / "jets"),
        "showers": batch_corpus(folder / "showers", showers([1.0, 50.0, 20.0], [3, 0, 5]), [10], geometry={"a": 1}),
        "tokens": token_corpus(plain, folder / "work"),
    }


@pytest.fixture(scope="module")
def exports(corpora: dict[str, Corpus], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every corpus in every format: KIND/FORMAT."""
    folder = tmp_path_factory.mktemp("exports")
    for kind, corpus in corpora.items():
        for name in TABLES:
            export(corpus, name, folder / kind / name, corpus.splits())
    return folder


KINDS = ("jets", "showers", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_gives_back_the_records_and_the_units(corpora: dict[str, Corpus], exports: Path, kind: str) -> None:
    corpus = corpora[kind]
    for split in corpus.splits():
        folder = exports / kind / "parquet" / split
        table = pq.read_table(folder)
        assert table.to_pylist() == rows(corpus, split)
        expected = dict(fields(corpus.manifest.schema))
        for name, field in fields(table.schema):
            assert field.metadata == expected[name].metadata
            if not pa.types.is_dictionary(expected[name].type):
                assert field.type == expected[name].type
        about = json.loads(table.schema.metadata[b"hepfm"])
        assert about["corpus"] == corpus.digest
        assert about.get("geometry") == corpus.manifest.geometry
        for shard in corpus.manifest.splits[split].shards:
            file = pq.ParquetFile(folder / f"{shard.number:06d}.parquet")
            blocks = corpus.split(split).block_records[corpus.split(split).blocks_of(shard.number)]
            assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == blocks.tolist()
            assert file.read().num_rows == shard.records


def fields(schema: pa.Schema) -> Iterator[tuple[str, pa.Field]]:
    for field in schema:
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(inner):
            yield from ((f"{field.name}.{child.name}", child) for child in inner)
        else:
            yield field.name, field


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_opens_a_split_in_one_line(corpora: dict[str, Corpus], exports: Path, kind: str) -> None:
    corpus = corpora[kind]
    for split in corpus.splits():
        array = ak.from_parquet(exports / kind / "awkward" / split)
        assert array.to_list() == rows(corpus, split)
    if kind == "jets":
        jets = ak.from_parquet(exports / "jets" / "awkward" / "train", columns=["label", "constituents.species"])
        assert ak.sum(jets.label == "qcd") == corpus.manifest.splits["train"].labels["qcd"]
        photons = corpus.manifest.statistics["constituents.species"]["values"]["photon"]
        assert ak.sum(jets.constituents.species == "photon") == photons


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_loads_a_folder_that_it_maps(corpora: dict[str, Corpus], exports: Path, kind: str) -> None:
    corpus = corpora[kind]
    loaded = datasets.load_from_disk(str(exports / kind / "datasets"))
    assert list(loaded) == corpus.splits()
    for split, dataset in loaded.items():
        assert dataset.cache_files
        names = {name: feature.names for name, feature in labels(dataset.features).items()}
        assert [named(row, names) for row in dataset] == rows(corpus, split)
        assert "[GeV]" in dataset.info.description or kind == "tokens"
    if kind == "jets":
        assert loaded["train"].features["label"].names == list(corpus.manifest.labels)
        assert loaded["train"].filter(lambda row: row["pt"] > 700, keep_in_memory=True).num_rows > 0


def labels(features: Any) -> dict[str, datasets.ClassLabel]:
    found = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    for name, feature in features.items():
        inner = feature.feature if isinstance(feature, datasets.List) else {}
        if isinstance(inner, dict):
            found |= {f"{name}.{key}": value for key, value in inner.items() if isinstance(value, datasets.ClassLabel)}
    return found


def named(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A row with names in place of indices."""
    row = dict(row)
    for name, known in names.items():
        column, _, quantity = name.partition(".")
        if not quantity:
            row[column] = None if row[column] is None else known[row[column]]
        else:
            row[column] = [
                {**point, quantity: None if point[quantity] is None else known[point[quantity]]}
                for point in row[column]
            ]
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_plain_webdataset_decodes_a_sample_a_record(corpora: dict[str, Corpus], exports: Path, kind: str) -> None:
    corpus = corpora[kind]
    points = corpus.manifest.points_column
    names = read_json(exports / kind / "webdataset" / "export.json")["names"]
    for split in corpus.splits():
        urls = sorted(map(str, (exports / kind / "webdataset" / split).iterdir()))
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
        assert len({sample["__key__"] for sample in samples}) == len(samples)
        expected = rows(corpus, split)
        assert [sample["json"] for sample in samples] == [
            {name: value for name, value in row.items() if name != points} for row in expected
        ]
        assert [as_rows(sample["npy"], names, points) for sample in samples] == [row[points] for row in expected]


def as_rows(points: np.ndarray, names: dict[str, list[str]], column: str) -> list:
    """Points as the corpus gives them: NaN and -1 are nulls again, indices are names."""
    if points.dtype.names is None:
        return points.tolist()
    found = []
    for point in points:
        values: dict[str, Any] = {name: point[name].item() for name in points.dtype.names}
        for name, value in values.items():
            known = names.get(f"{column}.{name}")
            if known is not None:
                values[name] = None if value < 0 else known[value]
            elif isinstance(value, float) and math.isnan(value):
                values[name] = None
        found.append(values)
    return found


def test_a_charge_that_is_not_known_is_no_charge() -> None:
    kind = pa.list_(pa.struct([pa.field("pt", pa.float32()), pa.field("charge", pa.int8())]))
    jets = pa.array([[{"pt": 2.0, "charge": -1}, {"pt": 1.0, "charge": None}]], kind)
    ((data, _),) = samples(pa.RecordBatch.from_arrays([jets], names=["constituents"]), "constituents")
    charge = np.load(io.BytesIO(data), allow_pickle=False)["charge"]
    assert charge[0] == -1
    assert np.isnan(charge[1])


def test_samples_stand_in_plain_tars_of_anonymous_files(exports: Path) -> None:
    path = exports / "jets" / "webdataset" / "train" / "000000.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert path.stat().st_size % tarfile.RECORDSIZE == 0
    with tarfile.open(path) as tar:
        array = np.load(io.BytesIO(tar.extractfile(members[0]).read()), allow_pickle=False)  # type: ignore[union-attr]
    assert array["pt"].dtype == np.float32


@pytest.mark.parametrize("name", TABLES)
def test_the_listing_names_every_file_and_processes_change_nothing(
    corpora: dict[str, Corpus], exports: Path, tmp_path: Path, name: str
) -> None:
    corpus, folder = corpora["jets"], exports / "jets" / name
    listing = read_json(folder / "export.json")
    assert (listing["corpus"], listing["format"]) == (corpus.digest, name)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {"export.json", *listing["files"]}
    for file, figures in listing["files"].items():
        assert figures == {"bytes": (folder / file).stat().st_size, "sha256": sha256_file(folder / file)}
    export(corpus, name, tmp_path / "two", corpus.splits(), processes=2)
    assert content(tmp_path / "two") == content(folder)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_export_continues(
    corpora: dict[str, Corpus], exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    corpus, blocks_of, calls = corpora["jets"], parquet_tables.blocks_of, []

    def failing(split: Any, shard: Any) -> Iterator[pa.RecordBatch]:
        for batch in blocks_of(split, shard):
            calls.append(batch)
            if len(calls) == 8:
                raise failure
            yield batch

    monkeypatch.setattr(parquet_tables, "blocks_of", failing)
    with pytest.raises((KeyboardInterrupt, HepfmError)) as caught:
        export(corpus, "parquet", tmp_path / "e", corpus.splits())
    if isinstance(failure, OSError):
        assert "the disk is full (free some space and run again: it continues)" in str(caught.value)
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "e").rglob("*.parquet")}
    assert done
    assert not (tmp_path / "e" / "export.json").exists()
    assert not list((tmp_path / "e").rglob("*.partial-*"))
    damaged = min(done)
    damaged.write_bytes(b"no longer what was written")
    export(corpus, "parquet", tmp_path / "e", corpus.splits())
    assert content(tmp_path / "e") == content(exports / "jets" / "parquet")
    kept = [file for file in done if file != damaged]
    assert all(file.stat().st_mtime_ns == done[file] for file in kept)


def test_a_finished_export_is_left_as_it_is(
    corpora: dict[str, Corpus], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpora["showers"]
    export(corpus, "parquet", tmp_path / "e", corpus.splits())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "e").rglob("*")}
    export(corpus, "parquet", tmp_path / "e", corpus.splits())
    assert "is already exported" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "e").rglob("*")} == before


def test_a_folder_with_something_else_is_refused(corpora: dict[str, Corpus], tmp_path: Path) -> None:
    corpus = corpora["showers"]
    export(corpus, "parquet", tmp_path / "e", corpus.splits())
    for other, name in ((corpora["tokens"], "parquet"), (corpus, "awkward")):
        with pytest.raises(HepfmError, match="holds another export"):
            export(other, name, tmp_path / "e", other.splits())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(HepfmError, match="is not empty and not an export"):
        export(corpus, "parquet", tmp_path / "mine", corpus.splits())
    with pytest.raises(HepfmError, match="is a file"):
        export(corpus, "parquet", tmp_path / "mine" / "thesis.tex", corpus.splits())
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "e" / "export.json").unlink()
    (tmp_path / "e" / ".export").mkdir()
    (tmp_path / "e" / ".export" / "request.json").write_text('{"corpus": "another"}')
    with pytest.raises(HepfmError, match="unfinished export of another corpus"):
        export(corpus, "parquet", tmp_path / "e", corpus.splits())


def test_a_damaged_corpus_is_not_exported(tmp_path: Path) -> None:
    corpus = batch_corpus(tmp_path / "c", showers([1.0, 50.0], [3, 4]), [10])
    shard = corpus.path / "train" / "000000.tar"
    altered = bytearray(shard.read_bytes())
    altered[int(corpus.split("train").index.offset[0]) + 700] ^= 1
    shard.write_bytes(altered)
    with pytest.raises(HepfmError, match=r"000000.tar: block 0 was altered"):
        export(Corpus.open(corpus.path), "parquet", tmp_path / "e", ["train"])
    assert not list((tmp_path / "e").rglob("*.parquet"))


def test_the_command_exports_a_split_and_says_how_to_open_it(
    corpora: dict[str, Corpus], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(corpora["jets"].path), "--out", str(tmp_path / "e"), "--format", "awkward", "--split", "val"]
    tools.export_corpus(parse(tools.ExportConfig, [*words, "--processes", "1"], "hepfm corpus export"))
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'e'}\n"
    assert f'to open it: awkward.from_parquet("{tmp_path / "e"}/val")' in told.err
    assert [file.name for file in (tmp_path / "e").iterdir() if file.is_dir()] == ["val"]
    config = tools.ExportConfig(corpora["showers"].path, "parquet", tmp_path / "f", "val", 1)
    with pytest.raises(HepfmError, match="has no split 'val'"):
        tools.export_corpus(config)
