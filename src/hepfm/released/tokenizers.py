"""Tokenizers behind the common interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.released.jets import Axis, Given, Records, given
from hepfm.released.model import Model, as_awkward
from hepfm.tokenize.apply import statistics_of
from hepfm.tokenize.registry import Tokenizer, load_tokenizer
from hepfm.tokenize.tokens import CONTINUOUS, Tokens, token_fields


class TokenizerModel(Model):
    """Records to token ids and back."""

    does = ("encode", "decode")

    def __init__(self, tokenizer: Tokenizer, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.tokenizer = tokenizer

    @classmethod
    def open(cls, path: Path) -> TokenizerModel:
        return cls(load_tokenizer(path), read_artifact(path))

    def encode(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> ak.Array:
        return encoded(self.tokenizer, given(jets, split, axis))

    def decode(self, tokens: ak.Array, conditions: Mapping[str, np.ndarray] | None = None) -> ak.Array:
        return decoded(self.tokenizer, tokens, conditions)


def encoded(tokenizer: Tokenizer, jets: Given) -> ak.Array:
    """See :meth:`hepfm.released.model.Model.encode`."""
    fields = token_fields(tokenizer.streams, tokenizer.continuous)
    schema = pa.schema(fields)
    parts = []
    for _, tokens in tokenized(tokenizer, jets):
        columns = tokens.columns(tokenizer.streams)
        parts.append(pa.table([columns[field.name].cast(field.type) for field in fields], schema=schema))
    return as_awkward(pa.concat_tables(parts) if parts else schema.empty_table())


def tokenized(tokenizer: Tokenizer, jets: Given) -> Iterator[tuple[pa.RecordBatch, Tokens]]:
    """Blocks of records as the tokenizer sees them, and their tokens; the same as ``hepfm tokenizer apply`` makes.

    Raises:
        HepfmError: the records are not what the tokenizer takes.
    """
    contract, corpus = tokenizer.contract, jets.corpus
    if jets.split is None and (jets.axis, contract.axis) == ("constituent_sum", "stored"):
        raise HepfmError(
            "have angles about the sum of constituents, the tokenizer was fitted on those about the jet's own axis",
            corpus.path,
            "axis='stored' says that both are the same; or give records with deta and dphi about the jet's axis",
        )
    statistics = statistics_of(corpus) if jets.split is not None else corpus.manifest.statistics
    contract.check(corpus.manifest, statistics, corpus.path)
    for batch in jets:
        prepared = contract.prepared(batch, jets.axis)
        yield prepared, tokenizer.encode(prepared)


def decoded(tokenizer: Tokenizer, tokens: object, conditions: Mapping[str, np.ndarray] | None) -> ak.Array:
    """See :meth:`hepfm.released.model.Model.decode`."""
    names = [stream.column for stream in tokenizer.streams]
    if isinstance(tokens, (list, np.ndarray)):
        tokens = ak.Array(tokens)
    if not isinstance(tokens, ak.Array):
        raise HepfmError(f"are of type {type(tokens).__name__}", "tokens", "give what encode gives, or lists of ids")
    lists = [tokens[name] for name in names if name in tokens.fields] if tokens.fields else [tokens]
    if len(lists) != len(names) or lists[0].ndim != 2:
        raise HepfmError(f"are not lists of ids {', '.join(names)}", "tokens", "give what encode gives")
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(lists[0], axis=1)))])
    ids = [ak.to_numpy(ak.flatten(column, axis=1)) for column in lists]
    continuous = ak.to_numpy(ak.flatten(tokens[CONTINUOUS], axis=1)) if CONTINUOUS in tokens.fields else None
    found = tokenizer.decode(ids[0] if len(ids) == 1 else np.stack(ids, axis=1), offsets, continuous, conditions)
    flat = ak.Array({name: np.asarray(values) for name, values in found.items()})
    points = ak.unflatten(flat, np.diff(offsets))
    units = {feature.name: feature.unit for feature in tokenizer.contract.features}
    return ak.with_parameter(points, "units", units)
