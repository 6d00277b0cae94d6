"""``hepfm models push``: what the hub then has is the artifact, and only that."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, Repository, place
from rough_server import status
from weaver_jets import SMALL, saved, weaver_network

from hepfm import cli, load
from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.models import ImportConfig, import_model
from hepfm.released.pull import pull
from hepfm.released.push import PushConfig, main

NAME = "hep/mine"


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_a_run_is_published_and_pulled_by_others(
    hub: HubServer, login: None, runs: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        sys, "argv", ["hepfm", "models", "push", str(runs["generator"]), f"hub:{NAME}", "--private", "True"]
    )
    cli.main()
    out, err = capsys.readouterr()
    assert out.strip() == f"{hub.url}/{NAME}/commit/{hub.repositories[NAME].sha()}"
    assert "verified and replayed" in err
    assert "Traceback" not in err
    assert hub.created == [(NAME, True)]
    folder = runs["generator"] / "artifact"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: data for name, data in hub.repositories[NAME].files.items() if name != ".gitattributes"} == files
    assert "README.md" in files
    assert not any(name.endswith((".pt", ".pkl", ".bin")) for name in files)
    assert pull(NAME).name == read_artifact(folder).hash
    assert len(load(NAME).generate(2)) == 2


def test_pushing_again_changes_what_changed_and_removes_what_is_gone(
    hub: HubServer, login: None, runs: dict[str, Path], cache: Path
) -> None:
    main(PushConfig(str(runs["generator"]), f"hub:{NAME}"))
    main(PushConfig(str(runs["generator"]), f"hub:{NAME}"))
    assert len(hub.repositories[NAME].commits) == 2  # made, sent; nothing new the second time
    main(PushConfig(str(runs["deep-sets"]), f"hub:{NAME}"))
    assert not any(name.startswith("tokenizer/") for name in hub.repositories[NAME].files)
    assert pull(NAME).name == read_artifact(runs["deep-sets"] / "artifact").hash


def test_what_cannot_be_published_is_refused_before_anything_is_sent(
    hub: HubServer, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PushConfig(str(runs["deep-sets"]), f"hub:{NAME}")
    with pytest.raises(HepfmError, match=r"401 .*hf auth login") as error:
        main(config)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for wrong in (NAME, "hub:mine", f"hub:{NAME}@v1", "https://somewhere"):
        with pytest.raises(HepfmError, match="write hub:ORG/NAME"):
            main(dataclasses.replace(config, repository=wrong))
    with pytest.raises(HepfmError, match="no such run or artifact"):
        main(dataclasses.replace(config, model=str(tmp_path / "nothing")))
    hub.repositories["hep/other"] = Repository([{"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"1"}])
    with pytest.raises(HepfmError, match="holds something that is no artifact"):
        main(dataclasses.replace(config, repository="hub:hep/other"))
    checkpoint = saved(weaver_network(**SMALL, num_classes=10), tmp_path / "ParT.pt")
    import_model(ImportConfig(checkpoint, tmp_path / "imported"))
    with pytest.raises(HepfmError, match="licence of its weights is unknown"):
        main(dataclasses.replace(config, model=str(tmp_path / "imported")))
    assert hub.created == []
    assert len(hub.repositories["hep/other"].commits) == 1


def test_a_store_that_loses_an_upload_leaves_the_repository_as_it_was(
    hub: HubServer, login: None, runs: dict[str, Path]
) -> None:
    content = (runs["deep-sets"] / "artifact" / "model.safetensors").read_bytes()
    hub.faults[place(content)] = [status(400)]
    with pytest.raises(HepfmError) as error:
        main(PushConfig(str(runs["deep-sets"]), f"hub:{NAME}"))
    assert "\n" not in str(error.value)
    assert len(hub.repositories[NAME].commits) == 1
    main(PushConfig(str(runs["deep-sets"]), f"hub:{NAME}"))
    assert len(hub.repositories[NAME].commits) == 2
