"""Taggers and regressors behind the common interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact
from hepfm.finetune.judging import Judge
from hepfm.finetune.regression import Regressor, load_regressor
from hepfm.finetune.tagger import about_axis_of, load_tagger
from hepfm.released.jets import Axis, Records, given
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

    def tag(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> ak.Array:
        scores = _over(self.tagger, jets, split, axis, "scores", (len(self.tagger.classes),))
        return ak.Array({name: scores[:, at] for at, name in enumerate(self.tagger.classes)})

    def embed(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> np.ndarray:
        if not hasattr(self.tagger, "embedding"):
            self._cannot("embed")
        return _over(self.tagger, jets, split, axis, "embedding", (0,))


class RegressorModel(Model):
    """A network that estimates a quantity of jets."""

    does = ("estimate",)

    def __init__(self, regressor: Regressor, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.regressor = regressor

    @classmethod
    def open(cls, path: Path) -> RegressorModel:
        return cls(*load_regressor(path))

    def estimate(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> np.ndarray:
        return _over(self.regressor, jets, split, axis, "predict", ())


def _over(model: Any, jets: Records, split: str, axis: Axis | None, method: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a method of a tagger or regressor gives of each block; features are about its axis, as in judging."""
    found = given(jets, split, axis)
    model.check(found.corpus)
    if hasattr(model, "features"):
        model = dataclasses.replace(model, features=about_axis_of(found.corpus, model.features))
    read: Callable[[pa.RecordBatch, object], np.ndarray] = getattr(model, method)
    parts = [read(batch, found.corpus.path) for batch in found]
    return np.concatenate(parts) if parts else np.empty((0, *shape), dtype=np.float32)
