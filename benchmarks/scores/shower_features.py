"""High-level features of showers as CaloChallenge defines them (arXiv:2410.21611), for any geometry with cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hepfm.benchmarks.scores.showers import Hits, ShowerSample, response
from hepfm.core.progress import progress
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry

TINY = 1e-16  # added to an energy that is divided by
LOG_TINY = 1e-8  # added to an energy [MeV] whose logarithm is taken
LENGTH = 100.0  # mm that classifiers' inputs count positions in


@dataclass(frozen=True)
class Axes:
    """Positions of voxels across a layer, as the features take them.

    Attributes:
        layer: (voxels,) layer of each voxel.
        eta, phi: (voxels,) centres [mm]; of a cylinder r cos(alpha), r sin(alpha) of the middle of ring and sector.
        r: (voxels,) middle of the ring, or distance of the centre from the axis [mm].
        angular: (layers,) whether a layer has cells along both axes: only then has it eta and phi.
        cells: (layers,) voxels of each layer.
        ring: (voxels,) ring around the axis: of a cylinder its own, of a grid as wide as the smallest cell.
    """

    layer: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    r: np.ndarray
    angular: np.ndarray
    cells: np.ndarray
    ring: np.ndarray

    @classmethod
    def of(cls, geometry: Geometry) -> Axes:
        """Those of a geometry with cells."""
        centres, cells = geometry.centres, geometry.shape
        eta, phi = (getattr(centres, axis) for axis in geometry.across)
        cylinder = geometry.kind == "cylinder"
        radius = centres.radius if cylinder else np.hypot(eta, phi)
        return cls(
            layer=geometry.cells.layer.astype(np.int64),
            eta=eta,
            phi=phi,
            r=radius,
            angular=cells[:, 1] > 1 if cylinder else np.ones(len(cells), dtype=bool),
            cells=cells.prod(axis=1),
            ring=np.unique(radius, return_inverse=True)[1]
            if cylinder
            else (radius / _pitch(geometry)).astype(np.int64),
        )


def _pitch(geometry: Geometry) -> float:
    """Width [mm] of the smallest cell of a grid."""
    bins = [known for layer in geometry.layers for known in (layer.cell_a, layer.cell_b) if known is not None]
    return min(float(np.diff(known.edges).min()) for known in bins)


@dataclass(frozen=True)
class ShowerFeatures:
    """Features of n showers in L layers; eta and phi in the layers that are cut along both axes.

    Attributes:
        incident: (n,) incident energy [GeV].
        layer_energy: (n, L) [MeV].
        centre_eta, centre_phi: (n, angular layers) energy-weighted mean position [mm]; 0 for an empty layer.
        width_eta, width_phi: (n, angular layers) energy-weighted standard deviation [mm].
        centre_r, width_r: (n, L) the same of the radius [mm].
        sparsity: (n, L) share of voxels without energy.
        ring_energy: (n, R) energy [MeV] in rings around the axis, over all layers.
        layers: (L,) number of each layer in the source.
        angular: indices of the angular layers.
        highest: largest energy [MeV] of a voxel of any shower.
    """

    incident: np.ndarray
    layer_energy: np.ndarray
    centre_eta: np.ndarray
    centre_phi: np.ndarray
    width_eta: np.ndarray
    width_phi: np.ndarray
    centre_r: np.ndarray
    width_r: np.ndarray
    sparsity: np.ndarray
    ring_energy: np.ndarray
    layers: tuple[int, ...]
    angular: np.ndarray
    highest: float

    def __len__(self) -> int:
        return len(self.incident)

    @cached_property
    def total(self) -> np.ndarray:
        """Visible energy (n,) [MeV]."""
        return self.layer_energy.sum(axis=1)

    @property
    def response(self) -> np.ndarray:
        """Visible over incident energy (n,)."""
        return response(self.total, self.incident)

    def inputs(self) -> np.ndarray:
        """Inputs (n, d) of the high-level classifier, FPD and KPD; d = 30, 46, 362, 362 for data sets 1-3.

        log10 E_inc, log10(E_layer + 1e-8), EC_eta, EC_phi, widths (all over 100 mm), log10(E_tot + 1e-8), sparsity,
        EC_r and width_r over 100 mm; energies in MeV.
        """
        return np.column_stack(
            [
                np.log10(self.incident * MEV_PER_GEV),
                np.log10(self.layer_energy + LOG_TINY),
                self.centre_eta / LENGTH,
                self.centre_phi / LENGTH,
                self.width_eta / LENGTH,
                self.width_phi / LENGTH,
                np.log10(self.total + LOG_TINY),
                self.sparsity,
                self.centre_r / LENGTH,
                self.width_r / LENGTH,
            ]
        )


def features_of(hits: Hits, axes: Axes, layers: tuple[int, ...]) -> ShowerFeatures:
    """Features of the showers of one chunk; hits below the threshold are already left out."""
    count = len(layers)
    place = hits.shower * count + axes.layer[hits.voxel]

    def sums(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(place, weights=weights, minlength=len(hits) * count).reshape(len(hits), count)

    energy = sums(hits.energy)

    def moments(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a position, weighted with energy."""
        first = positions[hits.voxel] * hits.energy
        mean = sums(first) / (energy + TINY)
        square = sums(first * positions[hits.voxel]) / (energy + TINY)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    angular = np.flatnonzero(axes.angular)
    (eta, width_eta), (phi, width_phi), (r, width_r) = (moments(axis) for axis in (axes.eta, axes.phi, axes.r))
    rings = int(axes.ring.max()) + 1
    ring = np.bincount(hits.shower * rings + axes.ring[hits.voxel], hits.energy, minlength=len(hits) * rings)
    filled = np.bincount(place[hits.energy > 0], minlength=len(hits) * count).reshape(len(hits), count)
    return ShowerFeatures(
        incident=hits.incident,
        layer_energy=energy,
        centre_eta=eta[:, angular],
        centre_phi=phi[:, angular],
        width_eta=width_eta[:, angular],
        width_phi=width_phi[:, angular],
        centre_r=r,
        width_r=width_r,
        sparsity=1 - filled / axes.cells,
        ring_energy=ring.reshape(len(hits), rings),
        layers=layers,
        angular=angular,
        highest=float(hits.energy.max(initial=0.0)),
    )


def shower_features(sample: ShowerSample, threshold: float | None = None) -> ShowerFeatures:
    """Features of all showers of a sample, read in chunks.

    Args:
        sample: showers in cells.
        threshold: voxels with less [MeV] count as empty; the geometry's by default.

    Raises:
        HepfmError: no showers, or values that cannot be a shower's.
    """
    axes = Axes.of(sample.geometry)
    layers = tuple(layer.id for layer in sample.geometry.layers)
    cut = sample.geometry.threshold if threshold is None else threshold
    parts = []
    with progress(f"features of {sample.name}", sample.showers, "showers") as bar:
        for hits in sample.chunks(cut):
            parts.append(features_of(hits, axes, layers))
            bar.advance(len(hits))
    return _joined(parts)


def _joined(parts: list[ShowerFeatures]) -> ShowerFeatures:
    rows = (
        *("incident", "layer_energy", "centre_eta", "centre_phi", "width_eta", "width_phi"),
        *("centre_r", "width_r", "sparsity", "ring_energy"),
    )
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in rows}
    highest = max(part.highest for part in parts)
    return ShowerFeatures(**columns, layers=parts[0].layers, angular=parts[0].angular, highest=highest)
