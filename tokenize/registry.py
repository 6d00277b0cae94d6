"""Tokenizers by name. A new one is one new file that satisfies :class:`Tokenizer`, and one line in TOKENIZERS."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.resolve import resolve
from hepfm.tokenize.contract import FeatureContract

TOKENIZERS = {
    "vqvae": "hepfm.tokenize.vqvae:VQVAETokenizer",
    "normformer": "hepfm.tokenize.normformer:NormFormerTokenizer",
}


class Tokenizer(Protocol):
    """Maps a record's points to token ids and back, and carries its own preprocessing.

    Attributes:
        kind: its name in TOKENIZERS.
        codes: number of token ids; they are 0 ... codes - 1.
        contract: what it takes points to be.
        hash: of the artifact it was loaded from.
    """

    kind: str
    codes: int
    contract: FeatureContract
    hash: str

    def encode(self, batch: pa.RecordBatch) -> pa.ListArray:
        """Token ids of each point of each record, in the smallest unsigned integer type.

        The records are as :meth:`FeatureContract.prepared` gives them; only then has each point a token.

        The same batch gives the same ids in any process, whatever its number of threads.

        Raises:
            HepfmError: the records are not what the contract says.
        """
        ...

    def decode(self, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """Physical quantities (T,) float32 by name (``pt`` [GeV], ``deta``, ``dphi`` [rad]) of token ids.

        Args:
            tokens: (T,) ids, record after record.
            offsets: (n + 1,) record i owns ``tokens[offsets[i]:offsets[i + 1]]``.

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
    module, member = TOKENIZERS[kind].split(":")
    return cast(Tokenizer, getattr(importlib.import_module(module), member).load(artifact))


def token_type(codes: int) -> pa.DataType:
    """Smallest unsigned integer type that holds ids 0 ... codes - 1."""
    for number in (pa.uint8(), pa.uint16(), pa.uint32()):
        if codes <= 1 << number.bit_width:
            return number
    raise HepfmError(f"{codes} codes are more than 32 bits hold", "tokenizer", "take fewer")
