"""The transfer study as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.transfer.law import PowerLaw
from hepfm.benchmarks.transfer.scores import MEAN, errors_told
from hepfm.core.plots import EDGE, FILL, STYLES, settings
from hepfm.core.statistics import Estimate

SCRATCH = "scratch"
NAMES = {"full": "fine-tuned", SCRATCH: "from scratch", "low-rank": "low-rank", "last-blocks": "last blocks"}


@dataclass(frozen=True)
class Curve:
    """One protocol.

    Attributes:
        protocol: its name.
        counts: records trained on.
        found: by quantity, and ``mean`` of all, the distance at each count in the reference's standard deviations.
        laws: by the same names.
    """

    protocol: str
    counts: tuple[int, ...]
    found: Mapping[str, Sequence[Estimate]]
    laws: Mapping[str, PowerLaw | None]

    @property
    def name(self) -> str:
        return NAMES.get(self.protocol, self.protocol)


def gain(curve: Curve, control: Curve, place: int) -> Estimate:
    """By which share the mean distance is smaller than the control's, 1 - d / d_control."""
    return nearer(curve.found[MEAN][place], control.found[MEAN][place])


def nearer(own: Estimate, other: Estimate) -> Estimate:
    """By which share a distance is smaller than another one, with the errors of both."""
    ratio = own.value / other.value
    return Estimate(1 - ratio, abs(ratio) * float(np.hypot(own.error / own.value, other.error / other.value)))


def table(curves: Sequence[Curve], floor: float, kind: str, seeds: int, judged: int) -> Table:
    """A row a count; the last one has the exponents."""
    control = next((curve for curve in curves if curve.protocol == SCRATCH), None)
    others = [curve for curve in curves if curve is not control]
    header = [kind, *(curve.name for curve in curves)]
    header += [f"{curve.name}: nearer than scratch" for curve in others] if control else []
    rows = []
    for place, count in enumerate(curves[0].counts):
        cells = [Cell(f"{count:,}"), *(Cell(number(curve.found[MEAN][place])) for curve in curves)]
        if control:
            gains = [gain(curve, control, place) for curve in others]
            cells += [Cell(f"{100 * one.value:.0f} ± {100 * one.error:.0f}%") for one in gains]
        rows.append(tuple(cells))
    laws = [curve.laws[MEAN] for curve in curves]
    exponents = [Cell(number(law.gamma) if law else "not fitted") for law in laws]
    rows.append((Cell("gamma"), *exponents, *(Cell("") for _ in others if control)))
    errors = errors_told(seeds)
    note = (
        f"W1 distance of {judged:,} generated {kind} to held-out ones over the latter's standard deviation, mean over "
        f"the quantities ({', '.join(name for name in curves[0].found if name != MEAN)}); errors: {errors}. Two "
        f"held-out samples of this size differ by {floor:.2g} (floor). gamma: (distance - floor) ~ N^-gamma."
    )
    return Table("Does pretraining on another domain pay?", tuple(header), tuple(rows), note)


def picture(curves: Sequence[Curve], floor: float, kind: str) -> Figure:
    """The mean distance against the number of records, with the floor and the fitted laws."""
    with matplotlib.rc_context(settings("light")):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        counts = np.array(curves[0].counts)
        line = np.geomspace(counts.min() / 1.3, counts.max() * 1.3, 50)
        for curve, (colour, _, dashes) in zip(curves, STYLES, strict=False):
            found = curve.found[MEAN]
            values, errors = [one.value for one in found], [one.error for one in found]
            law = curve.laws[MEAN]
            label = curve.name
            if law:
                axes.plot(line, floor + law(line), color=colour, linestyle=dashes, linewidth=1.3)
                label += rf": $\gamma$ = {law.gamma.value:.2f} $\pm$ {law.gamma.error:.2f}"
            axes.errorbar(counts, values, yerr=errors, fmt="o", color=colour, markersize=5, capsize=2, label=label)
        axes.axhline(floor, color=EDGE["light"], linewidth=1)
        axes.fill_between(line, 0, floor, color=FILL["light"], alpha=0.6, linewidth=0, label="floor: held-out samples")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(line[0], line[-1])
        values = [one.value for curve in curves for one in curve.found[MEAN]]
        axes.set_ylim(min(floor, *values) / 2, max(values) * 2 ** (1 + len(curves)))  # room for the legend
        axes.set_xlabel(f"{kind} of the target domain that were trained on")
        axes.set_ylabel("W1 / standard deviation, mean of quantities")
        axes.legend(frameon=False)
    return figure
