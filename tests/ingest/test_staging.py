"""A corpus on a server is the corpus on disk; what is wrong there never gets into the cache."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import webdataset
from rough_server import Fault, RoughServer, body, cut, slow, status

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest import staging
from hepfm.ingest.command import InspectConfig, inspect_corpus
from hepfm.ingest.corpus import Corpus, remote_url
from hepfm.ingest.describe import describe
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.reader import Reader
from hepfm.ingest.staging import local_folder, stage
from hepfm.ingest.verify import verify

SHARD = "/data/toy jets/train/000001.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEPFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(server: RoughServer, toy_corpus: Corpus) -> str:
    """The toy corpus on the misbehaving server."""
    for file in toy_corpus.path.rglob("*"):
        if file.is_file():
            server.add(f"/data/toy jets/{file.relative_to(toy_corpus.path)}", file.read_bytes())
    return f"{server.url}/data/toy jets"


def kept(cache: Path) -> list[str]:
    return sorted(file.name for file in (cache / "shards").glob("*"))


def shards(corpus: Corpus) -> list[str]:
    return sorted(f"{shard.sha256}.tar" for split in corpus.manifest.splits.values() for shard in split.shards)


def records(corpus: Corpus) -> list[Any]:
    return [batch.to_pylist() for name in corpus.splits() for batch in corpus.split(name)]


def test_a_remote_corpus_reads_as_the_local_one(url: str, toy_corpus: Corpus, cache: Path) -> None:
    corpus = Corpus.open(url)
    assert (corpus.digest, corpus.url) == (toy_corpus.digest, url)
    assert corpus.manifest == toy_corpus.manifest
    assert kept(cache) == []  # opening it fetches no shard
    gc.collect()  # what earlier tests left would be freed meanwhile
    before = pa.total_allocated_bytes()
    held = list(corpus.split("train"))
    assert pa.total_allocated_bytes() <= before  # mapped, not copied
    assert held[0].equals(toy_corpus.split("train").read(0))
    assert records(corpus) == records(toy_corpus)
    assert kept(cache) == shards(toy_corpus)


def test_only_the_shard_that_is_read_is_fetched_and_only_once(
    url: str, server: RoughServer, toy_corpus: Corpus, cache: Path
) -> None:
    split = Corpus.open(url).split("train")
    block = split.blocks_of(1).start
    for _ in range(2):
        split.read(block)
        Corpus.open(url).split("train").read(block)
    assert kept(cache) == [f"{toy_corpus.manifest.splits['train'].shards[1].sha256}.tar"]
    assert [path for path, _ in server.requests if path.endswith(".tar")] == [SHARD]


@pytest.mark.parametrize("as_path", [False, True])
def test_an_address_may_have_lost_a_slash(url: str, toy_corpus: Corpus, as_path: bool) -> None:
    assert Corpus.open(Path(url) if as_path else f"{url}/").digest == toy_corpus.digest


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://host/a/b/", "https://host/a/b"),
        (Path("s3://bucket/key"), "s3://bucket/key"),
        ("memory://x", "memory://x"),
        ("/data/corpus", None),
        ("corpus", None),
        (Path("C:/corpus"), None),
        ("file:///data/corpus", None),
        ("a:b/c", None),
    ],
)
def test_addresses_are_told_from_paths(path: Path | str, expected: str | None) -> None:
    assert remote_url(path) == expected


def test_staging_brings_all_shards_and_a_folder_that_verifies(
    url: str, server: RoughServer, toy_corpus: Corpus, cache: Path
) -> None:
    folder = local_folder(url)
    assert kept(cache) == shards(toy_corpus)
    assert verify(folder) == []
    asked = len(server.requests)
    assert records(Corpus.open(folder)) == records(toy_corpus)
    stage(Corpus.open(folder))
    assert len(server.requests) == asked  # the folder in the cache is a corpus of its own
    assert local_folder(toy_corpus.path) == toy_corpus.path


def test_a_remote_corpus_goes_to_worker_processes_without_asking_again(
    url: str, server: RoughServer, toy_corpus: Corpus
) -> None:
    corpus = Corpus.open(url)
    asked = len(server.requests)
    split = pickle.loads(pickle.dumps(corpus.split("val")))  # noqa: S301
    assert len(server.requests) == asked
    assert split.read(1).equals(toy_corpus.split("val").read(1))
    assert split.corpus.url == url


def test_training_order_does_not_depend_on_where_the_corpus_is(url: str, toy_corpus: Corpus) -> None:
    def read(corpus: Corpus) -> list[Any]:
        reader = Reader([corpus.split("train")], seed=3)
        return [reader.take(start, start + 100).batch.to_pylist() for start in (0, 4700)]

    assert read(Corpus.open(url)) == read(toy_corpus)


def test_a_description_needs_no_shard(url: str, toy_corpus: Corpus, cache: Path) -> None:
    ours, theirs = (describe(corpus).split("\n", 1)[1] for corpus in (Corpus.open(url), toy_corpus))
    assert ours == theirs
    assert kept(cache) == []


def test_inspect_takes_an_address(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_corpus(parse(InspectConfig, [url], "hepfm corpus inspect"))
    assert "constituents.pt" in capsys.readouterr().out


def test_cut_connections_do_not_show(url: str, server: RoughServer, toy_corpus: Corpus) -> None:
    for path in list(server.files):
        server.faults[path] = [status(503), cut(1000)]
    assert records(Corpus.open(url)) == records(toy_corpus)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda data: body(data[:-1] + bytes([data[-1] ^ 1])), r"has sha256 [0-9a-f]{16}\.\.\., expected"),
        (lambda data: body(data[:-1]), r"has [\d,]+ bytes, expected"),
        (lambda data: body(b"<html>"), r"has 6 bytes, expected"),
        (lambda data: status(404), r"no such file there \(404\)"),
    ],
)
def test_a_wrong_shard_is_named_and_not_kept(
    url: str, server: RoughServer, toy_corpus: Corpus, cache: Path, fault: Callable[[bytes], Fault], message: str
) -> None:
    corpus = Corpus.open(url)
    split = corpus.split("train")
    server.always[SHARD] = fault(server.files[SHARD])
    with pytest.raises(HepfmError, match=rf"/data/toy(%20| )jets/train/000001\.tar: .*{message}"):
        split.read(split.blocks_of(1).start)
    assert kept(cache) == []
    with pytest.raises(HepfmError, match=rf"000001\.tar: .*{message}"):
        stage(corpus)
    missing = {f"{toy_corpus.manifest.splits['train'].shards[1].sha256}.tar"}
    assert set(kept(cache)) == set(shards(toy_corpus)) - missing
    del server.always[SHARD]
    assert split.read(split.blocks_of(1).start).equals(toy_corpus.split("train").read(split.blocks_of(1).start))


def test_a_wrong_manifest_or_table_is_named_and_not_kept(url: str, server: RoughServer, cache: Path) -> None:
    for name, message in (("corpus.json", "was altered|is broken"), ("blocks.arrow", "has sha256")):
        path = f"/data/toy jets/{name}"
        whole = server.files[path]
        server.files[path] = whole[:100] + b"~" + whole[101:]
        with pytest.raises(HepfmError, match=rf"jets/{name}: .*({message})"):
            Corpus.open(url)
        assert not list(cache.rglob("corpus.json"))
        assert not list(cache.rglob("blocks.arrow"))
        server.files[path] = whole


def test_no_corpus_there_is_told(server: RoughServer) -> None:
    with pytest.raises(HepfmError, match=r"/nothing/corpus\.json: .*no such file there \(404\)"):
        Corpus.open(f"{server.url}/nothing")


def test_a_copy_that_went_bad_in_the_cache_is_fetched_again(
    url: str, server: RoughServer, toy_corpus: Corpus, cache: Path
) -> None:
    folder = local_folder(url)
    train = toy_corpus.manifest.splits["train"]
    cut_short, altered = (cache / "shards" / f"{train.shards[number].sha256}.tar" for number in (0, 1))
    cut_short.write_bytes(cut_short.read_bytes()[:-512])
    data = bytearray(altered.read_bytes())
    block = toy_corpus.split("train").blocks_of(1).start
    index = toy_corpus.split("train").index
    data[int(index.offset[block] + index.length[block] // 2)] ^= 4
    altered.write_bytes(data)
    assert len(verify(folder)) > 1
    split = Corpus.open(url).split("train")
    assert split.read(0).equals(toy_corpus.split("train").read(0))
    with pytest.raises(HepfmError, match=r"was altered: .*this copy of http.*is removed \(run the same command again"):
        split.read(block)
    assert records(Corpus.open(url)) == records(toy_corpus)
    assert verify(folder) == []


def test_what_a_killed_process_left_in_the_cache_does_not_stay(url: str, toy_corpus: Corpus, cache: Path) -> None:
    folder = Corpus.open(url).path
    whole = {path.name for path in folder.iterdir()}
    for name in ("corpus.json", "blocks.arrow"):
        (folder / name).unlink()
        (folder / f".{name}.part").write_bytes(b"{")
    assert Corpus.open(url).path == folder
    assert {path.name for path in folder.iterdir()} == whole
    assert Corpus.open(folder).digest == toy_corpus.digest


def test_a_cache_that_has_all_is_only_read(
    url: str, toy_corpus: Corpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_folder(url)

    def written(*_: object) -> None:
        raise AssertionError("something was written")

    monkeypatch.setattr(staging, "write_shared", written)
    monkeypatch.setattr(staging, "partial_file", written)
    monkeypatch.setattr(staging, "download", written)
    monkeypatch.setattr(Path, "symlink_to", written)
    assert records(Corpus.open(url)) == records(toy_corpus)
    assert verify(local_folder(url)) == []


def test_a_link_to_where_the_shards_once_were_is_made_anew(url: str, toy_corpus: Corpus, cache: Path) -> None:
    folder = local_folder(url)
    for link in folder.glob("*/*.tar"):
        here = os.readlink(link)
        link.unlink()
        link.symlink_to(f"/elsewhere/{link.name}")
        assert staging.stage_shard(url, folder, entry_of(toy_corpus, link)) == link
        assert os.readlink(link) == here
    assert verify(folder) == []
    assert {path.suffix for path in folder.glob("*/.*")} == set()


def entry_of(corpus: Corpus, path: Path) -> ShardEntry:
    return next(shard for shard in corpus.manifest.splits[path.parent.name].shards if path.name in shard.name)


def test_a_corpus_that_is_replaced_at_its_address_is_another_corpus(
    url: str, server: RoughServer, token_corpus: Callable[..., Path]
) -> None:
    old = Corpus.open(url)
    tokens = token_corpus()
    for file in tokens.rglob("*"):
        if file.is_file():
            server.add(f"/data/toy jets/{file.relative_to(tokens)}", file.read_bytes())
    new = Corpus.open(url)
    assert new.digest == Corpus.open(tokens).digest != old.digest
    assert (new.path / "tokenizer" / "config.json").read_bytes() == (tokens / "tokenizer" / "config.json").read_bytes()
    assert verify(local_folder(url)) == []
    with pytest.raises(HepfmError, match=r"val/000000\.tar: .* \(the copy there is damaged or was replaced"):
        old.split("val").read(0)


SCRIPT = """
import sys
from hepfm.core import http_get
http_get.CHUNK_BYTES = 1 << 12
from hepfm.ingest.staging import local_folder
local_folder(sys.argv[1])
"""


def test_processes_that_stage_the_same_corpus_share_the_work(
    url: str, server: RoughServer, toy_corpus: Corpus, cache: Path
) -> None:
    for path in server.files:
        server.always[path] = slow(0.002)
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, url]) for _ in range(3)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    asked = [path for path, _ in server.requests if path.endswith(".tar")]
    assert len(asked) == len(set(asked)) == len(shards(toy_corpus))
    assert kept(cache) == shards(toy_corpus)
    assert verify(local_folder(url)) == []


def test_threads_may_read_the_same_remote_split(url: str, toy_corpus: Corpus) -> None:
    split = Corpus.open(url).split("train")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append([batch.num_rows for batch in split])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[batch.num_rows for batch in toy_corpus.split("train")]] * 4


@pytest.fixture
def in_memory(toy_corpus: Corpus) -> Iterator[str]:
    """The toy corpus on a store of fsspec's, as it would lie on S3."""
    store = fsspec.filesystem("memory")
    for file in toy_corpus.path.rglob("*"):
        if file.is_file():
            store.pipe_file(f"/bucket/toy/{file.relative_to(toy_corpus.path)}", file.read_bytes())
    yield "memory://bucket/toy"
    store.rm("/bucket", recursive=True)


def test_any_store_of_fsspec_will_do(in_memory: str, toy_corpus: Corpus, cache: Path) -> None:
    assert records(Corpus.open(in_memory)) == records(toy_corpus)
    assert verify(local_folder(Path(in_memory))) == []
    assert kept(cache) == shards(toy_corpus)


def test_a_wrong_shard_on_a_store_is_named_and_not_kept(in_memory: str, cache: Path) -> None:
    store = fsspec.filesystem("memory")
    whole = store.cat_file("/bucket/toy/val/000000.tar")
    for data, message in (
        (whole[:-1], "bytes, expected"),
        (whole[:-1] + b"\x01", "has sha256"),
        (None, "no such file"),
    ):
        if data is None:
            store.rm_file("/bucket/toy/val/000000.tar")
        else:
            store.pipe_file("/bucket/toy/val/000000.tar", data)
        with pytest.raises(HepfmError, match=rf"^memory://bucket/toy/val/000000\.tar: .*{message}"):
            Corpus.open(in_memory).split("val").read(0)
        assert kept(cache) == []


def test_a_store_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(HepfmError, match=r"s3://bucket/toy/corpus\.json: .* \(pip install s3fs\)"):
        Corpus.open("s3://bucket/toy")
    with pytest.raises(HepfmError, match=r"nonsense://bucket/corpus\.json: cannot be read: Protocol not known"):
        Corpus.open("nonsense://bucket")
    with pytest.raises(HepfmError, match=r"^http://\[::1/corpus\.json: cannot be downloaded: "):
        Corpus.open("http://[::1")


def test_a_manifest_cannot_lead_out_of_the_cache(toy_corpus: Corpus, cache: Path) -> None:
    entry = toy_corpus.manifest.splits["train"].shards[0]
    evil = type(entry)(**{**vars(entry), "sha256": "../../../evil"})
    with pytest.raises(HepfmError, match="no valid SHA-256"):
        staging.stage_shard("http://127.0.0.1:9/x", cache, evil)


@pytest.fixture
def plain_server(toy_corpus: Corpus) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(toy_corpus.path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def streamed(urls: list[str]) -> list[Any]:
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    return [pa.ipc.open_stream(sample["arrow"]).read_next_batch().to_pylist() for sample in samples]


def test_webdataset_alone_streams_the_shards_over_http_and_through_a_pipe(
    toy_corpus: Corpus, plain_server: str
) -> None:
    ours = [batch.to_pylist() for batch in toy_corpus.split("train")]
    names = [shard.name for shard in toy_corpus.manifest.splits["train"].shards]
    assert streamed([f"pipe:cat '{toy_corpus.path / name}'" for name in names]) == ours
    if shutil.which("curl") is None:
        pytest.skip("webdataset reads http through curl, which is not there")
    assert streamed([f"{plain_server}/{name}" for name in names]) == ours
