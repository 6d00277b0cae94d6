"""Pictures of a card: the panels of a section in one grid, one line a class, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepfm.core.plots import STYLES
from hepfm.ingest.card.panels import Panel

COLUMNS = 3
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 3.5, 2.7
FEWEST_COLUMNS = 2  # a picture is at least as wide, so that the names of the classes do not pile up over one panel
NAME_WIDTH_IN, NAME_HEIGHT_IN = 2.6, 0.3
DPI = 110
LONG_NAME = 5  # characters
# After the colours of all plots, solid or dashed lines in more that stay apart from them and from each other.
_MORE = (
    ("#56b4e9", "-"),
    ("#332288", (0, (5, 1.5))),
    ("#882255", "-"),
    ("#000000", (0, (1.5, 1.2))),
    ("#e69f00", (0, (5, 1.5, 1, 1.5))),
    ("#117733", (0, (8, 2))),
    ("#999999", "-"),
)
LINES = (*((light, dashes) for light, _, dashes in STYLES), *_MORE)
_INK = "#1b1f24"
# The look of hepfm.core.plots at the size of a small panel, on white: a README is read on light and on dark pages.
_SETTINGS: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 7.5,
    "legend.fontsize": 9,
    "axes.linewidth": 0.8,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 5,
    "ytick.major.size": 5,
    "xtick.minor.size": 2.5,
    "ytick.minor.size": 2.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}
_SYMBOLS = {
    "pt": r"$p_\mathrm{T}$",
    "pt_constituents": r"$p_\mathrm{T}$ of the constituents' sum",
    "eta": r"$\eta$",
    "phi": r"$\phi$",
    "deta": r"$\Delta\eta$",
    "dphi": r"$\Delta\phi$",
    "d0": r"$d_0$",
    "d0err": r"$\sigma(d_0)$",
    "dz": r"$d_z$",
    "dzerr": r"$\sigma(d_z)$",
    "softdrop_mass": "soft-drop mass",
    "tau1": r"$\tau_1$",
    "tau2": r"$\tau_2$",
    "tau3": r"$\tau_3$",
    "tau4": r"$\tau_4$",
    "response": "visible / incident energy",
    "energy_by_layer": "layer",
    "energy_by_cell_a": "cell a",
    "energy_by_cell_b": "cell b",
    "energy_by_radius": "distance from the shower's axis",
    "item": "code",
}


def picture(panels: Sequence[Panel], classes: Sequence[str], record: str) -> bytes:
    """The panels of one section as PNG; equal panels give equal bytes.

    Args:
        panels: at least one.
        classes: their names, at most twelve.
        record: what a record is called (``jet``).
    """
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    width = max(columns, FEWEST_COLUMNS) * PANEL_WIDTH_IN
    across = min(len(classes), int(width / NAME_WIDTH_IN))
    height = rows * PANEL_HEIGHT_IN + NAME_HEIGHT_IN * (1 + -(-len(classes) // across))
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel, classes, record)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=across, frameon=False, handlelength=2.4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel, classes: Sequence[str], record: str) -> None:
    axis = panel.axis
    edges = 10**axis.edges if axis.log else axis.edges
    heights = panel.heights
    if axis.names:  # those that occur
        occurring = np.flatnonzero(heights.any(axis=0))
        heights, edges = heights[:, occurring], np.arange(len(occurring) + 1) - 0.5
        _names(axes, [axis.names[number] for number in occurring])
    for name, height, (colour, dashes) in zip(classes, heights, LINES, strict=False):
        axes.stairs(height, edges, baseline=None, color=colour, linestyle=dashes, linewidth=1.2, label=name)
    if axis.log:
        axes.set_xscale("log")
    if axis.log_counts:
        axes.set_yscale("log")
        axes.set_ylim(heights[heights > 0].min() / 2, heights.max() * 2)
    else:
        axes.set_ylim(0, 1.08 * heights.max() or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(edges[0], edges[-1])
    if not axis.names and not axis.log:
        whole = panel.quantity.form != "number" and (edges % 1 == 0.5).all()
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1))
        if whole and edges[-1] - edges[0] < 12:
            axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    axes.set_xlabel(title_of(panel, record))
    axes.set_ylabel(_counted(panel, record))
    if note := _note(panel):
        axes.set_title(note, loc="right", pad=3)


def _names(axes: Axes, names: Sequence[str]) -> None:
    """A tick a name, slanted where names are long."""
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    for tick in axes.get_xticklabels() if max(map(len, names)) > LONG_NAME else ():
        tick.set(rotation=35, ha="right", rotation_mode="anchor")


def title_of(panel: Panel, record: str) -> str:
    """What the horizontal axis says: the quantity and its unit."""
    quantity = panel.quantity
    own = quantity.name.rpartition(".")[2]
    symbol = _SYMBOLS.get(own, own.replace("_", " "))
    if quantity.form == "integer" and not quantity.section and quantity.name in ("constituents", "points", "tokens"):
        symbol = f"{quantity.name} per {record}"
    elif quantity.section and own != "item":
        symbol = f"{quantity.section.removesuffix('s')} {symbol}"
    elif own in ("pt", "eta", "phi", "mass") and not quantity.section:
        symbol = f"{record} {symbol}"
    return f"{symbol} [{quantity.unit}]" if quantity.unit else symbol


def _counted(panel: Panel, record: str) -> str:
    if panel.quantity.form == "profile":
        return f"energy per {record} [MeV]"
    return f"share of {panel.quantity.section or record + 's'}"


def _note(panel: Panel) -> str:
    """What the panel does not show, in percent."""
    shares = (("null", panel.null_share), ("outside", panel.outside))
    return ", ".join(f"{share:.2g}% {what}" for what, share in ((what, 100 * share) for what, share in shares) if share)
