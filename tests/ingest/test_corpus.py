from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, read_json
from hepfm.ingest import corpus as corpus_module
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.manifest import FORMAT, Manifest, _text
from hepfm.ingest.plan import mirror_jobs


@pytest.fixture
def copy(toy_corpus: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_corpus.path, tmp_path / "copy"))


def rewrite(folder: Path, **changes: object) -> None:
    """Write a manifest with changes and a digest that fits them."""
    data = {**read_json(folder / "corpus.json"), **changes}
    del data["digest"]
    (folder / "corpus.json").write_text(_text({**data, "digest": digest_of(data)}))


def test_a_corpus_opens_to_what_was_written(toy_corpus: Corpus) -> None:
    again = Corpus.open(toy_corpus.path)
    assert again.digest == toy_corpus.digest
    assert again.manifest == toy_corpus.manifest
    assert again.splits() == ["train", "val", "test"]
    split = again.split("train")
    assert split.records == split.block_records.sum() == sum(len(batch) for batch in split) == 4800
    assert split.points == split.block_points.sum()


def test_reading_a_block_copies_nothing(toy_corpus: Corpus) -> None:
    split = toy_corpus.split("train")
    before = pa.total_allocated_bytes()
    batches = list(split)
    assert pa.total_allocated_bytes() <= before
    assert batches[0].schema.equals(toy_corpus.manifest.schema, check_metadata=True)


def test_a_corpus_that_is_moved_stays_the_same(copy: Path, toy_corpus: Corpus) -> None:
    assert Corpus.open(copy).digest == toy_corpus.digest


def test_blocks_of_a_shard(toy_corpus: Corpus) -> None:
    split = toy_corpus.split("train")
    found = [block for shard in toy_corpus.manifest.splits["train"].shards for block in split.blocks_of(shard.number)]
    assert found == list(range(len(split)))


def test_few_shards_are_held_open(toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "OPEN_SHARDS", 2)
    split = Corpus.open(toy_corpus.path).split("train")
    kept = list(split)
    assert len(split._maps) == 2
    assert kept[0].to_pylist() == toy_corpus.split("train").read(0).to_pylist()


def test_a_corpus_and_its_splits_go_to_worker_processes(toy_corpus: Corpus) -> None:
    split = pickle.loads(pickle.dumps(toy_corpus.split("val")))  # noqa: S301
    assert split.read(1).equals(toy_corpus.split("val").read(1))


def test_a_truncated_shard_is_named(copy: Path) -> None:
    shard = copy / "train" / "000001.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-100])
    split = Corpus.open(copy).split("train")
    split.read(0)
    block = split.blocks_of(1).start
    with pytest.raises(HepfmError, match=rf"train/000001.tar: has {size - 100} bytes, expected {size} \(sha256"):
        split.read(block)
    shard.unlink()
    with pytest.raises(HepfmError, match=r"train/000001.tar: this shard is missing"):
        split.read(block)


def test_an_altered_block_is_named_with_both_checksums(copy: Path) -> None:
    split = Corpus.open(copy).split("train")
    block = split.blocks_of(2)[1]
    at = int(split.index.offset[block] + split.index.length[block] // 2)
    data = bytearray((copy / "train" / "000002.tar").read_bytes())
    data[at] ^= 4
    (copy / "train" / "000002.tar").write_bytes(data)
    split.read(split.blocks_of(2)[0])
    expected = f"{int(split.index.xxh64[block]):016x}"
    with pytest.raises(
        HepfmError, match=rf"train/000002.tar: block 1 was altered: xxh64 [0-9a-f]{{16}}, expected {expected}"
    ):
        split.read(block)


def test_what_is_no_corpus_is_told_so(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"is no corpus \(it has no corpus.json\)"):
        Corpus.open(tmp_path / "nowhere")
    (copy / "blocks.arrow").write_bytes(b"nothing")
    with pytest.raises(HepfmError, match=r"blocks.arrow: was altered: sha256"):
        Corpus.open(copy)
    (copy / "blocks.arrow").unlink()
    with pytest.raises(HepfmError, match=r"blocks.arrow: is missing"):
        Corpus.open(copy)


def test_a_newer_format_asks_for_a_newer_program(copy: Path) -> None:
    rewrite(copy, format=FORMAT + 1)
    with pytest.raises(HepfmError, match=r"newer than this hepfm.*update"):
        Corpus.open(copy)


@pytest.mark.parametrize("name", ["/etc/000000.tar", "train/../../000000.tar", "other/000000.tar", "val/000000.tar"])
def test_shards_outside_the_corpus_are_refused(copy: Path, name: str) -> None:
    splits = read_json(copy / "corpus.json")["splits"]
    splits["train"]["shards"][0]["name"] = name
    rewrite(copy, splits=splits)
    with pytest.raises(HepfmError, match="is no name of a shard"):
        Manifest.load(copy)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside"])
def test_files_outside_the_corpus_are_refused(copy: Path, name: str) -> None:
    rewrite(copy, files={name: "0" * 64})
    with pytest.raises(HepfmError, match="outside the corpus"):
        Manifest.load(copy)


def test_jobs_that_mirror_a_corpus_cover_its_blocks(toy_corpus: Corpus) -> None:
    jobs = mirror_jobs(toy_corpus)
    for name in toy_corpus.splits():
        mine = [job for job in jobs if job.split == name]
        covered = [block for job in mine for block in range(*job.payload)]
        assert covered == list(range(len(toy_corpus.split(name))))
        assert [job.name for job in mine] == [shard.name for shard in toy_corpus.manifest.splits[name].shards]
        assert np.sum([job.expected for job in mine]) == toy_corpus.split(name).records
