"""What moves through the simulation: flat arrays over all particles of a batch of events."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from hepfm.core import records

ArraysT = TypeVar("ArraysT", bound="_Arrays")

NEUTRINOS = (12, 14, 16)
SPECIES = {name: index for index, name in enumerate(records.SPECIES)}


@dataclass(frozen=True)
class _Arrays:
    """Arrays of one length, (N,) each."""

    event: np.ndarray

    def __len__(self) -> int:
        return len(self.event)

    def take(self: ArraysT, chosen: np.ndarray) -> ArraysT:
        """The elements that a boolean mask or an index array chooses."""
        return type(self)(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class Particles(_Arrays):
    """Stable generated particles: event index, PDG id, momentum and energy [GeV], production vertex [mm]."""

    pdg: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class Candidates(_Arrays):
    """What the detector sees: momentum and energy [GeV], charge [e], index in ``records.SPECIES``, impact parameters
    and their uncertainties [mm] (0 for neutrals)."""

    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray
    charge: np.ndarray
    species: np.ndarray
    d0: np.ndarray
    d0err: np.ndarray
    dz: np.ndarray
    dzerr: np.ndarray


@dataclass(frozen=True)
class Partons(_Arrays):
    """Decay products (quarks, gluons, leptons) of the resonances of a class: event, number of the resonance they come
    from (no two resonances of a batch have the same), eta, phi."""

    resonance: np.ndarray
    eta: np.ndarray
    phi: np.ndarray


@dataclass(frozen=True)
class Products(_Arrays):
    """Decay products of resonances X and their daughters Y: event, number of the X (from 0, rising), index of the kind
    in ``resonance_labels.KINDS``, eta, phi (of a leptonic tau: those of its electron or muon)."""

    resonance: np.ndarray
    kind: np.ndarray
    eta: np.ndarray
    phi: np.ndarray


@dataclass(frozen=True)
class Quarks(_Arrays):
    """Quarks as they enter hadronisation: event, PDG id, pt [GeV], eta, phi."""

    pdg: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray


def concatenate(parts: list[Candidates]) -> Candidates:
    """All candidates of ``parts``, one part after another."""
    names = [field.name for field in fields(Candidates)]
    return Candidates(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def wrapped(angle: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
