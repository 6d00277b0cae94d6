"""Taggers behind the common interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact
from hepfm.finetune.judging import Judge
from hepfm.finetune.tagger import load_tagger
from hepfm.released.jets import Given, Records, given
from hepfm.released.model import Model


class TaggerModel(Model):
    """A network or trees that tell classes of jets apart."""

    def __init__(self, tagger: Judge, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.tagger = tagger
        self.does = ("tag", "embed") if hasattr(tagger, "embedding") else ("tag",)

    @classmethod
    def open(cls, path: Path) -> TaggerModel:
        return cls(*load_tagger(path))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.tagger.classes

    def tag(self, jets: Records, *, split: str = "test", axis: str = "stored") -> ak.Array:
        scores = self._over(given(jets, split, axis), self.tagger.scores, len(self.tagger.classes))
        return ak.Array({name: scores[:, at] for at, name in enumerate(self.tagger.classes)})

    def embed(self, jets: Records, *, split: str = "test", axis: str = "stored") -> np.ndarray:
        embedding = getattr(self.tagger, "embedding", None)
        if embedding is None:
            self._cannot("embed")
        return self._over(given(jets, split, axis), embedding, 0)

    def _over(self, jets: Given, read: Callable[[pa.RecordBatch, object], np.ndarray], width: int) -> np.ndarray:
        self.tagger.check(jets.corpus)
        parts = [read(batch, jets.corpus.path) for batch in jets]
        return np.concatenate(parts) if parts else np.empty((0, width), dtype=np.float32)
