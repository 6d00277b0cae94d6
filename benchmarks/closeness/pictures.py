"""Pictures of a comparison: real jets filled, simulated ones as a line, one panel a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hepfm.benchmarks.closeness.classes import Pair, Quantity, Row
from hepfm.benchmarks.closeness.tracks import PT_EDGES_GEV, TrackReport
from hepfm.benchmarks.panels import Panel, grid_of, line_colour
from hepfm.core.plots import EDGE, FILL, Curve, Theme, ratio_plot, settings
from hepfm.core.statistics import Histogram

REAL, SIMULATED = "real", "simulated"


def by_class(quantity: Quantity, rows: Sequence[Row], theme: Theme) -> Figure:
    """One quantity in every class and pool."""
    items = [(row.name, row.quantities[quantity.name]) for row in rows]
    panels = [Panel(name, (item.real, item.simulated)) for name, item in items]
    log_x, ylabel = quantity.spacing == "log10", f"share of {quantity.per}s"
    return grid_of(panels, (REAL, SIMULATED), xlabel=quantity.axis, ylabel=ylabel, log_x=log_x, theme=theme)


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
            for side, colour, shift in ((REAL, EDGE[theme], 0.97), (SIMULATED, line_colour(theme), 1.03)):
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
            for side, colour, shift in ((REAL, EDGE[theme], -0.06), (SIMULATED, line_colour(theme), 0.06)):
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
