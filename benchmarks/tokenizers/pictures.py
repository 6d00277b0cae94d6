"""Rate against distortion, one panel a quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from hepfm.benchmarks.panels import COLUMNS, PANEL_WIDTH_IN, SMALL
from hepfm.core.plots import STYLES, Theme, settings

if TYPE_CHECKING:
    from hepfm.benchmarks.tokenizers.compare import Compared

MARKERS = "osD^vPX*"
HEIGHT_IN, LEGEND_LINE_IN, BELOW_IN = 2.3, 0.24, 0.7


def rate_distortion(found: Mapping[str, Compared], titles: Mapping[str, str], theme: Theme) -> Figure:
    """Every tokenizer in every quantity: a filled marker at its bits, an open one at its entropy-coded bits."""
    lines, legend = -(-len(titles) // COLUMNS), LEGEND_LINE_IN * (-(-len(found) // COLUMNS) + 1)
    with matplotlib.rc_context({**settings(theme), **SMALL}):
        width, height = COLUMNS * PANEL_WIDTH_IN, lines * HEIGHT_IN + legend + BELOW_IN
        figure = Figure(figsize=(width, height), facecolor="none")
        grid = np.atleast_1d(figure.subplots(lines, COLUMNS)).ravel()
        figure.subplots_adjust(
            left=0.06, right=0.985, bottom=BELOW_IN / height, top=1 - (legend + 0.2) / height, wspace=0.3, hspace=0.4
        )
        for axes, (name, title) in zip(grid, titles.items(), strict=False):
            axes.set_facecolor("none")
            for number, (label, item) in enumerate(found.items()):
                if name not in item.distortions:
                    continue
                colour, marker = _style(number, theme)
                value, rate = item.distortions[name].value, item.rate
                axes.plot([rate.entropy_bits, rate.bits], [value.value] * 2, color=colour, linewidth=0.8)
                axes.plot(rate.entropy_bits, value.value, marker, markerfacecolor="none", color=colour, markersize=5.5)
                axes.errorbar(
                    rate.bits, value.value, yerr=value.error, fmt=marker, color=colour, markersize=5.5, label=label
                )
            axes.set_title(title, loc="left", pad=3, fontweight="bold")
            axes.set_ylim(bottom=0)
        for axes in grid[len(titles) :]:
            axes.set_axis_off()
        known: dict[str, Artist] = {}
        for axes in grid:
            handles, labels = axes.get_legend_handles_labels()
            known |= dict(zip(labels, handles, strict=True))
        figure.legend(list(known.values()), list(known), loc="upper left", ncols=COLUMNS, frameon=False)
        figure.supxlabel("bits a point", fontsize=10, y=0.12 / height, va="bottom")
    return figure


def _style(number: int, theme: Theme) -> tuple[str, str]:
    light, dark, _ = STYLES[number % len(STYLES)]
    return (light if theme == "light" else dark), MARKERS[number % len(MARKERS)]
