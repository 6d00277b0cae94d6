"""What fitting a VQ-VAE minimises: errors of the points, and of the jets they make up."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from hepfm.core.engine.batches import Losses
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.data import PackedPoints
from hepfm.tokenize.network import VQVAE

KINEMATICS = ("pt", "deta", "dphi")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms."""

    commitment: float = 1.0
    """Weight of the squared distance between latents and their codes."""
    entropy: float = 4.0
    """Weight of the entropies that make the codes of lfq be used equally (with 0.1 a tenth of 512 codes were used)."""
    pt_power: float = 0.5
    """A point's error counts as (pt / mean pt) to this power: hard constituents shape jet mass and substructure."""
    jet: float = 40.0
    """Weight of the squared error of the jet's four-momentum (px, py, pz) and mass over its pt. Codes lie nearer to
    the centre than the points they stand for, which makes jets too light; this term takes that back."""

    def check(self) -> None:
        """Refuse weights that would reward errors.

        Raises:
            HepfmError: names the weight.
        """
        for field in fields(self):
            if getattr(self, field.name) < 0:
                option = f"--{field.name.replace('_', '-')}"
                raise HepfmError(f"must not be negative, is {getattr(self, field.name)}", option)


class Objective(nn.Module):
    """Sum over points of weighted squared errors of the features, commitment, and errors of the jet.

    The jet's error counts once for each of its points, so that every term is a sum over points.
    """

    def __init__(self, network: VQVAE, contract: FeatureContract, config: LossConfig) -> None:
        super().__init__()
        self.network, self.contract, self.config = network, contract, config
        self._limits = {
            feature.name: feature.encode(np.array([feature.seen["min"], feature.seen["max"]])).tolist()
            for feature in contract.features
            if feature.name in KINEMATICS
        }

    def forward(self, batch: PackedPoints) -> Losses:
        target = batch.features
        output = self.network(target, batch.layout, batch.conditions)
        squares = (output.features.float() - target).square()
        commitment = output.learned.commitment.sum()
        entropy = self.config.entropy * output.learned.entropy.sum()
        total = (squares.sum(dim=1) * self._weights(target)).sum() + self.config.commitment * commitment + entropy
        figures = {f"error_{name}": squares[:, self.contract.place(name)].sum() for name in self.contract.names}
        if self.config.jet and set(KINEMATICS) <= set(self.contract.names):
            jets = self._jet_errors(output.features.float(), target, batch.layout)
            total = total + self.config.jet * jets
            figures["error_jet"] = jets
        return Losses(total, {**figures, "commitment": commitment, "perplexity": self._perplexity(output.learned.ids)})

    def _weights(self, target: Tensor) -> Tensor:
        """(T,) weight of each point."""
        if not self.config.pt_power or "pt" not in self.contract.names:
            return torch.ones_like(target[:, 0])
        feature = self.contract.features[self.contract.names.index("pt")]
        pt = feature.decode_tensor(target[:, self.contract.place("pt").start])
        return (pt / feature.seen["mean"]) ** self.config.pt_power

    def _jet_errors(self, decoded: Tensor, target: Tensor, layout: Layout) -> Tensor:
        found, true = (self._jets(features, layout) for features in (decoded, target))
        pt = torch.hypot(true[:, 0], true[:, 1]).clamp(min=torch.finfo(true.dtype).tiny)
        errors = ((found - true) / pt[:, None]).square().sum(dim=1)
        return (errors * layout.offsets.diff()).sum()

    def _jets(self, features: Tensor, layout: Layout) -> Tensor:
        """px, py, pz and mass (n, 4) of the sums of massless points, in the frame of the axis."""
        pt, deta, dphi = (self._physical(features, name) for name in KINEMATICS)
        vectors = [pt * dphi.cos(), pt * dphi.sin(), pt * deta.sinh(), pt * deta.cosh()]
        px, py, pz, energy = self._sums(torch.stack(vectors, dim=1), layout).unbind(1)
        squared = (energy - pz) * (energy + pz) - px.square() - py.square()
        # The root has no slope at 0: a floor of (pt / 1000)^2 keeps gradients of nearly massless jets finite.
        floor = 1e-6 * (px.square() + py.square()) + torch.finfo(features.dtype).tiny
        return torch.stack([px, py, pz, torch.maximum(squared, floor).sqrt()], dim=1)

    def _sums(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Sums (n, 4) of the points' vectors (T, 4) over each record."""
        numbers = torch.arange(layout.sequences, device=vectors.device)
        record = torch.repeat_interleave(numbers, layout.offsets.diff().long(), output_size=layout.tokens)
        return vectors.new_zeros(layout.sequences, 4).index_add(0, record, vectors)

    def _physical(self, features: Tensor, name: str) -> Tensor:
        """A quantity (T,), kept within what was seen: a start that is far off must not overflow."""
        low, high = self._limits[name]
        feature = self.contract.features[self.contract.names.index(name)]
        return feature.decode_tensor(features[:, self.contract.place(name).start].clamp(low, high))

    def _perplexity(self, ids: Tensor) -> Tensor:
        """Perplexity of the batch's codes (mean over id lists), times its points: figures are logged per point."""
        total = ids.new_zeros((), dtype=torch.float64)
        for codes, column in zip(self.network.quantizer.streams, ids.unbind(1), strict=True):
            share = torch.bincount(column, minlength=codes).double() / max(1, len(ids))
            total = total + torch.special.entr(share).sum().exp()
        return total * len(ids) / ids.shape[1]
