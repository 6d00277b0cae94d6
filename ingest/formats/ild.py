"""The electromagnetic and hadronic calorimeter of ILD's barrel: layer positions, cells, thresholds.

Positions are those of the layers' sensors in the detector (y axis of the barrel module), as published with CaloClouds
(arXiv:2309.05704) and AllShowers; cell pitch, grid edges and the order (layer, x, z) are those of the 30 x 30 x 30
photon data (Zenodo 3826103, arXiv:2005.05334). There the rows of staggered layers were shifted onto one grid, so that
a cell's x is right to within a cell. Depth is y: records of ILD have cells and positions in x and z.
"""

from __future__ import annotations

from itertools import pairwise

from hepfm.ingest.geometry import Bins, Geometry, Layer, Stored

PITCH_MM = 5.0883331298828125
SENSOR_MM = 0.525
HCAL_SENSOR_MM = 1.2
THRESHOLD_MEV = 0.1  # half of what a minimally ionising particle leaves
GRID_FIRST_MM = {"x": -75.911667, "z": -77.0}
GRID_CELLS = 30
ECAL_LAYERS, ALL_LAYERS = 30, 78

_ECAL = (
    *(1811.3402, 1814.4651, 1823.8101, 1826.9351, 1836.2800, 1839.4050, 1848.7500, 1851.8750, 1861.2200, 1864.3450),
    *(1873.6899, 1876.8149, 1886.1600, 1889.2850, 1898.6300, 1901.7550, 1911.1000, 1914.2250, 1923.5699, 1926.6949),
    *(1938.1400, 1943.3650, 1954.8101, 1960.0350, 1971.4800, 1976.7050, 1988.1500, 1993.3750, 2004.8199, 2010.0450),
)
SENSORS_MM = (*_ECAL, *(2081.0 + 26.5 * layer for layer in range(ALL_LAYERS - ECAL_LAYERS)))
FRONT_MM = SENSORS_MM[0]
# Depth [mm] of each sensor beyond the first, and from it to the next one.
DEPTHS_MM = tuple(round(sensor - FRONT_MM, 4) for sensor in SENSORS_MM)
STEPS_MM = (*(round(high - low, 4) for low, high in pairwise(DEPTHS_MM)), 26.5)


def ild_grid(cells_x: int, cells_z: int, stored: Stored) -> Geometry:
    """The 30 layers of the electromagnetic calorimeter in cells of 5.09 mm.

    Args:
        cells_x, cells_z: cells of a layer. The edges of the published 30 x 30 are known; others are taken as centred.
        stored: how files hold them.
    """
    published = (cells_x, cells_z) == (GRID_CELLS, GRID_CELLS)
    cell_a, cell_b = (
        Bins(cells, GRID_FIRST_MM[axis] if published else -0.5 * cells * PITCH_MM, PITCH_MM)
        for axis, cells in (("x", cells_x), ("z", cells_z))
    )
    return _ild("ILD electromagnetic calorimeter", ECAL_LAYERS, cell_a, cell_b, stored)


def ild_points(layers: int, stored: Stored) -> Geometry:
    """ILD for showers of points: 30 layers (electromagnetic) or 78 (with the hadronic calorimeter)."""
    name = "ILD electromagnetic calorimeter" if layers == ECAL_LAYERS else "ILD calorimeters"
    return _ild(name, layers, None, None, stored)


def _ild(name: str, layers: int, cell_a: Bins | None, cell_b: Bins | None, stored: Stored) -> Geometry:
    return Geometry(
        name=name,
        kind="points" if cell_a is None else "grid",
        layers=tuple(
            Layer(layer, cell_a, cell_b, DEPTHS_MM[layer], SENSOR_MM if layer < ECAL_LAYERS else HCAL_SENSOR_MM)
            for layer in range(layers)
        ),
        depth="y",
        fastest="cell_b",
        front=FRONT_MM,
        threshold=THRESHOLD_MEV,
        stored=stored,
    )
