"""Plots of binned samples over a reference, in the style of high-energy physics, as SVG or PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepfm.core.statistics import Histogram

Theme = Literal["light", "dark"]

# Okabe-Ito colours (distinct under every common colour blindness), each with its own dashes; lighter on dark.
STYLES = (
    ("#0072b2", "#56b4e9", "-"),
    ("#d55e00", "#ff8a3d", (0, (5, 1.5))),
    ("#009e73", "#2fd3a3", (0, (5, 1.5, 1, 1.5))),
    ("#cc79a7", "#f0a3cc", (0, (1.5, 1.2))),
    ("#8c6d00", "#f0e442", (0, (8, 2))),
)
_INK = {"light": "#1b1f24", "dark": "#e6e9ee"}
FILL = {"light": "#c9ced6", "dark": "#4a515c"}
EDGE = {"light": "#8a929e", "dark": "#8d96a3"}
_SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "axes.labelsize": 11,
    "legend.fontsize": 9.5,
    "axes.linewidth": 0.9,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.minor.size": 3,
    "svg.fonttype": "path",
    "svg.hashsalt": "hepfm",
}
MOST_TICKS = 6  # labels of which do not meet
RATIO_RANGE = (0.0, 2.0)
WIDTH_IN, HEIGHT_IN = 4.6, 4.3


@dataclass(frozen=True)
class Curve:
    """A binned sample and its name in the legend."""

    label: str
    histogram: Histogram


def ratio_plot(
    reference: Curve,
    samples: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    theme: Theme = "light",
) -> Figure:
    """Shares by bin of a reference (filled) and of samples (lines), and below their ratios to the reference.

    Bands and bars are statistical errors (one standard deviation). Ratios outside the panel become arrows at its
    border. What lies outside the axis is written above the panel.

    Args:
        reference: the sample that is divided by.
        samples: samples with the edges of the reference, at most five.
        xlabel: quantity and unit.
        ylabel: what the shares are shares of.
        log_x: draw edges, which are then log10 of the quantity, on a logarithmic axis.
        log_y: draw shares on a logarithmic axis.
        theme: colours for a light or a dark page; the background stays transparent.
    """
    if len(samples) > len(STYLES):
        raise ValueError(f"at most {len(STYLES)} samples fit in one plot, got {len(samples)}")
    with matplotlib.rc_context(settings(theme)):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
        for axes in (upper, lower):
            axes.set_facecolor("none")
        edges = 10**reference.histogram.edges if log_x else reference.histogram.edges
        _draw_shares(upper, edges, reference, samples, theme)
        _draw_ratios(lower, edges, reference.histogram, samples, theme)
        if log_x:
            upper.set_xscale("log")
        else:
            lower.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
        if log_y:
            _log_shares(upper, [reference, *samples])
        upper.set_xlim(edges[0], edges[-1])
        upper.set_ylabel(ylabel)
        lower.set_ylabel("ratio")
        lower.set_xlabel(xlabel)
        figure.align_ylabels()
    return figure


def settings(theme: Theme) -> dict[Any, Any]:
    """Matplotlib's settings for a theme."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {**_SETTINGS, **dict.fromkeys(inked, _INK[theme])}


def _draw_shares(axes: Axes, edges: np.ndarray, reference: Curve, samples: Sequence[Curve], theme: Theme) -> None:
    shares = reference.histogram.share
    axes.stairs(shares, edges, fill=True, color=FILL[theme], edgecolor=EDGE[theme], label=reference.label)
    for curve, (light, dark, dashes) in zip(samples, STYLES, strict=False):
        colour = light if theme == "light" else dark
        axes.stairs(curve.histogram.share, edges, color=colour, linewidth=1.6, linestyle=dashes, label=curve.label)
    highest = max(float(curve.histogram.share.max()) for curve in (reference, *samples))
    # Room above the curves for one legend line each.
    axes.set_ylim(0, (highest or 1.0) * (1.18 + 0.105 * len(samples)))
    axes.legend(loc="upper right", frameon=False, handlelength=2.2, labelspacing=0.35, borderaxespad=0.4)


def _log_shares(axes: Axes, curves: Sequence[Curve]) -> None:
    positive = np.concatenate([curve.histogram.share[curve.histogram.share > 0] for curve in curves])
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
    axes.set_yscale("log")
    # Room above the curves for one legend line each.
    axes.set_ylim(low / 2, high * (high / low) ** (0.1 + 0.1 * len(curves)))


def _draw_ratios(axes: Axes, edges: np.ndarray, reference: Histogram, samples: Sequence[Curve], theme: Theme) -> None:
    known = reference.share > 0
    divisor = np.where(known, reference.share, np.nan)
    band = reference.error / divisor
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=FILL[theme], linewidth=0)
    axes.axhline(1, color=EDGE[theme], linewidth=0.9)
    middles = np.sqrt(edges[:-1] * edges[1:]) if np.all(edges > 0) else (edges[:-1] + edges[1:]) / 2
    low, high = RATIO_RANGE
    for curve, (light, dark, dashes) in zip(samples, STYLES, strict=False):
        colour = light if theme == "light" else dark
        ratio = curve.histogram.share / divisor
        inside = np.where((ratio >= low) & (ratio <= high), ratio, np.nan)
        axes.stairs(inside, edges, baseline=None, color=colour, linewidth=1.4, linestyle=dashes)
        axes.errorbar(middles, inside, yerr=curve.histogram.error / divisor, fmt="none", ecolor=colour, elinewidth=0.9)
        above = middles[ratio > high]
        axes.plot(above, np.full(len(above), high - 0.1), "^", color=colour, markersize=3.5, clip_on=False)
    axes.set_ylim(low, high)
    axes.set_yticks([0, 0.5, 1, 1.5, 2], ["0", "", "1", "", "2"])


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, without date: equal figures give equal bytes."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, transparent=True, **options)
    return buffer.getvalue()
