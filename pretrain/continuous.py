"""Continuous features of the constituents of token records: those of the source corpus, or decoded from the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, lengths_of
from hepfm.ingest.columns import project
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.gather import gather_from
from hepfm.pretrain.data import FeatureSource, TokenCorpora
from hepfm.pretrain.features import Statistics
from hepfm.tokenize.apply import statistics_of
from hepfm.tokenize.registry import Tokenizer, load_tokenizer

STATISTICS_RECORDS = 10_000
ETA = "eta"  # which a contract may need to turn the axis


class DecodedFeatures:
    """What a tokenizer decodes tokens to, in the columns of its contract.

    Args:
        tokenizer: decodes.

    Raises:
        HepfmError: it decodes with quantities of the jet, which these batches do not have.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        if tokenizer.contract.conditions:
            names = ", ".join(condition.name for condition in tokenizer.contract.conditions)
            raise HepfmError(f"decodes with {names} of each jet", "tokenizer", "name the source corpora: --source")

    def __call__(self, keys: np.ndarray, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Features (C, F) float32; see :data:`hepfm.pretrain.data.FeatureSource`."""
        contract = self.tokenizer.contract
        return contract.encode_values(self.tokenizer.decode(codes, offsets))


@dataclass(frozen=True)
class _Pair:
    """A split of tokens, and the split of the source corpus that it was made from."""

    tokens: Split
    source: Split
    columns: tuple[str, ...]
    starts: np.ndarray

    def features(self, records: np.ndarray, tokenizer: Tokenizer, counts: np.ndarray) -> np.ndarray:
        """Features of records of the split; ``counts`` (n,) is how many tokens each has."""
        block = np.searchsorted(self.starts, records, side="right") - 1
        where = self.source.corpus.path
        batch = gather_from(
            lambda number: project(self.source.read(number), self.columns, where), block, records - self.starts[block]
        )
        contract = tokenizer.contract
        batch = contract.prepared(batch, self.source.corpus.manifest.axis)
        found = lengths_of(batch.column(POINTS_COLUMN[contract.kind]))
        if not np.array_equal(found, counts):
            first = int(np.argmax(found != counts))
            raise HepfmError(
                f"record {int(records[first])} has {counts[first]} tokens, its source {found[first]} constituents",
                self.tokens.corpus.path,
                "make the token corpus again",
            )
        return contract.encode(batch)


class SourceFeatures:
    """The constituents of source corpora, record i for record i of their token corpora.

    Args:
        splits: of the token corpora, in the order in which their records are numbered.
        sources: the corpora that they were made from, in any order.
        tokenizer: whose contract says which quantities, transformed how.

    Raises:
        HepfmError: a token corpus was made from none of them, or one is not what the tokenizer takes.
    """

    def __init__(self, splits: Sequence[Split], sources: Sequence[Corpus], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pairs = [_paired(split, sources, tokenizer) for split in splits]
        self.starts = np.concatenate([[0], np.cumsum([split.records for split in splits])])

    def __call__(self, keys: np.ndarray, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Features (C, F) float32; see :data:`hepfm.pretrain.data.FeatureSource`."""
        lengths, records = np.diff(offsets), keys[:, 1]
        corpus = np.searchsorted(self.starts, records, side="right") - 1
        features = np.empty((len(codes), self.tokenizer.contract.width), dtype=np.float32)
        for number in np.unique(corpus).tolist():
            own = corpus == number
            found = self.pairs[number].features(records[own] - self.starts[number], self.tokenizer, lengths[own])
            features[np.repeat(own, lengths)] = found
        return features


def _paired(split: Split, sources: Sequence[Corpus], tokenizer: Tokenizer) -> _Pair:
    made_from = str((split.corpus.manifest.tokens or {}).get("source", ""))
    fitting = [source for source in sources if source.digest == made_from]
    if not fitting:
        given = ", ".join(f"{source.path} is {source.digest[:12]}" for source in sources)
        raise HepfmError(f"was made from the corpus {made_from[:12]}; {given}", split.corpus.path, "name it: --source")
    source = fitting[0].split(split.name)
    contract = tokenizer.contract
    contract.check(source.corpus.manifest, statistics_of(source.corpus), source.corpus.path)
    turned = source.corpus.manifest.axis != contract.axis
    columns = (*contract.needed, *((ETA,) if turned else ()))
    return _Pair(split, source, columns, np.concatenate([[0], np.cumsum(source.block_records)]))


@dataclass(frozen=True)
class Continuous:
    """Where the continuous features of token corpora come from, and what they are like.

    Attributes:
        tokenizer: whose contract says which quantities, transformed how.
        sources: the corpora that the token corpora were made from; none: features are what the tokens decode to.
        statistics: of the features' columns.
    """

    tokenizer: Tokenizer
    sources: tuple[Corpus, ...]
    statistics: Statistics

    @classmethod
    def of(cls, data: TokenCorpora, sources: Sequence[Path], max_length: int) -> Continuous:
        """Of the token corpora and their sources; reads a sample of the training split for the statistics.

        Raises:
            HepfmError: sources that are not those of the tokens, or a tokenizer that cannot decode without more.
        """
        tokenizer, opened = load_tokenizer(data.tokenizer.path), tuple(Corpus.open(path) for path in sources)

        batches = data.batches("train", max_length, 0, features=partial(_feature_source, opened, tokenizer))
        sample = batches.batch(0, min(STATISTICS_RECORDS, batches.reader.order.epoch_records(0))).features
        assert sample is not None
        return cls(tokenizer, opened, Statistics.of(tokenizer.contract, sample.numpy()))

    def of_splits(self, splits: Sequence[Split]) -> FeatureSource:
        """What gives the features of the records of these splits of the token corpora."""
        return _feature_source(self.sources, self.tokenizer, splits)


def _feature_source(sources: Sequence[Corpus], tokenizer: Tokenizer, splits: Sequence[Split]) -> FeatureSource:
    return SourceFeatures(splits, sources, tokenizer) if sources else DecodedFeatures(tokenizer)
