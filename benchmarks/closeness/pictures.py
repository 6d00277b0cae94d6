"""Pictures of a comparison: real jets filled, simulated ones as a line, one panel a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepfm.benchmarks.closeness.classes import Pair, Quantity, Row
from hepfm.benchmarks.closeness.tracks import PT_EDGES_GEV, TrackReport
from hepfm.core.plots import EDGE, FILL, STYLES, Curve, Theme, ratio_plot, settings
from hepfm.core.statistics import Histogram

COLUMNS = 4
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 2.75, 2.05
LEFT_IN, RIGHT_IN, BOTTOM_IN, TOP_IN = 0.8, 0.15, 0.62, 0.5
REAL, SIMULATED = "real", "simulated"


def by_class(quantity: Quantity, rows: Sequence[Row], theme: Theme) -> Figure:
    """One quantity in every class and pool."""
    lines = -(-len(rows) // COLUMNS)
    small: dict[Any, Any] = {
        "font.size": 8.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.titlesize": 9,
    }
    small |= {"xtick.minor.visible": False, "ytick.minor.visible": False}
    with matplotlib.rc_context({**settings(theme), **small}):
        width, height = COLUMNS * PANEL_WIDTH_IN, lines * PANEL_HEIGHT_IN + TOP_IN + BOTTOM_IN
        figure = Figure(figsize=(width, height), facecolor="none")
        grid = np.atleast_1d(figure.subplots(lines, COLUMNS)).ravel()
        # A constrained layout would draw all of it once more to measure the labels.
        figure.subplots_adjust(
            left=LEFT_IN / width,
            right=1 - RIGHT_IN / width,
            bottom=BOTTOM_IN / height,
            top=1 - TOP_IN / height,
            wspace=0.24,
            hspace=0.34,
        )
        for axes, row in zip(grid, rows, strict=False):
            item = row.quantities[quantity.name]
            _overlay(axes, item.real, item.simulated, quantity.spacing == "log10", theme)
            axes.set_title(row.name, loc="left", pad=3, fontweight="bold")
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        handles, labels = grid[0].get_legend_handles_labels()
        corner = (1 - RIGHT_IN / width, 1.0)
        figure.legend(
            handles, labels, loc="upper right", bbox_to_anchor=corner, ncols=2, frameon=False, handlelength=2.2
        )
        figure.supxlabel(quantity.axis, fontsize=10, y=0.1 / height, va="bottom")
        figure.supylabel(f"share of {quantity.per}s", fontsize=10, x=0.08 / width, ha="left")
    return figure


def _overlay(axes: Axes, real: Histogram, simulated: Histogram, log_x: bool, theme: Theme) -> None:
    axes.set_facecolor("none")
    edges = 10**real.edges if log_x else real.edges
    middles = np.sqrt(edges[:-1] * edges[1:]) if log_x else (edges[:-1] + edges[1:]) / 2
    axes.stairs(real.share, edges, fill=True, color=FILL[theme], edgecolor=EDGE[theme], label=REAL)
    axes.errorbar(middles, real.share, yerr=real.error, fmt="none", ecolor=EDGE[theme], elinewidth=0.9)
    colour = _colour(theme)
    axes.stairs(simulated.share, edges, color=colour, linewidth=1.4, label=SIMULATED)
    axes.errorbar(middles, simulated.share, yerr=simulated.error, fmt="none", ecolor=colour, elinewidth=0.9)
    highest = max(float((side.share + side.error).max()) for side in (real, simulated))
    axes.set_ylim(0, 1.08 * highest or 1.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _colour(theme: Theme) -> str:
    light, dark, _ = STYLES[0]
    return light if theme == "light" else dark


def tracks(axis: str, real: Histogram, simulated: Histogram, log_x: bool, theme: Theme) -> Figure:
    """One quantity of tracks, with the ratio of simulated to real ones."""
    return ratio_plot(
        Curve(REAL, real),
        [Curve(SIMULATED, simulated)],
        xlabel=axis,
        ylabel="share of tracks",
        log_x=log_x,
        theme=theme,
    )


def uncertainties(report: TrackReport, theme: Theme) -> Figure:
    """Median uncertainties of d0 and dz against track pt."""
    with matplotlib.rc_context(settings(theme)):
        figure = Figure(figsize=(4.6, 4.3), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        for (name, marker), pairs in zip((("d_0", "o"), ("d_z", "s")), report.errors.values(), strict=True):
            at = np.array([_middle(pair) for pair in pairs])
            for side, colour, shift in ((REAL, EDGE[theme], 0.97), (SIMULATED, _colour(theme), 1.03)):
                estimates = [getattr(pair, side) for pair in pairs]
                values, errors = [e.value for e in estimates], [e.error for e in estimates]
                style: dict[str, Any] = {"markersize": 5.0, "linewidth": 1.1, "linestyle": ":"}
                label = rf"{side} $\sigma({name})$"
                axes.errorbar(at * shift, values, yerr=errors, marker=marker, color=colour, label=label, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(r"track $p_{\mathrm{T}}$ [GeV]")
        axes.set_ylabel("median uncertainty [mm]")
        axes.legend(frameon=False)
    return figure


def _middle(pair: Pair) -> float:
    """Where a bin stands: in its geometric middle, the outermost a factor of the square root of 2 from their edge."""
    if pair.name.startswith("above"):
        return float(PT_EDGES_GEV[-2]) * 2**0.5
    low, high = map(float, pair.name.split("-"))
    return (low * high) ** 0.5 if low > 0 else high / 2**0.5


def species(report: TrackReport, theme: Theme) -> Figure:
    """Shares of species, by number and by pt."""
    kinds = list(report.species)
    with matplotlib.rc_context(settings(theme)):
        figure = Figure(figsize=(4.6, 4.3), layout="constrained", facecolor="none")
        grid = figure.subplots(len(kinds), 1, sharex=True)
        names = [pair.name for pair in report.species[kinds[0]]]
        for axes, kind in zip(grid, kinds, strict=True):
            axes.set_facecolor("none")
            pairs = {pair.name: pair for pair in report.species[kind]}
            shown = [(place, pairs[name]) for place, name in enumerate(names) if name in pairs]
            at = np.array([place for place, _ in shown])
            axes.bar(at, [100 * p.real.value for _, p in shown], color=FILL[theme], edgecolor=EDGE[theme], label=REAL)
            for side, colour, shift in ((REAL, EDGE[theme], -0.06), (SIMULATED, _colour(theme), 0.06)):
                values = [100 * getattr(p, side).value for _, p in shown]
                errors = [100 * getattr(p, side).error for _, p in shown]
                marker, label = ("none", None) if side == REAL else ("o", SIMULATED)
                axes.errorbar(
                    at + shift,
                    values,
                    yerr=errors,
                    marker=marker,
                    linestyle="none",
                    color=colour,
                    label=label,
                    markersize=4,
                )
            axes.set_title(kind, loc="left", fontsize=9, pad=3)
            axes.tick_params(axis="x", which="minor", bottom=False, top=False)
        grid[-1].set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
        grid[0].legend(frameon=False)
        figure.supylabel("share [%]", fontsize=10)
    return figure
