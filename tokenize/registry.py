"""Tokenizers by name. A new one is one new file that satisfies :class:`Tokenizer`, and one line in TOKENIZERS."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.resolve import resolve
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fitting import FitConfig
from hepfm.tokenize.tokens import Stream, Tokens

TOKENIZERS = {
    "vqvae": "hepfm.tokenize.vqvae:VQVAETokenizer",
    "kmeans": "hepfm.tokenize.kmeans:KMeansTokenizer",
    "binning": "hepfm.tokenize.binning:BinningTokenizer",
    "cells": "hepfm.tokenize.cells:CellsTokenizer",
    "normformer": "hepfm.tokenize.normformer:NormFormerTokenizer",
}


class Tokenizer(Protocol):
    """Maps a record's points to token ids and back, and carries its own preprocessing.

    Attributes:
        kind: its name in TOKENIZERS.
        settings: dataclass of what its fit is asked, a :class:`hepfm.tokenize.fitting.FitConfig`.
        streams: its lists of ids, one or several.
        continuous: what the number is that each point has beside its ids; empty if there is none.
        cure: what to do if less than half of its codes are used; empty where that is no fault.
        codes: ids of its longest stream; they are 0 ... codes - 1.
        contract: what it takes points to be.
        hash: of the artifact it was loaded from.
    """

    kind: ClassVar[str]
    settings: ClassVar[type[FitConfig]]
    continuous: ClassVar[str]
    cure: ClassVar[str]
    streams: tuple[Stream, ...]
    contract: FeatureContract
    hash: str

    @property
    def codes(self) -> int: ...

    @classmethod
    def fit(
        cls, config: Any, corpus: Corpus, contract: FeatureContract, run: RunFolder
    ) -> tuple[Tokenizer, dict[str, float]]:
        """A tokenizer that learned from the train split, and figures of the fit.

        Args:
            config: of the type ``settings``.
            corpus: what to learn from.
            contract: fitted to it.
            run: to be claimed once all is checked; a fit that is run again there continues.

        Raises:
            HepfmError: settings or data that cannot work; before anything is written.
        """
        ...

    def encode(self, batch: pa.RecordBatch) -> Tokens:
        """Tokens of each point of each record.

        The records are as :meth:`FeatureContract.prepared` gives them; only then has each point a token.

        The same batch gives the same ids in any process, whatever its number of threads.

        Raises:
            HepfmError: the records are not what the contract says.
        """
        ...

    def decode(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        continuous: np.ndarray | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Physical quantities (T,) by name (``pt`` [GeV], ``deta``, ``dphi`` [rad], ...) of tokens.

        Args:
            ids: (T,) ids, record after record; (T, Q) of several streams.
            offsets: (n + 1,) record i owns ``ids[offsets[i]:offsets[i + 1]]``.
            continuous: (T,) the number of each point, where the tokenizer has one.
            conditions: (n,) by name, of each record, where the contract names conditions.

        Raises:
            HepfmError: an id that is none of this tokenizer's, or offsets that do not fit the tokens.
        """
        ...

    def save(
        self,
        path: Path,
        *,
        examples: pa.RecordBatch,
        provenance: Mapping[str, Any],
        metrics: Mapping[str, Any],
        card: str,
    ) -> Artifact:
        """Write the artifact; ``examples`` become its reference inputs."""
        ...

    @classmethod
    def load(cls, artifact: Artifact) -> Tokenizer:
        """Read an artifact and replay its reference.

        Raises:
            HepfmError: it does not give its reference outputs.
        """
        ...


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer that ``name`` stands for (see :func:`hepfm.core.resolve.resolve`).

    Raises:
        HepfmError: nothing there, another kind of artifact, damaged, or of an unknown sort.
    """
    artifact = read_artifact(resolve(name), "tokenizer")
    kind = str(artifact.architecture.get("tokenizer"))
    if kind not in TOKENIZERS:
        raise HepfmError(f"unknown tokenizer '{kind}'", artifact.path, f"known: {', '.join(TOKENIZERS)}; update hepfm")
    return tokenizer_class(kind).load(artifact)


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The tokenizers called ``kind`` in TOKENIZERS."""
    module, member = TOKENIZERS[kind].split(":")
    return cast(type[Tokenizer], getattr(importlib.import_module(module), member))
