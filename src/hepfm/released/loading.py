"""``hepfm.load``: the interface of the model that a name stands for."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

from hepfm.core.artifacts import CONFIG, check_config, without_replay
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json
from hepfm.core.resolve import resolve
from hepfm.released.catalogue import catalogue
from hepfm.released.model import Model

# kind of artifact -> the class that a user gets; it is made of the artifact's folder
INTERFACES = {
    "tokenizer": "hepfm.released.tokenizers:TokenizerModel",
    "backbone": "hepfm.released.backbones:BackboneModel",
    "tagger": "hepfm.released.taggers:TaggerModel",
    "regressor": "hepfm.released.taggers:RegressorModel",
}


def open_model(name: str | Path, check: bool = True) -> Model:
    """See :func:`hepfm.load`."""
    try:
        path = resolve(name)
    except HepfmError as error:
        if str(name) in catalogue():
            raise HepfmError("was not downloaded yet", name, f"hepfm models pull {name}") from error
        raise
    kind = check_config(read_json(path / CONFIG), path)["kind"]  # the loaders check every byte
    if kind not in INTERFACES:
        raise HepfmError(f"no interface for an artifact of kind '{kind}'", path, "hepfm.models.load gives its network")
    module, member = INTERFACES[kind].split(":")
    with nullcontext() if check else without_replay():
        model = getattr(importlib.import_module(module), member).open(path)
    assert isinstance(model, Model)
    return model
