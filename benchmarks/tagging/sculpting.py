"""Discriminants on a page: ROC curves, and what cuts do to the background's soft-drop mass and pt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepfm.benchmarks.panels import legend_below
from hepfm.benchmarks.report import number, themed
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tagging.pictures import THEMES
from hepfm.core.plots import HEIGHT_IN, STYLES, WIDTH_IN, Curve, Theme, ratio_plot, settings
from hepfm.core.statistics import Histogram, Values, histogram
from hepfm.finetune.discriminants import Discriminant, values_and_truth
from hepfm.finetune.judging import Judge
from hepfm.finetune.sculpting import EDGES, FEWEST, SHARES, Sculpting, quantities, sculpting
from hepfm.finetune.tagging_metrics import Measured, Scored, roc
from hepfm.ingest.corpus import Split

MOST = 10  # discriminants, where none was named
TITLES = {"softdrop_mass": "soft-drop mass", "pt": "pt"}
AXES = {"softdrop_mass": "soft-drop mass [GeV]", "pt": "pt [GeV]"}


@dataclass(frozen=True)
class Sculpted:
    """A discriminant's cuts and a spectrum of the background.

    Attributes:
        name: of the discriminant.
        cuts: what each does.
        values: (n,) the discriminant of background jets.
        quantity: (n,) of them.
    """

    name: str
    cuts: list[Sculpting]
    values: np.ndarray
    quantity: np.ndarray


def measure_sculpting(
    judge: Judge, split: Split, scored: Scored, wanted: Sequence[Discriminant], seed: int, replicas: int
) -> list[Sculpted]:
    """All discriminants with background jets, on the spectra that the corpus has."""
    names = [name for name in EDGES if name in split.corpus.manifest.provides]
    every = quantities(judge, split, names)
    found = []
    for each in wanted:
        values, truth = values_and_truth(each, scored)
        background = truth == 0
        if not background.any():
            continue
        for name in names:
            of_background = every[name][background]
            cuts = sculpting(values[background], of_background, name, key=(each.name, seed), replicas=replicas)
            found.append(Sculpted(each.name, cuts, values[background], of_background))
    return found


def default_discriminants(measured: Measured) -> list[Discriminant]:
    """Each signal against the background."""
    pairs = dict.fromkeys((item.signal, item.background) for item in measured.rejections)
    return [Discriminant((signal,), (background,)) for signal, background in pairs][:MOST]


def sculpting_table(found: Sequence[Sculpted]) -> Table:
    """A row a discriminant and spectrum, a column a share that passes."""
    header = ("discriminant", "spectrum", "background jets", *(f"{share:.3g} pass" for share in SHARES))
    rows = tuple(
        (
            Cell(item.name),
            Cell(TITLES[item.cuts[0].quantity]),
            Cell(f"{item.cuts[0].passed[1]:,}"),
            *(_cell(cut) for cut in item.cuts),
        )
        for item in found
    )
    note = (
        "Jensen-Shannon divergence [bits] of the spectrum of background jets that pass from that of all: 0 shapes "
        "nothing. In brackets its mean for as many jets drawn at random, and their 95% quantile; above that a cut "
        "shapes the spectrum."
    )
    told = f"Of fewer than {FEWEST:,} jets that pass it is not computed: {_needed(found)}"
    kept = tuple(row for row, item in zip(rows, found, strict=True) if _computed(item))
    return Table("Sculpting of the background", header, kept, f"{note} {told}")


def _computed(item: Sculpted) -> bool:
    return any(cut.divergence is not None for cut in item.cuts)


def _needed(found: Sequence[Sculpted]) -> str:
    """How many background jets the loosest and the tightest cut need, and whose rows are left out for want of them."""
    loosest, tightest = (round(FEWEST / share) for share in (max(SHARES), min(SHARES)))
    without = list(dict.fromkeys(item.name for item in found if not _computed(item)))
    left_out = f" Left out: {', '.join(without)}." if without else ""
    return f"{max(SHARES):.3g} need {loosest:,} background jets, {min(SHARES):.3g} {tightest:,}.{left_out}"


def _cell(cut: Sculpting) -> Cell:
    if cut.divergence is None:
        return Cell("not computed")
    return Cell(number(cut.divergence), chance=f"{cut.chance:.2g}, {cut.chance_upper:.2g}")


def sculpting_pictures(found: Sequence[Sculpted]) -> list[dict[str, str]]:
    """Spectra of the background: all, and what passes each cut."""
    return [
        themed(
            f"{TITLES[item.cuts[0].quantity]} of background, {item.name}",
            f"sculpting-{place}",
            {
                theme: ratio_plot(
                    Curve("all background", _spectrum(item, None)),
                    [Curve(f"{cut.share:.3g} pass", _spectrum(item, cut)) for cut in item.cuts if cut.divergence],
                    xlabel=AXES[item.cuts[0].quantity],
                    ylabel="share of jets",
                    log_x=item.cuts[0].quantity == "pt",
                    theme=theme,
                )
                for theme in THEMES
            },
        )
        for place, item in enumerate(found)
        if _computed(item)
    ]


def roc_picture(scored: Scored, wanted: Sequence[Discriminant]) -> list[dict[str, str]]:
    """ROC curves of discriminants, on jets of their signal and background."""
    if not wanted:
        return []
    figures = {}
    for theme in THEMES:
        with matplotlib.rc_context(settings(theme)):
            figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
            _curves(figure.subplots(), scored, wanted[:MOST], theme)
            figures[theme] = figure
    return [themed("Discriminants: background against signal efficiency", "discriminants", figures)]


def _curves(axes: Axes, scored: Scored, wanted: Sequence[Discriminant], theme: Theme) -> None:
    axes.set_facecolor("none")
    for place, each in enumerate(wanted):
        values, truth = values_and_truth(each, scored)
        kept, passed = roc(values[truth >= 0], truth[truth >= 0] == 1)
        light, dark, _ = STYLES[place % len(STYLES)]
        dashes = STYLES[place // len(STYLES) % len(STYLES)][2]
        seen = passed > 0
        axes.plot(
            kept[seen], passed[seen], color=light if theme == "light" else dark, linestyle=dashes, label=each.name
        )
    axes.set(xlabel="signal efficiency", ylabel="background efficiency", xlim=(0, 1), yscale="log")
    axes.set_ylim(top=1)
    legend_below(axes)


def _spectrum(item: Sculpted, cut: Sculpting | None) -> Histogram:
    quantity = item.quantity if cut is None else item.quantity[item.values >= cut.threshold]
    edges = EDGES[item.cuts[0].quantity]
    if item.cuts[0].quantity == "softdrop_mass":
        edges = edges[::2]  # for the eye
    else:
        quantity, edges = np.log10(quantity), np.log10(edges)
    return histogram(Values.per_record(quantity), edges)
