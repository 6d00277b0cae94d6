from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest import jobs
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.verify import verify


def test_a_sound_corpus_has_no_problem(toy_corpus: Corpus) -> None:
    assert verify(toy_corpus.path) == []


@pytest.fixture(scope="module")
def copy(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with few shards, so that checking it is quick; tests mend what they break."""
    return Path(shutil.copytree(toy_corpus.path, tmp_path_factory.mktemp("verify") / "copy"))


@settings(max_examples=120)
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
    sound = [[3.0, 2.0, 2.0], [], [5.0, 1.0], [4.0]]
    assert verify(write(tmp_path / "sound", jets(sound))) == []
    cases = {
        "constituents of record 2 are not ordered by pt": jets([[3.0, 2.0], [], [1.0, 5.0]]),
        "constituents.pt is not finite in record 1": jets([[1.0], [2.0, float("nan")]]),
        "origin is no entry of a source file": jets(sound, entry=10),
    }
    for number, (message, batch) in enumerate(cases.items()):
        problems = verify(write(tmp_path / str(number), batch))
        assert len(problems) == 1
        assert message in problems[0]
        assert "train/000000.tar: block 0" in problems[0]


@pytest.mark.parametrize("kind", ["link", "device", "outside"])
def test_a_tar_that_holds_more_than_files_is_found(copy: Path, kind: str, tmp_path: Path) -> None:
    shard = copy / "test" / "000001.tar"
    whole = shard.read_bytes()
    member = tarfile.TarInfo("/etc/passwd" if kind == "outside" else "000001-000000.arrow")
    member.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE, "outside": tarfile.REGTYPE}[kind]
    header = member.tobuf(tarfile.USTAR_FORMAT)
    try:
        shard.write_bytes(header + whole[len(header) :])
        assert any("is no block" in problem for problem in verify(copy))
    finally:
        shard.write_bytes(whole)
