"""What classifiers see: rows of numbers made when they are asked for, so that voxels of many showers fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from hepfm.benchmarks.scores.outcome import features
from hepfm.benchmarks.scores.shower_features import LOG_TINY, TINY, Axes, ShowerFeatures
from hepfm.benchmarks.scores.showers import ShowerSample
from hepfm.core.errors import HepfmError
from hepfm.ingest.geometry import MEV_PER_GEV, Geometry


class Inputs(Protocol):
    """Events as a classifier sees them."""

    def __len__(self) -> int: ...

    @property
    def width(self) -> int:
        """Numbers of an event."""

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Events ``chosen`` (k,) as (k, width) float32."""


class Table:
    """Inputs that are kept as they are: features (n, d).

    Raises:
        HepfmError: a value that is not finite.
    """

    def __init__(self, values: np.ndarray, where: object = "classifier") -> None:
        self._values = features(values, where).astype(np.float32)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def width(self) -> int:
        return self._values.shape[1]

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        return self._values[chosen]


class Voxels:
    """Voxels of showers, kept as hits.

    Plain: log10 E_inc [MeV], then voxels over E_inc. Normed: log10 E_inc, voxels over (E_layer + 1e-16), then
    log10(E_layer + 1e-8) [MeV]. CaloChallenge's "low" and "low-normed" inputs.
    """

    def __init__(self, sample: ShowerSample, normed: bool = False) -> None:
        geometry = sample.geometry
        layer, layers = Axes.of(geometry).layer, len(geometry.layers)
        incident, lengths, energy, voxels, of_layers = [], [], [], [], []
        for hits in sample.chunks(geometry.threshold):
            incident.append(hits.incident * MEV_PER_GEV)
            lengths.append(np.bincount(hits.shower, minlength=len(hits)))
            sums = np.bincount(
                hits.shower * layers + layer[hits.voxel], weights=hits.energy, minlength=len(hits) * layers
            ).reshape(len(hits), layers)
            scale = sums[hits.shower, layer[hits.voxel]] + TINY if normed else incident[-1][hits.shower]
            energy.append((hits.energy / scale).astype(np.float32))
            voxels.append(hits.voxel.astype(np.int32))
            of_layers.append(sums)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        shape = (len(offsets) - 1, geometry.voxels)
        self._hits = csr_array((np.concatenate(energy), np.concatenate(voxels), offsets), shape=shape)
        self._first = np.log10(np.concatenate(incident))[:, None].astype(np.float32)
        logs = np.log10(np.concatenate(of_layers) + LOG_TINY).astype(np.float32)
        self._last = logs if normed else logs[:, :0]

    def __len__(self) -> int:
        return len(self._first)

    @property
    def width(self) -> int:
        return 1 + self._hits.shape[1] + self._last.shape[1]

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        return np.concatenate([self._first[chosen], self._hits[chosen].toarray(), self._last[chosen]], axis=1)


@dataclass(frozen=True)
class Image:
    """Shape of voxels as a picture: layers, cells along the slow and the fast index."""

    layers: int
    slow: int
    fast: int

    @classmethod
    def of(cls, geometry: Geometry) -> Image:
        """Of a geometry whose layers are alike.

        Raises:
            HepfmError: layers with different cells.
        """
        shape = geometry.shape
        if (shape != shape[0]).any():
            raise HepfmError("its layers have different cells: no picture for a convolution", geometry.name)
        a, b = (int(cells) for cells in shape[0])
        slow, fast = (b, a) if geometry.fastest == "cell_a" else (a, b)
        return cls(len(shape), slow, fast)


def high_level(found: ShowerFeatures) -> Table:
    """CaloChallenge's "high" inputs."""
    return Table(found.inputs(), "high-level inputs")
