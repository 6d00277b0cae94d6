"""Binning: each feature of a point in its own bin; the bins make one token together, or one each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fitting import FitConfig, claim
from hepfm.tokenize.sample import sample_points
from hepfm.tokenize.tokens import Stream, Tokens, named_streams

MOST_CODES = 1 << 32


@dataclass(frozen=True)
class BinningFitConfig(FitConfig):
    """Fit a tokenizer to a corpus: bins of each feature."""

    tokenizer: str = "binning"
    """Which tokenizer: see the list above."""
    bins: tuple[int, ...] = (20,)
    """Bins of each feature that is a number, in order, or one number for all."""
    edges: Literal["quantile", "uniform"] = "quantile"
    """quantile: bins of equally many points; uniform: bins of equal width from the least to the largest value."""
    ids: Literal["one", "each"] = "one"
    """one: a point's bins make one id (mixed radix, the first feature counts most); each: one id list a feature."""
    sample: int = 1_000_000
    """Points to learn from; all if there are fewer."""
    seed: int = 0
    """Of the order in which points are taken."""


class BinningTokenizer(FeatureTokenizer):
    """Bins of each feature. A null has a bin of its own, the last; a category is its own bin.

    Values beyond the outermost edges fall in the outermost bins. A bin decodes to the mean of the points it was fitted
    on, its centre where there were none.

    Args:
        contract: what it takes points to be.
        edges: of each feature, the inner edges (bins - 1,), ascending; empty for categories.
        centres: of each feature, what its bins decode to (bins,).
        together: whether a point's bins make one id.
    """

    kind = "binning"
    settings = BinningFitConfig

    def __init__(
        self, contract: FeatureContract, edges: list[np.ndarray], centres: list[np.ndarray], together: bool
    ) -> None:
        self.edges, self.centres, self.together = edges, centres, together
        self.bins = [
            feature.width if feature.categories else len(centre) + bool(feature.null_with)
            for feature, centre in zip(contract.features, centres, strict=True)
        ]
        codes = math.prod(self.bins)
        if together and codes > MOST_CODES:
            raise HepfmError(
                f"{' x '.join(map(str, self.bins))} bins make {codes:.3g} ids, more than 32 bits hold",
                "--bins",
                "take fewer, or --ids each",
            )
        streams = (Stream("", codes),) if together else named_streams(contract.names, self.bins)
        super().__init__(contract, streams)

    @classmethod
    def fit(
        cls, config: BinningFitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder
    ) -> tuple[Self, dict[str, float]]:
        """Edges from a sample of the corpus; see :meth:`hepfm.tokenize.registry.Tokenizer.fit`."""
        if config.sample < 1:
            raise HepfmError(f"must be at least 1, is {config.sample}", "--sample")
        counts = _counts(config, contract)
        points = corpus.split("train").points
        if max(counts) > points:
            raise HepfmError(
                f"{max(counts):,} bins are more than the {points:,} points of the train split",
                corpus.path,
                "take fewer --bins, or a larger corpus",
            )
        numbers = sample_points(corpus, contract, config.sample, config.seed, partial(_numbers, contract=contract))
        edges, centres = [], []
        for index, (feature, bins) in enumerate(zip(contract.features, counts, strict=True)):
            values = numbers[:, index].astype(np.float64)
            values = values[~np.isnan(values)]
            if feature.categories or not len(values):
                edge, centre = np.zeros(0), np.arange(feature.width, dtype=np.float64)
            else:
                low, high = feature.encode(np.array([feature.seen["min"], feature.seen["max"]]))
                edge = _edges(values, bins, config.edges, low, high)
                centre = _means(values, edge, low, high)
            edges.append(edge)
            centres.append(centre)
        tokenizer = cls(contract, edges, centres, config.ids == "one")
        claim(run, config)
        return tokenizer, {}

    def features_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """One number for each feature (T, features)."""
        return _numbers(batch, self.contract)

    def physical(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Physical values of one number for each feature."""
        return self.contract.decode_each(features)

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Ids (T, Q) of one number for each feature (T, features); see :meth:`FeatureContract.encode_each`."""
        bins = []
        for index, feature in enumerate(self.contract.features):
            numbers = features[:, index].astype(np.float64)
            found = numbers if feature.categories else np.searchsorted(self.edges[index], numbers, side="right")
            bins.append(np.where(np.isnan(numbers), self.bins[index] - 1, found).astype(np.int64))
        if not self.together:
            return np.stack(bins, axis=1)
        ids = np.zeros(len(features), dtype=np.int64)
        for count, found in zip(self.bins, bins, strict=True):
            ids = ids * count + found
        return ids[:, None]

    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """One number for each feature (T, features) float32 of ids (T, Q)."""
        bins = list(tokens.ids.T) if not self.together else self._digits(tokens.ids[:, 0])
        numbers = []
        for feature, centre, found in zip(self.contract.features, self.centres, bins, strict=True):
            known = np.append(centre, np.nan) if feature.null_with else centre
            numbers.append(known[found])
        return np.stack(numbers, axis=1).astype(np.float32)

    def _digits(self, ids: np.ndarray) -> list[np.ndarray]:
        """The bins (T,) of each feature that make up ids (T,)."""
        digits = []
        for count in reversed(self.bins):
            ids, digit = np.divmod(ids, count)
            digits.append(digit)
        return digits[::-1]

    def architecture(self) -> dict[str, Any]:
        return {"together": self.together}

    def weights(self) -> dict[str, torch.Tensor]:
        """Edges and centres of each feature by its name, in float64."""
        found: dict[str, torch.Tensor] = {}
        for name, edge, centre in zip(self.contract.names, self.edges, self.centres, strict=True):
            found |= {f"{name}.edges": torch.from_numpy(edge), f"{name}.centres": torch.from_numpy(centre)}
        return found

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, torch.Tensor], where: object
    ) -> Self:
        try:
            edges, centres = (
                [weights[f"{name}.{what}"].numpy() for name in contract.names] for what in ("edges", "centres")
            )
            together = bool(architecture["together"])
        except KeyError as error:
            raise HepfmError(f"has no {error}", where, "get the artifact again") from error
        return cls(contract, edges, centres, together)


def _numbers(batch: pa.RecordBatch, contract: FeatureContract) -> np.ndarray:
    return contract.encode_each(contract.values_of(batch))


def _counts(config: BinningFitConfig, contract: FeatureContract) -> list[int]:
    """Bins of each feature; 1 for categories, which have their own."""
    numbers = [feature.name for feature in contract.features if not feature.categories]
    bins = config.bins * len(numbers) if len(config.bins) == 1 else config.bins
    if len(bins) != len(numbers):
        raise HepfmError(f"{len(bins)} numbers, but {len(numbers)} features: {', '.join(numbers)}", "--bins")
    if min(bins) < 1:
        raise HepfmError(f"must be at least 1, is {min(bins)}", "--bins")
    by_name = dict(zip(numbers, bins, strict=True))
    return [by_name.get(name, 1) for name in contract.names]


def _edges(values: np.ndarray, bins: int, kind: str, low: float, high: float) -> np.ndarray:
    """Inner edges, ascending. Where many points share a value, several quantiles are one edge, and bins fewer."""
    if kind == "uniform":
        return np.linspace(low, high, bins + 1)[1:-1]
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))


def _means(values: np.ndarray, edges: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mean of the values in each bin; the centre of bins without values."""
    bins = np.searchsorted(edges, values, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    all_edges = np.concatenate([[low], edges, [high]])
    centres = (all_edges[1:] + all_edges[:-1]) / 2
    sums = np.bincount(bins, weights=values, minlength=len(edges) + 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), centres)
