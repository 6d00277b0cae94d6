from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from derived import showers, token_corpus, toy
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.ingest import jobs
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.manifest import Manifest, SplitEntry
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.verify import verify


def test_a_sound_corpus_has_no_problem(toy_corpus: Corpus) -> None:
    assert verify(toy_corpus.path) == []


@pytest.fixture(scope="module")
def copy(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with few shards, so that checking it is quick; tests mend what they break."""
    return Path(shutil.copytree(toy_corpus.path, tmp_path_factory.mktemp("verify") / "copy"))


@settings(max_examples=60)
@given(st.data())
def test_every_flipped_bit_is_found(copy: Path, data: st.DataObject) -> None:
    names = ["corpus.json", "blocks.arrow", "train/000003.tar", "test/000000.tar"]
    file = copy / data.draw(st.sampled_from(names))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(altered)
        problems = verify(copy)
        assert problems
        assert all(file.name in problem or str(copy) in problem for problem in problems)
    finally:
        file.write_bytes(whole)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token corpus of 150 jets with its tokenizer attached; tests mend what they break."""
    folder = tmp_path_factory.mktemp("small")
    return token_corpus(toy(folder, (150,), 1), folder / "work").path


def places(file: Path, draw: random.Random) -> list[int]:
    """Bytes of a file to be altered: of a shard some of every header, block, padding, and of the end."""
    size = file.stat().st_size
    if file.suffix != ".tar":
        return [draw.randrange(size) for _ in range(60)]
    found = [draw.randrange(size - 1024, size) for _ in range(6)]
    with tarfile.open(file) as tar:
        for member in tar:
            stop = member.offset_data + member.size
            found += [member.offset + draw.randrange(512) for _ in range(20)]
            found += [member.offset_data + draw.randrange(member.size) for _ in range(20)]
            found += [draw.randrange(stop, stop + -stop % 512) for _ in range(6) if stop % 512]
    return found


def test_a_flipped_bit_in_any_part_of_any_file_is_found(small: Path) -> None:
    draw = random.Random(1)
    files = sorted(file for file in small.rglob("*") if file.is_file())
    assert {"corpus.json", "blocks.arrow", "config.json", "000000.tar"} <= {file.name for file in files}
    flips = [(file, at) for file in files for at in places(file, draw)]
    assert len(flips) >= 300
    for file, at in flips:
        whole = file.read_bytes()
        altered = bytearray(whole)
        altered[at] ^= 1 << draw.randrange(8)
        try:
            file.write_bytes(altered)
            problems = verify(small)
            assert problems, (file, at)
            assert any(file.name in problem for problem in problems), (file, at, problems)
        finally:
            file.write_bytes(whole)
    assert verify(small) == []


def test_reading_a_block_with_a_flipped_bit_is_an_error(small: Path) -> None:
    draw = random.Random(2)
    corpus = Corpus.open(small)
    for name in corpus.splits():
        split = corpus.split(name)
        for block in range(len(split)):
            file = split.shard_path(int(split.index.shard[block]))
            whole = file.read_bytes()
            for _ in range(20):
                at = int(split.index.offset[block]) + draw.randrange(int(split.index.length[block]))
                altered = bytearray(whole)
                altered[at] ^= 1 << draw.randrange(8)
                try:
                    file.write_bytes(altered)
                    with pytest.raises(HepfmError, match=rf"{file.name}: block \d+ was altered: xxh64"):
                        Corpus.open(small).split(name).read(block)
                finally:
                    file.write_bytes(whole)


def test_all_that_is_wrong_is_listed_whoever_looks(copy: Path) -> None:
    """Damage in several places is told at once, and the same by several processes."""
    names = ("train/000001.tar", "train/000004.tar", "test/000000.tar")
    whole = {name: (copy / name).read_bytes() for name in names}
    try:
        for name in names[:2]:
            altered = bytearray(whole[name])
            for at in (600, len(altered) // 2):
                altered[at] ^= 2
            (copy / name).write_bytes(altered)
        (copy / names[2]).unlink()
        problems = verify(copy)
        for name in names[:2]:
            mine = [problem for problem in problems if problem.startswith(f"{copy / name}: ")]
            assert sum("was altered: sha256" in problem for problem in mine) == 1
            assert sum("was altered: xxh64" in problem for problem in mine) == 2
        assert sum("this shard is missing" in problem for problem in problems) == 1
        assert len(problems) == 7
        assert verify(copy, processes=2) == problems
    finally:
        for name, data in whole.items():
            (copy / name).write_bytes(data)


def test_without_the_table_of_blocks_shards_are_still_checked(copy: Path) -> None:
    table, shard = copy / "blocks.arrow", copy / "val" / "000000.tar"
    whole = {file: file.read_bytes() for file in (table, shard)}
    try:
        for file, data in whole.items():
            file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        problems = verify(copy)
        assert [problem.split(":")[0] for problem in problems] == [str(table), str(shard)]
        assert all("was altered: sha256" in problem for problem in problems)
    finally:
        for file, data in whole.items():
            file.write_bytes(data)


def restated(folder: Path, **changes: Any) -> list[str]:
    """What verify says when the manifest states something else, with a digest that fits."""
    path = folder / "corpus.json"
    whole = path.read_text()
    try:
        replace(Manifest.load(folder), **changes).save(folder)
        return verify(folder)
    finally:
        path.write_text(whole)


def test_a_manifest_that_says_the_same_in_other_bytes_is_altered_too(copy: Path) -> None:
    path = copy / "corpus.json"
    whole = path.read_text()
    manifest = Manifest.load(copy)
    try:
        replace(manifest, provenance={**manifest.provenance, "small": 1e-9}).save(copy)
        assert verify(copy) == []
        text = path.read_text()
        for altered in (text.replace('"small": 1e-09', '"small": 1E-09'), json.dumps(json.loads(text)), text + " "):
            assert altered != text
            path.write_text(altered)
            assert verify(copy) == [f"{path}: was altered: its own digest disagrees"]
    finally:
        path.write_text(whole)


def test_figures_that_are_not_those_of_the_records_are_found(copy: Path) -> None:
    manifest = Manifest.load(copy)
    pt = manifest.statistics["pt"]
    for what, value in (("min", pt["min"] - 1), ("mean", pt["mean"] * 1.001), ("count", pt["count"] + 1)):
        problems = restated(copy, statistics={**manifest.statistics, "pt": {**pt, what: value}})
        assert len(problems) == 1
        assert f"{what} of pt is {pt[what]}, stated {value}" in problems[0]
    val = manifest.splits["val"]
    labels = {**val.labels, "qcd": val.labels["qcd"] + 1}
    problems = restated(copy, splits={**manifest.splits, "val": replace(val, labels=labels)})
    assert len(problems) == 1
    assert "labels of val are" in problems[0]


def test_a_shard_that_is_missing_or_too_many_is_found(copy: Path) -> None:
    extra = copy / "train" / "000099.tar"
    shutil.copy(copy / "train" / "000000.tar", extra)
    assert verify(copy) == [f"{extra}: the manifest does not know this shard"]
    moved = (copy / "val" / "000000.tar").rename(copy / "val" / "away")
    assert any("val/000000.tar: this shard is missing" in problem for problem in verify(copy))
    moved.rename(copy / "val" / "000000.tar")
    extra.unlink()
    assert verify(copy) == []


def jets(pt: list[list[float]], entry: int = 0) -> pa.RecordBatch:
    """Jets with the given constituent pt."""
    schema = records.schema("jets", ("pt",), ("mass",))
    offsets = pa.array(np.cumsum([0, *map(len, pt)]), pa.int32())
    item = schema.field(0).type
    points = pa.StructArray.from_arrays(
        [pa.array([value for jet in pt for value in jet], pa.float32())], fields=list(item.value_type)
    )
    n = len(pt)
    return pa.RecordBatch.from_arrays(
        [
            pa.ListArray.from_arrays(offsets, points, type=item),
            pa.array(np.ones(n), pa.float32()),
            pa.array(np.zeros(n), pa.int32()),
            pa.array(np.full(n, entry), pa.int64()),
        ],
        schema=schema,
    )


def write(folder: Path, batch: pa.RecordBatch) -> Path:
    """A corpus of this one batch, from a source file of ten entries."""
    plan = Plan(
        identity={},
        jobs=(Job("train", 0, None, len(batch)),),
        kind="jets",
        schema=batch.schema,
        labels=(),
        axis="stored",
        block_records=100,
        provenance={"files": [{"entries": 10}]},
    )
    return write_corpus(folder, plan, lambda job: [batch]).path


def test_a_value_that_is_not_finite_never_gets_into_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"train/000000.tar: constituents.pt is not finite"):
        write(tmp_path / "c", jets([[1.0], [2.0, float("nan")]]))


def test_jets_that_break_the_rules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "summarise", lambda batch, into: None)  # so that the writer does not see them
    sound = [[3.0, 2.0, 2.0], [1.0], [5.0, 1.0], [4.0]]
    assert verify(write(tmp_path / "sound", jets(sound))) == []
    cases = {
        "constituents of record 2 are not ordered by pt": jets([[3.0, 2.0], [1.0], [1.0, 5.0]]),
        "constituents.pt is not finite in record 1": jets([[1.0], [2.0, float("nan")]]),
        "origin is no entry of a source file": jets(sound, entry=10),
    }
    for number, (message, batch) in enumerate(cases.items()):
        problems = verify(write(tmp_path / str(number), batch))
        assert len(problems) == 1
        assert message in problems[0]
        assert "train/000000.tar: block 0" in problems[0]


def test_an_entry_that_is_in_two_splits_is_found(tmp_path: Path) -> None:
    def both(train: range, val: range) -> Corpus:
        plan = Plan(
            identity={},
            jobs=(Job("train", 0, list(train), len(train)), Job("val", 0, list(val), len(val))),
            kind="showers",
            schema=showers([1.0], [1]).schema,
            labels=(),
            axis="",
            block_records=8,
            provenance={"files": [{"name": name, "sha256": name, "entries": 20} for name in "ab"]},
        )
        return write_corpus(tmp_path / f"{val}", plan, lambda job: [numbered(job.payload)])

    def numbered(entries: list[int]) -> pa.RecordBatch:
        batch = showers([1.0] * len(entries), [2] * len(entries))
        origins = {"source_file": [entry // 20 for entry in entries], "source_entry": [entry % 20 for entry in entries]}
        for name, values in origins.items():
            at = batch.schema.get_field_index(name)
            batch = batch.set_column(at, batch.schema.field(at), pa.array(values, batch.schema.field(at).type))
        return batch

    assert verify(both(range(25), range(25, 40)).path) == []
    (problem,) = verify(both(range(25), range(23, 40)).path, processes=2)
    assert "2 entries of source files are in more than one split, first entry 3 of b" in problem


FOREIGN = {
    "symbolic link": ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link, '000001-000000.arrow'"),
    "hard link": ({"type": tarfile.LNKTYPE, "linkname": "../../secret"}, "a link, '000001-000000.arrow'"),
    "character device": ({"type": tarfile.CHRTYPE}, "a device, '000001-000000.arrow'"),
    "block device": ({"type": tarfile.BLKTYPE}, "a device, '000001-000000.arrow'"),
    "pipe": ({"type": tarfile.FIFOTYPE}, "a device, '000001-000000.arrow'"),
    "folder": ({"type": tarfile.DIRTYPE}, "a member of type b'5'"),
    "absolute path": ({"name": "/etc/passwd"}, "a file, '/etc/passwd'"),
    "parent folder": ({"name": "../outside.arrow"}, "a file, '../outside.arrow'"),
    "other name": ({"name": "000001-000007.arrow"}, "a file, '000001-000007.arrow'"),
    "owner": ({"uid": 1000}, "a header with other owner, time, mode or size"),
    "time": ({"mtime": 1}, "a header with other owner, time, mode or size"),
    "mode": ({"mode": 0o4755}, "a header with other owner, time, mode or size"),
}


@pytest.mark.parametrize("kind", list(FOREIGN))
def test_a_tar_that_holds_anything_but_its_blocks_is_found(copy: Path, kind: str) -> None:
    """Also where sha256 of shard and manifest were made to fit, as a malicious writer would do."""
    changes, message = FOREIGN[kind]
    shard = copy / "test" / "000001.tar"
    whole = shard.read_bytes()
    try:
        shard.write_bytes(with_header(whole, changes))
        problems = restated(copy, splits=with_sha256(Manifest.load(copy), "test", 1, shard))
        assert [problem for problem in problems if "sha256" in problem] == []
        assert len(problems) == 1
        assert message in problems[0]
        assert problems[0].startswith(f"{shard}: before block 0 stands ")
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind not in ("owner", "time", "mode")])
def test_reading_from_a_tar_that_holds_anything_else_is_an_error(copy: Path, kind: str) -> None:
    changes, message = FOREIGN[kind]
    shard = copy / "test" / "000001.tar"
    whole = shard.read_bytes()
    try:
        shard.write_bytes(with_header(whole, changes))
        split = Corpus.open(copy).split("test")
        with pytest.raises(HepfmError) as error:
            split.read(split.blocks_of(1).start)
        assert error.value.what.startswith(f"before block 0 stands {message}")
        assert error.value.where == str(shard)
    finally:
        shard.write_bytes(whole)


def with_header(tar: bytes, changes: dict[str, Any]) -> bytes:
    """A tar whose first member has something else in its header."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        member = next(iter(file))
    for name, value in changes.items():
        setattr(member, name, value)
    header = member.tobuf(tarfile.USTAR_FORMAT)
    return header + tar[len(header) :]


@pytest.mark.parametrize("where", ["padding", "end"])
def test_bytes_hidden_between_or_after_the_blocks_are_found(copy: Path, where: str) -> None:
    shard = copy / "test" / "000001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        member = next(member for member in tar if member.size % 512)
    at = len(whole) - 1 if where == "end" else member.offset_data + member.size
    try:
        shard.write_bytes(whole[:at] + b"x" + whole[at + 1 :])
        problems = restated(copy, splits=with_sha256(Manifest.load(copy), "test", 1, shard))
        expected = "after the last block there is something else" if where == "end" else "something in the padding"
        assert len(problems) == 1
        assert expected in problems[0]
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize(("column", "value"), [("offset", 0), ("offset", 10**9), ("length", 10**9), ("length", -1)])
def test_a_table_that_points_elsewhere_is_found(copy: Path, column: str, value: int) -> None:
    path = copy / "blocks.arrow"
    whole = path.read_bytes()
    table = pa.ipc.open_file(whole).read_all()
    at, values = table.schema.get_field_index(column), table[column].to_pylist()
    values[0] = value
    table = table.set_column(at, table.schema.field(at), pa.array(values, pa.int64()))
    try:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        problems = restated(copy, blocks_sha256=sha256_file(path))
        assert any("000000.tar: block 0 lies at" in problem for problem in problems)
    finally:
        path.write_bytes(whole)


def with_sha256(manifest: Manifest, split: str, number: int, file: Path) -> dict[str, SplitEntry]:
    """The splits with the checksum that a shard has now."""
    entry = manifest.splits[split]
    shards = list(entry.shards)
    shards[number] = replace(shards[number], sha256=sha256_file(file))
    return {**manifest.splits, split: replace(entry, shards=tuple(shards))}
