"""The VQ-VAE tokenizer: a fitted network with its feature contract, as an artifact."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch

from hepfm.core.config import from_dict
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout, tokens_by_length
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.base import FeatureTokenizer
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.network import VQVAE
from hepfm.tokenize.settings import VQVAEConfig
from hepfm.tokenize.tokens import Tokens, named_streams
from hepfm.tokenize.vqvae_fit import TokenizerFitConfig, fit_network

# Records are encoded in groups of about this many points. The groups follow from the records alone.
GROUP_POINTS = 16384
# On another machine an id may differ from the reference where two codes are equally far, to rounding.
TIE_TOLERANCE = 1e-4
AGAIN = "get the artifact again"


class VQVAETokenizer(FeatureTokenizer):
    """A VQ-VAE with its contract; see :class:`hepfm.tokenize.registry.Tokenizer`."""

    kind = "vqvae"
    settings = TokenizerFitConfig
    cure = "fit longer (--steps), with a lower --learning-rate, or fewer --codes"

    network: Any  # a VQVAE, or a subclass's own with the same encode and decode

    def __init__(self, network: Any, contract: FeatureContract, hash: str = "") -> None:
        self.network = network.cpu().eval()
        codes = network.config.streams
        super().__init__(contract, named_streams([str(number) for number in range(len(codes))], codes), hash)

    @classmethod
    def fit(
        cls, config: TokenizerFitConfig, corpus: Corpus, contract: FeatureContract, run: RunFolder
    ) -> tuple[Self, dict[str, float]]:
        """Train a network; see :meth:`hepfm.tokenize.registry.Tokenizer.fit`."""
        network, figures = fit_network(config, corpus, contract, run)
        return cls(network, contract), figures

    def encode_features(self, features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Token ids (T, Q) of features (T, F) of records ``offsets``."""
        return self.encode_latents(features, offsets)[0]

    def encode_latents(self, features: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T, Q) and latents (T, latent) float32 of features (T, F) of records ``offsets``."""
        ids = torch.empty(len(features), len(self.streams), dtype=torch.int64)
        latents = torch.empty(len(features), self.network.config.latent_for(features.shape[1]))
        with reproducibly():
            for first, stop in groups(offsets):
                here = slice(offsets[first], offsets[stop])
                points = torch.from_numpy(features[here])
                lengths = np.diff(offsets[first : stop + 1])
                # In order of length attention moves nothing. What it takes is a tensor of torch's own, which is
                # aligned: the last digit of a matrix product can depend on that.
                order = torch.from_numpy(tokens_by_length(lengths))
                found = self.network.encode(points.index_select(0, order), Layout.of(np.sort(lengths)))
                for whole, part in zip((ids, latents), found, strict=True):
                    whole[here].index_copy_(0, order, part)
        return ids.numpy(), latents.numpy()

    def decode_features(self, tokens: Tokens, conditions: np.ndarray) -> np.ndarray:
        """Features (T, F) of token ids (T, Q) of records with conditions (n, C)."""
        parts = [np.zeros((0, self.contract.width), dtype=np.float32)]
        with reproducibly():
            offsets = tokens.offsets
            for first, stop in groups(offsets):
                part = torch.from_numpy(tokens.ids[offsets[first] : offsets[stop]])
                told = torch.from_numpy(conditions[first:stop]) if conditions.shape[1] else None
                parts.append(self.network.decode(part, Layout.of(np.diff(offsets[first : stop + 1])), told).numpy())
        return np.concatenate(parts)

    def architecture(self) -> dict[str, Any]:
        return asdict(self.network.config)

    def weights(self) -> dict[str, torch.Tensor]:
        return self.network.state_dict()

    @classmethod
    def build(
        cls, architecture: dict[str, Any], contract: FeatureContract, weights: dict[str, torch.Tensor], where: object
    ) -> Self:
        config = from_dict(VQVAEConfig, architecture, where)
        config.check(contract.width)
        # Before a layer is allocated: no network of these sizes has fewer numbers than this.
        least = config.blocks * config.width**2
        least += config.codes if config.quantizer in ("vq", "residual") else 0
        if least > sum(value.numel() for value in weights.values()):
            raise HepfmError("its weights are not those of its architecture: they are too few", where, AGAIN)
        network = VQVAE(config, contract.width, len(contract.conditions))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise HepfmError(f"its weights are not those of its architecture: {error}", where, AGAIN) from error
        return cls(network, contract)

    def differing(self, features: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> int:
        """Points whose tokens are not ``ids``, those aside that tie to rounding."""
        _, latents = self.encode_latents(features, offsets)
        stored = torch.from_numpy(ids.astype(np.int64).reshape(len(ids), -1))
        with torch.inference_mode():
            return int((~self.network.quantizer.near(torch.from_numpy(latents), stored, TIE_TOLERANCE)).sum())


@contextmanager
def reproducibly() -> Iterator[None]:
    """One thread: how sums are split over threads changes their last digit, and so an id where two codes tie.

    Without oneDNN, which is no faster here and keeps what it compiled for each of the last 1,024 shapes: groups hardly
    have a shape twice, and what is kept leaves gaps in memory that later groups do not fit into. Only in the main
    thread: the switch is the whole process's, and a training step that runs meanwhile would get other last digits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread
    alone = threading.current_thread() is threading.main_thread()
    # Not by flags(), which sets precisions too, and warns of one.
    onednn = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)[0] if alone else None
    try:
        with torch.inference_mode():
            yield
    finally:
        if onednn is not None:
            torch.backends.mkldnn.set_flags(_enabled=onednn, _fp32_precision=None)
        torch.set_num_threads(threads)


def groups(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive records of about GROUP_POINTS points, at least one record each."""
    first, records = 0, len(offsets) - 1
    while first < records:
        stop = int(np.searchsorted(offsets, offsets[first] + GROUP_POINTS, side="right")) - 1
        stop = min(max(stop, first + 1), records)
        yield first, stop
        first = stop
