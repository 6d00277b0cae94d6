"""What a parametrised shower meets: a detector's layers in radiation lengths and Moliere radii.

The formulas know a calorimeter of two materials, passive and active. Everything else (boards, supports, glue, air)
counts here by its radiation lengths along the depth and by its thickness across: it moves layers apart, and particles
under an angle go further sideways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.gflash.detectors import Detector
from hepfm.ingest.gflash.longitudinal import Medium
from hepfm.ingest.gflash.material import Slice, mixture

# Showers of 10 GeV to 1 TeV have their maximum in front of this depth [X0] (ln y - 0.86, and 9/7 for conversion): how
# often they are sampled there is what shapes them.
MAXIMUM_DEPTH = 10.0


@dataclass(frozen=True)
class Stack:
    """Layers of a detector; a layer ends behind its last slice, so that absorbers stand in front of what samples them.

    Attributes:
        edges: (layers + 1,) depths [X0].
        moliere: (layers,) Moliere radius [mm] of absorber and active material, diluted by the gaps, of all that stands
            in front of the layer's end: sideways distances add up on the way.
        seen: (layers,) share of a layer's deposit that its active slices see.
        medium: what the formulas need.
    """

    edges: np.ndarray
    moliere: np.ndarray
    seen: np.ndarray
    medium: Medium

    @property
    def middles(self) -> np.ndarray:
        """Depths (layers,) [X0] of the layers' middles."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def stack_of(detector: Detector) -> Stack:
    """The stack of a detector that passes :meth:`Detector.check`."""
    layers = detector.layers
    steps = np.array([mixture(layer).depth for layer in layers])
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    front = [slice_ for layer, edge in zip(layers, edges, strict=False) if edge < MAXIMUM_DEPTH for slice_ in layer]
    passive, active = _with_role(front, "absorber"), _with_role(front, "active")
    whole, sampled = mixture(front), mixture([*passive, *active])
    medium = Medium(
        z=sampled.z,
        critical_energy=sampled.critical_energy,
        sampling_frequency=len(active) / whole.depth,
        response=1 / (1 + 0.007 * (mixture(passive).z - mixture(active).z)),
    )
    # Signals follow the particles that pass: a layer's active slices see what such a particle loses there, of what it
    # loses in the layer at the mean loss per radiation length; electrons by e/mip less.
    loss = whole.ionisation / whole.depth
    passing = np.array([mixture(_with_role(layer, "active")).ionisation for layer in layers])
    return Stack(edges, _moliere(layers), medium.response * passing / (loss * steps), medium)


def _with_role(slices: tuple[Slice, ...] | list[Slice], role: str) -> list[Slice]:
    return [slice_ for slice_ in slices if slice_.role == role]


def _moliere(layers: tuple[tuple[Slice, ...], ...]) -> np.ndarray:
    sampled = [mixture([slice_ for slice_ in layer if slice_.role != "gap"]) for layer in layers]
    thickness = np.cumsum([sum(slice_.thickness for slice_ in layer) for layer in layers])
    return thickness / np.cumsum([part.thickness / part.moliere for part in sampled])
