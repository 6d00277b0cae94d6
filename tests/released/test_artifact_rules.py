"""Every kind of artifact holds all that is needed to use it, and refuses in one line whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hepfm import load
from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, sha256_file

KINDS = ("tokenizer", "deep-sets", "boosted-trees", "regressor", "generator", "masked")


def resigned(folder: Path, **changes: Any) -> None:
    """Make checksums and hash agree with what is there: by whoever could alter the rest."""
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    config.pop("hash")
    config["files"] = {name: sha256_file(folder / name) for name in config["files"] if (folder / name).is_file()}
    (folder / "config.json").write_text(json.dumps({**config, "hash": digest_of(config)}))


def entry(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())[name]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_needed_to_use_it_is_inside(kind: str, runs: dict[str, Path]) -> None:
    artifact = read_artifact(runs[kind] / "artifact")
    known, contract = artifact.provenance, artifact.contract
    assert contract["features"]
    assert artifact.architecture
    if artifact.kind in ("tagger", "regressor"):
        assert contract["units"]
        told = contract["classes"] if artifact.kind == "tagger" else contract["target"]["column"]
        assert told == (["QCD", "Hbb", "Hcc"] if artifact.kind == "tagger" else "mass")
    else:
        assert all(feature["unit"] is not None for feature in contract["features"])
        assert all(feature["transform"] for feature in contract["features"])
    corpora = known.get("corpora") or [known["corpus"]]
    assert all(len(corpus["digest"]) == 64 and corpus["records"] > 0 for corpus in corpora)
    assert known["command"].startswith("hepfm ")
    assert "seed" in json.dumps(known["config"])
    assert {"python", "torch", "hepfm"} <= set(known["versions"])
    assert artifact.metrics()
    assert (
        f"{known['command']} " in (artifact.path / "README.md").read_text()
        or "Use" in (artifact.path / "README.md").read_text()
    )
    reference = artifact.reference()
    assert reference
    assert all(value.size for value in reference.values())
    if artifact.kind == "backbone":
        assert read_artifact(artifact.inner("tokenizer"), "tokenizer").hash == known["tokenizer"]


def truncated(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        resigned(folder)

    return spoil


def of_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")
        resigned(folder)

    return spoil


def largest(state: dict[str, torch.Tensor]) -> str:
    return max(state, key=lambda name: state[name].numel())


def lose(state: dict[str, torch.Tensor]) -> None:
    del state[largest(state)]


def shorten(state: dict[str, torch.Tensor]) -> None:
    name = largest(state)
    state[name] = state[name][:-1].clone()


def pickled_reference(folder: Path) -> None:
    np.savez(folder / "reference.npz", surprise=np.array([{"a": 1}], dtype=object))
    resigned(folder)


def compressed_reference(folder: Path) -> None:
    np.savez_compressed(folder / "reference.npz", much=np.zeros(1 << 16))
    resigned(folder)


def linked(folder: Path) -> None:
    (folder / "metrics.json").rename(folder.parent / "outside.json")
    (folder / "metrics.json").symlink_to(folder.parent / "outside.json")


def linked_config(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.outside")
    (folder / "config.json").symlink_to(folder.parent / "config.outside")


def unsigned(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "provenance": {}}))


FAULTS: dict[str, Callable[[Path], None]] = {
    "newer": lambda folder: resigned(folder, format=2),
    "no number": lambda folder: resigned(folder, format="one"),
    "unknown field": lambda folder: resigned(folder, surprise=1),
    "unknown setting": lambda folder: resigned(folder, architecture={**entry(folder, "architecture"), "surprise": 1}),
    "no architecture": lambda folder: resigned(folder, architecture={}),
    "other contract": lambda folder: resigned(folder, contract={**entry(folder, "contract"), "features": []}),
    "hash": unsigned,
    "weights cut": truncated("model.safetensors"),
    "reference cut": truncated("reference.npz"),
    "reference pickled": pickled_reference,
    "reference compressed": compressed_reference,
    "missing tensor": of_weights(lose),
    "wrong shape": of_weights(shorten),
    "missing file": lambda folder: (folder / "metrics.json").unlink(),
    "link": linked,
    "link to config": linked_config,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line(fault: str, runs: dict[str, Path], tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind / "artifact"
        shutil.copytree(runs[kind] / "artifact", folder)
        FAULTS[fault](folder)
        with pytest.raises(HepfmError) as error:
            load(folder)
        assert "\n" not in str(error.value), kind
        assert len(str(error.value)) < 400


def test_nothing_beside_the_listed_files_is_read(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(runs["deep-sets"] / "artifact", folder)
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert load(folder).does == ("tag", "embed")
