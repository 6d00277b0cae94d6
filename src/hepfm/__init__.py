"""hepfm: checked corpora, tokenizers and foundation-model pretraining for collider data.

``from hepfm import load``: ``load("NAME")`` gives a model to generate, tag, embed, encode and decode with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepfm.released.model import Model

__all__ = ["load"]


def load(name: str | Path, check: bool = True) -> Model:
    """A model, ready to use: see :class:`hepfm.released.model.Model` for what it can do.

    Args:
        name: a run or an artifact folder; a model that ships with hepfm or was pulled, by name; a Hugging Face hub id
            (``ORG/NAME``, ``ORG/NAME@REVISION``); or the https address of an artifact folder.
        check: whether the reference outputs that the artifact carries are replayed. Its checksums, contract and the
            shapes of its tensors are checked in any case.

    Raises:
        hepfm.core.errors.HepfmError: nothing there, damaged, from a newer version, or with other outputs here.
    """
    from hepfm.released.loading import open_model  # torch and the rest: `import hepfm` alone stays cheap

    return open_model(name, check)
