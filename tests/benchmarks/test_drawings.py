"""Drawings in pages lose bytes, not lines: one for light and dark pages, in the colours of either."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from hepfm.benchmarks.drawings import compact, for_both
from hepfm.benchmarks.panels import legend_below
from hepfm.benchmarks.report import themed
from hepfm.benchmarks.reports.pictures import ratio_plots
from hepfm.core.plots import STYLES, Curve, to_svg
from hepfm.core.statistics import Values, histogram


def figure_of(colour: str, points: int = 3) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot(np.arange(points), np.arange(points) ** 0.5, "o-", color=colour, label="a")
    axes.legend()
    return figure


def test_a_compact_drawing_has_the_same_elements_and_whole_references() -> None:
    svg = to_svg(figure_of("#0072b2")).decode()
    short = compact(svg, "here-")
    assert len(short) < 0.7 * len(svg)
    for element in ("path", "use", "clipPath"):
        assert short.count(f"<{element} ") == svg.count(f"<{element} "), element
    identifiers = re.findall(r'\bid="([^"]+)"', short)
    assert len(identifiers) == len(set(identifiers))
    assert all(name.startswith("here-") for name in identifiers)
    used = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', short)}
    assert used == set(identifiers)
    classes = set(re.findall(r'class="([^"]+)"', short))
    assert all(f".{name}{{" in short for name in classes)
    places = [[float(x) for x in re.findall(r'<use [^>]*x="([^"]+)"', text)] for text in (svg, short)]
    np.testing.assert_allclose(places[1], places[0], atol=0.0051)


def test_one_drawing_has_the_colours_of_both_pages() -> None:
    light, dark = (compact(to_svg(figure_of(colour)).decode(), "x-") for colour in ("#0072b2", "#56b4e9"))
    both = for_both(light, dark)
    assert both is not None
    assert "var(--0072b2-56b4e9)" in both
    assert "prefers-color-scheme:dark){:root{--0072b2-56b4e9:#56b4e9" in both
    assert len(both) < 1.3 * len(light)


def test_drawings_that_differ_in_more_stay_two() -> None:
    pictures = themed("t", "n", {"light": figure_of("#0072b2"), "dark": figure_of("#0072b2", points=5)})
    assert pictures["light"].startswith("<svg")
    assert pictures["dark"].startswith("<svg")
    identifiers = re.findall(r'\bid="([^"]+)"', pictures["light"] + pictures["dark"])
    assert len(identifiers) == len(set(identifiers))


def test_ratio_plots_are_one_drawing_each() -> None:
    draws = np.random.default_rng(0)
    curves = [
        Curve(f"s{n}", histogram(Values.per_record(draws.normal(size=500)), np.linspace(-3, 3, 41))) for n in range(3)
    ]
    (picture,) = ratio_plots("Mass", "mass", curves[0], curves[1:], xlabel="mass [GeV]", ylabel="share")
    assert picture["dark"] == ""
    assert STYLES[0][1] in picture["light"]
    assert len(picture["light"]) < 70_000


@pytest.mark.parametrize("curves", [2, 9])
def test_a_legend_below_covers_no_curve(curves: int) -> None:
    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axes = figure.subplots()
    for number in range(curves):
        axes.plot([0, 1], [0, number], label=f"signal {number}")
    legend_below(axes)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    panel = axes.get_tightbbox()
    assert panel is not None
    assert legend.get_window_extent().y1 <= panel.y0 + 1
