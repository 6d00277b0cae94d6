"""``hepfm models push``: a run's artifact becomes a repository of the Hugging Face hub."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.core.artifacts import CONFIG, Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.origins import HubOrigin, told
from hepfm.core.progress import say
from hepfm.core.resolve import resolve
from hepfm.released.pull import replay
from hepfm.released.summary import licence_of, size_of

FREE = ("unknown", "none stated")


@dataclass(frozen=True)
class PushConfig:
    """Publish a model on the Hugging Face hub: its artifact, with the card as README.md, in one commit.

    The artifact is verified and replayed before, and what the hub then has is compared with it. Checkpoints of
    training, optimiser states and logs are never sent. Needs 'hf auth login' or HF_TOKEN; HF_ENDPOINT names another
    hub.
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run or artifact folder."""
    repository: Annotated[Positional[str], tyro.conf.arg(metavar="hub:ORG/NAME")]
    """Repository: made if there is none."""
    private: bool = False
    """Make a new repository private."""


def main(config: PushConfig) -> None:
    """Check, send, compare; print the address of the commit."""
    target = HubOrigin.parse(config.repository)
    if target is None or not config.repository.startswith("hub:") or target.revision != "main":
        raise HepfmError("is no repository of the hub", config.repository, "write hub:ORG/NAME")
    path = resolve(config.model)
    artifact = read_artifact(path)
    if licence_of(artifact) in FREE:
        raise HepfmError(
            f"the licence of its weights is {licence_of(artifact)}, so nobody may publish them",
            path,
            "ask their authors, then import them again with --licence",
        )
    replay(path)
    say(f"{path}: verified and replayed, {size_of(path) / 1e6:,.1f} MB go to {target.id} on {target.endpoint}")
    sys.stdout.write(f"{_send(artifact, target, config.private)}\n")


def _send(artifact: Artifact, target: HubOrigin, private: bool) -> str:
    """Make the repository hold the artifact; gives the commit's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    api = HfApi(endpoint=target.endpoint)
    files = _files(artifact)
    silent = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if silent:
        disable_progress_bars()
    try:
        with told(target.id), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the card has no metadata of the hub's kind
            api.create_repo(target.id, private=private, exist_ok=True)
            stale = [CommitOperationDelete(name) for name in _stale(api, target, files)]
            operations = [CommitOperationAdd(name, str(artifact.path / name)) for name in files]
            commit = api.create_commit(
                target.id, [*operations, *stale], commit_message=f"hepfm {artifact.kind} {artifact.hash[:12]}"
            )
            _compare(artifact, HubOrigin(target.id, commit.oid, target.endpoint))
    finally:
        if silent:
            enable_progress_bars()
    return str(commit.commit_url)


def _files(artifact: Artifact) -> list[str]:
    config = json.loads((artifact.path / CONFIG).read_text())
    return [CONFIG, *config["files"]]


def _stale(api: Any, target: HubOrigin, files: list[str]) -> list[str]:
    """Files of an artifact that the repository holds so far, which are not among ``files``.

    Raises:
        HepfmError: it holds something else.
    """
    held = {file.rfilename for file in api.model_info(target.id).siblings or ()}
    if not held - {".gitattributes", "README.md"}:
        return []
    try:
        before = json.loads(HubOrigin(target.id, endpoint=target.endpoint).config())["files"]
    except (ValueError, KeyError, HepfmError) as error:
        raise HepfmError("this repository holds something that is no artifact", target.id, "name another") from error
    return sorted((set(before) & held) - set(files))


def _compare(artifact: Artifact, sent: HubOrigin) -> None:
    sizes = sent.sizes()
    for name in _files(artifact):
        own = (artifact.path / name).stat().st_size
        if sizes.get(name) != own:
            raise HepfmError(f"the hub has {sizes.get(name)} bytes of '{name}', not {own}", sent.id, "push again")
    if sent.config() != (artifact.path / CONFIG).read_bytes():
        raise HepfmError("the hub has another config.json than was sent", sent.id, "push again")
