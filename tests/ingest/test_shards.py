from __future__ import annotations

import io
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from hepfm.ingest.corpus import Corpus
from hepfm.ingest.shards import index_bytes, read_index, reblock, write_shard


def batch_of(values: list[int]) -> pa.RecordBatch:
    points = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), pa.array(values, pa.uint16()))
    return pa.RecordBatch.from_arrays([points], names=["tokens"])


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 15))
def test_blocks_hold_the_same_records_in_the_same_order(sizes: list[int], size: int) -> None:
    edges = np.cumsum([0, *sizes])
    batches = [batch_of(list(range(a, b))) for a, b in pairwise(edges.tolist())]
    blocks = list(reblock(batches, size))
    assert [value for block in blocks for value in block.column(0).flatten().to_pylist()] == list(range(edges[-1]))
    assert all(len(block) == size for block in blocks[:-1])
    assert not blocks or 0 < len(blocks[-1]) <= size


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.tar", 3, [batch_of([1, 2, 3]), batch_of([4])])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_shard_is_a_plain_ustar_of_anonymous_files(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.tar", 3, [batch_of([1, 2, 3]), batch_of([4])])
    data = (tmp_path / "a.tar").read_bytes()
    assert len(data) == written.bytes
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["000003-000000.arrow", "000003-000001.arrow"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert not any(member.pax_headers for member in members)
    assert [member.offset_data for member in members] == [block.offset for block in written.blocks]


def test_no_records_make_no_file(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a.tar", 0, []).blocks == ()
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_blocks_survives_the_disk(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.tar", 3, [batch_of([1, 2, 3]), batch_of([4])])
    rows = [("val", 3, number, block) for number, block in enumerate(written.blocks)]
    (tmp_path / "blocks.arrow").write_bytes(index_bytes(rows, ("train", "val", "test")))
    index = read_index(tmp_path / "blocks.arrow")
    assert list(index) == ["val"]
    assert index["val"].records.tolist() == [3, 1]
    assert index["val"].xxh64.tolist() == [block.xxh64 for block in written.blocks]


def test_webdataset_and_tarfile_read_what_the_corpus_reads(toy_corpus: Corpus) -> None:
    for name in toy_corpus.splits():
        split = toy_corpus.split(name)
        urls = [str(toy_corpus.path / shard.name) for shard in toy_corpus.manifest.splits[name].shards]
        ours = [batch.to_pylist() for batch in split]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        assert [sorted(sample) for sample in samples[:1]] == [["__key__", "__local_path__", "__url__", "arrow"]]
        assert [pa.ipc.open_stream(sample["arrow"]).read_next_batch().to_pylist() for sample in samples] == ours
        assert [sample["__key__"] for sample in samples] == [member for url in urls for member in keys_of(url)]
        plain = [pa.ipc.open_stream(io.BytesIO(data)).read_all().to_pylist() for url in urls for data in data_of(url)]
        assert plain == ours


def keys_of(url: str) -> list[str]:
    with tarfile.open(url) as tar:
        return [name.removesuffix(".arrow") for name in tar.getnames()]


def data_of(url: str) -> list[bytes]:
    with tarfile.open(url) as tar:
        return [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
