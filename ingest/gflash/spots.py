"""Energy spots: what of a shower falls where, with the fluctuations of sampling (hep-ex/0001020, sections 3.3, 3.4).

A layer's energy is that of the shower's longitudinal profile, fluctuating by the detector's stochastic term; it is
dealt to a random number of equal spots, each at a radius drawn from the radial profile at the layer's depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.gflash.radial import RadialShape, radial_shape, relative_depth
from hepfm.ingest.gflash.showers import Showers
from hepfm.ingest.gflash.stack import Stack

# Of a spot's shape in T and alpha, relative to the energy's, and their number (sampling calorimeters).
SPOT_NUMBER, SPOT_POWER = 10.3, 0.959
SPOT_MAXIMUM, SPOT_MAXIMUM_SLOPE = 0.813, 0.0019
SPOT_ALPHA, SPOT_ALPHA_SLOPE = 0.844, 0.0026
_BELOW_ONE = np.float32(1 - 2.0**-24)


@dataclass(frozen=True)
class Spots:
    """Spots (N,): the incident particle and layer they belong to, radius [mm], azimuth in turns [0, 1), energy [GeV].

    Energies are deposits, in all of the layer's material.
    """

    particle: np.ndarray
    layer: np.ndarray
    radius: np.ndarray
    turn: np.ndarray
    energy: np.ndarray


def draw_spots(stack: Stack, stochastic: float, showers: Showers, rng: np.random.Generator) -> Spots:
    """The spots of showers in a stack with a resolution of ``stochastic``/sqrt(E)."""
    profiles, layers = showers.profiles, len(stack.seen)
    energy = layer_energies(stack, stochastic, showers, rng)
    count = _spot_numbers(stack, stochastic, showers, energy, rng)
    shape = radial_shape(stack.medium, profiles.energy, relative_depth(profiles, stack.middles))
    each = energy / np.maximum(count, 1)
    in_core = rng.binomial(count, shape.weight)
    counts = np.stack([in_core, count - in_core], axis=2)  # (sub-showers, layers, core and tail)
    radius = _radii(shape, stack, counts.reshape(-1), rng)
    per_layer = count.reshape(-1)
    return Spots(
        particle=np.repeat(showers.particle, count.sum(axis=1)),
        layer=np.repeat(np.tile(np.arange(layers), len(profiles.energy)), per_layer),
        radius=radius,
        turn=rng.random(len(radius), dtype=np.float32),
        energy=np.repeat(each.reshape(-1), per_layer),
    )


def layer_energies(stack: Stack, stochastic: float, showers: Showers, rng: np.random.Generator) -> np.ndarray:
    """Deposits (sub-showers, layers) [GeV] as sampling makes them fluctuate: gamma variables of variance c^2 E."""
    scale = stochastic**2
    mean = showers.profiles.energy[:, None] * showers.profiles.fractions(stack.edges)
    return np.asarray(rng.standard_gamma(mean / scale) * scale)


def _spot_numbers(
    stack: Stack, stochastic: float, showers: Showers, energy: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Spots (sub-showers, layers): Poisson numbers, at least one where there is energy."""
    profiles, z = showers.profiles, stack.medium.z
    fractions = profiles.fractions(
        stack.edges, SPOT_MAXIMUM + SPOT_MAXIMUM_SLOPE * z, SPOT_ALPHA + SPOT_ALPHA_SLOPE * z
    )
    number = SPOT_NUMBER / stochastic * profiles.energy**SPOT_POWER
    return np.where(energy > 0, np.maximum(rng.poisson(number[:, None] * fractions), 1), 0)


def _radii(shape: RadialShape, stack: Stack, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Radii [mm] of spots: R sqrt(u/(1 - u)), which follows 2 r R^2/(r^2 + R^2)^2."""
    both = np.stack([shape.core, shape.tail], axis=2) * stack.moliere[None, :, None]
    scale = np.repeat(both.reshape(-1).astype(np.float32), counts)
    uniform = np.minimum(rng.random(len(scale), dtype=np.float32), _BELOW_ONE)
    return np.asarray(scale * np.sqrt(uniform / (1 - uniform)))
