"""One backbone for all data sets against one for each: the table and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.transfer.page import nearer
from hepfm.benchmarks.transfer.scores import MEAN, errors_told
from hepfm.core.plots import EDGE, STYLES, settings
from hepfm.core.statistics import Estimate

JOINT = "joint"


@dataclass(frozen=True)
class Domain:
    """What was found on the held-out records of a data set.

    Attributes:
        name: of the data set.
        kind: jets or showers.
        judged: how many records were generated and compared with as many.
        alone, joint: by quantity, and ``mean`` of all, the distance in the reference's standard deviations, of the
            backbone of this data set and of that of all.
        floors: the same of two held-out samples.
        loss_alone, loss_joint: on held-out records [nats per token and stop].
    """

    name: str
    kind: str
    judged: int
    alone: Mapping[str, Estimate]
    joint: Mapping[str, Estimate]
    floors: Mapping[str, float]
    loss_alone: Estimate
    loss_joint: Estimate


def table(domains: Sequence[Domain], seeds: int) -> Table:
    """A row a data set and quantity, the mean of its quantities first."""
    header = ("data set", "quantity", "alone", "joint", "joint: nearer", "floor")
    rows = []
    for domain in domains:
        for name in (MEAN, *(one for one in domain.floors if one != MEAN)):
            alone, joint = domain.alone[name], domain.joint[name]
            gain = nearer(joint, alone)
            cells = [domain.name, name, number(alone), number(joint)]
            cells += [f"{100 * gain.value:.0f} ± {100 * gain.error:.0f}%", f"{domain.floors[name]:.2g}"]
            rows.append(tuple(map(Cell, cells)))
        loss = [domain.name, "loss [nats]", _loss(domain.loss_alone, seeds), _loss(domain.loss_joint, seeds), "", ""]
        rows.append(tuple(map(Cell, loss)))
    judged = ", ".join(f"{domain.judged:,} {domain.kind} of {domain.name}" for domain in domains)
    errors = errors_told(seeds)
    note = (
        f"W1 distance of generated records to as many held-out ones ({judged}) over the latter's standard deviation; "
        f"errors: {errors}. floor: what two held-out samples of this size show. loss: per token and stop of held-out "
        "records, under the same tokenizer for both. alone: a backbone of this data set; joint: one for all."
    )
    return Table("One backbone for all data sets, or one for each?", header, tuple(rows), note)


def _loss(loss: Estimate, seeds: int) -> str:
    return number(loss) if seeds > 1 else f"{loss.value:.4f}"


def picture(domains: Sequence[Domain]) -> Figure:
    """By data set, the distance of each quantity: alone, joint, and the floor."""
    with matplotlib.rc_context(settings("light")):
        figure = Figure(figsize=(4.6 * len(domains), 4.2), layout="constrained", facecolor="none")
        for axes, domain in zip(np.atleast_1d(figure.subplots(1, len(domains))), domains, strict=True):
            axes.set_facecolor("none")
            names = [MEAN, *(one for one in domain.floors if one != MEAN)]
            places = -np.arange(len(names), dtype=np.float64)
            pairs = (("alone", domain.alone, STYLES[1], 0.12), ("joint", domain.joint, STYLES[0], -0.12))
            for label, found, (colour, *_), shift in pairs:
                values, errors = [found[name].value for name in names], [found[name].error for name in names]
                axes.errorbar(
                    values, places + shift, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2, label=label
                )
            floors = [domain.floors[name] for name in names]
            axes.scatter(floors, places, marker="|", s=160, color=EDGE["light"], label="floor: held-out samples")
            axes.set_xscale("log")
            axes.set_yticks(places, names)
            axes.set_ylim(places[-1] - 0.6, 0.6)
            axes.tick_params(axis="y", which="both", length=0)
            axes.set_xlabel("W1 / standard deviation")
            axes.set_title(domain.name, fontsize=11)
        figure.axes[0].legend(frameon=False)
    return figure
