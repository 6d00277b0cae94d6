"""The page of a comparison of jets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hepfm.benchmarks.jets import Measured
from hepfm.benchmarks.report import number, part, sections
from hepfm.benchmarks.reports.classifying import Classified, posterior_table
from hepfm.benchmarks.reports.displays import jet_displays
from hepfm.benchmarks.reports.marks import NOTE, OF_HALVES, Row, counts, outcome_cell, outcome_table, scaled
from hepfm.benchmarks.reports.pictures import matrices, ratio_plots
from hepfm.benchmarks.reports.published_jets import JETNET_30, Generator
from hepfm.benchmarks.scores.jet_suite import JetScores, complete
from hepfm.benchmarks.scores.jet_values import JET, JetSide
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.benchmarks.scores.shower_relations import layer_correlations
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.plots import Curve
from hepfm.core.statistics import Estimate

QUANTITIES = ("pT", "mass", "multiplicity", "τ21", "τ32", "D2", "soft drop")
# Title and scale of each metric, as papers have them.
METRICS: dict[str, tuple[str, float]] = {
    "w1m": ("W1M", 1e3),
    "w1p": ("W1P, mean", 1e3),
    "w1p_deta": ("W1P, Δη", 1e3),
    "w1p_dphi": ("W1P, Δφ", 1e3),
    "w1p_pt": ("W1P, relative pT", 1e3),
    "w1efp": ("W1EFP", 1e5),
    "fpd": ("FPD", 1e3),
    "kpd": ("KPD", 1e6),
    "precision": ("precision", 1),
    "recall": ("recall", 1),
    "density": ("density", 1),
    "coverage": ("coverage", 1),
    "mmd": ("MMD", 1),
}
DEFINITIONS = (
    ("Quantiled KL", "KL divergence [nats] in 30 bins of equal shares of the reference, the outer ones open."),
    ("W1M, W1P, W1EFP", "W1 of mass, constituents' features, five energy flow polynomials, over batches; relative pT."),
    ("FPD, KPD", "Fréchet distance (extrapolated to infinite samples) and kernel MMD² on 36 energy flow polynomials."),
    ("COV, MMD", "Share of distinct nearest reference jets, and mean least distance, with exact EMD."),
    (
        "Precision ... coverage",
        "Of k = 5 nearest-neighbour manifolds of the 36 polynomials; 1 is best but for density.",
    ),
    ("Correlations", "Mean absolute difference of the Pearson correlations of the seven quantities of jets."),
)


@dataclass(frozen=True)
class JetReport:
    """All that was measured.

    Attributes:
        measured: W1 and histograms of each observable.
        scores: further metrics of each sample; none if they were not asked for.
        classifiers: what they found, if any was asked for.
        published: key of :data:`hepfm.benchmarks.reports.published_jets.JETNET_30`.
    """

    measured: list[Measured]
    scores: dict[str, JetScores] = field(default_factory=dict)
    classifiers: Classified | None = None
    published: str | None = None


def page(data: Mapping[str, Any], found: JetReport, reference: JetSide, samples: Mapping[str, JetSide]) -> str:
    """The page as HTML."""
    names, baseline = list(samples), data["baseline"]
    distances = [_distances(item) for item in found.measured]
    rows = distances + _rows(found.scores) + _classifier_rows(found.classifiers)
    size = " · ".join(f"{jets:,} {name} jets" for name, jets in data["jets"].items())
    parts = [part("Verdict", size, [_named(counts(rows, names), "Metrics and their floors")], notes=data["remarks"])]
    parts.append(part("Distances to real jets", "", [_wasserstein(found.measured, names, baseline, data)]))
    if found.scores:
        parts.append(_metrics(found, names))
    parts.append(part("Distributions", _HOW, plots=_plots(found.measured)))
    if found.scores:
        parts.append(
            part(
                "Correlations of quantities",
                "Pearson; jets in which all are defined.",
                wide=[_matrices(reference, samples)],
            )
        )
    displays = jet_displays(
        {"reference": reference.jets, **{name: side.jets for name, side in samples.items()}}, data["seed"]
    )
    parts.append(part("Events", "Drawn at random.", wide=[displays]))
    definitions = [(item.observable.title, item.observable.definition) for item in found.measured]
    provenance = {**data["provenance"], "versions": data["versions"], "seed": data["seed"]}
    if found.scores:
        definitions += DEFINITIONS
    boxes = [_box(verdict, baseline) for verdict in data["verdicts"]]
    return sections(data["title"], data["date"], parts, definitions, provenance, boxes)


_HOW = "Filled: the reference. Below: ratios to it, with the statistical errors of both; arrows lie outside."


def _named(table: Table, title: str) -> Table:
    return Table(title, table.header, table.rows, table.note)


def _box(verdict: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    times = verdict["times"]
    value = "not computed" if times is None else f"{times['value']:.1f} ± {times['error']:.1f} times nearer"
    told = "met" if verdict["met"] else "missed"
    text = f"to real jets than “{baseline}”; at least {verdict['asked_times']:g} asked: {told}"
    return {"title": verdict["title"], "value": value, "text": text, "met": verdict["met"]}


def _distances(item: Measured) -> Row:
    unit = f" [{item.observable.unit}]" if item.observable.unit else ""
    return Row(
        f"{item.observable.title}{unit}",
        {name: Outcome(part.distance, part.floor, part.note) for name, part in item.samples.items()},
    )


def _wasserstein(
    measured: Sequence[Measured], names: Sequence[str], baseline: str | None, data: Mapping[str, Any]
) -> Table:
    body = []
    for item in measured:
        row = _distances(item)
        cells = []
        for name in names:
            times = item.times_better(name, baseline) if baseline not in (None, name) else None
            cell = outcome_cell(row.outcomes[name])
            cells.append(cell if times is None else _with_note(cell, f"{times.value:.1f}x nearer than {baseline}"))
        body.append((Cell(row.title), *cells))
    return Table(
        "Wasserstein-1 distance", ("observable", *names), tuple(body),
        f"{NOTE} {data['replicas']} bootstrap replicas over jets.",
    )  # fmt: skip


def _with_note(cell: Cell, note: str) -> Cell:
    return Cell(cell.text, cell.missed, cell.chance, cell.good, "; ".join(filter(None, [cell.note, note])))


def _rows(scores: Mapping[str, JetScores]) -> list[Row]:
    """A row for each metric, batched ones first, quantiled KL last."""
    if not scores:
        return []
    first = next(iter(scores.values()))
    rows = []
    for group in ("batched", "distances", "transport", "manifolds"):
        for key in getattr(first, group):
            title, scale = METRICS[key]
            if group == "transport" and key == "coverage":
                title = "COV"
            outcomes = {name: getattr(part, group)[key] for name, part in scores.items()}
            rows.append(Row(title, outcomes, scale, key == "coverage", judged=group != "manifolds"))
    rows.append(Row("correlations", {name: part.correlation for name, part in scores.items()}))
    for key in first.quantiled_kl:
        outcomes = {name: part.quantiled_kl[key] for name, part in scores.items()}
        rows.append(Row(f"quantiled KL, {key.replace('_', ' ')} [nats]", outcomes))
    return rows


def _classifier_rows(found: Classified | None) -> list[Row]:
    if found is None:
        return []
    rows = []
    for name, told in found.told.items():
        rows += [Row(f"AUC, {name}-level", told.auc), Row(f"JSD, {name}-level [bits]", told.jsd)]
    return rows


def _metrics(found: JetReport, names: Sequence[str]) -> dict[str, Any]:
    protocol = next(iter(found.scores.values())).protocol
    tables = [outcome_table("Metrics", _rows(found.scores), names, f"Batches: protocol {protocol}. {OF_HALVES}")]
    if found.classifiers is not None:
        tables.append(outcome_table("Classifiers against the reference", _classifier_rows(found.classifiers), names))
        if found.classifiers.posteriors:
            tables.append(posterior_table(found.classifiers))
    if found.published is not None:
        tables.append(_published(found))
    return part("Metrics of the field", "", tables)


_PUBLISHED = (
    ("W1M x 10³", "w1m", "batched", "w1m"),
    ("W1P x 10³", "w1p", "batched", "w1p"),
    ("W1P, pT x 10³", "w1p_pt", "batched", "w1p_pt"),
    ("W1EFP x 10⁵", "w1efp", "batched", "w1efp"),
    ("FPD x 10³", "fpd", "distances", "fpd"),
    ("KPD x 10⁶", "kpd", "distances", "kpd"),
    ("COV", "coverage", "transport", "coverage"),
    ("MMD", "mmd", "transport", "mmd"),
)  # fmt: skip


def _published(found: JetReport) -> Table:
    body = [
        (Cell(each.name), *(_stated(each, name) for _, name, _, _ in _PUBLISHED))
        for each in JETNET_30[str(found.published)]
    ]
    for name, scores in found.scores.items():
        cells = []
        for _, _, group, key in _PUBLISHED:
            outcome: Outcome | None = getattr(scores, group).get(key)
            value = None if outcome is None else outcome.value
            cells.append(Cell("-" if value is None else number(scaled(value, METRICS[key][1]))))
        body.append((Cell(f"{name} (measured)"), *cells))
    note = (
        "Published: arXiv:2106.11535 and 2211.10295, 30 constituents, protocol jetnet. Rows compare only where ours is"
        " of the same protocol and as many jets."
    )
    return Table(
        "Published generators of these jets", ("generator", *(title for title, *_ in _PUBLISHED)), tuple(body), note
    )


def _stated(generator: Generator, name: str) -> Cell:
    value = getattr(generator, name)
    if value is None:
        return Cell("-")
    return Cell(f"{value:g}" if not isinstance(value, tuple) else number(Estimate(*map(float, value))))


def _plots(measured: Sequence[Measured]) -> list[dict[str, str]]:
    pictures = []
    for item in measured:
        observable = item.observable
        pictures += ratio_plots(
            observable.title,
            observable.name,
            Curve("real", item.reference),
            [Curve(name, comparison.histogram) for name, comparison in item.samples.items()],
            xlabel=observable.axis,
            ylabel=f"share of {observable.per}s",
            log_x=observable.spacing == "log10",
        )
    return pictures


def _matrices(reference: JetSide, samples: Mapping[str, JetSide]) -> dict[str, str]:
    assert len(QUANTITIES) == len(JET)
    found = {name: layer_correlations(complete(side)) for name, side in samples.items()}
    return matrices("Correlations", layer_correlations(complete(reference)), found, QUANTITIES)
