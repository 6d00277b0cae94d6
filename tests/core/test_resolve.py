"""Any name of a model leads to the same checked folder; a wrong byte on the way is named, never used."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from hepfm.core.artifacts import read_artifact, write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of
from hepfm.core.model_cache import collect
from hepfm.core.origins import FolderOrigin
from hepfm.core.resolve import resolve


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "artifact"
    path.parent.mkdir()
    write_artifact(
        path,
        kind="backbone",
        architecture={"width": 4},
        contract={},
        provenance={"corpus": "x"},
        weights={"w": torch.arange(4.0)},
        metrics={"loss": 1.5},
        reference={"x": np.arange(3)},
        card="# card\n",
    )
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEPFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(artifact: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(artifact))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_run_and_its_artifact_are_the_same_model(artifact: Path) -> None:
    assert resolve(artifact) == resolve(artifact.parent) == artifact
    read = read_artifact(artifact, "backbone")
    assert torch.equal(read.weights()["w"], torch.arange(4.0))
    assert read.metrics() == {"loss": 1.5}
    assert read.reference()["x"].tolist() == [0, 1, 2]


def test_a_url_is_downloaded_checked_and_cached(artifact: Path, server: str, cache: Path) -> None:
    path = resolve(server)
    assert path.is_relative_to(cache)
    assert read_artifact(path).hash == read_artifact(artifact).hash


def test_wrong_bytes_are_named_and_never_kept(artifact: Path, server: str, cache: Path) -> None:
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(HepfmError, match=r"model\.safetensors: has sha256"):
        resolve(server)
    assert not list(cache.rglob("model.safetensors*"))


def test_a_file_that_leads_out_of_the_folder_is_refused(artifact: Path, cache: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    del config["hash"]
    config["files"]["../../evil.json"] = "0" * 64
    (artifact / "config.json").write_text(json.dumps({**config, "hash": digest_of(config)}))
    with pytest.raises(HepfmError, match="outside its folder"):
        collect(FolderOrigin(artifact))
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["nothing-here", "./nothing/at/all"])
def test_a_name_that_means_nothing_is_one_line(name: str) -> None:
    with pytest.raises(HepfmError, match="no such run or artifact"):
        resolve(name)


def test_every_altered_missing_or_foreign_part_is_found(artifact: Path) -> None:
    with pytest.raises(HepfmError, match="is a backbone, not a tokenizer"):
        read_artifact(artifact, "tokenizer")
    for file in sorted(artifact.iterdir()):
        whole = file.read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 2}:
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(HepfmError):
                read_artifact(artifact)
        file.unlink()
        with pytest.raises(HepfmError):
            read_artifact(artifact)
        file.write_bytes(whole)
    read_artifact(artifact)


def test_a_run_without_an_artifact_says_that_it_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(HepfmError, match="has not finished"):
        resolve(tmp_path)
