"""Pictures of reports: ratio plots of any number of samples, matrices of correlations, values by layer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from hepfm.benchmarks.panels import SMALL
from hepfm.benchmarks.report import themed
from hepfm.core.plots import EDGE, FILL, STYLES, Curve, Theme, ratio_plot, settings
from hepfm.core.statistics import Estimate

T = TypeVar("T")
THEMES: tuple[Theme, ...] = ("light", "dark")
SAMPLES = len(STYLES)  # in one plot, at most
PICTURE_DPI = 110
COLUMNS = 4
MATRIX_IN, MATRIX_WIDE_IN = 2.6, 11.0
LAYER_WIDTH_IN, LAYER_HEIGHT_IN = 4.6, 3.0


def groups_of(samples: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """As many samples as fit in one plot, and the next ones."""
    listed = tuple(samples)
    return (listed[start : start + SAMPLES] for start in range(0, len(listed), SAMPLES))


def sample_colour(number: int, theme: Theme) -> str:
    """Colour of the sample of that number in its plot."""
    light, dark, _ = STYLES[number % SAMPLES]
    return light if theme == "light" else dark


def ratio_plots(
    title: str, name: str, reference: Curve, samples: Sequence[Curve], *, xlabel: str, ylabel: str, **options: bool
) -> list[dict[str, str]]:
    """Shares and ratios, five samples a picture."""
    found = []
    for number, group in enumerate(groups_of(samples)):
        figures = {
            theme: ratio_plot(reference, group, xlabel=xlabel, ylabel=ylabel, theme=theme, **options)
            for theme in THEMES
        }
        told = title if len(samples) <= SAMPLES else f"{title} ({number + 1})"
        found.append(themed(told, f"{name}-{number}", figures))
    return found


def line_plots(
    title: str,
    name: str,
    x: np.ndarray,
    samples: Mapping[str, Sequence[Estimate | None]],
    *,
    xlabel: str,
    ylabel: str,
    band: Sequence[float | None] | None = None,
    band_label: str = "chance (95%)",
    log_x: bool = False,
    log_y: bool = False,
    level: float | None = None,
    reference: Sequence[Estimate | None] | None = None,
) -> list[dict[str, str]]:
    """Values with errors over x, five samples a picture.

    Args:
        title, name: of the picture.
        x: (n,) places.
        samples: n values of each; None leaves a gap.
        xlabel, ylabel: of the axes.
        band: (n,) upper edge of what chance gives, filled from below.
        band_label: what the band is.
        log_x, log_y: logarithmic axes.
        level: a line at this value.
        reference: n values of the reference, in grey.
    """
    found = []
    for number, group in enumerate(groups_of(samples)):

        def draw(axes: Axes, theme: Theme, group: tuple[str, ...] = group) -> None:
            if band is not None:
                upper = np.array([np.nan if value is None else value for value in band])
                axes.fill_between(x, upper, 0 if not log_y else 1e-12, color=FILL[theme], label=band_label, linewidth=0)
            if level is not None:
                axes.axhline(level, color=EDGE[theme], linewidth=0.9)
            values = []
            if reference is not None:
                values.append(_with_errors(axes, x, reference, "reference", EDGE[theme], "-"))
            for place, label in enumerate(group):
                dashes = STYLES[place][2]
                values.append(_with_errors(axes, x, samples[label], label, sample_colour(place, theme), dashes))
            axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear")
            _limits(axes, np.concatenate(values), band, log_y)
            axes.legend(frameon=False, ncols=2, columnspacing=1.2)

        told = title if len(samples) <= SAMPLES else f"{title} ({number + 1})"
        found.append(themed(told, f"{name}-{number}", drawn(draw, (LAYER_WIDTH_IN, LAYER_HEIGHT_IN))))
    return found


def _with_errors(
    axes: Axes, x: np.ndarray, values: Sequence[Estimate | None], label: str, colour: str, dashes: Any
) -> np.ndarray:
    y = np.array([np.nan if part is None else part.value for part in values])
    error = np.array([np.nan if part is None else part.error for part in values])
    axes.errorbar(
        x, y, yerr=np.nan_to_num(error), color=colour, linestyle=dashes, linewidth=1.4, marker="o", markersize=2.6,
        label=label,
    )  # fmt: skip
    return y


def _limits(axes: Axes, values: np.ndarray, band: Sequence[float | None] | None, log_y: bool) -> None:
    known = np.concatenate([values, [value for value in band or () if value is not None]])
    known = known[np.isfinite(known)]
    if not len(known):
        return
    if log_y:
        positive = known[known > 0]
        if len(positive):
            low, high = float(positive.min()) / 2, float(positive.max())
            axes.set_yscale("log")
            axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
        return
    low, high = float(known.min()), float(known.max())
    reach = (high - low) or abs(high) or 1.0
    axes.set_ylim(0 if band is not None else low - 0.15 * reach, high + 0.45 * reach)


def drawn(draw: Callable[[Axes, Theme], None], size: tuple[float, float]) -> dict[Theme, Figure]:
    """One picture, for light and dark."""
    figures = {}
    for theme in THEMES:
        with matplotlib.rc_context(settings(theme)):
            figure = Figure(figsize=size, layout="constrained", facecolor="none")
            axes = figure.subplots()
            axes.set_facecolor("none")
            draw(axes, theme)
            figures[theme] = figure
    return figures


def matrices(
    title: str,
    reference: np.ndarray,
    samples: Mapping[str, np.ndarray],
    labels: Sequence[str] = (),
    axis: str = "",
    first: str = "reference",
) -> dict[str, str]:
    """Correlations of the reference and of each sample, and what each sample's differ by.

    Args:
        title: of the picture.
        reference: (k, k) in [-1, 1]; NaN where there is none.
        samples: the same of each.
        labels: names of the k quantities; none if they are numbered.
        axis: what the numbers are.
        first: name of the reference.
    """
    panels = [(first, reference, 1.0)]
    for name, matrix in samples.items():
        apart = matrix - reference
        known = np.abs(apart[np.isfinite(apart)])
        panels += [(name, matrix, 1.0), (f"{name} - {first}", apart, float(known.max(initial=0.0)) or 1e-3)]
    pictures: dict[str, str] = {}
    for theme in THEMES:
        with matplotlib.rc_context({**settings(theme), **SMALL, "xtick.top": False, "ytick.right": False}):
            lines = -(-len(panels) // COLUMNS)
            figure = Figure(
                figsize=(MATRIX_WIDE_IN, lines * (MATRIX_IN + 0.25)), layout="constrained", facecolor="none"
            )
            grid = np.atleast_1d(figure.subplots(lines, COLUMNS)).ravel()
            for axes, (name, matrix, most) in zip(grid, panels, strict=False):
                image = axes.imshow(
                    matrix, cmap=_diverging(theme), vmin=-most, vmax=most, origin="lower", interpolation="nearest"
                )
                axes.set_title(name, loc="left", fontweight="bold")
                axes.set_facecolor(FILL[theme])
                if labels:
                    places = range(len(labels))
                    axes.set_xticks(places, labels, rotation=90)
                    axes.set_yticks(places, labels)
                else:
                    axes.set(xlabel=axis, ylabel=axis)
                figure.colorbar(image, ax=axes, fraction=0.046)
            for axes in grid[len(panels) :]:
                axes.set_axis_off()
            pictures[theme] = inline_png(figure, title)
    return {"title": title, **pictures}


def _diverging(theme: Theme) -> LinearSegmentedColormap:
    """Blue over the page's own shade to orange, so that 0 is quiet on light and on dark."""
    middle = "#ffffff" if theme == "light" else "#14181d"
    return LinearSegmentedColormap.from_list("apart", ["#0072b2", middle, "#d55e00"])


def inline_png(figure: Figure, title: str) -> str:
    """A picture of many points, as an image of 256 colours inside the page."""
    full, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=PICTURE_DPI, transparent=True, metadata={"Software": None})
    with Image.open(full) as image:
        image.quantize(256, Image.Quantize.FASTOCTREE).save(buffer, format="png", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    escaped = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<img alt="{escaped}" src="data:image/png;base64,{content}">'
