"""k-means: a point is the centroid nearest to its features (the tokens of MPM, arXiv:2401.13537 and 2409.12589)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.clustering import kmeans
from hepfm.tokenize.codebook import near_ties, nearest
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fitting import FitConfig, check_codes, claim
from hepfm.tokenize.sample import sample_points
from hepfm.tokenize.tokens import Stream, Tokens
from hepfm.tokenize.vqvae import TIE_TOLERANCE, reproducibly


@dataclass(frozen=True)
class KMeansFitConfig(FitConfig):
    """Fit a tokenizer to a corpus: centroids of the points' features."""

    tokenizer: str = "kmeans"
    """Which tokenizer: see the list above."""
    codes: int = 512
    """Centroids: number of token ids."""
    steps: int = 50
    """Lloyd's steps, at most; it ends when nothing changes."""
    sample: int = 1_000_000
    """Points to learn from; all if there are fewer."""
    seed: int = 0
    """Of the order in which points are taken, and of the start."""


class KMeansTokenizer(FeatureTokenizer):
    """Centroids (codes, F) float32 in the space of the contract's columns."""

    kind = "kmeans"
    settings = KMeansFitConfig
    cure = "fit on more points (--sample), or fewer --codes"

    def __init__(self, contract: FeatureContract, centroids: torch.Tensor) -> None:
        self.centroids = centroids
        super().__init__(contract, (Stream("", len(centroids)),))

    @classmethod
    def fit(
        cls, config: KMeansFitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder
    ) -> tuple[Self, dict[str, float]]:
        """Centroids of a sample of the corpus; see :meth:`hepfm.tokenize.registry.Tokenizer.fit`."""
        for name, least in (("codes", 2), ("steps", 1), ("sample", config.codes)):
            if getattr(config, name) < least:
                raise HepfmError(f"must be at least {least}, is {getattr(config, name)}", f"--{name}")
        check_codes(config.codes, corpus)
        claim(run, config)
        features = sample_points(corpus, contract, config.sample, config.seed, contract.encode)
        with reproducibly():
            draws = generator("k-means", config.seed)
            centroids, steps = kmeans(torch.from_numpy(features), config.codes, draws, config.steps, corpus.path)
        return cls(contract, centroids.clone()), {"steps": steps, "points_learned_from": len(features)}

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Ids (T, 1) of features (T, F)."""
        with reproducibly():
            # A tensor of torch's own is aligned, which the last digit of a matrix product can depend on.
            return nearest(torch.from_numpy(features).clone(), self.centroids).numpy()[:, None]

    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """Features (T, F) of ids (T, 1): the centroids."""
        return self.centroids.numpy()[tokens.ids[:, 0]]

    def architecture(self) -> dict[str, Any]:
        return {"codes": len(self.centroids)}

    def weights(self) -> dict[str, torch.Tensor]:
        return {"centroids": self.centroids}

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, torch.Tensor], where: object
    ) -> Self:
        centroids = weights.get("centroids")
        if centroids is None or centroids.shape != (architecture.get("codes"), contract.width):
            raise HepfmError("its centroids are not those of its contract", where, "get the artifact again")
        return cls(contract, centroids)

    def differing(self, features: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> int:
        """Points whose tokens are not ``ids``, those aside that tie to rounding."""
        gaps = near_ties(torch.from_numpy(features), self.centroids, torch.from_numpy(ids.astype(np.int64)))
        return int((gaps > TIE_TOLERANCE).sum())
