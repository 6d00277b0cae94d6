"""Event displays: jets in the eta-phi plane, showers in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepfm.benchmarks.panels import SMALL
from hepfm.benchmarks.reports.pictures import THEMES, inline_png
from hepfm.benchmarks.scores.showers import ShowerSample
from hepfm.core.draws import generator
from hepfm.core.observables import Constituents, jet_pt
from hepfm.core.plots import EDGE, Theme, settings
from hepfm.ingest.geometry import Geometry

SHOWN = 4  # events of each sample
QUANTILES = (0.05, 0.35, 0.65, 0.95)  # of the incident energies that showers are shown at
JET_IN, SHOWER_IN = 2.6, 2.9
AREA = 420.0  # of a marker that carries all pt of its jet [points^2]
COLOURS = {"light": "viridis_r", "dark": "plasma"}


def jet_displays(jets: Mapping[str, Constituents], seed: int) -> dict[str, str]:
    """Some jets of each sample, drawn at random: markers' areas are shares of the jet's pt.

    Args:
        jets: samples by name, the reference first.
        seed: names the draw.
    """
    chosen = {
        name: np.sort(generator("jet displays", seed, name).permutation(len(side))[:SHOWN])
        for name, side in jets.items()
    }
    reach = _reach([side.select(np.isin(np.arange(len(side)), chosen[name])) for name, side in jets.items()])
    pictures: dict[str, str] = {}
    for theme in THEMES:
        with matplotlib.rc_context({**settings(theme), **SMALL}):
            figure = Figure(figsize=(SHOWN * JET_IN, len(jets) * JET_IN), layout="constrained", facecolor="none")
            grid = np.atleast_2d(figure.subplots(len(jets), SHOWN, sharex=True, sharey=True, squeeze=False))
            for line, (name, side) in zip(grid, jets.items(), strict=True):
                pt = jet_pt(side)
                for axes, jet in zip(line, chosen[name], strict=False):
                    here = slice(*side.offsets[jet : jet + 2])
                    share = side.pt[here] / max(float(side.pt[here].sum()), 1e-12)
                    axes.set_facecolor("none")
                    axes.scatter(
                        side.deta[here],
                        side.dphi[here],
                        s=AREA * share + 1.5,
                        c=np.maximum(share, 1e-4),
                        cmap=COLOURS[theme],
                        norm=LogNorm(1e-3, 1),
                        linewidths=0.3,
                        edgecolors=EDGE[theme],
                    )
                    told = f"{pt[jet]:.0f} GeV, {here.stop - here.start} constituents"
                    axes.set_title(told, loc="left", fontsize=8)
                    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
                for axes in line[len(chosen[name]) :]:
                    axes.set_axis_off()
                line[0].set_ylabel(f"{name}\n" + r"$\Delta\phi$ [rad]")
            for axes in grid[-1]:
                axes.set_xlabel(r"$\Delta\eta$")
            pictures[theme] = inline_png(figure, "Jets in the eta-phi plane")
    return {"title": "Jets, Δη and Δφ about the axis; areas are shares of pT", **pictures}


def _reach(sides: Sequence[Constituents]) -> float:
    """Half side of the square that holds almost all that is shown."""
    far = np.concatenate([np.maximum(np.abs(side.deta), np.abs(side.dphi)) for side in sides])
    return 1.1 * float(np.quantile(far, 0.99)) if len(far) else 1.0


@dataclass(frozen=True)
class Shown:
    """One shower: incident energy [GeV] and its voxels with their energies [MeV]."""

    incident: float
    voxel: np.ndarray
    energy: np.ndarray


def showers_near(sample: ShowerSample, incident: np.ndarray, energies: np.ndarray) -> list[Shown]:
    """For each energy (k,) [GeV] the shower whose incident energy (n,) is nearest, in one pass over the sample."""
    wanted = [int(np.argmin(np.abs(np.log(incident / energy)))) for energy in energies]
    found: dict[int, Shown] = {}
    start = 0
    for hits in sample.chunks(sample.geometry.threshold):
        for shower in set(wanted):
            if start <= shower < start + len(hits):
                here = hits.shower == shower - start
                found[shower] = Shown(
                    float(hits.incident[shower - start]), hits.voxel[here].copy(), hits.energy[here].copy()
                )
        start += len(hits)
        if len(found) == len(set(wanted)):
            break
    return [found[shower] for shower in wanted]


def shower_displays(samples: Mapping[str, Sequence[Shown]], geometry: Geometry) -> dict[str, str]:
    """Showers of each sample in space, at about equal incident energies, all on one scale of energies.

    Args:
        samples: showers by name, the reference first.
        geometry: whose voxels they are in; where depths are not known, layers stand for them.
    """
    centres = geometry.centres
    depth = getattr(centres, geometry.depth)
    known = bool(np.isfinite(depth).all())
    depth = depth if known else geometry.cells.layer.astype(np.float64)
    across = [getattr(centres, axis) for axis in geometry.across]
    energies = np.concatenate([shower.energy for side in samples.values() for shower in side])
    scale = _scale(energies)
    limits = [_limits(values, samples) for values in across]
    pictures: dict[str, str] = {}
    for theme in THEMES:
        with matplotlib.rc_context({**settings(theme), **SMALL, "axes3d.grid": False}):
            columns, lines = max(len(side) for side in samples.values()), len(samples)
            figure = Figure(figsize=(columns * SHOWER_IN, lines * SHOWER_IN), facecolor="none")
            height = lines * SHOWER_IN
            figure.subplots_adjust(
                left=0.0, right=0.96, bottom=0.12 / height, top=1 - 0.45 / height, wspace=0.02, hspace=0.2
            )
            for line, (name, side) in enumerate(samples.items()):
                for column, shower in enumerate(side):
                    axes = figure.add_subplot(lines, columns, line * columns + column + 1, projection="3d")
                    _draw(axes, shower, depth, across, scale, theme)
                    axes.set(ylim=limits[0], zlim=limits[1], xlim=(depth.min(), depth.max()))
                    axes.set_xlabel("depth [mm]" if known else "layer", labelpad=-6)
                    axes.set_ylabel(f"{geometry.across[0]} [mm]", labelpad=-6)
                    axes.set_zlabel(f"{geometry.across[1]} [mm]", labelpad=-6)
                    told = f"{shower.incident:.3g} GeV, {len(shower.voxel)} cells"
                    axes.set_title(f"{name}\n{told}" if column == 0 else f"\n{told}", loc="left", fontsize=8, y=1.0)
            pictures[theme] = inline_png(figure, "Showers in space")
    return {"title": "Showers in space; colour and area of a cell grow with its energy", **pictures}


def _scale(energies: np.ndarray) -> LogNorm:
    positive = energies[energies > 0]
    high = float(positive.max()) if len(positive) else 1.0
    return LogNorm(max(float(positive.min()) if len(positive) else 1e-3, high * 1e-4), high)


def _limits(values: np.ndarray, samples: Mapping[str, Sequence[Shown]]) -> tuple[float, float]:
    """Range along one axis that holds nearly all energy of what is shown."""
    place = np.concatenate([values[shower.voxel] for side in samples.values() for shower in side])
    energy = np.concatenate([shower.energy for side in samples.values() for shower in side])
    if not len(place):
        return float(values.min()), float(values.max())
    order = np.argsort(place)
    share = np.cumsum(energy[order]) / energy.sum()
    low, high = (float(place[order[min(int(np.searchsorted(share, part)), len(order) - 1)]]) for part in (0.01, 0.99))
    margin = 0.1 * (high - low) or 1.0
    return low - margin, high + margin


def _draw(
    axes: Any,
    shower: Shown,
    depth: np.ndarray,
    across: Sequence[np.ndarray],
    scale: LogNorm,
    theme: Theme,
) -> None:
    axes.set_facecolor("none")
    order = np.argsort(shower.energy)
    voxel, energy = shower.voxel[order], shower.energy[order]
    size = np.clip(np.asarray(scale(energy), dtype=np.float64), 0, 1)
    axes.scatter(
        depth[voxel],
        across[0][voxel],
        across[1][voxel],
        s=1 + 22 * size**1.5,
        c=energy,
        cmap=COLOURS[theme],
        norm=scale,
        alpha=0.75,
        linewidths=0,
    )
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
        axis.set_major_locator(MaxNLocator(4))
        axis.set_tick_params(labelsize=6.5, pad=-3)
    axes.set_box_aspect(None, zoom=1.12)
    axes.view_init(elev=18, azim=-62)
