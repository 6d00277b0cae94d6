"""The page of a comparison of showers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hepfm.benchmarks.report import number, part, sections
from hepfm.benchmarks.reports.classifying import Classified, posterior_table
from hepfm.benchmarks.reports.displays import Shown, shower_displays
from hepfm.benchmarks.reports.marks import OF_HALVES, Row, counts, outcome_table
from hepfm.benchmarks.reports.pictures import matrices
from hepfm.benchmarks.reports.published_tables import calochallenge_table, data_set_of, floors_table, ild_table
from hepfm.benchmarks.reports.shower_plots import by_layer, distributions, responses
from hepfm.benchmarks.scores.shower_histograms import RING
from hepfm.benchmarks.scores.shower_relations import layer_correlations
from hepfm.benchmarks.scores.shower_suite import ShowerScores, ShowerSide
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.statistics import Estimate

DEFINITIONS = (
    ("Threshold", "Voxels below the geometry's readout threshold count as empty in all samples."),
    ("Separation power", "½ Σ (p - q)²/(p + q) of shares inside the range: 0 equal, 1 disjoint; blind outside of it."),
    (
        "Centre, width",
        "Energy-weighted mean and standard deviation [mm] of a position in a layer; eta and phi across it.",
    ),
    ("Ring energy", "Energy [MeV] in rings around the axis as wide as the smallest cell, or of a cylinder its own."),
    ("Sparsity", "Share of the voxels of a layer without energy."),
    ("FPD, KPD", "Fréchet distance (extrapolated to infinite samples) and kernel MMD² on the high-level features."),
    ("Precision ... coverage", "Of k = 5 nearest-neighbour manifolds of log10 voxels, empty ones taken as 0.1 MeV."),
    ("Layer correlations", "Mean absolute difference of the Pearson correlations of layer energies."),
    ("Response, resolution", "Visible over incident energy: its mean, and its standard deviation over its mean."),
    ("ILD set", "W1 of CaloClouds II's observables, standardised with the reference, mean and spread of ten batches."),
)


@dataclass(frozen=True)
class ShowerReport:
    """All that was measured: the sides, their scores by sample, what classifiers found, and showers to draw."""

    reference: ShowerSide
    sides: dict[str, ShowerSide]
    scores: dict[str, ShowerScores]
    classifiers: Classified | None
    shown: dict[str, list[Shown]]


def page(data: Mapping[str, Any], found: ShowerReport) -> str:
    """The page as HTML."""
    names, geometry = list(found.sides), found.reference.sample.geometry
    rows, classifiers = _rows(found.scores), _classifier_rows(found.classifiers)
    size = " · ".join(f"{showers:,} {name} showers" for name, showers in data["showers"].items())
    verdict = counts([*_all_separations(found.scores), *rows, *classifiers], names)
    tables = [verdict, outcome_table("Metrics", rows, names, OF_HALVES)]
    parts = [part("Verdict", f"{geometry.summary()}. {size}", tables, notes=data["remarks"])]
    if found.classifiers is not None:
        tables = [outcome_table("Classifiers against the reference", classifiers, names)]
        if found.classifiers.posteriors:
            tables.append(posterior_table(found.classifiers))
        parts.append(part("Classifiers", "", tables))
    if published := _published(found):
        parts.append(part("Published results", "", published))
    parts.append(part("Distributions", _HOW, plots=distributions(found.reference, found.sides, found.scores)))
    if layers := by_layer(found.scores, len(geometry.layers)):
        text = "Each layer's or ring's histogram against the reference's; grey: within 95% of what chance gives."
        parts.append(part("Separation powers by layer and ring", text, plots=layers))
    parts.append(
        part("Response by incident energy", "", [_response_table(found.scores)], plots=responses(found.scores))
    )
    parts.append(part("Correlations of layer energies", "Pearson.", wide=[_matrices(found)]))
    displays = shower_displays(found.shown, geometry)
    parts.append(part("Events", "Of each sample those nearest to the same incident energies.", wide=[displays]))
    provenance = {**data["provenance"], "versions": data["versions"], "seed": data["seed"]}
    return sections(data["title"], data["date"], parts, DEFINITIONS, provenance)


_HOW = "Filled: the reference. Below: ratios to it, with the statistical errors of both; arrows lie outside."


def _outcomes(scores: Mapping[str, ShowerScores], group: str, key: str) -> dict[str, Any]:
    return {name: getattr(each, group)[key] for name, each in scores.items() if key in getattr(each, group)}


def _rows(scores: Mapping[str, ShowerScores]) -> list[Row]:
    """A row for each metric that is one number."""
    first = next(iter(scores.values()))
    rows = []
    for group in first.means:
        several = "" if _single(first, group) else f", mean of {'rings' if group == RING else 'layers'}"
        rows.append(Row(f"separation power, {group}{several}", _outcomes(scores, "means", group)))
    rows.append(Row("layer correlations", {name: each.correlation for name, each in scores.items()}))
    rows += [Row(key.upper(), _outcomes(scores, "distances", key), 1e3) for key in first.distances]
    rows += [Row(key, _outcomes(scores, "manifolds", key), judged=False) for key in first.manifolds]
    rows += [Row(f"ILD set, {key}", _outcomes(scores, "ild", key), 100) for key in first.ild]
    return rows


def _single(scores: ShowerScores, group: str) -> bool:
    return sum(each.observable.group == group and each.observable.part is None for each in scores.separation) == 1


def _all_separations(scores: Mapping[str, ShowerScores]) -> list[Row]:
    """Of every histogram; means over layers are in :func:`_rows`."""
    found = {name: {each.observable.name: each.outcome for each in part.separation} for name, part in scores.items()}
    keys = next(iter(found.values()))
    return [Row(key, {name: outcomes[key] for name, outcomes in found.items() if key in outcomes}) for key in keys]


def _classifier_rows(found: Classified | None) -> list[Row]:
    if found is None:
        return []
    rows = []
    for name, told in found.told.items():
        rows += [Row(f"AUC, {name}", told.auc), Row(f"JSD, {name} [bits]", told.jsd)]
    return rows


def _published(found: ShowerReport) -> list[Table]:
    geometry = found.reference.sample.geometry
    key = data_set_of(geometry)
    if key is not None:
        means = {name: each.means for name, each in found.scores.items()}
        return [calochallenge_table(key, found.scores, found.classifiers), floors_table(key, means)]
    if geometry.name.startswith("ILD") and any(each.ild for each in found.scores.values()):
        return [ild_table({name: each.ild for name, each in found.scores.items()})]
    return []


def _response_table(scores: Mapping[str, ShowerScores]) -> Table:
    """Response and resolution of the reference, and what each sample has over it."""
    first = next(iter(scores.values()))
    header = ["incident energy [GeV]", "showers", "response", "resolution"]
    for name in scores:
        header += [f"{name}: response ratio", f"{name}: resolution ratio"]
    body = []
    for place, energy in enumerate(first.response):
        limits = f"{energy.low:.4g}" if energy.low == energy.high else f"{energy.low:.4g}-{energy.high:.4g}"
        cells = [Cell(limits), Cell(f"{energy.showers[0]:,}")]
        cells += [_of_reference(energy.response), _of_reference(energy.resolution)]
        for each in scores.values():
            here = each.response[place]
            cells += [_ratio(here.response_ratio, here.note), _ratio(here.resolution_ratio, here.note)]
        body.append(tuple(cells))
    note = "Ratios: sample over reference; red: more than three standard deviations from 1."
    return Table("Response and resolution", tuple(header), tuple(body), note)


def _of_reference(pair: tuple[Estimate, Estimate] | None) -> Cell:
    return Cell("not computed") if pair is None else Cell(number(pair[0]))


def _ratio(ratio: Estimate | None, note: str) -> Cell:
    if ratio is None:
        return Cell("not computed", note=note)
    return Cell(number(ratio), missed=abs(ratio.value - 1) > 3 * ratio.error > 0)


def _matrices(found: ShowerReport) -> dict[str, str]:
    samples = {name: layer_correlations(side.features.layer_energy) for name, side in found.sides.items()}
    return matrices("Correlations", layer_correlations(found.reference.features.layer_energy), samples, axis="layer")
