"""Features and four-vectors of padded jets as operations of a graph: what :class:`FeatureSet` makes of corpus records.

Raw quantities come in columns, as a user has them; what is made of them is the same to the last digit or two.
"""

from __future__ import annotations

import torch
from torch import nn

from hepfm.finetune.inputs import FLAGS, FeatureSet

JET = ("pt", "eta", "energy")
_UNITS = {"pt": "GeV", "energy": "GeV", "dphi": "rad", "d0": "mm", "d0err": "mm", "dz": "mm", "dzerr": "mm"}
_MEANINGS = {
    "pt": "transverse momentum",
    "deta": "eta - eta of the jet, not flipped by its sign",
    "dphi": "phi - phi of the jet, in [-pi, pi)",
    "energy": "energy",
    "charge": "electric charge, in units of e",
    "d0": "transverse impact parameter (x py - y px)/pt; 0 or NaN without track",
    "d0err": "its uncertainty; 0 or NaN without track",
    "dz": "longitudinal impact parameter; 0 or NaN without track",
    "dzerr": "its uncertainty; 0 or NaN without track",
}
_STAND_IN = {"pt": 1.0, "energy": 1.0}  # what padding is taken for, so that no logarithm is infinite


def flag_names() -> tuple[str, ...]:
    """Names of the columns that tell a particle's species, 1 or 0."""
    return tuple(name.removeprefix("part_") for name in FLAGS)


def columns_of(features: FeatureSet) -> tuple[str, ...]:
    """Names of a particle's raw columns, in order."""
    return tuple(column for name in features.needs for column in (flag_names() if name == "species" else (name,)))


def described(name: str) -> dict[str, str]:
    """Unit and meaning of a raw column."""
    return {"name": name, "unit": _UNITS.get(name, ""), "meaning": _MEANINGS.get(name, "1 if it is one, else 0")}


class Preparation(nn.Module):
    """Raw particles (n, P, C) and jets (n, 3) to features (n, P, F), four-vectors (n, P, 4) [GeV] and a mask (n, P).

    Args:
        features: what the network reads.
    """

    stand_in: torch.Tensor
    along_x: torch.Tensor

    def __init__(self, features: FeatureSet) -> None:
        super().__init__()
        self.features, self.columns = features, columns_of(features)
        self.register_buffer(
            "stand_in", torch.tensor([_STAND_IN.get(name, 0.0) for name in self.columns]), persistent=False
        )
        self.register_buffer("along_x", torch.tensor([1.0, 0.0, 0.0, 1.0]), persistent=False)

    def forward(
        self, particles: torch.Tensor, jets: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        real = mask > 0.5
        particles = torch.where(real[:, :, None], particles, self.stand_in)
        raw = dict(zip(self.columns, particles.unbind(2), strict=True))
        jet_pt, jet_eta, jet_energy = jets[:, :, None].unbind(1)
        # A quotient: torch's number / tensor is the number times the rounded reciprocal.
        scale = 1.0 if self.features.rescale is None else torch.full_like(jet_pt, self.features.rescale) / jet_pt
        columns = []
        for feature in self.features.features:
            value = _value(feature.name, raw, jet_pt, jet_eta, jet_energy, scale)
            if feature.subtract is not None:
                value = ((value - feature.subtract) * feature.multiply).clamp(*feature.clip)
            columns.append(value)
        vectors = torch.where(real[:, :, None], _vectors(raw, jet_eta, scale), self.along_x)
        return torch.stack(columns, 2), vectors, real


def _value(
    name: str,
    raw: dict[str, torch.Tensor],
    jet_pt: torch.Tensor,
    jet_eta: torch.Tensor,
    jet_energy: torch.Tensor,
    scale: torch.Tensor | float,
) -> torch.Tensor:
    """A feature (n, P) before it is standardised."""
    deta = raw["deta"] * torch.where(jet_eta > 0, 1.0, -1.0)
    ready = {
        "part_pt_log": lambda: (raw["pt"] * scale).log(),
        "part_e_log": lambda: (raw["energy"] * scale).log(),
        "part_logptrel": lambda: (raw["pt"] / jet_pt).log(),
        "part_logerel": lambda: (raw["energy"] / jet_energy).log(),
        "part_deltaR": lambda: (deta * deta + raw["dphi"] * raw["dphi"]).sqrt(),
        "part_d0": lambda: _tracked(raw["d0"]).tanh(),
        "part_d0err": lambda: _tracked(raw["d0err"]),
        "part_dz": lambda: _tracked(raw["dz"]).tanh(),
        "part_dzerr": lambda: _tracked(raw["dzerr"]),
        "part_deta": lambda: deta,
    }
    return ready[name]() if name in ready else raw[name.removeprefix("part_")]


def _tracked(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values.isnan(), 0.0, values)


def _vectors(raw: dict[str, torch.Tensor], jet_eta: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Four-vectors (n, P, 4), azimuths relative to the jet's; in double precision and rounded, as elsewhere."""
    pt, dphi = raw["pt"].double(), raw["dphi"].double()
    eta = jet_eta.double() + raw["deta"].double()
    momentum = (pt * dphi.cos(), pt * dphi.sin(), pt * 0.5 * (eta.exp() - (-eta).exp()))
    parts = [*(part.float() for part in momentum), raw["energy"]]
    return torch.stack([part * scale for part in parts], 2)
