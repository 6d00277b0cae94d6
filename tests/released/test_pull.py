"""``hepfm models pull``: whole and verified in the cache, or absent, whatever the network does."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, HubServer, place
from omnijet_dense import Generator, VQVAENormFormer, write_generator, write_tokenizer
from rough_server import RoughServer, body, cut, held, lying_length, status
from weaver_jets import SMALL, saved, weaver_network

from hepfm import cli, load
from hepfm.core import artifacts
from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, sha256_file
from hepfm.core.model_cache import cache_folder, read_once
from hepfm.released.catalogue import Citation, Released, catalogue
from hepfm.released.pull import PullConfig, main, pull

NAME = "hep/jets-tagger"


@pytest.fixture
def source(runs: dict[str, Path]) -> Path:
    return runs["deep-sets"] / "artifact"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def artifacts_in(cache: Path) -> list[str]:
    """What a user would find: names of folders that look finished."""
    return sorted(path.parent.name for path in (cache / "models").glob("*/config.json"))


def test_a_repository_becomes_a_verified_model_that_its_name_means_without_network(
    hub: HubServer, source: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.publish(NAME, source)
    main(PullConfig(NAME, tmp_path / "copy"))
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "copy")
    assert "every file checked, reference outputs replayed" in err
    artifact = read_artifact(source)
    assert read_artifact(tmp_path / "copy").hash == artifact.hash
    assert artifacts_in(cache) == [artifact.hash]
    asked = len(hub.requests)
    assert load(NAME).artifact.hash == load(f"hub:{NAME}").artifact.hash == artifact.hash
    assert len(hub.requests) == asked
    assert not list(cache.rglob("*.part*"))
    with pytest.raises(HepfmError, match="exists already"):
        main(PullConfig(NAME, tmp_path / "copy"))


def test_a_pull_brings_what_is_new_and_a_revision_stays(hub: HubServer, runs: dict[str, Path], cache: Path) -> None:
    repository = hub.publish(NAME, runs["deep-sets"] / "artifact")
    first = repository.sha()
    before = pull(NAME)
    other = hub.publish("hep/other", runs["boosted-trees"] / "artifact").files
    repository.commits.append(other)
    assert load(NAME).artifact.path == before  # until it is pulled again
    after = pull(NAME)
    assert after.name == read_artifact(runs["boosted-trees"] / "artifact").hash
    assert load(NAME).artifact.path == after
    assert pull(f"{NAME}@{first}") == before
    with pytest.raises(HepfmError, match="no such revision"):
        pull(f"{NAME}@v9")


def test_a_model_with_its_tokenizer_inside_comes_whole(hub: HubServer, runs: dict[str, Path], cache: Path) -> None:
    hub.publish(NAME, runs["generator"] / "artifact")
    assert len(load(NAME).generate(2)) == 2  # any name is pulled where a model is asked for


def test_cut_connections_are_continued_where_they_broke(hub: HubServer, source: Path, cache: Path) -> None:
    hub.publish(NAME, source)
    content = weights(source)
    hub.faults[place(content)] = [cut(70_000), cut(150_000), status(503), cut(10)]
    path = pull(NAME)
    assert weights(path) == content
    starts = [int(asked[6:-1]) for asked in hub.ranges(place(content)) if asked]
    assert starts == sorted(starts)
    assert starts[0] == 70_000


@pytest.mark.slow
def test_a_killed_pull_leaves_nothing_that_looks_finished_and_goes_on(
    hub: HubServer, source: Path, cache: Path
) -> None:
    hub.publish(NAME, source)
    content = weights(source)
    gate = threading.Event()
    hub.faults[place(content)] = [held(100_000, gate)]
    command = [sys.executable, "-m", "hepfm.cli", "models", "pull", NAME]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_DISABLE_XET": "1"})
    part = cache / "models" / "incoming" / read_artifact(source).hash / ".model.safetensors.part"
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size >= 65_536):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    gate.set()
    assert artifacts_in(cache) == []
    arrived = part.stat().st_size
    assert weights(pull(NAME)) == content
    assert hub.ranges(place(content))[-1] == f"bytes={arrived}-"


def test_wrong_bytes_never_become_a_model(hub: HubServer, source: Path, cache: Path) -> None:
    hub.publish(NAME, source)
    content = weights(source)
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    hub.always[place(content)] = body(wrong)
    with pytest.raises(HepfmError, match=r"has sha256 .*expected"):
        pull(NAME)
    hub.always[place(content)] = lying_length(len(content) + 1)
    with pytest.raises(HepfmError):
        pull(NAME)
    assert artifacts_in(cache) == []
    assert not list(cache.rglob("model.safetensors"))
    del hub.always[place(content)]
    assert weights(pull(NAME)) == content


def test_gated_private_and_absent_repositories_are_told(
    hub: HubServer, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = hub.publish(NAME, source, gated=True)
    hub.publish("hep/private", source, private=True)
    for name, told in ((NAME, "access to this repository has to be granted"), ("hep/private", "no such repository")):
        with pytest.raises(HepfmError, match=told + ".*hf auth login") as error:
            pull(name)
        assert "\n" not in str(error.value)
    with pytest.raises(HepfmError, match="hep/nothing: no such folder here, and no such repository on the hub"):
        pull("hep/nothing")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    gated.waiting = True
    with pytest.raises(HepfmError, match="access to this repository has to be granted"):
        pull(NAME)
    gated.waiting = False
    assert pull(NAME) == pull("hep/private")
    stored = [headers for path, headers in hub.requests if path.startswith("/store/")]
    assert stored
    assert not any("Authorization" in headers for headers in stored)  # the token is the hub's alone


def test_a_repository_that_lacks_a_file_or_is_no_artifact_is_told(hub: HubServer, source: Path, cache: Path) -> None:
    repository = hub.publish(NAME, source)
    whole = dict(repository.files)
    repository.commits.append({name: data for name, data in whole.items() if name != "metrics.json"})
    with pytest.raises(HepfmError, match=r"lacks 'metrics.json', which its config.json lists"):
        pull(NAME)
    repository.commits.append({"README.md": b"# hello"})
    with pytest.raises(HepfmError, match=r"holds no artifact: it has no config\.json"):
        pull(NAME)
    repository.commits.append({"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"cos\nsystem\n"})
    with pytest.raises(HepfmError, match="this repository holds no artifact of hepfm"):
        pull(NAME)
    assert artifacts_in(cache) == []


def forged(source: Path, target: Path, **changes: object) -> Path:
    """A copy of an artifact whose config.json has changed entries and a hash that agrees."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    del config["hash"]
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (target / "config.json").write_text(json.dumps({**config, "hash": digest_of(config)}))
    return target


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files": {"weights.pkl": "0" * 64}}, "lists 'weights.pkl', a file of a type that no artifact holds"),
        ({"files": {"model.pt": "0" * 64}}, "lists 'model.pt'"),
        ({"files": {"../../evil.json": "0" * 64}}, "outside its folder"),
        ({"files": {"/etc/evil.json": "0" * 64}}, "outside its folder"),
        ({"files": {"model.safetensors": "0"}}, "states no SHA-256"),
        ({"format": 2}, "newer than this hepfm .update hepfm"),
        ({"surprise": 1}, "a field 'surprise' that this hepfm does not know"),
    ],
)
def test_nothing_is_downloaded_of_what_no_artifact_would_list(
    changes: dict[str, object], told: str, hub: HubServer, source: Path, cache: Path, tmp_path: Path
) -> None:
    hub.publish(NAME, forged(source, tmp_path / "forged", **changes))
    with pytest.raises(HepfmError, match=told) as error:
        pull(NAME)
    assert "\n" not in str(error.value)
    assert not any(path.startswith("/store/") for path, _ in hub.requests)
    assert artifacts_in(cache) == []


def test_a_model_that_does_not_give_its_outputs_does_not_appear(
    hub: HubServer, source: Path, cache: Path, tmp_path: Path
) -> None:
    target = tmp_path / "other"
    shutil.copytree(source, target)
    with np.load(source / "reference.npz") as known:
        np.savez(target / "reference.npz", **{**known, "logits": known["logits"] + 1})
    forged_at = forged(target, tmp_path / "forged", files={"reference.npz": sha256_file(target / "reference.npz")})
    hub.publish(NAME, forged_at)
    with pytest.raises(HepfmError, match="does not give its reference outputs"):
        pull(NAME)
    assert artifacts_in(cache) == []
    assert pull(NAME, self_test=False).is_dir()
    with pytest.raises(HepfmError, match="does not give its reference outputs"):
        pull(NAME)  # a copy that is there already is tested all the same


def test_an_address_and_a_folder_are_pulled_too(server: RoughServer, source: Path, cache: Path) -> None:
    for file in source.iterdir():
        server.add(f"/models/{file.name}", file.read_bytes())
    server.faults["/models/model.safetensors"] = [cut(70_000)]
    path = pull(f"{server.url}/models/")
    assert server.ranges("/models/model.safetensors") == ["", "bytes=70000-"]
    assert pull(str(source)) == pull(str(source.parent)) == path
    assert load(f"{server.url}/models").artifact.path == path
    assert artifacts_in(cache) == [path.name]
    server.files["/models/config.json"] = b"<html>moved</html>"
    with pytest.raises(HepfmError, match=r"config.json is not JSON"):
        pull(f"{server.url}/models")


def test_a_damaged_copy_in_the_cache_is_brought_again(server: RoughServer, source: Path, cache: Path) -> None:
    for file in source.iterdir():
        server.add(f"/models/{file.name}", file.read_bytes())
    path = pull(f"{server.url}/models")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(HepfmError, match="altered"):
        load(f"{server.url}/models")
    assert pull(f"{server.url}/models") == path
    assert weights(path) == weights(source)


def test_a_list_compares_bytes_once_and_again_when_a_file_changes(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Path] = []

    def counted(path: Path) -> str:
        compared.append(path)
        return sha256_file(path)

    monkeypatch.setattr(artifacts, "sha256_file", counted)
    shutil.copytree(source, tmp_path / "own")
    first = read_once(tmp_path / "own")
    assert len(compared) >= 4
    compared.clear()
    assert read_once(tmp_path / "own") == first
    assert compared == []
    weights = tmp_path / "own" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(HepfmError, match="altered"):
        read_once(tmp_path / "own")
    weights.unlink()
    with pytest.raises(HepfmError, match="missing from the artifact"):
        read_once(tmp_path / "own")


def test_a_pulled_broken_and_own_model_are_listed(
    hub: HubServer, source: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub.publish(NAME, source)
    pull(NAME)
    shutil.copytree(source, tmp_path / "some" / "broken")
    (tmp_path / "some" / "broken" / "metrics.json").write_text("{}")
    shutil.copytree(source, tmp_path / "some" / "own")
    for arguments, words in (
        (
            [],
            [
                NAME,
                "tags jets, 3 classes (deep-sets)",
                "90 of",
                "sophon",
                "tags jets, 188 classes",
                "MIT",
                "none stated",
            ],
        ),
        ([str(tmp_path / "some")], ["own", "broken", "altered"]),
    ):
        monkeypatch.setattr(sys, "argv", ["hepfm", "models", "list", *arguments])
        cli.main()
        out = capsys.readouterr().out
        assert [word for word in words if word not in out] == []


def test_every_model_of_the_catalogue_has_licence_citation_and_an_address() -> None:
    assert {"sophon", "part-full", "omnijet-alpha-tokenizer", "omnijet-alpha-generator"} <= set(catalogue())
    for entry in catalogue().values():
        assert entry.url.startswith("https://")
        assert entry.licence
        assert entry.citation.text
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert not entry.tokenizer or entry.tokenizer in catalogue()


def released(name: str, url: str, **changes: object) -> Released:
    return Released(name, "A model", "tags", "data", "MIT", Citation("Somebody"), url, **changes)  # type: ignore[arg-type]


def test_what_others_released_is_downloaded_verified_and_converted_once(
    server: RoughServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    content = saved(weaver_network(**SMALL, num_classes=10), tmp_path / "ParT.pt").read_bytes()
    url = server.add("/ParT.pt", content)
    server.faults["/ParT.pt"] = [cut(0), cut(40_000)]  # the first asks for the length alone
    known = {"tagger": released("tagger", url)}
    monkeypatch.setattr("hepfm.released.pull.catalogue", lambda: known)
    with pytest.raises(HepfmError, match="no such run or artifact"):
        load("tagger")
    main(PullConfig("tagger"))
    model = load("tagger")
    assert model.labels[0] == "QCD"
    assert model.provenance["imported"]["licence"] == "MIT"
    assert model.provenance["imported"]["sha256"] == sha256_file(tmp_path / "ParT.pt")
    out, err = capsys.readouterr()
    assert out.strip() == str(model.artifact.path)
    assert f"sha256 {sha256_file(tmp_path / 'ParT.pt')}, which the catalogue does not know" in err
    asked = len(server.requests)
    assert pull("tagger") == model.artifact.path
    assert len(server.requests) == asked  # neither downloaded nor another artifact
    known["tagger"] = released("tagger", server.add("/other.pt", content), sha256="0" * 64)
    with pytest.raises(HepfmError, match="has sha256"):
        pull("tagger")


def test_a_zip_of_checkpoints_gives_a_generator_with_its_tokenizer(
    server: RoughServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    tokenizer_network = VQVAENormFormer(num_codes=40)
    points = torch.randn(1, 40, 3)
    tokenizer_network.vqlayer.spread(tokenizer_network.encode(points, torch.ones(1, 40, dtype=torch.bool))[0])
    torch.nn.init.normal_(tokenizer_network.output_projection.weight, std=0.02)  # inside the cuts
    write_tokenizer(tmp_path / "tok", tokenizer_network, input_dim=3, num_heads=3)
    sizes = {"vocab_size": 42, "embedding_dim": 24, "n_heads": 4, "n_GPT_blocks": 2, "max_sequence_len": 20}
    write_generator(tmp_path / "gen", Generator(40).eval(), **sizes)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted([*(tmp_path / "tok").iterdir(), *(tmp_path / "gen").iterdir()]):
            archive.write(file, f"top/{file.parent.name}/{file.name}")
        archive.writestr("../../evil.pkl", b"cos\nsystem\n")
    url = server.add("/all.zip", packed.getvalue())
    tokenizer = tuple(f"tok/{file.name}" for file in sorted((tmp_path / "tok").iterdir(), reverse=True))
    generator = tuple(f"gen/{file.name}" for file in (tmp_path / "gen").iterdir())
    known = {
        "tok": released("tok", url, members=tokenizer),
        "gen": released("gen", url, members=generator, tokenizer="tok"),
    }
    monkeypatch.setattr("hepfm.released.pull.catalogue", lambda: known)
    pull("gen")
    assert len(server.requests) == 2  # its length and itself: both are in one file
    assert len(load("gen").generate(2)) == 2
    assert load("tok").does == ("encode", "decode")
    assert not list(tmp_path.rglob("evil*"))
    known["tok"] = released("tok", url, members=("tok/nothing.ckpt",))
    with pytest.raises(HepfmError, match=r"holds 0 members 'tok/nothing.ckpt'"):
        pull("tok")
    assert not list(cache_folder().glob(".import-*"))
