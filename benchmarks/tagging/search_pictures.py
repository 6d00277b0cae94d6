"""Spectra of the soft-drop mass before and after cuts, what the jets are stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepfm.benchmarks.report import themed
from hepfm.benchmarks.tagging.pictures import THEMES
from hepfm.core.plots import EDGE, FILL, HEIGHT_IN, STYLES, WIDTH_IN, Theme, settings


def spectra(
    names: Sequence[str], kind: np.ndarray, mass: np.ndarray, passed: Mapping[str, np.ndarray], edges: np.ndarray
) -> list[dict[str, str]]:
    """A picture before any cut, and one after each.

    Args:
        names: what the jets are, the background first.
        kind: (n,) number in ``names`` of each jet.
        mass: (n,) [GeV].
        passed: (n,) bool by the name of each cut.
        edges: of the bins [GeV].
    """
    found = []
    for number, (name, kept) in enumerate({"": np.ones(len(kind), dtype=bool), **passed}.items()):
        counts = [np.histogram(mass[kept & (kind == which)], edges)[0] for which in range(len(names))]
        figures = {}
        for theme in THEMES:
            with matplotlib.rc_context(settings(theme)):
                figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
                _stacked(figure.subplots(), names, counts, edges, theme)
                figures[theme] = figure
        title = f"After the cut {name}" if name else "Before cuts"
        found.append(themed(title, f"search-{number}", figures))
    return found


def _stacked(axes: Axes, names: Sequence[str], counts: Sequence[np.ndarray], edges: np.ndarray, theme: Theme) -> None:
    axes.set_facecolor("none")
    below = counts[0].astype(np.float64)
    axes.stairs(below, edges, fill=True, color=FILL[theme], edgecolor=EDGE[theme], label=names[0])
    for name, own, (light, dark, _) in zip(names[1:], counts[1:], STYLES, strict=False):
        colour = light if theme == "light" else dark
        axes.stairs(below + own, edges, baseline=below, fill=True, color=colour, linewidth=0, label=name)
        below = below + own
    middles = (edges[1:] + edges[:-1]) / 2
    seen = below > 0
    ink = settings(theme)["text.color"]
    error = np.sqrt(below[seen])
    axes.errorbar(middles[seen], below[seen], error, fmt="o", markersize=2.5, elinewidth=0.8, color=ink, label="all")
    axes.set_xlim(edges[0], edges[-1])
    highest = float((below + np.sqrt(below)).max()) or 1.0
    axes.set_ylim(0, highest * (1.15 + 0.05 * len(names)))
    axes.set(xlabel="soft-drop mass [GeV]", ylabel=f"jets / {edges[1] - edges[0]:.3g} GeV")
    axes.legend(frameon=False, ncols=2, loc="upper right")
