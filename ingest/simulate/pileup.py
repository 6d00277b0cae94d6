"""Pileup: minimum-bias interactions laid over hard ones.

A pool of Pythia's inelastic events (non-diffractive and diffractive) is generated once; interactions are drawn from it
with replacement, each turned by a random angle about the beam, mirrored in z or not, and put at a vertex of its own.
The detector answers to every interaction anew. No pileup from neighbouring bunch crossings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hepfm.ingest.simulate.particles import Particles
from hepfm.ingest.simulate.processes import Process
from hepfm.ingest.simulate.puppi import Vertices
from hepfm.ingest.simulate.pythia import Generator
from hepfm.ingest.simulate.tracker import MIN_PT_GEV

# Spread of vertices along the beams: CMS's beam spot of 2016, sigma 36.5 mm. Across (10 um) it is nothing.
SIGMA_Z_MM = 36.5
# About 4 s of one core. At 25 interactions an event, a sequence of 5,000 jets draws each of them some 50 times.
POOL_EVENTS = 2_000
# Calorimeters end at 3.0; the margin is for charged particles that the field bends.
MAX_ETA = 3.2
MINIMUM_BIAS = Process("minimum bias", ("SoftQCD:inelastic = on", "PhaseSpace:pTHatMin = 0."))


@dataclass(frozen=True)
class Pool:
    """Minimum-bias events: the particles (N,) that a detector may see; those of event i are
    ``offsets[i]:offsets[i + 1]``."""

    particles: Particles
    offsets: np.ndarray

    def overlay(
        self, hard: Particles, events: int, mean: float, rng: np.random.Generator
    ) -> tuple[Particles, Vertices]:
        """Hard events with pileup.

        Args:
            hard: particles of events 0 to ``events`` - 1, whose vertices are at z = 0.
            events: how many.
            mean: of the number of further interactions of an event, which is Poisson-distributed.
            rng: source of randomness.

        Returns:
            Particles, first the hard ones, and the further interactions with their z from the hard one.
        """
        event = np.repeat(np.arange(events), rng.poisson(mean, events))
        hard_z = rng.normal(0.0, SIGMA_Z_MM, events)
        vertices = Vertices(event, rng.normal(0.0, SIGMA_Z_MM, len(event)) - hard_z[event])
        drawn = rng.integers(len(self.offsets) - 1, size=len(event))
        angle = rng.uniform(0.0, 2 * np.pi, len(event))
        mirror = rng.choice((-1.0, 1.0), len(event))
        lengths = np.diff(self.offsets)[drawn]
        of = np.repeat(np.arange(len(event)), lengths)
        within = np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        chosen = self.particles.take(self.offsets[drawn][of] + within)
        cosine, sine, mirror = np.cos(angle)[of], np.sin(angle)[of], mirror[of]
        soft = Particles(
            event=event[of],
            pdg=chosen.pdg,
            px=cosine * chosen.px - sine * chosen.py,
            py=sine * chosen.px + cosine * chosen.py,
            pz=mirror * chosen.pz,
            energy=chosen.energy,
            x=cosine * chosen.x - sine * chosen.y,
            y=sine * chosen.x + cosine * chosen.y,
            z=mirror * chosen.z + vertices.z[of],
        )
        names = [field.name for field in fields(Particles)]
        both = {name: np.concatenate([getattr(hard, name), getattr(soft, name)]) for name in names}
        return Particles(**both), vertices


def make_pool(seed: int, events: int) -> Pool:
    """Generate minimum-bias events; ``seed`` names the random sequence.

    Raises:
        HepfmError: pythia8mc is not installed.
    """
    particles, _ = Generator(MINIMUM_BIAS, seed).events(events)
    pt = np.hypot(particles.px, particles.py)
    particles = particles.take((pt > MIN_PT_GEV) & (np.abs(particles.pz) < np.sinh(MAX_ETA) * pt))
    return Pool(particles, np.concatenate(([0], np.cumsum(np.bincount(particles.event, minlength=events)))))
