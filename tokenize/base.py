"""What tokenizers of features have in common: contract, checks, and the artifact with its reference."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact, write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, offsets_of
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.fitting import FitConfig
from hepfm.tokenize.tokens import Stream, Tokens, check_tokens

DECODE_TOLERANCE = 1e-3


class FeatureTokenizer(ABC):
    """A tokenizer that maps the contract's features (T, F) of points to ids (T, Q) and back.

    A subclass says how, and what it is made of; see :class:`hepfm.tokenize.registry.Tokenizer` for what comes of it.
    """

    kind: ClassVar[str]
    settings: ClassVar[type[FitConfig]]
    continuous: ClassVar[str] = ""
    contract_type: ClassVar[type[FeatureContract]] = FeatureContract
    cure: ClassVar[str] = ""

    def __init__(self, contract: FeatureContract, streams: tuple[Stream, ...], hash: str = "") -> None:
        self.contract, self.streams, self.hash = contract, streams, hash

    @abstractmethod
    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Ids (T, Q) of features (T, F) float32 of records ``offsets``."""

    @abstractmethod
    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """Features (T, F) float32 of tokens, ids as (T, Q) int64, of records with the contract's conditions (n, C)."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Plain data that it is made of, besides its contract and weights."""

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """What was fitted."""

    @classmethod
    @abstractmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, torch.Tensor], where: object
    ) -> Self:
        """The tokenizer of an artifact's parts.

        Raises:
            HepfmError: they do not fit together.
        """

    @property
    def codes(self) -> int:
        """Ids of the longest stream."""
        return max(stream.codes for stream in self.streams)

    def features_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Features (T, F) that :meth:`encode_features` takes; by default the contract's columns."""
        return self.contract.encode(batch)

    def physical(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Physical values of such features."""
        return self.contract.decode(features)

    def continuous_of(self, features: np.ndarray) -> np.ndarray | None:
        """The number (T,) float32 that stays one of each point, where the tokenizer has such."""
        return None

    def encode(self, batch: pa.RecordBatch) -> Tokens:
        """Tokens of records; see :meth:`Tokenizer.encode`."""
        return self._tokens(self.features_of(batch), offsets_of(batch.column(POINTS_COLUMN[self.contract.kind])))

    def _tokens(self, features: np.ndarray, offsets: np.ndarray) -> Tokens:
        ids = self.encode_features(features, offsets)
        return Tokens(ids[:, 0] if len(self.streams) == 1 else ids, offsets, self.continuous_of(features))

    def decode(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        continuous: np.ndarray | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Physical quantities of tokens; see :meth:`Tokenizer.decode`."""
        tokens = check_tokens(ids, offsets, continuous, self.streams, self.continuous)
        told = self.contract.encode_conditions(conditions, len(offsets) - 1)
        return self.physical(self.decode_features(tokens, told))

    def save(
        self,
        path: Path,
        *,
        examples: pa.RecordBatch,
        provenance: Mapping[str, Any],
        metrics: Mapping[str, Any],
        card: str,
    ) -> Artifact:
        """Write the artifact; see :meth:`Tokenizer.save`."""
        offsets = offsets_of(examples.column(POINTS_COLUMN[self.contract.kind]))
        features = self.features_of(examples)
        tokens = self._tokens(features, offsets)
        conditions = self.contract.conditions_of(examples)
        decoded = self.decode(tokens.ids, offsets, tokens.continuous, conditions)
        artifact = write_artifact(
            path,
            kind="tokenizer",
            architecture={"tokenizer": self.kind, **self.architecture()},
            contract=self.contract.to_dict(),
            provenance=dict(provenance),
            weights=self.weights(),
            metrics=dict(metrics),
            reference={
                "features": features,
                "offsets": offsets,
                "ids": tokens.ids,
                **({} if tokens.continuous is None else {"continuous": tokens.continuous}),
                **{f"condition_{name}": values for name, values in conditions.items()},
                **{f"decoded_{name}": values for name, values in decoded.items()},
            },
            card=card,
        )
        self.hash = artifact.hash
        return artifact

    @classmethod
    def load(cls, artifact: Artifact) -> Self:
        """Read an artifact and replay its reference; see :meth:`Tokenizer.load`."""
        where = artifact.path / "config.json"
        architecture = {name: value for name, value in artifact.architecture.items() if name != "tokenizer"}
        contract = cls.contract_type.from_dict(artifact.contract, where)
        weights = artifact.weights()
        tokenizer = cls.build(architecture, contract, weights, where)
        for what, stated, own in (
            ("setting", architecture, tokenizer.architecture()),
            ("tensor", weights, tokenizer.weights()),
        ):
            if unknown := sorted(stated.keys() - own.keys()):
                raise HepfmError(f"has a {what} '{unknown[0]}' that this hepfm does not know", where, "update hepfm")
        tokenizer.hash = artifact.hash
        if artifact.replayed:
            tokenizer.replay(artifact)
        return tokenizer

    def replay(self, artifact: Artifact) -> None:
        """Compare with the reference of the artifact.

        Raises:
            HepfmError: it does not give its reference outputs.
        """
        where, mend = artifact.path / "reference.npz", "get the artifact again, or tell its makers"
        try:
            self._replay(artifact.reference(), where, mend)
        except (LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise HepfmError(
                f"its weights, settings and reference do not fit together: {error!r}", where, mend
            ) from error

    def _replay(self, known: Mapping[str, np.ndarray], where: Path, mend: str) -> None:
        differing = self.differing(known["features"], known["offsets"], known["ids"])
        if differing:
            raise HepfmError(f"{differing} of {len(known['ids'])} reference points get another token here", where, mend)
        conditions = {condition.name: known[f"condition_{condition.name}"] for condition in self.contract.conditions}
        decoded = self.decode(known["ids"], known["offsets"], known.get("continuous"), conditions)
        for name, values in decoded.items():
            if not np.allclose(
                values, known[f"decoded_{name}"], rtol=DECODE_TOLERANCE, atol=DECODE_TOLERANCE, equal_nan=True
            ):
                raise HepfmError(f"{name} of the reference tokens decodes to other values here", where, mend)

    def differing(self, features: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> int:
        """Points whose tokens are not ``ids``, those aside that tie to rounding."""
        found = self.encode_features(features, offsets).reshape(len(ids), -1)
        return int((found != ids.reshape(len(ids), -1)).any(axis=1).sum())
