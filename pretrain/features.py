"""Continuous features of the constituents of token records: from their source corpora, or decoded from the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader, Taken
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.selection import SelectingContract


class SourceFeatures:
    """Features that the tokenizer saw: record i of a token corpus is record i of its source.

    Args:
        tokenizer: its artifact's folder.
        pairs: token corpus and source, in the order of the token reader's splits.
        split: name of the split.
    """

    def __init__(self, tokenizer: Path, pairs: Sequence[tuple[Corpus, Corpus]], split: str) -> None:
        self.contract = load_tokenizer(tokenizer).contract
        selects = isinstance(self.contract, SelectingContract)  # which may read more than its features
        columns = None if selects else self.contract.needed
        self.reader = Reader([source.split(split) for _, source in pairs], 0, columns)
        axes = {source.manifest.axis for _, source in pairs}
        if len(axes) > 1:
            told = " and ".join(sorted(axes))
            raise HepfmError(f"deta and dphi refer to the axes {told}", "source corpora", "name corpora of one axis")
        self.axis = axes.pop()

    def features(self, taken: Taken, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(T, F) float32 of the constituents that have tokens.

        Raises:
            HepfmError: a record has another number of constituents than of tokens.
        """
        batch = self.contract.prepared(self.reader.at(taken.keys[:, 1]), self.axis)
        found = offsets_of(batch.column(POINTS_COLUMN[self.contract.kind]))
        if not np.array_equal(found, offsets):
            record = int(np.argmax(np.diff(found) != np.diff(offsets)))
            raise HepfmError(
                f"record {int(taken.keys[record, 1])} has {np.diff(found)[record]} constituents with a token, its "
                f"tokens are {np.diff(offsets)[record]}",
                "source corpora",
                "make the token corpus again",
            )
        return self.contract.encode(batch)


class DecodedFeatures:
    """Features of what the tokenizer decodes, where the source corpus is not at hand.

    Args:
        tokenizer: its artifact's folder.

    Attributes:
        columns: of the token records that are needed for it.
    """

    def __init__(self, tokenizer: Path) -> None:
        self.tokenizer = load_tokenizer(tokenizer)
        self.columns = tuple(condition.name for condition in self.tokenizer.contract.conditions)

    def features(self, taken: Taken, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(T, F) float32 of the decoded constituents, in the order of the tokens."""
        told = {name: values_of(taken.batch.column(name)) for name in self.columns}
        decoded = self.tokenizer.decode(codes, offsets, conditions=told or None)
        return self.tokenizer.contract.encode_values(decoded)
