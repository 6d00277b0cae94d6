"""Hard events with resonances of free mass: gg -> X X, X -> two partons or leptons, or X -> YY -> four.

What is drawn, and from what:

- transverse momentum of both X: log-uniform, 180-2,600 GeV, the range of jets with some margin (JetClass-II takes its
  thresholds log-uniform);
- their rapidities: two gluons of density x g(x) ~ x**-0.3 (1 - x)**5 and a matrix element that falls like 1 / s_hat;
- mass of X: uniform, 15-500 GeV for X -> 2 as in JetClass-II, 25-500 GeV for X -> YY, and never above the share of its
  transverse momentum beyond which its products hardly fit into a jet;
- masses of Y, at least 10 GeV: for half of the X equal and uniform up to m(X)/2; for the other half independent,
  uniform where they leave X open (JetClass-II, too, has both: wide Y, of which one may be far off its shell);
- decays: isotropic, as of scalars.

There is no width: each X and Y has the mass that was drawn. The X of an event differ in mass and decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepfm.ingest.simulate.resonance_labels import KINDS, kinds_of, reachable

COLLISION_GEV = 13_000.0
X, Y, CHARGED, GLUON, TAU = 25, 35, 37, 21, 15
MIN_PT_GEV, MAX_PT_GEV = 180.0, 2_600.0
MAX_MASS_GEV = 500.0
MIN_Y_MASS_GEV = 10.0
# Least mass of X, and the most of it as a share of its pt: by the number of products.
MIN_MASS_GEV = {2: 15.0, 4: 25.0}
MAX_MASS_SHARE = {2: 0.5, 4: 0.8}
MAX_RAPIDITY = 3.0
RANGES = (MIN_PT_GEV, MAX_PT_GEV, MAX_MASS_GEV, MIN_Y_MASS_GEV, MIN_MASS_GEV, MAX_MASS_SHARE, MAX_RAPIDITY)
# Masses of decay products [GeV], by absolute PDG id: those that Pythia has.
_MASSES = {1: 0.33, 2: 0.33, 3: 0.5, 4: 1.5, 5: 4.8, 11: 0.000511, 13: 0.10566, 15: 1.77693}
_MASS_OF_PDG = np.zeros(GLUON + 1)
_MASS_OF_PDG[list(_MASSES)] = list(_MASSES.values())
_GLUON_FALL, _GLUON_RISE = 5.0, 0.3

# Decays of a neutral and of a positive Y, with the branching fractions that JetClass-II gives them.
_NEUTRAL_Y = {
    (5, -5): 0.125,
    (4, -4): 0.125,
    (3, -3): 0.125,
    (2, -2): 0.0625,
    (1, -1): 0.0625,
    (21, 21): 0.125,
    (11, -11): 0.0625,
    (13, -13): 0.0625,
    (15, -15): 0.25,
}
_CHARGED_Y = {
    (-1, 2): 5 / 48,
    (-3, 2): 5 / 48,
    (-5, 2): 5 / 48,
    (-1, 4): 5 / 48,
    (-3, 4): 5 / 48,
    (-5, 4): 5 / 48,
    (-11, 12): 0.0625,
    (-13, 14): 0.0625,
    (-15, 16): 0.25,
}
# Decays of X to two products: each of the fifteen labels about as often as any other (taus share their four among
# three labels and those that have none; qq comes from neutral and charged X).
_NEUTRAL_X = {
    (5, -5): 1.0,
    (4, -4): 1.0,
    (3, -3): 1.0,
    (2, -2): 0.25,
    (1, -1): 0.25,
    (21, 21): 1.0,
    (11, -11): 1.0,
    (13, -13): 1.0,
    (15, -15): 4.0,
}
_CHARGED_X = {(-1, 2): 0.5, (-3, 2): 1.0, (-5, 2): 1.0, (-1, 4): 1.0, (-3, 4): 1.0, (-5, 4): 1.0}


@dataclass(frozen=True)
class Mode:
    """One way in which X decays: PDG ids of X, of its two daughters Y (none for two products) and of the products of
    the positive or neutral X; how often, relative to the others."""

    x: int
    daughters: tuple[int, ...]
    products: tuple[int, ...]
    weight: float

    @property
    def labels(self) -> set[str]:
        """Labels that its jets can have."""
        kinds = kinds_of(np.array(self.products))
        return reachable(
            tuple("tau" if abs(pdg) == TAU else KINDS[kind] for pdg, kind in zip(self.products, kinds, strict=True))
        )


def two_prong_modes() -> tuple[Mode, ...]:
    """All decays of a neutral or charged X to two products."""
    return tuple(
        Mode(x, (), products, weight)
        for x, decays in ((X, _NEUTRAL_X), (CHARGED, _CHARGED_X))
        for products, weight in decays.items()
    )


def four_prong_modes() -> tuple[Mode, ...]:
    """All decays X -> YY -> four products, half of them through charged Y."""
    return tuple(
        Mode(X, daughters, (*first, *(sign * pdg for pdg in second)), weight * other)
        for daughters, sign, decays in (((Y, Y), 1, _NEUTRAL_Y), ((CHARGED, -CHARGED), -1, _CHARGED_Y))
        for first, weight in decays.items()
        for second, other in decays.items()
    )


def modes_for(modes: tuple[Mode, ...], labels: set[str]) -> tuple[Mode, ...]:
    """Those whose jets can have one of ``labels``."""
    return tuple(mode for mode in modes if mode.labels & labels)


def draw_events(modes: tuple[Mode, ...], count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Hard events for a Les Houches interface (hep-ph/0109068), each with the same number of particles.

    Args:
        modes: ways in which X decays, all with as many products.
        count: number of events.
        rng: source of randomness.

    Returns:
        ``scale`` (count,) [GeV], and of the particles (count, particles): ``id``, ``status``, ``mother1``, ``mother2``
        (from 1), ``colour``, ``anticolour``, ``px``, ``py``, ``pz``, ``energy``, ``mass`` [GeV].
    """
    chosen, sign = _draw_modes(modes, count, rng)
    prongs = len(modes[0].products)
    pt = np.exp(rng.uniform(np.log(MIN_PT_GEV), np.log(MAX_PT_GEV), (count, 1)))
    most = np.minimum(MAX_MASS_GEV, MAX_MASS_SHARE[prongs] * pt)
    mass = rng.uniform(MIN_MASS_GEV[prongs], most, (count, 2))
    momentum = _pair(pt, mass, rng)
    table = _Table(count)
    table.incoming(momentum.sum(axis=1))
    identity = sign * np.array([mode.x for mode in modes])[chosen]
    for side in (0, 1):
        table.add(identity[:, side], 2, (1, 2), momentum[:, side], mass[:, side])
    products = np.array([mode.products for mode in modes])[chosen] * sign[..., None]
    for side in (0, 1):
        if prongs == 2:
            table.decay(side + 3, products[:, side], rng)
        else:
            daughters = np.array([mode.daughters for mode in modes])[chosen[:, side]]
            first, second = _daughter_masses(mass[:, side], rng)
            born = two_body(momentum[:, side], mass[:, side], first, second, rng)
            at = [table.add(daughters[:, k], 2, (side + 3, side + 3), born[k], (first, second)[k]) for k in (0, 1)]
            for k in (0, 1):
                table.decay(at[k], products[:, side, 2 * k : 2 * k + 2], rng)
    return {"scale": pt[:, 0], **table.columns()}


def two_body(
    parent: np.ndarray, mass: np.ndarray, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Four-vectors (n, 4), as px, py, pz, E [GeV], of the products of isotropic decays.

    Args:
        parent: four-vectors (n, 4).
        mass: of the parents (n,), at least the sum of those of the products.
        first: mass of one product (n,).
        second: mass of the other (n,).
        rng: source of randomness.
    """
    size = np.sqrt((mass**2 - (first + second) ** 2) * (mass**2 - (first - second) ** 2)) / (2 * mass)
    cosine, azimuth = rng.uniform(-1, 1, len(mass)), rng.uniform(-np.pi, np.pi, len(mass))
    sine = np.sqrt(1 - cosine**2)
    momentum = size[:, None] * np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=1)
    energy = np.hypot(size, first)
    along = (parent[:, :3] * momentum).sum(axis=1)
    boosted = (parent[:, 3] * energy + along) / mass
    factor = (energy + boosted) / (parent[:, 3] + mass)
    one = np.concatenate([momentum + factor[:, None] * parent[:, :3], boosted[:, None]], axis=1)
    return one, parent - one


def _draw_modes(modes: tuple[Mode, ...], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which mode each of the two X of an event has, and its charge's sign (count, 2); charged X come in pairs."""
    weight = np.array([mode.weight for mode in modes])
    charged = np.array([mode.x == CHARGED for mode in modes])
    both = rng.random(count) < weight[charged].sum() / weight.sum()
    chosen = np.zeros((count, 2), dtype=np.int64)
    for kind in (False, True):
        mine = np.flatnonzero(both == kind)
        if len(mine):
            among = np.where(charged == kind, weight, 0.0)
            chosen[mine] = rng.choice(len(modes), (len(mine), 2), p=among / among.sum())
    sign = np.ones((count, 2), dtype=np.int64)
    sign[both, 1] = -1
    return chosen, sign


def _pair(pt: np.ndarray, mass: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four-vectors (n, 2, 4) of two particles that are back to back in the transverse plane."""
    transverse = np.hypot(pt, mass)
    rapidity = np.zeros_like(mass)
    most = _density(transverse, rapidity)
    pending = np.arange(len(mass))
    while len(pending):
        rapidity[pending] = rng.uniform(-MAX_RAPIDITY, MAX_RAPIDITY, (len(pending), 2))
        kept = rng.random(len(pending)) * most[pending] < _density(transverse[pending], rapidity[pending])
        pending = pending[~kept]
    azimuth = rng.uniform(-np.pi, np.pi, (len(mass), 1)) + np.array([0.0, np.pi])
    return np.stack(
        [
            pt * np.cos(azimuth),
            pt * np.sin(azimuth),
            transverse * np.sinh(rapidity),
            transverse * np.cosh(rapidity),
        ],
        axis=-1,
    )


def _density(transverse: np.ndarray, rapidity: np.ndarray) -> np.ndarray:
    """Relative density (n,) of the two rapidities (n, 2); largest where both are 0."""
    x = np.stack([(transverse * np.exp(side * rapidity)).sum(axis=1) for side in (1, -1)], axis=1) / COLLISION_GEV
    gluons = np.prod(np.maximum(1 - x, 0) ** _GLUON_FALL * x**-_GLUON_RISE, axis=1)
    return gluons / np.prod(x, axis=1)


def _daughter_masses(mass: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    room = mass - 2 * MIN_Y_MASS_GEV
    first, second = np.sort(rng.random((2, len(mass))), axis=0)
    independent = np.stack([first, second - first])  # uniform where their sum is at most 1
    equal = np.broadcast_to(rng.random(len(mass)) / 2, (2, len(mass)))
    share = np.where(rng.random(len(mass)) < 0.5, equal, independent)
    one, other = MIN_Y_MASS_GEV + room * share
    return one, other


class _Table:
    """The particles of many events, one after another."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: list[dict[str, np.ndarray]] = []
        self._tag = 500

    def add(
        self,
        identity: int | np.ndarray,
        status: int,
        mothers: tuple[int, int],
        momentum: np.ndarray,
        mass: float | np.ndarray,
        colour: int | np.ndarray = 0,
        anticolour: int | np.ndarray = 0,
    ) -> int:
        """A particle of each event; the number (from 1) that it has there."""
        row = {
            "id": identity,
            "status": status,
            "mother1": mothers[0],
            "mother2": mothers[1],
            "colour": colour,
            "anticolour": anticolour,
            **dict(zip(("px", "py", "pz", "energy"), momentum.T, strict=True)),
            "mass": mass,
        }
        self._rows.append({name: np.broadcast_to(value, self._count) for name, value in row.items()})
        return len(self._rows)

    def incoming(self, total: np.ndarray) -> None:
        """Two gluons that collide to what has the momentum ``total`` (n, 4)."""
        tag = self._tags()
        for side in (1, -1):
            energy = (total[:, 3] + side * total[:, 2]) / 2
            momentum = np.stack([0 * energy, 0 * energy, side * energy, energy], axis=1)
            self.add(GLUON, -1, (0, 0), momentum, 0.0, *((tag, tag + 1)[::side]))

    def decay(self, mother: int, products: np.ndarray, rng: np.random.Generator) -> None:
        """Let particle ``mother`` decay to two ``products`` (n, 2), given by their PDG ids."""
        row = self._rows[mother - 1]
        parent = np.stack([row[name] for name in ("px", "py", "pz", "energy")], axis=1)
        mass = _MASS_OF_PDG[np.abs(products)]
        tag = self._tags()
        for k, momentum in enumerate(two_body(parent, row["mass"], mass[:, 0], mass[:, 1], rng)):
            pdg = products[:, k]
            quark, gluon = np.abs(pdg) <= 6, pdg == GLUON
            colour = np.where(gluon, tag + k, np.where(quark & (pdg > 0), tag, 0))
            anticolour = np.where(gluon, tag + 1 - k, np.where(quark & (pdg < 0), tag, 0))
            self.add(pdg, 1, (mother, mother), momentum, mass[:, k], colour, anticolour)

    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.stack([row[name] for row in self._rows], axis=1) for name in self._rows[0]}

    def _tags(self) -> int:
        self._tag += 2
        return self._tag
