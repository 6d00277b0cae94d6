"""Pictures of one quantity in several classes, a small panel each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepfm.core.plots import EDGE, FILL, STYLES, Theme, settings
from hepfm.core.statistics import Histogram

COLUMNS = 4
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 2.75, 2.05
LEFT_IN, RIGHT_IN, BOTTOM_IN, TOP_IN = 0.8, 0.15, 0.62, 0.5
SMALL: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.titlesize": 9,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}


@dataclass(frozen=True)
class Panel:
    """A class, and its histograms: the first one filled, a second one as a line over it."""

    name: str
    histograms: tuple[Histogram, ...]


def grid_of(
    panels: Sequence[Panel], labels: Sequence[str], *, xlabel: str, ylabel: str, theme: Theme, log_x: bool = False
) -> Figure:
    """All panels under one legend.

    Args:
        panels: the classes.
        labels: what the histograms of each are.
        xlabel: quantity and unit.
        ylabel: what the shares are shares of.
        theme: colours for a light or a dark page; the background stays transparent.
        log_x: draw edges, which are then log10 of the quantity, on a logarithmic axis.
    """
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context({**settings(theme), **SMALL}):
        width, height = COLUMNS * PANEL_WIDTH_IN, lines * PANEL_HEIGHT_IN + TOP_IN + BOTTOM_IN
        figure = Figure(figsize=(width, height), facecolor="none")
        grid = np.atleast_1d(figure.subplots(lines, columns)).ravel()
        # A constrained layout would draw all of it once more to measure the labels.
        figure.subplots_adjust(
            left=LEFT_IN / width,
            right=1 - RIGHT_IN / width,
            bottom=BOTTOM_IN / height,
            top=1 - TOP_IN / height,
            wspace=0.24,
            hspace=0.34,
        )
        for axes, panel in zip(grid, panels, strict=False):
            _overlay(axes, panel.histograms, labels, log_x, theme)
            axes.set_title(panel.name, loc="left", pad=3, fontweight="bold")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles, names = grid[0].get_legend_handles_labels()
        corner = (1 - RIGHT_IN / width, 1.0)
        figure.legend(
            handles, names, loc="upper right", bbox_to_anchor=corner, ncols=2, frameon=False, handlelength=2.2
        )
        figure.supxlabel(xlabel, fontsize=10, y=0.1 / height, va="bottom")
        figure.supylabel(ylabel, fontsize=10, x=0.08 / width, ha="left")
    return figure


def legend_below(axes: Axes, columns: int = 3) -> None:
    """A legend of many curves under the panel, where it covers none of them; for a constrained layout."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=2.2)


def _overlay(axes: Axes, histograms: Sequence[Histogram], labels: Sequence[str], log_x: bool, theme: Theme) -> None:
    axes.set_facecolor("none")
    first = histograms[0]
    edges = 10**first.edges if log_x else first.edges
    middles = np.sqrt(edges[:-1] * edges[1:]) if log_x else (edges[:-1] + edges[1:]) / 2
    axes.stairs(first.share, edges, fill=True, color=FILL[theme], edgecolor=EDGE[theme], label=labels[0])
    axes.errorbar(middles, first.share, yerr=first.error, fmt="none", ecolor=EDGE[theme], elinewidth=0.9)
    for other, label in zip(histograms[1:], labels[1:], strict=True):
        colour = line_colour(theme)
        axes.stairs(other.share, edges, color=colour, linewidth=1.4, label=label)
        axes.errorbar(middles, other.share, yerr=other.error, fmt="none", ecolor=colour, elinewidth=0.9)
    highest = max(float((side.share + side.error).max()) for side in histograms)
    axes.set_ylim(0, 1.08 * highest or 1.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def line_colour(theme: Theme) -> str:
    """Of the second histogram."""
    light, dark, _ = STYLES[0]
    return light if theme == "light" else dark
