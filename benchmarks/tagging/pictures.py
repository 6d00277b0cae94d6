"""ROC curves and reliability of a tagger."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepfm.benchmarks.panels import legend_below, line_colour
from hepfm.benchmarks.report import themed
from hepfm.core.plots import HEIGHT_IN, STYLES, WIDTH_IN, Theme, settings
from hepfm.finetune.tagging_metrics import CALIBRATION_BINS, Measured, Scored, roc

THEMES: tuple[Theme, ...] = ("light", "dark")
CURVES = 10  # in a picture, at most


def pictures(scored: Scored, measured: Measured, prefix: str = "") -> list[dict[str, str]]:
    """ROC curves of each signal against the background, and reliability, each for light and dark.

    Args:
        scored, measured: of one tagger.
        prefix: of the pictures' identifiers, if a page shows several taggers.
    """
    found = []
    if measured.rejections:
        title = "Background against signal efficiency"
        found.append(_themed(title, f"{prefix}roc", lambda *to: _roc(scored, measured, *to)))
    title = "Reliability of the highest score"
    found.append(_themed(title, f"{prefix}reliability", lambda *to: _reliability(measured, *to)))
    return found


def _themed(title: str, name: str, draw: Callable[[Axes, Theme], None]) -> dict[str, str]:
    figures = {}
    for theme in THEMES:
        with matplotlib.rc_context(settings(theme)):
            figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
            draw(figure.subplots(), theme)
            figures[theme] = figure
    return themed(title, name, figures)


def _roc(scored: Scored, measured: Measured, axes: Axes, theme: Theme) -> None:
    signals = list(dict.fromkeys((item.signal, item.background) for item in measured.rejections))
    for number, (signal, background) in enumerate(signals[:CURVES]):
        one, other = scored.number(signal), scored.number(background)
        jets = np.isin(scored.truth, [one, other])
        own, theirs = scored.scores[jets, one].astype(np.float64), scored.scores[jets, other].astype(np.float64)
        total = own + theirs
        ratio = np.divide(own, total, out=np.zeros_like(total), where=total > 0)
        kept, passed = roc(ratio, scored.truth[jets] == one)
        light, dark, _ = STYLES[number % len(STYLES)]
        dashes = STYLES[number // len(STYLES) % len(STYLES)][2]
        axes.plot(kept, passed, color=light if theme == "light" else dark, linestyle=dashes, label=signal)
    axes.set(xlabel="signal efficiency", ylabel=f"efficiency of {signals[0][1]}", xlim=(0, 1), yscale="log")
    axes.set_ylim(top=1)
    legend_below(axes)


def _reliability(measured: Measured, axes: Axes, theme: Theme) -> None:
    found = measured.reliability
    known = found.jets > 0
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    error = np.sqrt(np.maximum(found.accuracy * (1 - found.accuracy), 0) / np.maximum(found.jets, 1))
    axes.plot([0, 1], [0, 1], color=line_colour(theme), linewidth=0.8)
    axes.errorbar(
        found.confidence[known],
        found.accuracy[known],
        error[known],
        fmt="o",
        markersize=4,
        color=STYLES[0][0 if theme == "light" else 1],
    )
    axes.set(xlabel="highest score", ylabel="share that is right", xlim=(edges[0], 1), ylim=(0, 1))
