"""Split streams of showers: the cell of a hit exactly, one id list an index, and its energy as a number.

The design of SPADE (arXiv:2606.11304) in place of one codebook of hits: three vocabularies of tens of ids instead of
one of 65,536, and no loss in position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.contract import BY_LAYER, FeatureContract
from hepfm.tokenize.feature_sets import CELLS, cell_features, check_set, shower_contract
from hepfm.tokenize.features import FeatureSpec
from hepfm.tokenize.fitting import FitConfig, claim
from hepfm.tokenize.tokens import Stream, Tokens

DELAYS = (0, 2, 3)  # of layer and cells; the energy has the step between: far cells have little of it


@dataclass(frozen=True)
class CellsFitConfig(FitConfig):
    """Make a tokenizer of showers: layer and cell indices as ids, the logarithm of the energy as a number.

    Nothing is learned: the corpus's geometry says how many ids there are.
    """

    tokenizer: str = "cells"
    """Which tokenizer: see the list above."""

    def contract(self, corpus: Corpus) -> FeatureContract:
        manifest = corpus.manifest
        if manifest.kind != "showers":
            raise HepfmError(f"holds {manifest.kind}, cells are of showers", corpus.path, "name a corpus of showers")
        check_set(self.features)
        features = (*cell_features(manifest, corpus.path), FeatureSpec("energy", "MeV", "log"))
        return shower_contract(features, manifest, BY_LAYER).fitted(manifest, corpus.path)


class CellsTokenizer(FeatureTokenizer):
    """Ids layer, cell_a, cell_b and ln(energy / MeV), which a generator draws after the layer and before the cell.

    Hits come in the order of the layers, in a layer by falling energy.
    """

    kind = "cells"
    settings = CellsFitConfig
    continuous = "ln(energy / MeV)"

    def __init__(self, contract: FeatureContract) -> None:
        cells = [feature.allowed for feature in contract.features[: len(CELLS)]]
        codes = [int(allowed[1]) + 1 for allowed in cells if allowed is not None]
        streams = tuple(Stream(*known) for known in zip(CELLS, codes, DELAYS, strict=True))
        super().__init__(contract, streams)

    @classmethod
    def fit(
        cls, config: CellsFitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder
    ) -> tuple[Self, dict[str, float]]:
        """The tokenizer of the corpus's detector; see :meth:`hepfm.tokenize.registry.Tokenizer.fit`."""
        claim(run, config)
        return cls(contract), {}

    def features_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Layer, cell_a, cell_b and ln(energy / MeV) (T, 4), in order."""
        return self.contract.encode_each(self.contract.values_of(batch))

    def physical(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Cells as int16, energy [MeV] as float32."""
        return self.contract.decode_each(features)

    def continuous_of(self, features: np.ndarray) -> np.ndarray:
        """ln(energy / MeV) (T,)."""
        return np.ascontiguousarray(features[:, len(CELLS)])

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Ids (T, 3): float32 holds whole numbers of that size exactly."""
        return features[:, : len(CELLS)].astype(np.int64)

    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """Features (T, 4) of ids (T, 3) and numbers."""
        assert tokens.continuous is not None  # checked by decode
        return np.column_stack([tokens.ids, tokens.continuous]).astype(np.float32)

    def architecture(self) -> dict[str, Any]:
        return {"delays": {stream.column: stream.delay for stream in self.streams}}

    def weights(self) -> dict[str, torch.Tensor]:
        return {}

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, torch.Tensor], where: object
    ) -> Self:
        if contract.names != (*CELLS, "energy") or any(f.allowed is None for f in contract.features[: len(CELLS)]):
            raise HepfmError("its contract is not one of cells and energy", where, "get the artifact again")
        return cls(contract)
