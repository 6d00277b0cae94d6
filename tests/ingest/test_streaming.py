"""A corpus streams with ``webdataset`` alone: the documented lines, word for word, over files, a pipe and HTTP."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from derived import rows

from hepfm.ingest.corpus import Corpus

LINES = """
import pyarrow as pa
import webdataset as wds

for sample in wds.WebDataset(url, shardshuffle=False):
    block = pa.ipc.open_stream(sample["arrow"]).read_next_batch()
    constituents = block.column("constituents")
    offsets = constituents.offsets.to_numpy()  # constituents of jet i: offsets[i] to offsets[i + 1]
    pt = constituents.values.field("pt").to_numpy()  # GeV
    jet_pt = block.column("pt").to_numpy()  # GeV
    label = block.column("label").to_pylist()
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing: the test's output is its own."""


@pytest.fixture
def address(toy_corpus: Corpus) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(toy_corpus.path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("way", ["files", "pipe", "http"])
def test_the_documented_lines_read_a_corpus(toy_corpus: Corpus, address: str, way: str) -> None:
    if way == "http" and shutil.which("curl") is None:
        pytest.skip("webdataset reads over HTTP with curl, which is not here")
    last = len(toy_corpus.manifest.splits["train"].shards) - 1
    shards = f"train/{{000000..{last:06d}}}.tar"
    urls = {
        "files": toy_corpus.path / shards,
        "pipe": f"pipe:cat {toy_corpus.path / shards}",
        "http": f"{address}/{shards}",
    }
    found: list[tuple[float, str, list[float]]] = []

    def keep(jet_pt: Any, label: list[str], offsets: Any, pt: Any) -> None:
        stretches = [pt[a:b].tolist() for a, b in pairwise(offsets)]
        found.extend(zip(jet_pt.tolist(), label, stretches, strict=True))

    assert len(LINES.strip().splitlines()) <= 10 + 1  # one is blank
    lines = f"{LINES.rstrip()}\n    keep(jet_pt, label, offsets, pt)\n"
    exec(compile(lines, str(Path(__file__)), "exec"), {"url": str(urls[way]), "keep": keep})
    assert found == [
        (row["pt"], row["label"], [constituent["pt"] for constituent in row["constituents"]])
        for row in rows(toy_corpus, "train")
    ]
