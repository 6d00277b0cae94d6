"""The VQ-VAE tokenizer: a fitted network with its feature contract, as an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact, write_artifact
from hepfm.core.config import from_dict
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import POINTS_COLUMN, offsets_of
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.network import VQVAE, VQVAEConfig, near_ties
from hepfm.tokenize.registry import token_type

# Records are encoded in groups of about this many points. The groups follow from the records alone.
GROUP_POINTS = 16384
# On another machine an id may differ from the reference where two codes are equally far, to rounding.
TIE_TOLERANCE = 1e-4
DECODE_TOLERANCE = 1e-3


class VQVAETokenizer:
    """A VQ-VAE with its contract; see :class:`hepfm.tokenize.registry.Tokenizer`."""

    kind = "vqvae"
    contract_type: ClassVar[type[FeatureContract]] = FeatureContract

    def __init__(self, network: Any, contract: FeatureContract, hash: str = "") -> None:
        self.network = network.cpu().eval()
        self.contract, self.hash = contract, hash
        self.codes = network.config.codes
        self._type = token_type(self.codes)

    def encode(self, batch: pa.RecordBatch) -> pa.ListArray:
        """Token ids of every point of every record; see :meth:`Tokenizer.encode`."""
        offsets = offsets_of(batch.column(POINTS_COLUMN[self.contract.kind]))
        ids, _ = self.encode_features(self.contract.encode(batch), offsets)
        values = pa.array(ids.astype(self._type.to_pandas_dtype()), self._type)
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) int64 and latents (T, latent) float32 of features (T, F) of records ``offsets``."""
        parts = []
        with _reproducibly():
            for first, stop in _groups(offsets):
                points = slice(offsets[first], offsets[stop])
                # A tensor of torch's own is aligned, which the last digit of a matrix product can depend on.
                part = torch.from_numpy(features[points]).clone()
                parts.append(self.network.encode(part, Layout.of(np.diff(offsets[first : stop + 1]))))
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros((0, self.network.config.latent), dtype=np.float32)
        ids, latents = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return ids, latents

    def decode(self, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """Physical quantities of token ids; see :meth:`Tokenizer.decode`."""
        tokens, offsets = np.asarray(tokens), np.asarray(offsets, dtype=np.int64)
        self._check_ids(tokens, offsets)
        parts = [np.zeros((0, len(self.contract.features)), dtype=np.float32)]
        with _reproducibly():
            for first, stop in _groups(offsets):
                ids = torch.from_numpy(tokens[offsets[first] : offsets[stop]].astype(np.int64))
                parts.append(self.network.decode(ids, Layout.of(np.diff(offsets[first : stop + 1]))).numpy())
        return self.contract.decode(np.concatenate(parts))

    def _check_ids(self, tokens: np.ndarray, offsets: np.ndarray) -> None:
        if not np.issubdtype(tokens.dtype, np.integer) and len(tokens):
            raise HepfmError(f"token ids are {tokens.dtype}, not integers", "decode")
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
            raise HepfmError(f"the offsets do not divide {len(tokens)} tokens into records", "decode")
        bad = (tokens < 0) | (tokens >= self.codes)
        if bad.any():
            first = int(np.argmax(bad))
            record = int(np.searchsorted(offsets, first, side="right")) - 1
            raise HepfmError(
                f"token id {tokens[first]} in record {record} is none of the tokenizer's (0 to {self.codes - 1})",
                "decode",
                "take start, stop and padding out first, or name the tokenizer that made these ids",
            )

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
        features = self.contract.encode(examples)
        ids, _ = self.encode_features(features, offsets)
        decoded = self.decode(ids, offsets)
        artifact = write_artifact(
            path,
            kind="tokenizer",
            architecture={"tokenizer": self.kind, "codes": self.codes, **asdict(self.network.config)},
            contract=self.contract.to_dict(),
            provenance=dict(provenance),
            weights=self.network.state_dict(),
            metrics=dict(metrics),
            reference={
                "features": features,
                "offsets": offsets,
                "ids": ids,
                **{f"decoded_{name}": values for name, values in decoded.items()},
            },
            card=card,
        )
        self.hash = artifact.hash
        return artifact

    @classmethod
    def network_of(cls, sizes: dict[str, Any], features: int, where: object) -> Any:
        """A network of these sizes, without weights.

        Raises:
            HepfmError: there is none.
        """
        config = from_dict(VQVAEConfig, sizes, where)
        config.check(features)
        return VQVAE(config, features)

    @classmethod
    def load(cls, artifact: Artifact) -> Self:
        """Read an artifact and replay its reference; see :meth:`Tokenizer.load`."""
        where = artifact.path / "config.json"
        sizes = {name: value for name, value in artifact.architecture.items() if name != "tokenizer"}
        contract = cls.contract_type.from_dict(artifact.contract, where)
        network = cls.network_of(sizes, len(contract.features), where)
        try:
            network.load_state_dict(artifact.weights())
        except RuntimeError as error:
            raise HepfmError(
                f"its weights are not those of its architecture: {error}", artifact.path, "get the artifact again"
            ) from error
        tokenizer = cls(network, contract, artifact.hash)
        tokenizer._replay(artifact)
        return tokenizer

    def _replay(self, artifact: Artifact) -> None:
        """Compare with the reference of the artifact."""
        known = artifact.reference()
        where, mend = artifact.path / "reference.npz", "get the artifact again, or tell its makers"
        ids, latents = self.encode_features(known["features"], known["offsets"])
        stored = torch.from_numpy(known["ids"])
        gaps = near_ties(torch.from_numpy(latents), self.network.codebook, stored)
        if len(gaps) and float(gaps.max()) > TIE_TOLERANCE:
            differing = int((ids != known["ids"]).sum())
            raise HepfmError(f"{differing} of {len(ids)} reference points get another token here", where, mend)
        for name, values in self.decode(known["ids"], known["offsets"]).items():
            if not np.allclose(values, known[f"decoded_{name}"], rtol=DECODE_TOLERANCE, atol=DECODE_TOLERANCE):
                raise HepfmError(f"{name} of the reference tokens decodes to other values here", where, mend)


@contextmanager
def _reproducibly() -> Iterator[None]:
    """One thread: how sums are split over threads changes their last digit, and so an id where two codes tie."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


def _groups(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive records of about GROUP_POINTS points, at least one record each."""
    first, records = 0, len(offsets) - 1
    while first < records:
        stop = int(np.searchsorted(offsets, offsets[first] + GROUP_POINTS, side="right")) - 1
        stop = min(max(stop, first + 1), records)
        yield first, stop
        first = stop
