"""Conditions as the columns of token corpora: which there are, what training sees of them, and what a batch is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.records import values_of
from hepfm.ingest.reader import Reader, Taken
from hepfm.pretrain.batches import index_in
from hepfm.pretrain.conditions import UNKNOWN, Condition, ConditionValues


class ConditionColumns:
    """What the backbone is told of the records of a reader.

    Of a record all conditions together are left unknown with probability ``dropout``, else each by itself with that
    probability; keyed by (seed, epoch, record), so that ranks and interruptions change nothing.

    Args:
        reader: with the conditions' columns.
        conditions: what is told.
        data_sets: name of each of the reader's splits.
        dropout: how often something is left unknown; 0 outside training.
        seed: of what is left unknown.
    """

    def __init__(
        self, reader: Reader, conditions: Sequence[Condition], data_sets: Sequence[str], dropout: float, seed: int
    ) -> None:
        self.conditions, self.dropout = tuple(conditions), dropout
        self._key = key_of("condition dropout", seed)
        self._ends = np.cumsum([split.records for split in reader.splits])
        self._tables = {
            known.name: index_in(reader.labels if known.kind == "label" else data_sets, known.names)
            for known in conditions
            if known.kind in ("label", "data_set")
        }

    def values(self, taken: Taken) -> ConditionValues:
        """What is told of records."""
        columns = {}
        hidden = self._hidden(taken.keys)
        for place, known in enumerate(self.conditions):
            told = self._column(known, taken)
            columns[known.name] = np.where(hidden[:, place], np.nan if known.is_number else UNKNOWN, told)
        return ConditionValues.of_columns(self.conditions, columns, len(taken.batch))

    def _column(self, known: Condition, taken: Taken) -> np.ndarray:
        if known.kind == "data_set":
            return self._tables[known.name][np.searchsorted(self._ends, taken.keys[:, 1], side="right")]
        values = values_of(taken.batch.column(known.column))
        if known.kind == "label":
            return self._tables[known.name][values]
        if known.kind == "particle":
            return index_of_numbers(values, known.names)
        return values

    def _hidden(self, keys: np.ndarray) -> np.ndarray:
        """(n, conditions) bool: what is left unknown."""
        if not self.dropout:
            return np.zeros((len(keys), len(self.conditions)), dtype=bool)
        draws = np.arange(len(self.conditions) + 1)
        uniform = hashed_uniform(self._key, keys[:, :1], keys[:, 1:], draws[None])
        return (uniform[:, :1] < self.dropout) | (uniform[:, 1:] < self.dropout)


def index_of_numbers(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Index (n,) int64 of whole numbers among names that are numbers; -1 of others and of unknown ones."""
    numbers = np.array([int(name) for name in names])
    order = np.argsort(numbers)
    place = order[np.clip(np.searchsorted(numbers, values, sorter=order), 0, len(numbers) - 1)]
    return np.where(numbers[place] == values, place, UNKNOWN).astype(np.int64)
